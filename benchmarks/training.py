"""A step of training against the matrix products in it and PyTorch, for one network and for an ensemble."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_info
from torch.nn import functional

from benchmarks.timing import COLUMNS, Bound, Row, in_turn, one_core, ratios, spread, table
from skipscope import Spec, build, data
from skipscope.data import Dataset
from skipscope.engines import ops
from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.losses import CrossEntropy
from skipscope.training import Recipe, train

WIDTH, BLOCKS, BATCH, SEEDS, STEPS = 64, 20, 64, 32, 400
THREADS = 2
SHORT = 50  # steps of ensembles, and those after which weights are compared: over more rounding grows with the rest
RECIPE = Recipe(steps=STEPS, batch=BATCH, rate=0.01)
SPEC = Spec.dense(width=WIDTH, blocks=BLOCKS, features=64, outputs=10, branch_gain="1/sqrt(L)", dtype="float32")
TOLERANCE = 2e-4  # float32, and after so many steps: rounding of 1e-7 a step, carried on by the steps that follow

Weights = dict[str, torch.Tensor]


def section() -> str:
    """The section of RESULTS.md."""
    digits = data.load("digits", seed=0)
    with one_core():
        torch.set_num_threads(1)
        ways: dict[str, Callable[[range], Any]] = {
            _OURS: functools.partial(of_skipscope, dataset=digits),
            _TORCH: functools.partial(torch_one_by_one, dataset=digits),
            _STACKED: functools.partial(torch_stacked, dataset=digits),
            _FLOOR: only_products,
        }
        off = {name: _off(ways, name) for name in (_TORCH, _STACKED)}
        alone = in_turn({name: functools.partial(way, range(1)) for name, way in ways.items()}, n=9)
        many = in_turn({name: functools.partial(way, range(SEEDS), steps=SHORT) for name, way in ways.items()}, n=3)
        bound_by = _where_a_step_goes(digits)
    torch.set_num_threads(THREADS)
    del ways[_FLOOR]
    spread_out = ways | {_OURS: functools.partial(of_skipscope, dataset=digits, jobs=THREADS)}
    both = in_turn({name: functools.partial(way, range(SEEDS), steps=SHORT) for name, way in spread_out.items()}, n=3)
    torch.set_num_threads(1)
    rows = []
    for taken, seeds, threads, steps in ((alone, 1, 1, STEPS), (many, SEEDS, 1, SHORT), (both, SEEDS, THREADS, SHORT)):
        for name, times in taken.items():
            each = spread([1000 * time / seeds / steps for time in times])
            units = "1" if name == _OURS else spread(ratios(times, taken[_OURS]))
            rows.append([name, str(seeds), str(threads), each, units, str(len(times)), off.get(name, "")])
    several = f"skipscope, {SEEDS} seeds"
    bounds = [
        Row(f"time of {_TORCH}", "skipscope, one seed", ratios(alone[_TORCH], alone[_OURS]), Bound(2.5, most=False)),
        Row(f"time of {_TORCH}", f"{several}, 1 thread", ratios(many[_TORCH], many[_OURS])),
        Row(
            f"time of {_TORCH}",
            f"{several}, {THREADS} threads",
            ratios(both[_TORCH], both[_OURS]),
            Bound(6, most=False),
        ),
        Row(f"time of {_STACKED}", f"{several}, 1 thread", ratios(many[_STACKED], many[_OURS])),
        Row(f"time of {_STACKED}", f"{several}, {THREADS} threads", ratios(both[_STACKED], both[_OURS])),
        # What no way of calling the same products could exceed.
        Row(f"time of {_TORCH}", "only the matrix products, one seed", ratios(alone[_TORCH], alone[_FLOOR])),
    ]
    tables = table(_COLUMNS, rows), table(COLUMNS, [bound.cells() for bound in bounds])
    return "\n\n".join(["## Training", _told(), *tables, bound_by])


_OURS, _TORCH, _STACKED = "skipscope", "PyTorch, one network at a time", "PyTorch, `torch.func` over stacked networks"
_FLOOR = "only the matrix products"
_COLUMNS = [
    "way",
    "seeds",
    "threads",
    "ms a step and seed",
    "in units of skipscope",
    "n",
    f"weights agree after {SHORT} steps to",
]


def _told() -> str:
    kernels = ", ".join(sorted({each.get("architecture") or "?" for each in threadpool_info() if _is_blas(each)}))
    return (
        f"{STEPS} steps ({SHORT} where there are {SEEDS} seeds) of a residual network of {BLOCKS} blocks of two "
        f"layers, width {WIDTH}, {BATCH} samples a step, float32, momentum and weight decay, on scikit-learn's digits. "
        f"One thread is held to one core; where there are {THREADS}, PyTorch spreads its operations over them, and "
        "skipscope the networks. It is timed as a user "
        "calls it, `train(..., jobs=threads)`, measuring nothing; PyTorch runs eagerly with `torch.optim.SGD`, or by "
        "`torch.func.vmap` of `grad` over stacked weights, and is handed the same weights and mini-batches. Only the "
        "matrix products are the three of every layer by NumPy's BLAS, with nothing between them: skipscope cannot be "
        f"faster. That BLAS (OpenBLAS, kernels for {kernels}) is the one which NumPy brings along; PyTorch brings its "
        "own."
    )


def _is_blas(found: dict[str, Any]) -> bool:
    return found.get("internal_api") == "openblas"


# --------------------------------------------------------------------------------------------------------- the ways


@functools.cache
def _built(seeds: int | range) -> NumpyNetwork:
    """The networks before training, drawn before the clock starts."""
    return build(SPEC, seed=seeds)


def of_skipscope(seeds: range, dataset: Dataset, steps: int = STEPS, jobs: int = 1) -> dict[str, Any]:
    """What a user calls; the weights at the end."""
    recipe = dataclasses.replace(RECIPE, steps=steps)
    trained = train(_built(seeds), dataset, recipe, record=(), jobs=jobs)
    assert trained.network is not None, trained.stopped
    return trained.network.parameters


def torch_one_by_one(seeds: range, dataset: Dataset, steps: int = STEPS) -> dict[str, Any]:
    """One network after another, eagerly."""
    found = [_torch_one(seed, dataset, steps) for seed in seeds]
    return {name: np.stack([each[name].detach().numpy() for each in found]) for name in found[0]}


def _torch_one(seed: int, dataset: Dataset, steps: int) -> Weights:
    weights = {
        name: torch.from_numpy(array[0].copy()).requires_grad_() for name, array in _built(seed).parameters.items()
    }
    optimizer = torch.optim.SGD(weights.values(), lr=RECIPE.rate, **_options())
    inputs, targets = _tensors(dataset)
    order = data.batches(seed, samples=dataset.train.size, size=BATCH)
    for _ in range(steps):
        chosen = torch.from_numpy(next(order))
        optimizer.zero_grad()
        _loss(weights, inputs[chosen], targets[chosen]).backward()
        optimizer.step()
    return weights


def torch_stacked(seeds: range, dataset: Dataset, steps: int = STEPS) -> dict[str, Any]:
    """All at once: `vmap` of `grad` over stacked weights, and the same optimizer on the stacks."""
    weights = {name: torch.from_numpy(array.copy()) for name, array in _built(seeds).parameters.items()}
    optimizer = torch.optim.SGD(weights.values(), lr=RECIPE.rate, **_options())
    gradient = torch.func.vmap(torch.func.grad(_loss))
    inputs, targets = _tensors(dataset)
    order = data.batches(seeds, samples=dataset.train.size, size=BATCH)
    for _ in range(steps):
        chosen = torch.from_numpy(next(order))
        for name, found in gradient(weights, inputs[chosen], targets[chosen]).items():
            weights[name].grad = found
        optimizer.step()
    return {name: each.numpy() for name, each in weights.items()}


def only_products(seeds: range, steps: int = STEPS) -> None:
    """The matrix products of the steps: forwards, and backwards by weights and by inputs."""
    weights = [np.ones((1, layer.fan_out, layer.fan_in), "float32") for layer in SPEC.layers]
    ends = {size: np.ones((1, BATCH, size), "float32") for size in {n for w in weights for n in w.shape[1:]}}
    outs = {size: np.empty((1, BATCH, size), "float32") for size in ends}
    for _ in range(steps * len(seeds)):
        for weight in weights:
            np.matmul(ends[weight.shape[2]], weight.swapaxes(-1, -2), out=outs[weight.shape[1]])
        for weight in weights:
            x, dy = ends[weight.shape[2]], ends[weight.shape[1]]
            np.matmul(dy.swapaxes(-1, -2), x)
            np.matmul(dy, weight, out=outs[weight.shape[2]])


# ------------------------------------------------------------------------------------------------ where a step goes


def _where_a_step_goes(dataset: Dataset) -> str:
    """What binds a step of one network: every kind of operation in it by itself, beside the whole."""
    parts = {
        _OURS: functools.partial(of_skipscope, range(1), dataset),
        _FLOOR: functools.partial(only_products, range(1)),
        "only the activation functions": only_activations,
        "only the junctions": only_junctions,
        "only the loss and its gradient": functools.partial(only_losses, dataset),
        "only the descent": only_descent,
    }
    taken = in_turn(parts, n=9)
    each = {name: [1000 * time / STEPS for time in times] for name, times in taken.items()}
    rest = [whole - sum(parts) for whole, *parts in zip(*each.values(), strict=True)]
    rows = [
        [name, spread(times)] for name, times in (each | {"the rest: Python, and drawing mini-batches": rest}).items()
    ]
    head = "Where a step of one network goes; every kind of operation by itself, on arrays that are already there:"
    return "\n\n".join([head, table(["of", "ms a step"], rows)])


def _standing(count: int) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((1, BATCH, WIDTH)).astype("float32") for _ in range(count)]


def only_activations(steps: int = STEPS) -> None:
    """The ReLUs of the steps, forwards and backwards."""
    arrays = _standing(len(SPEC.layers) - 1)
    for _ in range(steps):
        activations = [ops.relu(x) for x in arrays]
        for x, y in zip(arrays, activations, strict=True):
            ops.relu_backward(x, y)


def only_junctions(steps: int = STEPS) -> None:
    """The additions of the steps, forwards and backwards."""
    blocks, (x, dy) = SPEC.body, _standing(2)
    for _ in range(steps):
        for block in blocks:
            ops.junction(x, dy, block.shortcut_gain, block.branch_gain)
            dskip, dbranch = ops.junction_backward(dy, block.shortcut_gain, block.branch_gain)
            ops.junction_joined(dskip, dbranch, block.shortcut_gain, block.branch_gain)


def only_losses(dataset: Dataset, steps: int = STEPS) -> None:
    """The cross-entropies of the steps, with their gradients."""
    output, labels = _standing(1)[0][..., :10].copy(), np.asarray(dataset.train.targets[:BATCH])
    for _ in range(steps):
        CrossEntropy().with_gradient(output, (None, labels))


def only_descent(steps: int = STEPS) -> None:
    """The updates of the steps: six passes over all weights, in pieces that stay near the core."""
    count, size = SPEC.parameters, 1 << 15
    weights, velocity, gradient = (np.ones(count, "float32") for _ in range(3))
    spare = np.empty(size, "float32")
    for _ in range(steps):
        for start in range(0, count, size):
            w, v, g = (block[start : start + size] for block in (weights, velocity, gradient))
            s = spare[: w.size]
            np.multiply(w, RECIPE.weight_decay, out=s)
            g += s
            v *= RECIPE.momentum
            v += g
            np.multiply(v, RECIPE.rate, out=s)
            w -= s


def _options() -> dict[str, float]:
    return {"momentum": RECIPE.momentum, "weight_decay": RECIPE.weight_decay}


def _tensors(dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(dataset.train.inputs.astype("float32")), torch.tensor(dataset.train.targets)


def _loss(weights: Weights, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    x = torch.relu(functional.linear(inputs, weights["stem.weight"]))
    for block in SPEC.body:
        branch = x
        for layer in block.layers:
            branch = torch.relu(functional.linear(branch, weights[f"{layer.site}.weight"]))
        x = x + block.branch_gain * branch
    return functional.cross_entropy(functional.linear(x, weights["head.weight"]), targets)


def _off(ways: dict[str, Callable[[range], Any]], name: str) -> str:
    """The largest difference from skipscope's weights relative to their norm; raises where it is more than rounding."""
    ours, theirs = (ways[way](range(2), steps=SHORT) for way in (_OURS, name))
    off = max(np.linalg.norm(ours[each] - theirs[each]) / np.linalg.norm(ours[each]) for each in ours)
    assert off < TOLERANCE, (name, off)
    return f"{off:.0e}"
