"""The conformance suite: what an engine must get right, as checks that every engine can be put through.

`check_engine(build)` runs all of them over a grid of small networks; each can be run on its own. A check that fails
raises an AssertionError that names what differed, with both numbers. The engine is held to mathematics (finite
differences, exact invariants), to itself (a seed gives the same bits alone and in an ensemble) and to the engine that
is written by hand. This module imports NumPy and the left half of the package; neither pytest nor PyTorch.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from skipscope import draws
from skipscope.engines import numpy_engine
from skipscope.engines.ops import EPS
from skipscope.errors import InputError
from skipscope.losses import Cotangent
from skipscope.protocol import Loss, Network, Run
from skipscope.spec import Gains, Head, Norm, Spec, Stage, Stem

__all__ = [
    "GRID",
    "Build",
    "CheckedNetwork",
    "check_alone",
    "check_engine",
    "check_gradients",
    "check_invariants",
    "check_pushes",
    "check_same",
    "check_twin",
    "check_undisturbed",
    "homogeneous",
    "specs",
]

_TERMS = ("shortcut", "branch", "total")
_TERM_ENDS = tuple(f".{role}" for role in _TERMS)

Array = NDArray[Any]
Pushed = dict[str, Array]  # by "site.role"


class CheckedNetwork(Network, Protocol):
    """What the checks need of a network beyond `Network`."""

    @property
    def spec(self) -> Spec:
        """What the network is."""

    @property
    def parameters(self) -> Mapping[str, Array]:
        """NumPy arrays by `site.name`, each with the leading axis s; changing one in place changes the network.

        An engine of another library gives views that share its memory, e.g. `tensor.detach().numpy()`.
        """


class Build(Protocol):
    """How an engine builds a network: as `skipscope.build` does."""

    def __call__(self, spec: Spec, *, seed: int | Iterable[int]) -> CheckedNetwork:
        """The network of a seed, or of several as an ensemble."""


# --------------------------------------------------------------------------------------------------- the networks

GRID: Mapping[str, tuple[Any, ...]] = {
    "order": ("before-add", "after-add", "pre-activation"),
    "norm": ("none", "batch", "layer"),
    "layers": (1, 2, 3),
    "shortcut": ("identity", "none"),
    "activation": ("relu", "tanh", "linear"),
    "gains": ((1, 1), (0.5, 1), (1, -0.7), (1, "1/sqrt(L)"), ("1/sqrt(L)", "1/L"), (1, "zero")),
    "output": ("linear", "relu"),
    "bias": (False, True),
    "init": ("he", "xavier", "lecun", "torch"),
}
"""The choices of `Spec.dense` that are combined; `gains` is (shortcut_gain, branch_gain)."""


@functools.cache
def specs(together: int = len(GRID)) -> tuple[Spec, ...]:
    """Small networks of every combination in `GRID` that `Spec` accepts, and some whose stages differ from each other.

    Args:
        together: thins the grid: whatever so many choices meet in a network of it still meet in one that is left. All
            of it is some 12,700 networks; 4 leaves 600 of them, 3 leaves 180, and 2 leaves 60.
    """
    found, met = list[Spec](), set[tuple[tuple[int, Any], ...]]()
    combinations = list(itertools.product(*GRID.values()))
    for index in np.random.default_rng(0).permutation(len(combinations)):  # scattered, each brings many new ones
        choices = combinations[index]
        new = set(itertools.combinations(enumerate(choices), together)) - met
        spec = _accepted(**dict(zip(GRID, choices, strict=True))) if new else None
        if spec is not None:
            found.append(spec)
            met |= new
    return (*found, *_uneven())


def _accepted(gains: tuple[Any, Any], **choices: Any) -> Spec | None:
    """A network of three features, two blocks of four units, two outputs; None if there is none."""
    shortcut, branch = gains
    try:
        return Spec.dense(
            width=4, blocks=2, features=3, outputs=2, shortcut_gain=shortcut, branch_gain=branch, **choices
        )
    except InputError:
        return None


def _uneven() -> Iterator[Spec]:
    """What `Spec.dense` cannot say: stages of several widths, orders and norms; and the smallest networks."""
    norms: tuple[tuple[Norm, Norm], ...] = (("none", "none"), ("batch", "layer"), ("none", "batch"))
    for norm, other in norms:
        plain = Stage(blocks=2, width=5, layers=1, shortcut="none", order="after-add", norm=norm)
        narrow = Stage(blocks=1, width=3, shortcut="none", activation="tanh", gains=Gains(branch=0.7), norm=other)
        residual = Stage(blocks=2, width=3, order="pre-activation", norm=norm, gains=Gains(branch="zero"))
        for stages in ((plain, narrow), (plain, narrow, residual)):
            yield Spec(stem=Stem(features=3, width=4, activation="tanh"), stages=stages, head=Head(features=2))
    yield Spec.dense(width=4, blocks=0)
    yield Spec.dense(width=1, blocks=2, features=1)


def homogeneous(spec: Spec) -> bool:
    """Whether scaling a weight matrix by 2 doubles what it feeds: ReLU or linear, without biases.

    The invariants of `check_invariants` hold exactly where this does.
    """
    activations = {spec.stem.activation, spec.head.activation, *(stage.activation for stage in spec.stages)}
    return not spec.bias and "tanh" not in activations


# ------------------------------------------------------------------------------------------------------ gradients


def check_gradients(network: CheckedNetwork, batch: Any, loss: Loss, *, seed: int = 0) -> None:
    """The gradients by the input and by all parameters together are those of finite differences, in float64.

    The network is moved a little in every parameter first (and put back after): at its initialisation biases and
    learned gains stand at special points, where a wrong gradient may happen to be right.

    The derivative along a random direction u is D(h) = (f(x + h u) - f(x - h u))/2h with h = 1e-6. Its rounding error
    is about 1e-16 |f|/h = 1e-10 |f|, times the condition of f; its truncation error is h^2/6 times the third
    derivative, a third of D(2h) - D(h). Allowed is 1e-6 (|f| + ||gradient||) + 10 |D(2h) - D(h)|: the last term is
    negligible but where a norm divides by almost nothing. A term that is missing or counted twice shows in the
    gradient's first digits. A ReLU has no derivative where it switches: a direction along which the sign of any
    preactivation differs between the five points is drawn again.

    Args:
        network: of float64.
        batch: see `skipscope.protocol.Network.run`.
        loss: with its value computed from the output alone.
        seed: draws the direction.
    """
    rng = np.random.default_rng(seed)
    inputs, *rest = batch if isinstance(batch, tuple) else (batch,)
    shape = (len(network.seeds), *np.shape(inputs)[-2:])
    places = {"input": np.array(np.broadcast_to(inputs, shape)), **network.parameters}
    data = (places["input"], *rest) if rest else places["input"]
    with _moved(network.parameters, rng):
        _, pushed = _record(network, data, loss)
        gradients = {name: pushed[_gradient_of(name)] for name in places}
        good, text = _slopes(network, data, loss, places, gradients, rng)
        if good:
            return
        each = {name: _slopes(network, data, loss, {name: places[name]}, gradients, rng) for name in places}
    wrong = [f"{name}: {one}" for name, (fine, one) in each.items() if not fine]
    raise AssertionError("; ".join([f"gradients along a random direction of everything: {text}", *wrong]) + ".")


def _gradient_of(place: str) -> str:
    return "input.activation_grad" if place == "input" else f"{place}_grad"


def _slopes(
    network: CheckedNetwork,
    data: Any,
    loss: Loss,
    places: Mapping[str, Array],
    gradients: Mapping[str, Array],
    rng: np.random.Generator,
) -> tuple[bool, str]:
    """Whether analytic and numeric slope agree along a random direction in `places`; and both as text."""
    h = 1e-6
    for _ in range(100):
        direction = {name: rng.standard_normal(place.shape) for name, place in places.items()}
        points = [_value(network, data, loss, places, direction, k * h) for k in (-2, -1, 0, 1, 2)]
        if all(signs == points[0][1] for _, signs in points):
            break
    else:
        raise AssertionError("100 random directions cross a kink of ReLU: the network stands on one.")
    far_below, below, here, above, far_above = (value for value, _ in points)
    numeric = (above - below) / (2 * h)
    unsure = np.abs(numeric - (far_above - far_below) / (4 * h))
    analytic = np.sum([_inner(gradients[name], direction[name]) for name in places], axis=0)
    norm = np.sum([_inner(gradients[name], gradients[name]) for name in places], axis=0) ** 0.5
    off = np.abs(analytic - numeric)
    excess = off - 1e-6 * (np.abs(here) + norm) - 10 * unsure
    worst = int(np.argmax(np.where(np.isnan(excess), np.inf, excess)))
    good = bool((excess <= 0).all() and (unsure <= 1e-4 * (np.abs(here) + norm)).all())
    return good, f"analytic {analytic[worst]:.12g}, numeric {numeric[worst]:.12g} (seed {network.seeds[worst]})"


def _value(
    network: CheckedNetwork,
    data: Any,
    loss: Loss,
    places: Mapping[str, Array],
    direction: Mapping[str, Array],
    step: float,
) -> tuple[Array, bytes]:
    """The loss at a step along the direction, and on which side of their kinks the activation functions are."""
    signs: list[bytes] = []

    def observe(site: str, /, **roles: Any) -> None:
        signs.extend(np.sign(roles[role]).tobytes() for role in ("preactivation", "total") if role in roles)

    before = {name: place.copy() for name, place in places.items()}
    try:
        for name, place in places.items():
            place += step * direction[name]
        return np.asarray(loss(network.run(data, observe=observe).output, data)), b"".join(signs)
    finally:
        for name, place in places.items():
            place[...] = before[name]


@contextmanager
def _moved(parameters: Mapping[str, Array], rng: np.random.Generator) -> Iterator[None]:
    before = {name: array.copy() for name, array in parameters.items()}
    try:
        for array in parameters.values():
            array += 0.3 * rng.standard_normal(array.shape)
        yield
    finally:
        for name, array in parameters.items():
            array[...] = before[name]


# ----------------------------------------------------------------------------------------------------- invariants


def check_invariants(network: CheckedNetwork, batch: Any, v: Array) -> None:
    """The exact invariants of a homogeneous network (see `homogeneous`), to rounding, in float64.

    Without norms the output is homogeneous in the activations of every site that all of it passes through, and in
    every weight matrix. So, by Euler's theorem, with f = <v, output>, g the gradient by an activation a, both summed
    over samples: <g, a> = f at the sites outside branches, <dW, W> = f for their weights, and inside a branch F both
    are <dsum, F>, dsum the gradient by the junction's sum. Allowed is an error of 1e-12 ||g|| ||a||, not of f, which
    may be small by cancellation. With norms, see `_check_normalised`.

    Args:
        network: of float64, with biases (if any) of 0.
        batch: the inputs.
        v: the gradient by the output, of shape (b, n) or (s, b, n).

    Raises:
        InputError: the network is not homogeneous.
    """
    if not homogeneous(network.spec):
        raise InputError("check_invariants needs a network of ReLU or linear activations without biases.")
    run, pushed = _record(network, batch, Cotangent(v))
    if any(name.endswith(".gamma") for name in network.parameters):
        _check_normalised(network, pushed)
        return
    expected = {site.site: np.asarray(run.loss) for site in network.sites}
    for site in network.sites:
        if site.kind == "junction":
            dsum = pushed[f"{site.site}.activation_grad"] * _slope(site.activation, pushed[f"{site.site}.total"])
            share = _inner(dsum, pushed[f"{site.site}.branch"])
            expected |= {name: share for name in expected if name.startswith(f"{site.site}.")}
    for key in pushed:
        site_name, _, role = key.rpartition(".")
        if role in ("activation", "weight"):
            g, a = pushed[f"{key}_grad"], pushed[key]
            _require(f"<{role}_grad, {role}> at {site_name}", _inner(g, a), expected[site_name], 1e-12 * _norms(g, a))


def _check_normalised(network: CheckedNetwork, pushed: Pushed) -> None:
    """A norm takes the scale of what comes in away, so a weight matrix that feeds one has <dW, W> = 0, up to epsilon.

    What epsilon leaves is known too: with z the normalised numbers, mean(z^2) = v/(v + eps), and scaling W by
    1 + t scales z by 1 + t eps/(v + eps). So <dW, W> = sum (1 - mean z^2) sum z dz, the sums over what is normalised
    together: a feature's samples, or a sample's features. Allowed is an error of 1e-12 (||dW|| ||W|| + ||dz|| ||z||),
    times 1/sqrt(v + eps) where that is above 1: rounding errors are multiplied by it like everything else.
    """
    for weight_site, norm_site, norm in _normalised(network.spec):
        gamma, beta = (network.parameters[f"{norm_site}.{name}"][:, None] for name in ("gamma", "beta"))
        z = (pushed[f"{norm_site}.preactivation"] - beta) / gamma
        dz = pushed[f"{norm_site}.preactivation_grad"] * gamma
        axis = -2 if norm == "batch" else -1
        lost = 1 - (z * z).mean(axis)  # eps/(v + eps)
        left = (lost * (z * dz).sum(axis)).sum(-1)
        g, w = pushed[f"{weight_site}.weight_grad"], pushed[f"{weight_site}.weight"]
        allowed = 1e-12 * (_norms(g, w) + _norms(dz, z)) * np.maximum(1, (lost.max(-1) / EPS) ** 0.5)
        _require(f"<weight_grad, weight> at {weight_site}", _inner(g, w), left, allowed)


def _normalised(spec: Spec) -> Iterator[tuple[str, str, str]]:
    """Every weight matrix whose product goes straight into a norm: its site, the norm's site, the norm."""
    for chain in ((spec.stem_layer,), *(block.layers for block in spec.body)):
        for layer, following in itertools.zip_longest(chain, chain[1:]):
            place = layer if layer.first == "affine" else following
            if place is not None and place.norm != "none":
                yield layer.site, place.site, place.norm


def _slope(activation: str, total: Array) -> Array:
    return total > 0 if activation == "relu" else np.ones_like(total)


# ------------------------------------------------------------------------------- the same, alone and in an ensemble


def check_alone(build: Build, spec: Spec, seeds: Sequence[int], *, samples: int = 5) -> None:
    """A seed gives the same bits alone, in an ensemble, in any chunk of it and in any order.

    Output, loss and every array that is pushed are compared.
    """
    inputs = draws.normals(seeds, "input", (samples, spec.stem.features))
    v = draws.normals(seeds, "cotangent", (samples, spec.head.features))

    def bits(indices: Sequence[int]) -> Pushed:
        network = build(spec, seed=[seeds[index] for index in indices])
        return _record(network, inputs[list(indices)], Cotangent(v[list(indices)]))[1]

    every = range(len(seeds))
    whole = bits(every)
    middle = len(seeds) // 2 + 1
    for chunk in (*([index] for index in every), every[:middle], every[::-1]):
        for key, array in bits(chunk).items():
            if array.tobytes() != whole[key][list(chunk)].tobytes():
                off = np.abs(array - whole[key][list(chunk)]).max()
                raise AssertionError(
                    f"{key} of seeds {[seeds[index] for index in chunk]} differs, by up to {off:.3g}, from the same "
                    f"seeds in an ensemble of {len(seeds)}."
                )


def check_twin(build: Build, spec: Spec, seeds: Sequence[int], *, samples: int = 5) -> None:
    """A residual network under `gains(shortcut=0)` is its plain twin: equal output, loss and parameter gradients."""
    network, twin = build(spec, seed=seeds), build(spec.twin(), seed=seeds)
    inputs = draws.normals(seeds, "input", (samples, spec.stem.features))
    loss = Cotangent(draws.normals(seeds, "cotangent", (samples, spec.head.features)))
    with network.gains(shortcut=0):
        _, edited = _record(network, inputs, loss)
    _, plain = _record(twin, inputs, loss)
    for key in plain:
        if not np.array_equal(edited[key], plain[key], equal_nan=True):
            raise AssertionError(f"{key} under gains(shortcut=0) differs from the twin's.")


def check_same(network: CheckedNetwork, reference: CheckedNetwork, batch: Any, loss: Loss) -> None:
    """Two engines' networks push the same arrays, to 1e-10 of their norm (float64), and give the same loss.

    What is summed over the batch may be 0 but for rounding (a bias before a norm has no effect): it is compared in
    units of what it is the sum of.
    """
    _, mine = _record(network, batch, loss)
    _, other = _record(reference, batch, loss)
    if mine.keys() != other.keys():
        raise AssertionError(f"pushed by one network alone: {sorted(mine.keys() ^ other.keys())}.")
    for key, array in other.items():
        _require(key, mine[key], array, 1e-10 * (float(np.linalg.norm(array)) + _summed(key, other)) + 1e-300)


def _summed(key: str, pushed: Pushed) -> float:
    """The norm of what an array is a sum over the batch of, 0 for others."""
    site, _, role = key.rpartition(".")
    if role == "batch_mean":
        return math.sqrt(float(np.linalg.norm(pushed[f"{site}.batch_variance"])))
    terms = pushed.get(f"{site}.preactivation_grad")
    return (
        float(np.linalg.norm(terms)) if role in ("beta_grad", "gamma_grad", "bias_grad") and terms is not None else 0.0
    )


# ------------------------------------------------------------------------------------------------- what is pushed


def check_pushes(network: CheckedNetwork, batch: Any, loss: Loss) -> None:
    """Every site and every parameter is pushed, with its gradient, in the shapes that the protocol states."""
    before = {name: array.copy() for name, array in network.parameters.items()}
    _, pushed = _record(network, batch, loss)
    sites = {site.site: site for site in network.sites if site.kind != "network"}
    due = {f"{site}.activation" for site in sites} | set(network.parameters)
    due |= {f"{name}.{role}" for name, site in sites.items() if site.kind == "junction" for role in _TERMS}
    for key in sorted(due):
        for role in (key, f"{key}_grad"):
            if role not in pushed:
                raise AssertionError(f"{role} was not pushed.")
        # The gradients at a junction are by the block's input, which may have another shape than what is added.
        of = f"{key.rpartition('.')[0]}.shortcut_grad" if key.endswith(_TERM_ENDS) else key
        if pushed[of].shape != pushed[f"{key}_grad"].shape or len(pushed[key]) != len(network.seeds):
            shapes = pushed[of].shape, pushed[f"{key}_grad"].shape
            raise AssertionError(f"{key} and its gradient have the shapes {shapes}, for {len(network.seeds)} seeds.")
    strangers = {key.rpartition(".")[0] for key in pushed} - sites.keys() - {"run"}
    if strangers:
        raise AssertionError(f"pushed at sites that the network does not list: {sorted(strangers)}.")
    for name, array in network.parameters.items():
        if array.tobytes() != before[name].tobytes():
            raise AssertionError(f"{name} was changed by a run.")


# ------------------------------------------------------------------------------------------ on a model of one's own


def check_undisturbed(model: Any, batch: Any, *, loss: Callable[[Any, Any], Any] | None = None, seed: int = 0) -> None:
    """A `torch.nn.Module` trains bit for bit as it does without the scope; see `skipscope.torch.checking`."""
    from skipscope.torch import checking  # whoever has such a model has PyTorch

    checking.check_undisturbed(model, batch, loss=loss, seed=seed)


# ----------------------------------------------------------------------------------------------------- everything


def check_engine(build: Build, *, together: int = 3) -> None:
    """Put an engine through all checks, on the networks of `specs(together)`.

    Args:
        build: what builds its networks, in float64.
        together: thins the grid; all of it takes the NumPy engine two minutes, 3 a second or two.
    """
    seeds = (3, 1, 2)
    for spec in specs(together):
        inputs = draws.normals(seeds, "input", (5, spec.stem.features))
        loss = Cotangent(draws.normals(seeds, "cotangent", (5, spec.head.features)))
        network = build(spec, seed=seeds)
        try:
            check_pushes(network, inputs, loss)
            check_same(network, numpy_engine.build(spec, seed=seeds), inputs, loss)
            check_gradients(network, inputs, loss)
            if homogeneous(spec):
                check_invariants(network, inputs, loss.v)
                check_invariants(build(spec, seed=3), inputs[:1, : _fewest(spec)], loss.v[:1, : _fewest(spec)])
            check_alone(build, spec, seeds)
            if _has_twin(spec):
                check_twin(build, spec, seeds)
        except AssertionError as error:
            raise AssertionError(f"{error} The network: {spec.to_json()}") from error


def _fewest(spec: Spec) -> int:
    """The fewest samples that a network takes."""
    return 2 if spec.coupled else 1


def _has_twin(spec: Spec) -> bool:
    """Whether it is residual throughout, and its twin does not output 0 alone."""
    return bool(spec.stages) and not any(stage.plain or stage.gains.silent for stage in spec.stages)


# -------------------------------------------------------------------------------------------------------- helpers


def _record(network: Network, batch: Any, loss: Loss) -> tuple[Run, Pushed]:
    """Run the network and keep a copy of everything that comes out, by `site.role`; also `run.output`, `run.loss`."""
    pushed: Pushed = {}

    def observe(site: str, /, **roles: Any) -> None:
        for role, array in roles.items():
            if f"{site}.{role}" in pushed:
                raise AssertionError(f"{site}.{role} was pushed twice in one run.")
            pushed[f"{site}.{role}"] = np.array(array)

    run = network.run(batch, loss, observe)
    return run, pushed | {"run.output": np.array(run.output), "run.loss": np.array(run.loss)}


def _inner(x: Array, y: Array) -> Array:
    """The inner product of every network's arrays, of shape (s,)."""
    product: Array = (x * y).reshape(len(x), -1).sum(axis=1)
    return product


def _norms(x: Array, y: Array) -> Array:
    return _inner(x, x) ** 0.5 * _inner(y, y) ** 0.5


def _require(what: str, value: Array, expected: Array, allowed: Array | float) -> None:
    if value.shape != expected.shape:
        raise AssertionError(f"{what} has the shape {value.shape}; expected {expected.shape}.")
    off = np.where(np.isnan(value), np.inf, np.abs(value - expected))
    if (off > allowed).any():
        worst = np.unravel_index(int(np.argmax(off - allowed)), off.shape)
        limit = np.broadcast_to(allowed, off.shape)[worst]
        raise AssertionError(
            f"{what} is {value[worst]:.12g}, expected {expected[worst]:.12g}; allowed is a difference of {limit:.3g}."
        )
