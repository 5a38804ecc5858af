"""What it costs to listen to a training step of somebody's PyTorch model, and what others cost."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import watchers
from benchmarks.memory import peaks
from benchmarks.models import MODELS, Block, made, mlp
from benchmarks.timing import Bound, in_turn, ratios, seconds, spread, table
from skipscope import QUANTITIES
from skipscope.torch import Listening

N = 15
DEPTHS = (100, 300, 1202)
_OF_PARAMETERS = ("weight_norm", "weight_grad_norm", "grad_weight_ratio", "gradient_norm")
PARAMETERS = {name: QUANTITIES[name] for name in _OF_PARAMETERS}

_BARE, _DEFAULT, _ALL, _PARAMETERS = "bare step", "default sites", "every module", "parameters only"
_BOUNDS = {_DEFAULT: Bound(1.10), _ALL: Bound(1.3), _PARAMETERS: Bound(1.02)}


def section() -> str:
    """The section of RESULTS.md."""
    with _all_threads() as threads:
        rows, tabulated = [], []
        for name in MODELS:
            taken, readings = _times(name)
            for way, times in taken.items():
                against = ratios(times, taken[_BARE])
                verdict = _BOUNDS[way].verdict(statistics.median(against)) if way in _BOUNDS else ""
                rows.append([name, way, spread([1e3 * t for t in times]), spread(against), str(len(times)), verdict])
            tabulated.append(f"{name} {spread([1e3 * t for t in readings])}")
        depth = _by_depth()
        traced = _traced()
    text = (
        "A step is: gradients to zero, forward, cross-entropy, backward, SGD with momentum; eagerly, float32, "
        f"{threads} threads. Listened to is every step and the whole batch, by one `Listening` from its second step "
        "on; `take()` is part of the step. The default sites are the blocks, the junctions, what goes into them, both "
        "ends, and all parameters with their gradients; every module is `sites='*'`. To make readings of what was "
        f"taken, later, takes ms a step (default sites): {'; '.join(tabulated)}. The floor is one "
        "`torch._foreach_norm` of the gradients. The hook loop measures at the same blocks by PyTorch's functions; "
        f"histograms are those of W&B's `watch(log='all')`, restated without W&B. {traced}"
    )
    columns = ["model", "way", "ms a step", "in units of the bare step", "n", "bound"]
    return "\n\n".join(["## Listening to a PyTorch model", text, table(columns, rows), *depth, _memory()])


@contextmanager
def _all_threads() -> Iterator[int]:
    """PyTorch on all cores, as it is by default."""
    before, threads = torch.get_num_threads(), os.cpu_count() or 1
    torch.set_num_threads(threads)
    try:
        yield threads
    finally:
        torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------------------ a step each way


def _times(name: str) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds of a step, each way in turn; and of making readings of it."""
    model, x, y = made(name)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step(after: watchers.After | None = None) -> None:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        if after is not None:
            after(model, optimizer, loss)
        optimizer.step()

    def hooked() -> None:
        loop = watchers.HookLoop(model, _is_block(model))
        step(loop.numbers)
        loop.off()

    scopes = {
        _DEFAULT: Listening(model),
        _ALL: Listening(model, sites="*"),
        _PARAMETERS: Listening(model, quantities=PARAMETERS),
    }
    ways: dict[str, Callable[[], Any]] = {_BARE: step}
    ways |= {way: _listened(scope, model, optimizer, x, y) for way, scope in scopes.items()}
    ways["floor"] = lambda: step(watchers.floor)
    ways["`.item()` a parameter"] = lambda: step(watchers.item_by_item)
    ways["`plot_grad_flow`"] = lambda: step(watchers.plot_grad_flow)
    ways["hook loop"] = hooked
    ways["histograms"] = lambda: step(watchers.histograms)
    monitor = watchers.ormas(model, optimizer)
    if monitor is not None:
        ways["ormas-monitor"] = lambda: step(monitor)
    for way in scopes:
        ways[way]()  # the first step, which learns
    taken = in_turn(ways, n=N)
    found = ways[_DEFAULT]()
    found.readings()
    return taken, [seconds(found.readings) for _ in range(N)]


def _listened(
    scope: Listening, model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor
) -> Callable[[], Any]:
    def step() -> Any:
        optimizer.zero_grad()
        with scope.on():
            functional.cross_entropy(model(x), y).backward()
        taken = scope.take()
        optimizer.step()
        return taken

    return step


def _is_block(model: nn.Module) -> Callable[[nn.Module], bool]:
    """The modules that are blocks of one of the three models."""
    kinds = (Block, nn.TransformerEncoderLayer)
    if any(isinstance(each, kinds) for each in model.modules()):
        return lambda module: isinstance(module, kinds)
    return lambda module: isinstance(module, nn.ReLU)


def _traced() -> str:
    """What a trace of a forward pass by TorchLens costs, in words."""
    trace = watchers.torchlens()
    if trace is None:
        return "TorchLens is not installed here."
    told = []
    for name in MODELS:
        model, x, _ = made(name)
        taken = in_turn({"forward": lambda: model(x), "trace": lambda: trace(model, x)}, n=3)  # noqa: B023 (called here)
        told.append(f"{name} {spread(ratios(taken['trace'], taken['forward']))}")
    return f"A trace of the forward pass by TorchLens takes, in units of a forward pass (n 3): {'; '.join(told)}."


# ----------------------------------------------------------------------------------------------------------- by depth


def _by_depth() -> list[str]:
    """Whether a layer of a deep model costs what one of a shallow one does."""
    added: dict[int, list[float]] = {}
    tabled: dict[int, list[float]] = {}
    for depth in DEPTHS:
        torch.manual_seed(0)
        model, x, y = mlp(depth, 64), torch.randn(32, 64), torch.zeros(32, dtype=torch.long)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        listened = _listened(Listening(model), model, optimizer, x, y)
        bare = _bare(model, optimizer, x, y)
        listened()
        taken = in_turn({"bare": bare, "listened": listened}, n=N)
        difference = zip(taken["listened"], taken["bare"], strict=True)
        added[depth] = [1e6 * (with_it - without) / depth for with_it, without in difference]
        found = listened()
        found.readings()
        tabled[depth] = [1e6 * seconds(found.readings) / depth for _ in range(N)]
    shallow = statistics.median(added[DEPTHS[0]])
    rows = [
        [
            f"{depth:,}",
            spread(added[depth]),
            f"{statistics.median(added[depth]) / shallow:.2f}",
            spread(tabled[depth]),
            str(N),
            Bound(1.15).verdict(statistics.median(added[depth]) / shallow) if depth != DEPTHS[0] else "",
        ]
        for depth in DEPTHS
    ]
    columns = ["layers", "µs a layer, the step", f"in units of {DEPTHS[0]}", "µs a layer, the readings", "n", "bound"]
    text = (
        "By depth: what listening adds to a step of a plain network of width 64 with 32 samples, default sites; and "
        "what readings of it take later."
    )
    return [text, table(columns, rows)]


def _bare(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Callable[[], None]:
    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


# ------------------------------------------------------------------------------------------------------------- memory

_GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""By glibc: a block of 64 KiB or more is memory of its own, and not a part of the heap."""

_STEPS = """
import torch
from torch.nn import functional
from benchmarks.models import MODELS, made
from skipscope.quantities import QUANTITIES, UPDATES
from skipscope.torch import Listening

model, x, y = made(list(MODELS)[{{which}}])
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
scope = Listening(model{more})
for step in range(3):
    optimizer.zero_grad()
    {listen}
    functional.cross_entropy(model(x), y).backward()
    {take}
    {step}
"""


def _memory() -> str:
    """Peak memory of a process of three steps, listened to and not."""
    plain = {"more": "", "step": "optimizer.step()"}
    bare = _STEPS.format(listen="", take="", **plain)
    heard = {
        "listen": "context = scope.on(); context.__enter__()",
        "take": "taken = scope.take(); context.__exit__(None, None, None)",
    }
    listened = _STEPS.format(**heard, **plain)
    updating = "with taken.updating(): optimizer.step()"
    updated = _STEPS.format(**heard, more=", quantities=QUANTITIES | UPDATES", step=updating)
    rows = []
    for which, name in enumerate(MODELS):
        for what, settings in (("given back at once", _GIVEN_BACK), ("kept by malloc", {})):
            codes = [code.replace("{which}", str(which)) for code in (bare, listened, updated)]
            without, *others = (peaks(code, seeds=0, n=5, settings=settings) for code in codes)
            for way, found, bound in zip((_DEFAULT, "and updates"), others, (Bound(1.05), None), strict=True):
                against = ratios(found, without)
                verdict = "" if bound is None else bound.verdict(statistics.median(against))
                cells = [spread(without), spread(found), spread(against), str(len(against)), verdict]
                rows.append([name, what, way, *cells])
    columns = ["model", "what is freed", "way", "MiB, bare", "MiB, listened to", "ratio", "n", "bound"]
    text = (
        "Peak memory of a process that makes three steps, with all that it imports; default sites, and with the opt-in "
        "update ratio, which copies the weights, beside them. Where freed blocks "
        f"are given back to the system ({', '.join(f'`{name}={value}`' for name, value in _GIVEN_BACK.items())}), it "
        "is what was in use at once; where glibc keeps them, as it does unless told otherwise, it is also what lay "
        "between, which differs from run to run without a probe too."
    )
    return f"{text}\n\n{table(columns, rows)}"
