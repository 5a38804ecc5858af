"""A training step of ResNet-20 on PyTorch: skipscope's module against the network of public repositories.

The baseline is what most of them have, eager, images in PyTorch's default layout: `nn.Conv2d`, `nn.BatchNorm2d`,
`F.relu`, `out += shortcut(x)`, option A as a lambda of slices and `F.pad`, and `torch.optim.SGD` by its defaults.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.memory import PEAK
from benchmarks.timing import COLUMNS, Bound, Row, in_turn, one_core, ratios, spread, table
from skipscope import Spec
from skipscope.engines.torch_module import module_of

SPEC = Spec.cifar(20, shortcut="A-both")
BATCH, STEPS, N = 64, 5, 15
NAMES = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_variance"}

Step = Callable[[], object]
_BASE, _OURS, _FIRST = "a public repository's", "skipscope", "skipscope, `channels_last=False`"


def section() -> str:
    """The section of RESULTS.md."""
    with one_core():
        torch.set_num_threads(1)
        told = _told(_off(), [_rounding(name) for name in (_BASE, _OURS)])
        times = in_turn({name: step_of(name) for name in (_BASE, _OURS, _FIRST)}, n=N)
    memory = {name: _peak(name) for name in times}
    rows = [
        [name, spread([1000 * each for each in taken]), spread(ratios(times[_BASE], taken)), f"{memory[name]:.0f} MiB"]
        for name, taken in times.items()
    ]
    bound = Row(f"time of {_BASE}", "skipscope", ratios(times[_BASE], times[_OURS]), Bound(1.25, most=False))
    tables = table(_COLUMNS, rows), table(COLUMNS, [bound.cells()])
    return "\n\n".join(["## A step of ResNet-20 on PyTorch", told, *tables])


_COLUMNS = ["way", "ms a step", "the repository's time in its units", "peak memory beyond imports"]


def _told(off: float, rounding: list[float]) -> str:
    return (
        f"Batches of {BATCH} images of 32 x 32, float32, momentum and weight decay, one thread on one core, eager. The "
        "repository's network and skipscope's `module_of` start from the same weights and see the same images; after "
        f"{STEPS} steps in float64 weights and running averages differ by {off:.0e} of their norm. In float32 the "
        f"first outputs are {rounding[0]:.0e} (the repository's) and {rounding[1]:.0e} (skipscope's) from those in "
        "float64: with channels last PyTorch's batch normalisation sums one after another. Skipscope's images lie with "
        "their channels last, also on the way back; it adds and cuts off in place, and uses the fused SGD."
    )


# --------------------------------------------------------------------------------------------------------- the ways


class LambdaLayer(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and option A."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.shortcut: nn.Module = nn.Sequential()
        if stride != 1 or n_in != n_out:
            side = n_out // 4
            self.shortcut = LambdaLayer(
                lambda x: functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, side, side), "constant", 0)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return functional.relu(out)


class ResNet20(nn.Module):
    """Three stages of three blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(BasicBlock(16, 16, 1), BasicBlock(16, 16, 1), BasicBlock(16, 16, 1))
        self.layer2 = nn.Sequential(BasicBlock(16, 32, 2), BasicBlock(32, 32, 1), BasicBlock(32, 32, 1))
        self.layer3 = nn.Sequential(BasicBlock(32, 64, 2), BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = functional.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


def model_of(name: str) -> nn.Module:
    """The network of one of the ways; all begin with the same weights."""
    ours = module_of(SPEC, seed=0, channels_last=name != _FIRST)
    return repositorys(ours.state_dict()) if name == _BASE else ours


def repositorys(state: Mapping[str, Tensor]) -> ResNet20:
    """The public repositories' network with the weights and averages of a `NetworkModule`."""
    theirs = ResNet20()
    renamed = {key: state[_ours_of(theirs, key)] for key in theirs.state_dict() if not key.endswith("tracked")}
    theirs.load_state_dict({key: array.contiguous() for key, array in renamed.items()}, strict=False)
    return theirs


def ours_of(model: ResNet20) -> dict[str, Any]:
    """Its arrays by our names."""
    arrays = {key: array.detach().numpy() for key, array in model.state_dict().items() if not key.endswith("tracked")}
    return {_ours_of(model, key): array for key, array in arrays.items()}


def _ours_of(model: nn.Module, key: str) -> str:
    """Our name for an array of the baseline."""
    path, _, kind = key.rpartition(".")
    kind = NAMES[kind] if isinstance(model.get_submodule(path), nn.BatchNorm2d) else kind
    if not path.startswith("layer"):
        return f"{'head' if path == 'linear' else 'stem'}.{kind}"
    stage, block, layer = path.split(".")
    return f"stage{stage[-1]}.block{int(block) + 1}.layer{layer[-1]}.{kind}"


def step_of(name: str, model: nn.Module | None = None) -> Step:
    """What one step of training is, to be timed."""
    module = model_of(name) if model is None else model
    images, labels = _batch(next(module.parameters()).dtype)
    options: dict[str, Any] = {} if name == _BASE else {"fused": True}
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, **options)

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(module(images), labels).backward()
        optimizer.step()

    return step


def _off() -> float:
    """The largest difference between the arrays after some steps in float64, in units of their norm."""
    base, ours = (model_of(name).double() for name in (_BASE, _OURS))
    for step in (step_of(_BASE, base), step_of(_OURS, ours)):
        for _ in range(STEPS):
            step()
    state, mine = base.state_dict(), ours.state_dict()
    pairs = [(state[key], mine[_ours_of(base, key)]) for key in state if not key.endswith("tracked")]
    off = max(float((theirs - own).norm() / theirs.norm()) for theirs, own in pairs)
    assert off < 1e-9, off
    return off


def _rounding(name: str) -> float:
    """The difference between a way's outputs in float32 and those of the baseline in float64, in their norm."""
    images, _ = _batch(torch.float64)
    with torch.no_grad():
        exact, found = model_of(_BASE).double()(images), model_of(name)(images.float())
    off = float((found - exact).norm() / exact.norm())
    assert off < 1e-4, (name, off)  # 1e-7 a sum, over 20 layers and up to 65,536 terms
    return off


def _batch(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, 32, 32, generator=generator, dtype=torch.float64).to(dtype)
    return images, torch.randint(10, (BATCH,), generator=generator)


def _peak(name: str) -> float:
    """MiB that steps take beyond the imports, the median of three interpreters each."""
    before = "from benchmarks import paper_torch\nimport torch\ntorch.set_num_threads(1)\n"
    steps = f"step = paper_torch.step_of({name!r})\nfor _ in range(3): step()\n"
    peaks = [statistics.median(_run(code) for _ in range(3)) for code in (before + steps, before)]
    return peaks[0] - peaks[1]


def _run(code: str) -> float:
    command = [sys.executable, "-c", code + PEAK]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
