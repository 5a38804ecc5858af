"""A step of training of ResNet-20 and a forward pass of ResNet-50: NumPy engine, PyTorch, and the products alone."""

from __future__ import annotations

import cProfile
import functools
import os
import pstats
import time
from collections.abc import Callable, Iterator
from operator import truediv
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits
from torch.nn import functional

from benchmarks import paper_torch
from benchmarks.timing import COLUMNS, Bound, Row, Work, in_turn, ratios, spread, table
from skipscope import Spec, build
from skipscope.data import Images
from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.engines.spread import spread as over
from skipscope.engines.spread import threads
from skipscope.engines.torch_module import module_of, state_of
from skipscope.training import Recipe, train

Array = NDArray[Any]
OnThreads = Callable[[int], object]
"""What is timed, on so many threads."""

BATCH, STEPS, N = 64, 20, 9
THREADS = 2
OFF = 1e-3  # float32, of weights after the steps from the same ones, relative to the norm
_OURS, _TORCH, _PRODUCTS = "NumPy", "PyTorch, eager, default layout", "only the matrix products"
_MS = ["network", "way", "threads", "ms", "n"]
_RECIPE = Recipe(steps=STEPS, batch=BATCH, rate=0.001)  # small, for at 0.1 rounding grows a hundredfold in five


def section() -> str:
    """The section of RESULTS.md."""
    taken, rows = [], []
    twenty = resnet20()
    for name, works, units, bound in (
        ("ResNet-20, a step of training", twenty, STEPS, Bound(1, most=False)),
        ("ResNet-50, a forward pass", resnet50(), 1, Bound(1 / 2.5, most=False)),
    ):
        times = in_turn({way: functools.partial(work, THREADS) for way, work in works.items()}, n=N)
        alone = _processor({way: functools.partial(work, 1) for way, work in works.items()}, n=N)
        for count, found in ((THREADS, times), (1, alone)):
            for way, ts in found.items():
                taken.append([name, way, str(count), spread([1000 * t / units for t in ts]), str(len(ts))])
            what = "time" if count > 1 else "processor time, one thread,"
            against = ratios(found[_TORCH], found[_OURS])
            rows.append(Row(f"{what} of {_TORCH}: {name}", _OURS, against, bound if count > 1 else None))
            if _PRODUCTS in found:
                rows.append(Row(f"{what} of {_PRODUCTS}: {name}", _OURS, ratios(found[_PRODUCTS], found[_OURS])))
    tables = table(_MS, taken), table(COLUMNS, [row.cells() for row in rows])
    return "\n\n".join(["## Images", _told(), *tables, _where_a_step_goes(twenty[_OURS])])


def _told() -> str:
    return (
        f"ResNet-20 (option A): `skipscope.training.train` on {BATCH} images of 3 x 32 x 32 a step, in float32, with "
        "momentum and weight decay, mini-batches drawn and standardised in the time; PyTorch has the network of public "
        f"repositories, and is handed its images. {STEPS} steps a call. ResNet-50 (option B, stride in the 3x3): one "
        f"image of 3 x 224 x 224, with running averages. {THREADS} threads each, in turn, with the same weights. Only "
        "the matrix products are those that NumPy's BLAS is given in the 3x3 convolutions, with nothing around them. "
        f"PyTorch's convolutions are kernels of its own, NumPy's are products by {_blas()}, which gives "
        f"{_peak():.0f} GFLOP/s a thread in a product of 1024 x 1024 matrices. Processor time counts what a process "
        "computed, not what it waited for others on the same cores: the figure to go by where others use them, since "
        "PyTorch's threads, which wait for each other in a loop, then lose most of their time."
    )


def _blas() -> str:
    found = [f"OpenBLAS for {each['architecture']}" for each in threadpool_info() if each["internal_api"] == "openblas"]
    return found[0] if found else "its BLAS"


def _peak() -> float:
    """GFLOP/s of one thread."""
    a = np.ones((1024, 1024), "float32")
    with threadpool_limits(1, user_api="blas"):
        return 2e-9 * 1024**3 / min(_processor({"product": lambda: np.matmul(a, a)}, n=N)["product"])


def _processor(works: dict[str, Work], n: int) -> dict[str, list[float]]:
    """Seconds of processor time, in turn."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(n + 1):
        for name, work in works.items():
            start = time.process_time()
            work()
            found[name].append(time.process_time() - start)
    return {name: times[1:] for name, times in found.items()}  # the first may have set up something


# ------------------------------------------------------------------------------------------------ where a step goes

_PLACES = {
    "winograd.py:_gather": "3x3 convolutions, forwards and by inputs: gathering windows, their products",
    "winograd.py:_differentiate": "their gradients by weights: gathering, products",
    "winograd.py:_data": "transforms of windows to Winograd's form",
    "convolution.py": "convolutions of stride 2 and of three channels",
    "images.py": "batch norm, ReLU, additions, padding",
}
"""What is done in a file of engines/, or in one function of it."""

_REST = "the rest"


def _where_a_step_goes(work: OnThreads) -> str:
    """What binds a step of ResNet-20: processor time of one thread by the function that it passes in."""
    profiles = []
    for _ in range(3):
        profile = cProfile.Profile(time.process_time)
        profile.runcall(work, 1)
        profiles.append(pstats.Stats(profile))
    own: dict[str, list[float]] = {what: [0.0] * len(profiles) for what in (*_PLACES.values(), _REST)}
    for index, stats in enumerate(profiles):
        found = stats.stats  # type: ignore[attr-defined]  # (file, line, function) -> calls, calls, own time, time
        for (file, _, function), (_, _, seconds, *_) in found.items():
            name = os.path.basename(file) if "/engines/" in file else ""
            own[_PLACES.get(f"{name}:{function}") or _PLACES.get(name, _REST)][index] += seconds
    whole = [sum(times) for times in zip(*own.values(), strict=True)]
    rows = [
        [what, spread([1000 * each / STEPS for each in times]), spread(list(map(truediv, times, whole)))]
        for what, times in {**own, "all": whole}.items()
    ]
    calls = profiles[0].total_calls / STEPS  # type: ignore[attr-defined]
    head = (
        "Where a step of ResNet-20 goes in NumPy: processor time on one thread, by the function that it passes in, n "
        f"{len(profiles)}; the profile itself makes each of the {calls:,.0f} calls a step slower."
    )
    return "\n\n".join([head, table(["in", "ms a step", "of all"], rows)])


# ------------------------------------------------------------------------------------------------------- the works


def resnet20() -> dict[str, OnThreads]:
    """Steps of networks that begin alike and end alike."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (STEPS * BATCH, 3, 32, 32), dtype=np.uint8)
    part = pixels, rng.integers(0, 10, STEPS * BATCH)
    data = Images.from_pixels(train=part, test=(pixels[:BATCH], part[1][:BATCH]), classes=10)
    spec = Spec.cifar(20, shortcut="A-both", dtype="float32")  # the repositories' place of the zeros
    network = build(spec, seed=0)
    batches = data.batches((0,), size=BATCH)
    shown = [next(batches) for _ in range(STEPS)]
    ready = [(torch.tensor(each.inputs[0], dtype=torch.float32), torch.tensor(each.targets[0])) for each in shown]

    def by_numpy(count: int) -> NumpyNetwork:
        trained = train(network, data, _RECIPE, record=(), jobs=count)
        assert isinstance(trained.network, NumpyNetwork), trained.stopped
        return trained.network

    def by_torch(count: int, model: Any = None) -> Any:
        torch.set_num_threads(count)
        module = paper_torch.repositorys(state_of(network.arrays)) if model is None else model
        optimizer = torch.optim.SGD(module.parameters(), lr=_RECIPE.rate, momentum=0.9, weight_decay=1e-4)
        for inputs, targets in ready:
            optimizer.zero_grad()
            functional.cross_entropy(module(inputs), targets).backward()
            optimizer.step()
        return module

    ours, theirs = by_numpy(1), paper_torch.ours_of(by_torch(1))
    for name, array in ours.parameters.items():
        if name.endswith(".weight"):
            assert np.linalg.norm(theirs[name] - array[0]) < OFF * np.linalg.norm(array[0]), name
    return {_OURS: by_numpy, _TORCH: by_torch, _PRODUCTS: _products(network.spec)}


def resnet50() -> dict[str, OnThreads]:
    """Forward passes of networks that agree."""
    rng = np.random.default_rng(0)
    spec = Spec.imagenet(50, stride="v1.5", dtype="float32")
    network = build(spec, seed=0)
    for name, array in network.running.items():  # as if trained: activations of a trained network keep their size
        if name.endswith("variance"):
            array *= 2
    module = module_of(spec, seed=0, channels_last=False)
    module.load_state_dict(state_of(network.arrays))
    module.eval()
    batch = rng.standard_normal((1, 3, 224, 224)).astype("float32")

    def by_numpy(count: int) -> Array:
        with threads(count), threadpool_limits(1, user_api="blas"), network.inference():
            output: Array = network.run(batch).output
            return output

    def by_torch(count: int) -> Array:
        torch.set_num_threads(count)
        with torch.inference_mode():
            output: Array = module(torch.from_numpy(batch)).numpy()
            return output

    y, expected = by_numpy(1)[0], by_torch(1)
    assert np.linalg.norm(y - expected) < OFF * np.linalg.norm(expected)
    return {_OURS: by_numpy, _TORCH: by_torch}


def _products(spec: Spec) -> OnThreads:
    """Those of the 3x3 convolutions at stride 1, nearly all: 6 for 4 rows; forward and twice backward."""
    works: list[Work] = []
    for layer in spec.layers:
        if layer.kind == "conv" and layer.stride == 1:
            works += list(_of(layer.size_out, layer.n_in, layer.n_out, layer is spec.stem_layer))

    def steps(count: int) -> None:
        with threads(count), threadpool_limits(1, user_api="blas"):
            for _ in range(STEPS):
                over(lambda work: work(), works)

    return steps


def _of(size: int, c: int, o: int, first: bool) -> Iterator[Work]:
    """By units of work of one tile of rows; the three interleaved sets of patches as one, with room of its own."""
    rows = BATCH * (size + 1)
    patches, out = np.ones((rows, 3 * c), "float32"), np.empty((rows, o), "float32")
    weight, dweight, back = (np.ones(shape, "float32") for shape in ((3 * c, o), (3 * c, o), (3 * o, c)))
    wide, narrow = np.ones((rows, 3 * o), "float32"), np.empty((rows, c), "float32")

    def work() -> None:
        for _ in range(6):
            np.matmul(patches, weight, out=out)
            np.matmul(patches.T, out, out=dweight)
            if not first:
                np.matmul(wide, back, out=narrow)

    for _ in range(size // 4):
        yield work


if __name__ == "__main__":
    print(section())
