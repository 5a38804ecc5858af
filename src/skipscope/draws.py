"""Every random number of the package, as a function of a seed.

A seed owns streams that do not disturb each other: the weights, the inputs, the cotangent (a random output gradient),
the biases, what is resampled, the data sets, the order of their samples, which blocks are cut out of a network, and how
images are cropped. So the network of seed s is the same whatever it is shown. Networks and what probes show them are
drawn as standard normals in float64; initialisation scale, gain and dtype are applied after. The weights come in the
order input layer, output layer, body in order of depth, projections of the shortcuts in order of depth: a twin, every
depth, every shortcut option, both engines and both precisions use the same normals (common random numbers), and a
shallow network of one width is the beginning of a deep one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skipscope.errors import InputError, quoted, require_int
from skipscope.spec import Layer, Spec

__all__ = [
    "CotangentKind",
    "are_several",
    "begins",
    "biases",
    "drawing_order",
    "normals",
    "require_seeds",
    "stream",
    "weights",
]

Array = NDArray[np.float64]
CotangentKind = Literal["gaussian", "ones"]
"""The output gradient of a probe without a loss: independent standard normals, or ones as in the notebook."""

Stream = Literal["weights", "input", "cotangent", "biases", "resample", "data", "order", "lesion", "augmentation"]
_KEYS: dict[Stream, int] = {
    "weights": 0,
    "input": 1,
    "cotangent": 2,
    "biases": 3,
    "resample": 4,
    "data": 5,
    "order": 6,
    "lesion": 7,
    "augmentation": 8,
}


def stream(seed: int, which: Stream, *index: int) -> np.random.Generator:
    """The generator of one stream of one seed, or of one part of the stream, e.g. an epoch: each part is by itself."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_KEYS[which], *index)))


def are_several(seeds: Any) -> bool:
    """Whether `seeds` is a list of seeds, be it of one, rather than a single seed."""
    return isinstance(seeds, Iterable) and getattr(seeds, "ndim", 1) > 0  # an array of no axes is one number


def require_seeds(seeds: int | Iterable[int]) -> tuple[int, ...]:
    """`seeds` as a tuple: a single seed, or several different ones.

    Raises:
        InputError: there is none, one is not a whole number of at least 0, or one comes twice.
    """
    several = are_several(seeds)
    if isinstance(seeds, bool | str) or not (hasattr(seeds, "__index__") or several):
        raise InputError(f"seed must be a whole number of at least 0, or a list of such; got {quoted(seeds)}.")
    try:
        listed: list[Any] = list(seeds) if several else [seeds]  # type: ignore[arg-type]  # mypy forgets `several`
    except (OverflowError, MemoryError):
        raise InputError(f"seeds are too many to list: give fewer; got {quoted(seeds)}.") from None
    if not listed:
        raise InputError("seeds is empty: give at least one seed, e.g. seeds=range(200).")
    known = tuple(require_int("seed", seed, least=0) for seed in listed)
    if len(set(known)) < len(known):
        twice = next(seed for index, seed in enumerate(known) if seed in known[:index])
        raise InputError(f"seeds must differ from each other; got {twice} twice.")
    return known


def normals(seeds: Sequence[int], which: Stream, shape: tuple[int, ...]) -> Array:
    """Standard normals of shape (s, *shape), float64; row i is drawn by `seeds[i]` alone."""
    drawn = np.empty((len(seeds), *shape))
    for row, seed in zip(drawn, seeds, strict=True):
        stream(seed, which).standard_normal(out=row)
    return drawn


def drawing_order(spec: Spec) -> list[Layer]:
    """The layers of a network in the order in which their weights are drawn."""
    stem, *body, head = spec.layers
    return [stem, head, *body, *spec.projections]


def weights(
    spec: Spec, seeds: Sequence[int], *, empty: Callable[[tuple[int, int]], Array] = np.empty
) -> dict[str, Array]:
    """The initial weights by site, in the spec's dtype: (s, n_out, n_in), of convolutions (s, c_out, c_in, k, k).

    Args:
        spec: of the network.
        seeds: of the networks.
        empty: gives the array of float64 that is drawn into; whoever draws again and again may give the same one.
    """
    order = drawing_order(spec)
    drawn = empty((len(seeds), sum(layer.weights for layer in order)))
    runs = _runs(spec, order)
    for row, seed in zip(drawn, seeds, strict=True):
        stream(seed, "weights").standard_normal(out=row)
        for start, stop, scale in runs:  # while the row is in the core's cache
            row[start:stop] *= scale
    cut: dict[str, Array] = {}
    start = 0
    for layer in order:
        block = drawn[:, start : start + layer.weights].reshape(len(seeds), *layer.weight_shape)
        if spec.init == "torch":
            block = _uniform(block, layer.fan_in)
        cut[layer.site] = block.astype(spec.dtype, copy=False)
        start += layer.weights
    return {layer.site: cut[layer.site] for layer in (*spec.layers, *spec.projections)}


def _runs(spec: Spec, order: Sequence[Layer]) -> list[tuple[int, int, float]]:
    """From where to where a row of Gaussian weights has which standard deviation."""
    if spec.init == "torch":
        return []
    runs: list[tuple[int, int, float]] = []
    start = 0
    for layer in order:
        stop, scale = start + layer.weights, weight_variance(spec, layer) ** 0.5
        if runs and runs[-1][2] == scale:
            runs[-1] = (runs[-1][0], stop, scale)
        else:
            runs.append((start, stop, scale))
        start = stop
    return runs


def begins(shallow: Spec, deep: Spec) -> bool:
    """Whether the weights of `shallow`, as drawn and scaled, are the first of those of `deep`."""
    if (shallow.init, shallow.dtype) != (deep.init, deep.dtype):
        return False
    few, many = ([layer.weight_shape for layer in drawing_order(spec)] for spec in (shallow, deep))
    return many[: len(few)] == few


def biases(spec: Spec, seeds: Sequence[int]) -> dict[str, Array]:
    """The initial biases by site, of the layers that have one: (s, n_out), zeros, or PyTorch's uniform ones."""
    layers = [layer for layer in spec.layers if layer.bias]
    if spec.init != "torch":
        return {layer.site: np.zeros((len(seeds), layer.n_out), spec.dtype) for layer in layers}
    order = [layer for layer in drawing_order(spec) if layer.bias]
    drawn = normals(seeds, "biases", (sum(layer.n_out for layer in order),))
    cut: dict[str, Array] = {}
    start = 0
    for layer in order:
        cut[layer.site] = _uniform(drawn[:, start : start + layer.n_out], layer.fan_in).astype(spec.dtype)
        start += layer.n_out
    return {layer.site: cut[layer.site] for layer in layers}


def weight_variance(spec: Spec, layer: Layer) -> float:
    """The variance of one entry of the layer's initial weights."""
    match spec.init:
        case "he":
            return 2.0 / layer.fan_in
        case "xavier":
            return 2.0 / (layer.fan_in + layer.fan_out)
        case "lecun":
            return 1.0 / layer.fan_in
        case "torch":
            return 1.0 / (3.0 * layer.fan_in)


def _uniform(block: Array, fan_in: int) -> Array:
    """Standard normals mapped to the uniform law on +-1/sqrt(fan_in), by their distribution function.

    `torch.nn.Linear` draws weights and biases so (`kaiming_uniform_` with a = sqrt(5)); through the distribution
    function the draw keeps common random numbers with the Gaussian initialisations.
    """
    from scipy.special import erf  # only this initialisation needs SciPy

    uniform: Array = erf(block / np.sqrt(2.0)) / np.sqrt(fan_in)
    return uniform
