"""A step of training of ResNet-20 and a forward pass of ResNet-50, in NumPy and in plain PyTorch, and the products.

The networks are made here of the functions of skipscope.engines, without the engine around them: what those take.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn import functional

from benchmarks.timing import COLUMNS, Bound, Row, Work, in_turn, ratios, spread, table
from skipscope.engines import convolution, images, ops, pooling
from skipscope.engines.spread import threads

Array = NDArray[Any]

BATCH, RATE, MOMENTUM, DECAY = 64, 0.1, 0.9, 1e-4
THREADS = 2
OFF = 1e-3  # float32, after three steps from the same weights
_OURS, _TORCH, _PRODUCTS = "NumPy", "PyTorch, eager, default layout", "only the matrix products"
_MS = ["network", "way", "threads", "ms", "n"]


def section() -> str:
    """The section of RESULTS.md."""
    taken, rows = [], []
    for name, works, bound in (
        ("ResNet-20, a step of training", resnet20(), Bound(1, most=False)),
        ("ResNet-50, a forward pass", resnet50(), Bound(1 / 2.5, most=False)),
    ):
        times = in_turn({way: functools.partial(_on, THREADS, work) for way, work in works.items()}, n=9)
        alone = _processor(works, n=9)
        for count, found in ((THREADS, times), (1, alone)):
            taken += [
                [name, way, str(count), spread([1000 * t for t in ts]), str(len(ts))] for way, ts in found.items()
            ]
            what = "time" if count > 1 else "processor time, one thread,"
            rows.append(
                Row(
                    f"{what} of {_TORCH}: {name}",
                    _OURS,
                    ratios(found[_TORCH], found[_OURS]),
                    bound if count > 1 else None,
                )
            )
            if _PRODUCTS in found:
                rows.append(Row(f"{what} of {_PRODUCTS}: {name}", _OURS, ratios(found[_PRODUCTS], found[_OURS])))
    return "\n\n".join(["## Images", _told(), table(_MS, taken), table(COLUMNS, [row.cells() for row in rows])])


def _ms(seconds: Sequence[float]) -> str:
    return spread([1000 * each for each in seconds])


def _told() -> str:
    return (
        f"ResNet-20 (option A): forward, loss, backward and an update with momentum and weight decay of {BATCH} images "
        "of 3 x 32 x 32, in float32. ResNet-50 (option B, stride in the 3x3): one image of 3 x 224 x 224, with running "
        f"averages. {THREADS} threads each, in turn, with the same weights. Only the matrix products are those that "
        "NumPy's BLAS is given, with nothing around them. PyTorch's convolutions are kernels of its own, NumPy's are "
        f"products by {_blas()}, which gives {_peak():.0f} GFLOP/s a thread in a product of 1024 x 1024 matrices. "
        "Processor time counts what a process computed, not what it waited for others on the same cores: the figure to "
        "go by where others use them, since PyTorch's threads, which wait for each other in a loop, then lose most of "
        "their time."
    )


def _blas() -> str:
    from threadpoolctl import threadpool_info

    found = [f"OpenBLAS for {each['architecture']}" for each in threadpool_info() if each["internal_api"] == "openblas"]
    return found[0] if found else "its BLAS"


def _peak() -> float:
    """GFLOP/s of one thread."""
    a = np.ones((1024, 1024), "float32")
    return 2e-9 * 1024**3 / min(_processor({"product": lambda: np.matmul(a, a)}, n=9)["product"])


def _on(number: int, work: Work) -> None:
    """`work` on so many threads of either library."""
    torch.set_num_threads(number)
    with threads(number), threadpool_limits(1, user_api="blas"):
        work()


def _processor(works: dict[str, Work], n: int) -> dict[str, list[float]]:
    """Seconds of processor time on one thread, in turn."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(n + 1):
        for name, work in works.items():
            start = time.process_time()
            _on(1, work)
            found[name].append(time.process_time() - start)
    return {name: times[1:] for name, times in found.items()}  # the first may have set up something


# ------------------------------------------------------------------------------------------------------- in NumPy


@dataclass
class Cell:
    """A convolution and its batch normalisation, as (1, o, c, k, k), and what it keeps from pass to pass."""

    weight: Array
    stride: int
    running: bool = False
    gamma: Array = field(init=False)
    beta: Array = field(init=False)
    grads: list[Array] = field(default_factory=list)
    kept: Any = None
    room: dict[Any, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        o = self.weight.shape[1]
        self.gamma, self.beta = np.ones((1, o), self.weight.dtype), np.zeros((1, o), self.weight.dtype)

    @property
    def how(self) -> dict[str, int]:
        return {"stride": self.stride, "padding": self.weight.shape[-1] // 2}

    @property
    def parameters(self) -> list[Array]:
        return [self.weight, self.gamma, self.beta]

    def blank(self, name: str, shape: tuple[int, ...]) -> Array:
        """Images to be written, the same ones every time."""
        s, h, b, w, c = shape
        if (name, shape) not in self.room:
            self.room[name, shape] = images.blank((s, h - 2, b, w - 1, c), self.weight.dtype)
        return self.room[name, shape]

    def forward(self, x: Array, shortcut: Array | None = None, rectified: bool = True) -> Array:
        h, w = (
            convolution.size_after(size, self.weight.shape[-1], **self.how) for size in (x.shape[1] - 2, x.shape[3] - 1)
        )
        shape = (x.shape[0], h + 2, x.shape[2], w + 1, self.weight.shape[1])
        y = convolution.conv(x, self.weight, out=self.blank("conv", shape), **self.how)
        told: dict[str, Any] = {"shortcut": shortcut, "rectified": rectified, "out": self.blank("norm", shape)}
        if self.running:
            out, kept = images.fixed_norm(y, self.gamma, self.beta, self.beta, self.gamma, **told)
        else:
            out, kept = images.batch_norm(y, self.gamma, self.beta, **told)
        self.kept = x, kept, out
        return out

    def backward(self, dy: Array, *, first: bool = False) -> Array:
        """dx of the gradient before anything was added or rectified."""
        x, kept, _ = self.kept
        dnorm, dgamma, dbeta = images.batch_norm_backward(dy, self.gamma, kept, out=self.blank("dconv", dy.shape))
        if first:
            dx, dweight = dy, convolution.conv_backward_weight(dnorm, x, self.weight.shape, **self.how)
        else:
            dx, dweight = convolution.conv_backward(dnorm, x, self.weight, out=self.blank("dx", x.shape), **self.how)
        self.grads = [dweight, dgamma, dbeta]
        return dx

    def rectified(self, dy: Array, plus: Array | None = None) -> Array:
        """The gradient before what was rectified."""
        return images.relu_backward(dy, self.kept[2], plus=plus, out=self.blank("dsum", dy.shape))


@dataclass
class Block:
    """Cells one after another, and the way past them: as it is, option A's, or a cell."""

    cells: list[Cell]
    past: Cell | None = None

    def forward(self, x: Array) -> Array:
        shape, width = x.shape, self.cells[-1].weight.shape[1]
        if self.past is not None:
            shortcut = self.past.forward(x, rectified=False)
        else:
            shortcut = x if shape[4] == width else pooling.padded_shortcut(x, width)
        for cell in self.cells[:-1]:
            x = cell.forward(x)
        return self.cells[-1].forward(x, shortcut)

    def backward(self, dy: Array, plus: Array | None) -> tuple[Array, Array]:
        """Two gradients by the input, whose sum it is."""
        dsum = self.cells[-1].rectified(dy, plus)
        dx = self.cells[-1].backward(dsum)
        for cell in self.cells[-2::-1]:
            dx = cell.backward(cell.rectified(dx))
        return dx, dsum if dx.shape == dsum.shape else pooling.padded_shortcut_backward(dsum, dx.shape)


class Resnet20:
    """The network in NumPy, and its steps of training."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.stem, width = Cell(_weight(rng, 16, 3, 3), 1), 16
        self.blocks = []
        for out in (16, 32, 64):
            for _ in range(3):
                cells = [Cell(_weight(rng, out, width, 3), out // width), Cell(_weight(rng, out, out, 3), 1)]
                self.blocks.append(Block(cells))
                width = out
        self.head = (rng.standard_normal((1, 10, 64)) / 8).astype("float32")
        self.bias = np.zeros((1, 10), "float32")
        self.momenta = [np.zeros_like(each) for each in self.parameters]

    @property
    def cells(self) -> list[Cell]:
        return [self.stem, *(cell for block in self.blocks for cell in block.cells)]

    @property
    def parameters(self) -> list[Array]:
        return [each for cell in self.cells for each in cell.parameters] + [self.head, self.bias]

    def step(self, batch: Array, labels: Array) -> Array:
        x = self.stem.forward(images.laid_out(batch))
        for block in self.blocks:
            x = block.forward(x)
        pooled = pooling.global_pool(x)
        logits = ops.affine(pooled, self.head, self.bias)
        grads = self.backward(ops.cross_entropy_backward(logits, labels), pooled, x.shape)
        for parameter, momentum, grad in zip(self.parameters, self.momenta, grads, strict=True):
            momentum *= MOMENTUM
            momentum += grad
            momentum += DECAY * parameter
            parameter -= RATE * momentum
        return ops.cross_entropy(logits, labels)

    def backward(self, dlogits: Array, pooled: Array, shape: tuple[int, ...]) -> list[Array]:
        dpooled, dhead, dbias = ops.affine_backward(dlogits, pooled, self.head)
        dx, plus = pooling.global_pool_backward(dpooled, shape), None
        for block in reversed(self.blocks):
            dx, plus = block.backward(dx, plus)
        self.stem.backward(self.stem.rectified(dx, plus), first=True)
        return [each for cell in self.cells for each in cell.grads] + [dhead, dbias]


class Resnet50:
    """The network in NumPy, forward alone, by running averages of mean 0 and variance 1."""

    def __init__(self, rng: np.random.Generator) -> None:
        cell = functools.partial(Cell, running=True)
        self.stem, c = cell(_weight(rng, 64, 3, 7), 2), 64
        self.blocks = []
        for stage, (count, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
            for number in range(count):
                stride = 2 if stage and not number else 1
                cells = [cell(_weight(rng, width, c, 1), 1), cell(_weight(rng, width, width, 3), stride)]
                cells.append(cell(_weight(rng, 4 * width, width, 1), 1))
                cells[-1].gamma = np.full_like(cells[-1].gamma, 0.2)  # so that the sums stay small
                past = None if number else cell(_weight(rng, 4 * width, c, 1), stride)
                self.blocks.append(Block(cells, past))
                c = 4 * width
        self.head = (rng.standard_normal((1, 1000, 2048)) / 45).astype("float32")
        self.bias = np.zeros((1, 1000), "float32")

    def forward(self, batch: Array) -> Array:
        x, _ = pooling.max_pool(self.stem.forward(images.laid_out(batch)))
        for block in self.blocks:
            x = block.forward(x)
        return ops.affine(pooling.global_pool(x), self.head, self.bias)


def _weight(rng: np.random.Generator, o: int, c: int, kernel: int) -> Array:
    """(1, o, c, k, k), in memory with the channels last."""
    drawn = rng.standard_normal((1, o, kernel, kernel, c)) * np.sqrt(2 / (c * kernel**2))
    return drawn.astype("float32").transpose(0, 1, 4, 2, 3)


# ----------------------------------------------------------------------------------------------------- in PyTorch


class TorchBlock(nn.Module):
    """A residual block as most public repositories have it."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_conv(cell) for cell in block.cells)
        self.norms = nn.ModuleList(_norm(cell) for cell in block.cells)
        self.past = None if block.past is None else nn.Sequential(_conv(block.past), _norm(block.past))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x
        for conv, norm in zip(self.convs, self.norms, strict=True):
            out = norm(conv(out))
            if conv is not self.convs[-1]:
                out = functional.relu(out)
        if self.past is not None:
            x = self.past(x)
        elif x.shape[1] != out.shape[1]:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, out.shape[1] - x.shape[1]))
        return functional.relu(out + x)


class TorchNetwork(nn.Module):
    """A network with the weights of ours."""

    def __init__(self, ours: Resnet20 | Resnet50) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(ours.stem), _norm(ours.stem), nn.ReLU())
        if isinstance(ours, Resnet50):
            self.stem.append(nn.MaxPool2d(3, 2, 1))
        self.blocks = nn.Sequential(*(TorchBlock(block) for block in ours.blocks))
        self.head = nn.Linear(ours.head.shape[2], ours.head.shape[1])
        self.head.weight, self.head.bias = _parameter(ours.head), _parameter(ours.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def _conv(cell: Cell) -> nn.Conv2d:
    o, c, kernel = cell.weight.shape[1:4]
    conv = nn.Conv2d(c, o, kernel, cell.stride, kernel // 2, bias=False)
    conv.weight = _parameter(cell.weight)
    return conv


def _norm(cell: Cell) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(cell.weight.shape[1])
    norm.weight = _parameter(cell.gamma)
    if cell.running:
        norm.running_var = torch.from_numpy(cell.gamma[0].copy())
    return norm


def _parameter(array: Array) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(array[0].copy()).contiguous())


# ------------------------------------------------------------------------------------------------------- the works


def resnet20() -> dict[str, Work]:
    """A step each, of networks that took the same three steps before and agree."""
    rng = np.random.default_rng(0)
    ours = Resnet20(rng)
    module = TorchNetwork(ours)
    batch = rng.standard_normal((1, BATCH, 3, 32, 32)).astype("float32")
    labels = rng.integers(0, 10, BATCH)
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    inputs, targets = torch.from_numpy(batch[0]), torch.from_numpy(labels)

    def step() -> float:
        optimizer.zero_grad()
        loss = functional.cross_entropy(module(inputs), targets)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    pairs: list[tuple[float, float]] = []
    for _ in range(3):
        _on(1, lambda: pairs.append((float(ours.step(batch, labels)[0]), step())))
    assert all(abs(a - b) < OFF * b for a, b in pairs), pairs
    return {_OURS: lambda: ours.step(batch, labels), _TORCH: step, _PRODUCTS: _products(ours)}


def resnet50() -> dict[str, Work]:
    """A forward pass each, of networks that agree."""
    rng = np.random.default_rng(0)
    ours = Resnet50(rng)
    module = TorchNetwork(ours).eval()
    batch = rng.standard_normal((1, 1, 3, 224, 224)).astype("float32")
    inputs = torch.from_numpy(batch[0])

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return module(inputs)

    y, expected = ours.forward(batch)[0], forward().numpy()
    assert np.linalg.norm(y - expected) < OFF * np.linalg.norm(expected)
    return {_OURS: lambda: ours.forward(batch), _TORCH: forward}


def _products(network: Resnet20) -> Work:
    """The products of the 3x3 convolutions at stride 1, nearly all: 6 for 4 rows; forward and twice backward."""
    from skipscope.engines.spread import spread as over

    works: list[Callable[[], None]] = []
    for cell in network.cells:
        out = cell.kept[2]
        if cell.stride == 1:
            works += list(_of(out.shape, cell.weight.shape[2], cell.weight.shape[1], cell is network.stem))
    return lambda: over(lambda work: work(), works)


def _of(shape: tuple[int, ...], c: int, o: int, first: bool) -> Iterator[Callable[[], None]]:
    """By units of work of one tile of rows; the three interleaved sets of patches as one, with room of its own."""
    _, h, b, w, _ = shape
    patches, out = np.ones((b * w, 3 * c), "float32"), np.empty((b * w, o), "float32")
    weight, dweight = np.ones((3 * c, o), "float32"), np.empty((3 * c, o), "float32")

    def work() -> None:
        for _ in range(6):
            np.matmul(patches, weight, out=out)
            np.matmul(patches.T, out, out=dweight)
            if not first:
                np.matmul(patches, weight, out=out)

    for _ in range((h - 2) // 4):
        yield work


if __name__ == "__main__":
    print(section())
