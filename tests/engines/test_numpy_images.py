"""Convolutional networks on the NumPy engine: against finite differences, torch's autograd, invariants, themselves."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from skipscope import InputError, Spec, build, draws, probe
from skipscope.engines.jacobian import linearise
from skipscope.engines.numpy_engine import NumpyNetwork, build_all
from skipscope.engines.paths import path_gradients
from skipscope.engines.spread import threads
from skipscope.losses import Cotangent, CrossEntropy
from skipscope.protocol import ROLES, sites_of
from skipscope.quantities import QUANTITIES
from skipscope.spec import Block, Gains, Head, Layer, Shortcut, Stage, Stem
from skipscope.testing import check_pushes

Array = NDArray[Any]
SMALL: dict[str, Any] = {"width": 4, "size": 8, "classes": 3, "dtype": "float64"}
SEEDS = (5, 2, 9)


def named() -> dict[str, Spec]:
    """Small networks of every shortcut, order, norm and kind of block."""
    found = {}
    for shortcut in ("none", "A", "A-both", "B", "C"):
        for order in ("before-add", "after-add", "pre-activation"):
            for norm in ("batch", "none"):
                fields: dict[str, Any] = {"shortcut": shortcut, "order": order, "norm": norm}
                found[f"cifar-8 {shortcut} {order} {norm}"] = Spec.cifar(8, **fields, **SMALL)
    imagenet: dict[str, Any] = SMALL | {"size": 32, "width": 2}
    return found | {
        "cifar-14": Spec.cifar(14, **SMALL),
        "cifar-14 1/sqrt(L)": Spec.cifar(14, branch_gain="1/sqrt(L)", shortcut_gain=0.7, **SMALL),
        "cifar-14 plain 1/L": Spec.cifar(14, shortcut="none", branch_gain="1/L", **SMALL),
        "cifar-8 zero": Spec.cifar(8, branch_gain="zero", **SMALL),
        "cifar-8 zero-gamma B": Spec.cifar(8, branch_gain="zero-gamma", shortcut="B", **SMALL),
        "cifar-8 odd": Spec.cifar(8, **SMALL | {"size": 9, "channels": 1}),
        "imagenet-18": Spec.imagenet(18, **imagenet),
        # Of 64 pixels: where 3 numbers are normalised together, rounding is multiplied a thousandfold a block.
        "imagenet-50": Spec.imagenet(50, **imagenet | {"size": 64}),
        "imagenet-50 v1.5": Spec.imagenet(50, stride="v1.5", shortcut="C", **imagenet | {"size": 64}),
        "bottleneck, tanh": bottleneck("bottleneck", activation="tanh"),
        "bottleneck, v1.5, linear": bottleneck("bottleneck-v1.5", activation="linear"),
        "no blocks": Spec(
            stem=Stem(kind="conv3", features=2, width=3, size=4), stages=(), head=Head(features=2, kind="pooled")
        ),
    }


def bottleneck(kind: Any, activation: Any) -> Spec:
    fields: dict[str, Any] = {
        "kind": kind,
        "layers": 3,
        "norm": "batch",
        "activation": activation,
        "order": "after-add",
    }
    stages = (
        Stage(blocks=2, width=2, shortcut="B", **fields),
        Stage(blocks=1, width=3, stride=2, shortcut="A", gains=Gains(branch="zero"), **fields),
        Stage(blocks=1, width=3, shortcut="none", **fields),
    )
    return Spec(
        stem=Stem(kind="conv7", features=2, width=3, size=16), stages=stages, head=Head(features=3, kind="pooled")
    )


NETWORKS = named()


@pytest.fixture(params=NETWORKS)
def spec(request: pytest.FixtureRequest) -> Spec:
    return NETWORKS[request.param]


class Seen:
    """Keeps a copy of every array, of the roles that are wanted."""

    def __init__(self, roles: Collection[str] | None = None) -> None:
        self.roles, self.arrays = roles, dict[str, Array]()

    def wants(self, site: str) -> Collection[str]:
        return ROLES if self.roles is None else self.roles

    def __call__(self, site: str, /, **roles: Any) -> None:
        self.arrays |= {f"{site}.{role}": np.array(array) for role, array in roles.items() if role in self.wants(site)}


def moved(spec: Spec, seeds: Any = SEEDS) -> NumpyNetwork:
    """A network some steps away from where it starts: no gamma is 1, no beta 0, and no gain 0."""
    network = build(spec, seed=seeds)
    for name, array in network.arrays.items():
        if not name.endswith(("weight", "bias")):
            for row, seed in enumerate(network.seeds):
                off = np.random.default_rng((seed, len(name))).standard_normal(array.shape[1:])
                array[row] += 0.2 * (np.abs(off) if name.endswith("variance") else off)
    return network


def shown(spec: Spec, seeds: Any = SEEDS, samples: int = 3) -> tuple[Array, Cotangent]:
    inputs = draws.normals(seeds, "input", (samples, *spec.input_shape))
    return inputs, Cotangent(draws.normals(seeds, "cotangent", (samples, spec.head.features)))


# ------------------------------------------------------------------------------------------- what the network computes


class Torch:
    """One network written once more in functions of PyTorch, in float64: what is on the way, to be differentiated."""

    def __init__(self, network: NumpyNetwork, row: int, *, fixed: bool = False) -> None:
        self.spec, self.fixed = network.spec, fixed
        self.held = {name: torch.tensor(array[row]).requires_grad_() for name, array in network.arrays.items()}

    def output(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(x, self.spec.stem_layer)
        if self.spec.stem.pooled:
            x = functional.max_pool2d(x, 3, 2, 1)
        for block in self.spec.body:
            x = self.block(x, block)
        if self.spec.pre_activation:
            x = self.activated(x, "final", self.spec.stages[-1].norm, self.spec.stages[-1].activation)
        return functional.linear(x.mean((2, 3)), self.held["head.weight"], self.held["head.bias"])

    def block(self, x: torch.Tensor, block: Block) -> torch.Tensor:
        branch = x
        for layer in block.layers:
            branch = self.layer(branch, layer)
        branch = branch * block.branch_gain * self.held.get(f"{block.site}.gain", torch.ones(()))
        if not block.plain:
            branch = block.shortcut_gain * self.past(x, block) + branch
        return {"relu": torch.relu, "tanh": torch.tanh, "linear": torch.clone}[block.activation](branch)

    def past(self, x: torch.Tensor, block: Block) -> torch.Tensor:
        if block.projection is not None:
            return self.layer(x, block.projection)
        more = block.width - x.shape[1]
        before = more // 2 if block.shortcut == "pad-both" else 0
        return functional.pad(x[:, :, :: block.stride, :: block.stride], (0, 0, 0, 0, before, more - before))

    def layer(self, x: torch.Tensor, layer: Layer) -> torch.Tensor:
        weight = self.held[f"{layer.site}.weight"]
        if layer.first == "norm":
            x = self.activated(x, layer.site, layer.norm, layer.activation)
        x = functional.conv2d(x, weight, stride=layer.stride, padding=layer.kernel // 2)
        return x if layer.first == "norm" else self.activated(x, layer.site, layer.norm, layer.activation)

    def activated(self, x: torch.Tensor, site: str, norm: str, activation: str) -> torch.Tensor:
        if norm == "batch":
            mean, variance = (self.held[f"{site}.running_{name}"].detach().clone() for name in ("mean", "variance"))
            gamma, beta = (self.held[f"{site}.{name}"] for name in ("gamma", "beta"))
            x = functional.batch_norm(x, mean, variance, gamma, beta, training=not self.fixed)
        return {"relu": torch.relu, "tanh": torch.tanh, "linear": torch.clone}[activation](x)


def close(mine: Array, theirs: torch.Tensor | None, what: str) -> None:
    """To 1e-10 of the largest entry, and 1e-13 of 1 where that is 0 but for rounding."""
    assert theirs is not None, what
    other = theirs.detach().numpy()
    np.testing.assert_allclose(mine, other, rtol=0, atol=1e-10 * np.abs(other).max() + 1e-12, err_msg=what)


@pytest.mark.parametrize("fixed", [False, True])
def test_output_and_every_gradient_are_those_of_autograd(spec: Spec, fixed: bool):
    network = moved(spec)
    inputs, loss = shown(spec)
    seen = Seen()
    if fixed:
        with network.inference():
            run = network.run(inputs, loss, seen)
    else:
        run = network.run(inputs, loss, seen)

    for row in range(len(SEEDS)):
        theirs = Torch(network, row, fixed=fixed)
        x = torch.tensor(inputs[row]).requires_grad_()
        output = theirs.output(x)
        (output * torch.tensor(loss.v[row])).sum().backward()
        close(run.output[row], output, "output")
        close(seen.arrays["input.activation_grad"][row], x.grad, "input")
        for name in network.parameters:
            close(seen.arrays[f"{name}_grad"][row], theirs.held[name].grad, name)


def test_gradients_are_those_of_finite_differences(spec: Spec):
    """Along a random direction of everything, (f(x + h u) - f(x - h u))/2h with h = 1e-8.

    Rounding is 1e-16 |f|/h = 1e-8 |f|, times the condition of f, and truncation h^2 times its third derivative; a term
    that is missing or counted twice shows in the first digits. A direction along which a ReLU switches is drawn again,
    and with thousands of pixels a larger step leaves none.
    """
    network = moved(spec)
    inputs, loss = shown(spec)
    places = {"input": inputs, **network.parameters}
    seen = Seen()
    run = network.run(inputs, loss, seen)
    rng = np.random.default_rng(1)
    for _ in range(50):
        direction = {name: rng.standard_normal(place.shape) for name, place in places.items()}
        (above, signs), (below, others) = (stepped(network, inputs, loss, direction, h) for h in (1e-8, -1e-8))
        if signs == others:
            break
    else:
        raise AssertionError("every direction crosses a kink")

    analytic = np.zeros(len(SEEDS))
    square = np.zeros(len(SEEDS))
    for name, along in direction.items():
        gradient = seen.arrays["input.activation_grad" if name == "input" else f"{name}_grad"]
        analytic += (gradient * along).reshape(len(SEEDS), -1).sum(axis=1)
        square += (gradient**2).reshape(len(SEEDS), -1).sum(axis=1)

    assert run.loss is not None
    numeric = (above - below) / 2e-8
    assert np.all(np.abs(analytic - numeric) <= 1e-5 * (np.abs(run.loss) + np.sqrt(square))), (analytic, numeric)


def stepped(
    network: NumpyNetwork, inputs: Array, loss: Cotangent, direction: Mapping[str, Array], h: float
) -> tuple[Array, bytes]:
    """The loss a step along the direction, and the side of its kink that every activation is on."""
    seen = Seen(("activation",))
    there: dict[str, Array] = {name: array + h * direction[name] for name, array in network.parameters.items()}
    batch = inputs + h * direction["input"]
    run = NumpyNetwork(network.spec, network.seeds, there, running=network.running).run(batch, loss, seen)
    assert run.loss is not None
    kinks = {site.site for site in network.sites if site.activation == "relu"}
    return run.loss, b"".join((seen.arrays[f"{site}.activation"] > 0).tobytes() for site in sorted(kinks))


def test_every_site_and_parameter_is_pushed(spec: Spec):
    network = moved(spec)
    inputs, loss = shown(spec)

    check_pushes(network, inputs, loss)

    assert network.parameters.keys() == {
        name for name in network.parameters if name.rpartition(".")[0] in {site.site for site in sites_of(spec)}
    }
    assert sum(array[0].size for array in network.parameters.values()) == spec.parameters


def test_the_parts_of_a_junction_belong_together(spec: Spec):
    network = moved(spec)
    inputs, loss = shown(spec)
    seen = Seen()
    network.run(inputs, loss, seen)

    for block in spec.body:
        if not block.plain:
            at = {role: seen.arrays[f"{block.site}.{role}"] for role in ("shortcut", "branch", "total")}
            back = {role: seen.arrays[f"{block.site}.{role}_grad"] for role in ("shortcut", "branch", "total")}
            assert at["total"].shape[2:] == (block.width, block.size_out, block.size_out)
            assert back["total"].shape[2:] == (block.n_in, block.size, block.size)
            np.testing.assert_array_equal(at["shortcut"] + at["branch"], at["total"])
            np.testing.assert_array_equal(back["shortcut"] + back["branch"], back["total"])


@pytest.mark.parametrize("fixed", [False, True])
def test_jvp_is_the_transpose_of_the_backward(spec: Spec, fixed: bool):
    """<v, J t> = <J^T v, t> to rounding: 1e-12 of the norms, times some 1e2 by which ten layers multiply it."""
    network = moved(spec)
    inputs, loss = shown(spec)
    tangent = draws.normals(SEEDS, "resample", inputs.shape[1:])
    seen = Seen(("activation_grad",))
    if fixed:
        with network.inference():
            forward = network.jvp(inputs, tangent)
            network.run(inputs, loss, seen)
    else:
        forward = network.jvp(inputs, tangent)
        network.run(inputs, loss, seen)
    back = seen.arrays["input.activation_grad"]

    axes = tuple(range(1, inputs.ndim))
    mine, other = (forward * loss.v).sum(axis=(1, 2)), (back * tangent).sum(axis=axes)

    scale = np.linalg.norm(forward.reshape(3, -1), axis=1) * np.linalg.norm(loss.v.reshape(3, -1), axis=1)
    assert np.all(np.abs(mine - other) <= 1e-10 * scale), (mine, other)


# ------------------------------------------------------------------------------------------------------- the same bits


def recorded(spec: Spec, rows: list[int], roles: Collection[str] | None = None) -> dict[str, Array]:
    inputs, loss = shown(spec)
    seen = Seen(roles)
    run = moved(spec, [SEEDS[row] for row in rows]).run(inputs[rows], Cotangent(loss.v[rows]), seen)
    assert run.loss is not None
    return seen.arrays | {"output": run.output, "loss": run.loss}


def test_a_seed_is_the_same_alone_in_an_ensemble_and_on_any_threads(spec: Spec):
    whole = recorded(spec, [0, 1, 2])

    for rows in ([1], [2, 0]):
        for count in (1, 3):
            with threads(count):
                for name, array in recorded(spec, rows).items():
                    np.testing.assert_array_equal(array, whole[name][rows], err_msg=name)


def test_no_bit_depends_on_who_looks(spec: Spec):
    """What nobody looks between is computed in one pass over memory; the last roles are those that training takes."""
    whole = recorded(spec, [0, 1, 2])

    for roles in (("activation",), ("total", "shortcut_grad"), ("preactivation_grad",), ("weight_grad", "gamma_grad")):
        for name, array in recorded(spec, [0, 1, 2], roles).items():
            np.testing.assert_array_equal(array, whole[name], err_msg=f"{name}, of {roles}")


def test_training_writes_the_gradients_that_observers_see(spec: Spec):
    network = moved(spec)
    written = {name: np.full(array.shape, np.nan) for name, array in network.parameters.items()}
    trained = NumpyNetwork(spec, SEEDS, network.parameters, running=network.running, gradients=written)
    inputs, loss = shown(spec)
    seen = Seen()
    network.run(inputs, loss, seen)

    for _ in range(2):
        trained.run(inputs, loss)
        for name, array in written.items():
            np.testing.assert_array_equal(array, seen.arrays[f"{name}_grad"], err_msg=name)


def test_networks_that_share_a_draw_are_those_built_alone():
    specs = [NETWORKS[f"cifar-8 {each} after-add batch"] for each in ("B", "A", "none")]
    inputs, _ = shown(specs[0])

    together = build_all(specs, seed=SEEDS)

    for spec, network in zip(specs, together, strict=True):
        np.testing.assert_array_equal(network.run(inputs).output, build(spec, seed=SEEDS).run(inputs).output)
        assert not network.parameters["stem.weight"].flags.writeable
    assert np.shares_memory(together[1].parameters["stem.weight"], together[2].parameters["stem.weight"])


def test_weights_are_those_drawn():
    spec = NETWORKS["imagenet-50"]
    drawn, network = draws.weights(spec, SEEDS), build(spec, seed=SEEDS)

    for site, weight in drawn.items():
        np.testing.assert_array_equal(network.parameters[f"{site}.weight"], weight)


# --------------------------------------------------------------------------------------------------------- junctions


@pytest.mark.parametrize("order", ["before-add", "after-add", "pre-activation"])
def test_without_its_shortcuts_a_network_is_its_twin(order: Any):
    spec = Spec.cifar(14, order=order, **SMALL)
    network, twin = build(spec, seed=SEEDS), build(spec.twin(), seed=SEEDS)
    inputs, loss = shown(spec)
    mine, other = Seen(("weight_grad",)), Seen(("weight_grad",))

    with network.gains(shortcut=0):
        edited = network.run(inputs, loss, mine)
    plain = twin.run(inputs, loss, other)

    np.testing.assert_array_equal(edited.output, plain.output)
    for name, array in other.arrays.items():
        np.testing.assert_array_equal(mine.arrays[name], array, err_msg=name)


@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
def test_a_block_without_its_branch_is_its_shortcut(shortcut: Any):
    spec = Spec.cifar(8, shortcut=shortcut, **SMALL)
    network = moved(spec)
    inputs, loss = shown(spec)
    seen, before = Seen(), Seen()
    network.run(inputs, loss, before)
    with network.gains(branch=0, at="stage2.block1"):
        assert network.edit == "stage2.block1: shortcut x 1, branch x 0"
        assert network.junction_gains["stage2.block1"] == (1, 0)
        network.run(inputs, loss, seen)

    comes = seen.arrays["stage1.block1.activation"]
    goes = seen.arrays["stage2.block1.activation"]
    if shortcut == "A":
        np.testing.assert_array_equal(goes[:, :, :4], comes[:, :, :, ::2, ::2])
        assert not goes[:, :, 4:].any()
    else:
        np.testing.assert_array_equal(goes, np.maximum(seen.arrays["stage2.block1.shortcut.activation"], 0))
    assert not seen.arrays["stage2.block1.layer1.weight_grad"].any()
    assert network.edit == ""
    again = Seen()
    network.run(inputs, loss, again)
    for name, array in before.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)


def test_blocks_can_be_left_out_where_what_comes_in_fits():
    spec = Spec.cifar(20, **SMALL)
    network = build(spec, seed=SEEDS)
    inputs, _ = shown(spec)
    seen = Seen(("activation",))

    with network.rearranged([block.site for block in spec.body if block.site != "stage2.block2"]):
        network.run(inputs, observe=seen)
        assert network.edit == "left out: stage2.block2"

    assert "stage2.block2.activation" not in seen.arrays
    short = build(Spec.cifar(8, **SMALL), seed=0)
    refused = pytest.raises(InputError, match=r"'stage3\.block1' takes 8 features, and 4 would come in")
    with refused, short.rearranged(["stage1.block1", "stage3.block1"]):
        pass


def test_a_block_must_get_images_of_its_size():
    stages = (Stage(blocks=1, width=3, kind="basic"), Stage(blocks=1, width=3, kind="basic", stride=2, shortcut="none"))
    spec = Spec(
        stem=Stem(kind="conv3", features=2, width=3, size=8),
        stages=(*stages, stages[0]),
        head=Head(features=2, kind="pooled"),
    )

    refused = pytest.raises(InputError, match=r"'stage3\.block1' takes images of 4x4, and 8x8 would come in")
    with refused, build(spec, seed=0).rearranged(["stage1.block1", "stage3.block1"]):
        pass


def test_paths_of_all_lengths_are_the_gradient(spec: Spec):
    network = moved(spec)
    inputs, loss = shown(spec)
    seen = Seen(("activation_grad",))
    network.run(inputs, loss, seen)
    whole = seen.arrays["stem.pool.activation_grad" if spec.stem.pooled else "stem.activation_grad"]

    by_path = path_gradients(network, inputs, loss)

    assert by_path.shape[:2] == (3, 1 + sum(not block.plain for block in spec.body))
    # Rounding of 1e-16, which small numbers of pixels that are normalised together multiply.
    np.testing.assert_allclose(by_path.sum(axis=1), whole, rtol=0, atol=1e-9 * np.abs(whole).max())
    with network.gains(branch=0) if network.junction_gains else nullcontext():
        alone = path_gradients(network, inputs, loss)
    assert not alone[:, 1:].any()


def test_paths_are_the_coefficients_of_the_branches_gain():
    """In a linear network the gradient with every branch's times z is sum_k G_k z^k, whatever z."""
    spec = linear()
    network = build(spec, seed=SEEDS)
    inputs, loss = shown(spec)
    by_path = path_gradients(network, inputs, loss)

    for z in (0.5, -1.0, 2.0):
        seen = Seen(("activation_grad",))
        with network.gains(branch=z):
            network.run(inputs, loss, seen)
        powers = z ** np.arange(by_path.shape[1])
        expected = np.einsum("k,skbchw->sbchw", powers, by_path)
        np.testing.assert_allclose(
            seen.arrays["stem.activation_grad"], expected, rtol=0, atol=1e-12 * np.abs(expected).max()
        )


def linear() -> Spec:
    """Of linear layers without norms, so that paths do not depend on the signal."""
    kinds: tuple[tuple[int, int, Shortcut], ...] = ((3, 1, "A"), (6, 2, "A"), (6, 2, "B"))
    stages = tuple(
        Stage(blocks=2, width=width, kind="basic", stride=stride, shortcut=shortcut, activation="linear")
        for width, stride, shortcut in kinds
    )
    return Spec(
        stem=Stem(kind="conv3", features=2, width=3, size=8), stages=stages, head=Head(features=2, kind="pooled")
    )


# ------------------------------------------------------------------------------------------------------------- batches


def test_one_image_has_many_positions():
    spec = Spec.cifar(8, **SMALL)

    assert np.isfinite(build(spec, seed=0).run(np.ones((1, 3, 8, 8)) * np.arange(8)).output).all()
    with pytest.raises(InputError, match="batch of 1 sample: batch normalisation over one sample is 0"):
        build(Spec.cifar(8, **SMALL | {"size": 4}), seed=0).run(np.ones((1, 3, 4, 4)))


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 3, 8), (2, 8, 8, 3), (4, 2, 3, 8, 8), (2, 192)])
def test_a_batch_of_another_shape_is_refused(shape: tuple[int, ...]):
    with pytest.raises(InputError, match=r"batch must have the shape \(samples, 3, 8, 8\), or \(3, samples, 3, 8, 8\)"):
        build(Spec.cifar(8, **SMALL), seed=SEEDS).run(np.ones(shape))


def test_all_networks_may_see_one_batch():
    spec = Spec.cifar(8, **SMALL)
    network = build(spec, seed=SEEDS)
    inputs, _ = shown(spec, [1])

    together, apart = network.run(inputs[0]).output, network.run(np.repeat(inputs, 3, axis=0)).output

    np.testing.assert_array_equal(together, apart)


# -------------------------------------------------------------------------------------------------------- measurement


def test_a_probe_sees_what_an_observer_sees():
    spec = Spec.cifar(8, shortcut="B", **SMALL)
    network = moved(spec)
    seen = Seen()
    inputs, loss = shown(spec, samples=4)
    network.run(inputs, loss, seen)

    readings = probe(
        network,
        4,
        quantities={
            name: QUANTITIES[name] for name in ("activation_rms", "dead", "weight_grad_norm", "shortcut_share")
        },
    )

    values: Mapping[Any, float] = {(r["seed"], r["site"], r["quantity"]): r["value"] for r in readings.rows.to_dicts()}
    assert readings.cells["batch"][0] == 4
    for row, seed in enumerate(SEEDS):
        for site in ("stem", "stage2.block1", "stage2.block1.shortcut", "head.pool"):
            activation = seen.arrays[f"{site}.activation"][row]
            # Sums of some thousand float64 numbers, in another order.
            assert values[seed, site, "activation_rms"] == pytest.approx(np.sqrt((activation**2).mean()), rel=1e-12)
        last = seen.arrays["stage3.block1.activation"][row]
        assert last.shape == (4, 16, 2, 2)
        never = ~(last > 0).any(axis=(0, 2, 3))
        assert values[seed, "stage3.block1", "dead"] == never.mean()
        gradient = seen.arrays["stage2.block1.shortcut.weight_grad"][row]
        assert values[seed, "stage2.block1.shortcut", "weight_grad_norm"] == pytest.approx(
            np.sqrt((gradient**2).sum()), rel=1e-12
        )


def test_a_dead_channel_is_one_that_is_positive_nowhere():
    spec = Spec.cifar(8, **SMALL)
    network = build(spec, seed=0)
    network.parameters["stem.beta"][0] = [-1e3, 0, 0, 0]

    readings = probe(network, 2, quantities={"dead": QUANTITIES["dead"]}, sites="stem")

    assert readings.rows["value"].to_list() == [0.25]


# ------------------------------------------------------------------------------------------------- the paper's networks


def test_a_resnet_of_20_layers_learns_its_batch():
    """Ten steps of plain descent on 16 images: the loss falls to less than half of what it was."""
    spec = Spec.cifar(20, classes=4)
    network = build(spec, seed=(0, 1))
    gradients = {name: np.empty_like(array) for name, array in network.parameters.items()}
    network = NumpyNetwork(spec, network.seeds, network.parameters, gradients=gradients)
    rng = np.random.default_rng(0)
    batch = rng.standard_normal((16, 3, 32, 32)).astype("float32"), rng.integers(0, 4, 16)
    losses = []
    for _ in range(10):
        losses.append(network.run(batch, CrossEntropy()).loss)
        for name, array in network.parameters.items():
            array -= 0.1 * gradients[name]

    assert losses[-1] is not None
    assert losses[0] is not None
    assert (losses[-1] < losses[0] / 2).all(), losses


@pytest.mark.slow
def test_a_resnet_of_50_layers_sees_an_image_of_224_pixels():
    spec = Spec.imagenet(50, shortcut="B", stride="v1.5", dtype="float64")
    network = build(spec, seed=0)
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224))

    with network.inference(), torch.no_grad():
        output = network.run(x).output
        theirs = Torch(network, 0, fixed=True).output(torch.tensor(x))

    assert output.shape == (1, 1, 1000)
    close(output[0], theirs, "output")


def test_a_jacobian_is_refused():
    spec = Spec.cifar(8, **SMALL)

    with pytest.raises(InputError, match="a Jacobian is of dense networks alone"):
        linearise(build(spec, seed=0), shown(spec, [0])[0])
