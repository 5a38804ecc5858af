"""Every op's jvp, and the network's: against finite differences, torch's forward mode, and its own backward."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from skipscope import InputError, Spec, build, draws
from skipscope.engines import ops
from skipscope.losses import Cotangent
from skipscope.testing import specs

# torch's forward mode compiles some derivatives by what torch itself calls outdated.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")

Array = NDArray[Any]
STEP = 1e-6
SHAPES = [(1, 1, 1), (1, 1, 5), (3, 1, 4), (2, 5, 3), (4, 7, 17)]
WEIGHT = np.random.default_rng(1).standard_normal((6, 17))
GAMMA, BETA = np.random.default_rng(2).standard_normal((2, 17))
MEAN, VARIANCE = np.linspace(-1, 2, 17), np.linspace(0.5, 3, 17)


class Op(NamedTuple):
    forward: Callable[[Array], Array]
    jvp: Callable[[Array, Array], Array]  # of tx and x
    vjp: Callable[[Array, Array], Array]  # of dy and x
    oracle: Callable[[torch.Tensor], torch.Tensor]
    least: tuple[int, int] = (1, 1)  # samples and features below which a norm is rounding alone


def weight(x: Any) -> Array:
    return WEIGHT[:, : x.shape[-1]]


def of_output(name: str, oracle: Callable[[torch.Tensor], torch.Tensor]) -> Op:
    forward, jvp, backward = (getattr(ops, f"{name}{suffix}") for suffix in ("", "_jvp", "_backward"))
    return Op(forward, lambda tx, x: jvp(tx, forward(x)), lambda dy, x: backward(dy, forward(x)), oracle)


def norm(name: str, oracle: Callable[[torch.Tensor], torch.Tensor], least: tuple[int, int]) -> Op:
    forward, jvp, backward = (getattr(ops, f"{name}{suffix}") for suffix in ("", "_jvp", "_backward"))

    def gamma(x: Any) -> Array:
        return GAMMA[: x.shape[-1]]

    def kept(x: Array) -> Any:
        return forward(x, gamma(x), BETA[: x.shape[-1]])[1]

    return Op(
        lambda x: forward(x, gamma(x), BETA[: x.shape[-1]])[0],
        lambda tx, x: jvp(tx, gamma(x), kept(x)),
        lambda dy, x: backward(dy, gamma(x), kept(x))[0],
        oracle,
        least,
    )


def fixed_norm(x: Array) -> tuple[Array, Any]:
    n = x.shape[-1]
    return ops.fixed_norm(x, GAMMA[:n], BETA[:n], MEAN[:n], VARIANCE[:n])


def torch_fixed_norm(x: torch.Tensor) -> torch.Tensor:
    mean, variance, gamma, beta = (torch.tensor(each[: x.shape[-1]]) for each in (MEAN, VARIANCE, GAMMA, BETA))
    return functional.batch_norm(x, mean, variance, gamma, beta, eps=ops.EPS)


def torch_batch_norm(x: torch.Tensor) -> torch.Tensor:
    # By hand: torch's own in training mode has no forward derivative for every version.
    centred = x - x.mean(0)
    z = centred / torch.sqrt((centred**2).mean(0) + ops.EPS)
    return torch.from_numpy(GAMMA)[: x.shape[-1]] * z + torch.from_numpy(BETA)[: x.shape[-1]]


def torch_layer_norm(x: torch.Tensor) -> torch.Tensor:
    n = x.shape[-1]
    return functional.layer_norm(x, (n,), torch.from_numpy(GAMMA)[:n], torch.from_numpy(BETA)[:n], ops.EPS)


def junction(x: Array) -> Array:
    return ops.junction(x, np.sin(x), 0.5, -0.7)[0]


def junction_vjp(dy: Array, x: Array) -> Array:
    dskip, dbranch = ops.junction_backward(dy, 0.5, -0.7)
    return ops.junction_joined(dskip, dbranch * np.cos(x), 0.5, -0.7)


OPS = {
    "affine": Op(
        lambda x: ops.affine(x, weight(x)),
        lambda tx, x: ops.affine_jvp(tx, weight(x)),
        lambda dy, x: ops.affine_backward(dy, x, weight(x))[0],
        lambda x: x @ torch.from_numpy(weight(x)).T,
    ),
    "relu": of_output("relu", torch.relu),
    "tanh": of_output("tanh", torch.tanh),
    "linear": of_output("linear", lambda x: x),
    "batch_norm": norm("batch_norm", torch_batch_norm, (3, 1)),
    "layer_norm": norm("layer_norm", torch_layer_norm, (1, 3)),
    "fixed_norm": Op(
        lambda x: fixed_norm(x)[0],
        lambda tx, x: ops.fixed_norm_jvp(tx, GAMMA[: x.shape[-1]], fixed_norm(x)[1]),
        lambda dy, x: ops.fixed_norm_backward(dy, GAMMA[: x.shape[-1]], fixed_norm(x)[1])[0],
        torch_fixed_norm,
    ),
    "junction": Op(
        junction,
        lambda tx, x: ops.junction_jvp(tx, tx * np.cos(x), 0.5, -0.7),
        junction_vjp,
        lambda x: 0.5 * x - 0.7 * torch.sin(x),
    ),
}
CASES = [
    pytest.param(op, shape, id=f"{name}-{shape}")
    for name, op in OPS.items()
    for shape in SHAPES
    if shape[1] >= op.least[0] and shape[2] >= op.least[1]
]


def clear_of_kinks(x: Array) -> Array:
    """No entry so near 0 that a finite difference would cross the kink of a ReLU."""
    return np.where(np.abs(x) < 1e-3, x + 0.01, x)


def torch_jvp(function: Callable[[torch.Tensor], torch.Tensor], x: Array, tx: Array) -> Array:
    moved: torch.Tensor = torch.func.jvp(function, (torch.from_numpy(x),), (torch.from_numpy(tx),))[1]
    return moved.numpy()


@pytest.mark.parametrize(("op", "shape"), CASES)
def test_jvp_is_torchs_forward_mode(op: Op, shape: tuple[int, ...], rng: np.random.Generator):
    x, tx = clear_of_kinks(rng.standard_normal(shape)), rng.standard_normal(shape)
    ty = op.jvp(tx, x)
    for seed in range(shape[0]):
        np.testing.assert_allclose(ty[seed], torch_jvp(op.oracle, x[seed], tx[seed]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("op", "shape"), CASES)
def test_jvp_is_a_finite_difference(op: Op, shape: tuple[int, ...], rng: np.random.Generator):
    x, tx = clear_of_kinks(rng.standard_normal(shape)), rng.standard_normal(shape)
    numeric = (op.forward(x + STEP * tx) - op.forward(x - STEP * tx)) / (2 * STEP)
    # Central differences: truncation of order STEP^2, rounding of order eps/STEP = 2e-10, a norm's 1/std times as much.
    np.testing.assert_allclose(op.jvp(tx, x), numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("op", "shape"), CASES)
def test_jvp_is_the_transpose_of_backward(op: Op, shape: tuple[int, ...], rng: np.random.Generator):
    x, tx = rng.standard_normal(shape), rng.standard_normal(shape)
    ty = op.jvp(tx, x)
    dy = rng.standard_normal(ty.shape)
    size = np.linalg.norm(dy) * np.linalg.norm(ty)
    assert abs((dy * ty).sum() - (op.vjp(dy, x) * tx).sum()) <= 1e-12 * size + 1e-14


def test_an_absent_path_leaves_no_nan_in_a_junctions_jvp():
    lost = np.full((1, 1, 2), np.inf)
    assert (ops.junction_jvp(lost, np.ones((1, 1, 2)), 0.0, 1.0) == 1).all()
    assert (ops.junction_jvp(np.ones((1, 1, 2)), lost, 1.0, 0.0) == 1).all()


# ------------------------------------------------------------------------------------------------------ networks


CHOICES: dict[str, tuple[Any, ...]] = {
    "order": ("before-add", "after-add", "pre-activation"),
    "norm": ("none", "batch", "layer"),
    "shortcut": ("identity", "none"),
    "activation": ("relu", "tanh"),
    "branch_gain": (1.0, -0.7, "1/sqrt(L)", "zero"),
    "layers": (1, 2),
}


def grid() -> Iterator[Spec]:
    for choices in itertools.product(*CHOICES.values()):
        fields = dict(zip(CHOICES, choices, strict=True))
        if fields["norm"] == "none":
            fields |= {"bias": True, "init": "torch"}
        if (fields["shortcut"], fields["branch_gain"]) != ("none", "zero"):
            yield Spec.dense(width=4, blocks=2, features=3, outputs=2, **fields)


SPECS = list(grid())
SEEDS = (4, 11)


def test_the_grid_is_one():
    assert len(SPECS) == 3 * 3 * 2 * (4 + 3) * 2


def test_networks_jvp_is_the_transpose_of_their_backward():
    for spec in (*SPECS, *specs(3)):
        network = build(spec, seed=SEEDS)
        for name, gains in network.parameters.items():
            if name.endswith(".gain"):
                gains[:] = 0.3
        x, tx = (
            draws.normals(SEEDS, "input", (5, spec.stem.features)),
            draws.normals(SEEDS, "resample", (5, spec.stem.features)),
        )
        v = draws.normals(SEEDS, "cotangent", (5, spec.head.features))
        found: dict[str, Array] = {}

        def observe(site: str, /, found: dict[str, Array] = found, **roles: Array) -> None:
            if site == "input":
                found.update(roles)

        network.run(x, Cotangent(v), observe)
        ty = network.jvp(x, tx)
        left, right = (v * ty).sum(axis=(1, 2)), (found["activation_grad"] * tx).sum(axis=(1, 2))
        norms = [np.linalg.norm(each.reshape(2, -1), axis=1) for each in (v, ty, tx)]
        # A norm may cancel nearly all of the tangent; then what is left has the rounding of what there was.
        assert (np.abs(left - right) <= norms[0] * (1e-12 * norms[1] + 1e-14 * norms[2])).all(), spec.to_json()


def test_networks_jvp_is_a_finite_difference():
    for spec in SPECS:
        network = build(spec, seed=SEEDS)
        x, tx = draws.normals(SEEDS, "input", (5, 3)), draws.normals(SEEDS, "resample", (5, 3))
        numeric = (network.run(x + STEP * tx).output - network.run(x - STEP * tx).output) / (2 * STEP)
        # Norms over few numbers divide by small standard deviations: the truncation, STEP^2 times the third
        # derivative, and the rounding are larger there; the wrong sign or factor of any term is not of this size.
        np.testing.assert_allclose(network.jvp(x, tx), numeric, rtol=1e-5, atol=1e-5, err_msg=spec.to_json())


def torch_network(spec: Spec, parameters: dict[str, torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """A residual network without norms, in order before-add, by torch alone."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(x @ parameters["stem.weight"].T)
        for block in spec.body:
            branch = x
            for layer in block.layers:
                branch = torch.relu(branch @ parameters[f"{layer.site}.weight"].T)
            x = x + block.branch_gain * branch
        return x @ parameters["head.weight"].T

    return forward


def test_networks_jvp_is_torchs_forward_mode():
    spec = Spec.dense(width=9, blocks=4, features=5, outputs=3, branch_gain=0.6)
    network = build(spec, seed=3)
    x, tx = draws.normals((3,), "input", (6, 5)), draws.normals((3,), "resample", (6, 5))
    parameters = {name: torch.from_numpy(values[0]) for name, values in network.parameters.items()}
    forward = torch_network(spec, parameters)
    np.testing.assert_allclose(network.jvp(x, tx)[0], torch_jvp(forward, x[0], tx[0]), rtol=1e-10, atol=1e-10)


def test_a_seeds_jvp_is_the_same_alone_and_among_others():
    spec = Spec.dense(width=7, blocks=3, norm="batch", order="pre-activation")
    x, tx = draws.normals(range(5), "input", (4, 7)), draws.normals(range(5), "resample", (4, 7))
    together = build(spec, seed=range(5)).jvp(x, tx)
    assert (build(spec, seed=3).jvp(x[3], tx[3])[0] == together[3]).all()


def test_a_tangent_of_another_shape_is_refused():
    network = build(Spec.dense(width=4, blocks=1), seed=0)
    with pytest.raises(InputError, match=r"tangent must have the batch's shape, \(1, 2, 4\); got \(1, 4\)"):
        network.jvp(np.ones((2, 4)), np.ones((1, 4)))
