"""What a probe does to a step, counted and not timed: hooks, operations, transfers, memory, calls of formulas.

The times are in benchmarks/scope.py.
"""

from __future__ import annotations

import copy
import gc
import random
import tracemalloc
import weakref
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import skipscope
from scope.zoo import ZOO, Language, ResNet18, made, mlp
from skipscope import QUANTITIES, InputError, Readings
from skipscope.torch import Listening, listening

PARAMETERS = {name: QUANTITIES[name] for name in ("weight_norm", "weight_grad_norm", "gradient_norm")}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(20151210)


def hooks(model: nn.Module) -> int:
    return sum(len(x) for m in model.modules() for name, x in vars(m).items() if name.endswith("_hooks"))


def backward(output: Any) -> None:
    """Of the first tensor there is."""
    if hasattr(output, "logits"):
        output = output.logits
    output = output["answer"] if isinstance(output, dict) else output
    output.square().mean().backward()


def step(model: nn.Module, batch: Any, scope: Listening | None = None) -> Any:
    """A step that draws the same random numbers every time."""
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    model.zero_grad()
    with nullcontext() if scope is None else scope.on():
        backward(model(**batch) if isinstance(batch, dict) else model(batch))
    return None if scope is None else scope.take()


def values(readings: Readings) -> pl.DataFrame:
    return readings.rows.drop("cell")


# --------------------------------------------------------------------------------------------------------------- hooks


def test_no_hook_is_there_but_while_it_is_listened():
    model = mlp()
    scope = Listening(model)
    assert hooks(model) == 0
    for _ in range(3):
        step(model, torch.randn(6, 4), scope)
        assert hooks(model) == 0


def test_from_the_second_step_on_hooks_stand_where_it_is_measured():
    model = mlp(depth=12)  # 10 blocks, each a ReLU, and one before them that they are given by
    scope = Listening(model)
    with scope.on():
        first = hooks(model)
    step(model, torch.randn(6, 4), scope)
    with scope.on():
        then = hooks(model)

    assert first >= 2 * len(list(model.modules()))
    assert then == 1 + 11 + 1  # the inputs; blocks and entry; the output


def test_parameters_alone_need_no_hook_on_a_part():
    model = mlp()
    scope = Listening(model, quantities=PARAMETERS)
    step(model, torch.randn(6, 4), scope)
    with scope.on():
        attached = [name for name, m in model.named_modules() if m._forward_hooks or m._forward_pre_hooks]
    assert attached == [""]


def test_a_graph_that_is_kept_calls_no_hook_afterwards():
    model, x = mlp(), torch.randn(6, 4)
    scope = Listening(model)
    with scope.on():
        loss = model(x).square().mean()
        loss.backward(retain_graph=True)
    before = len(scope.log.entries)
    loss.backward()

    assert len(scope.log.entries) == before


# -------------------------------------------------------------------------------------------------- the same readings


@pytest.mark.parametrize("sites", [None, "*"])
@pytest.mark.parametrize("name", ZOO)
def test_every_step_is_measured_as_the_first_is(name: str, sites: str | None):
    model, batch = made(name)
    scope = Listening(model, sites=sites)
    expected = values(step(model, batch, scope).readings())
    for _ in range(2):
        found = values(step(model, batch, scope).readings())
        assert found.drop("value").equals(expected.drop("value"))
        np.testing.assert_allclose(found["value"], expected["value"], rtol=1e-12)


def test_what_is_taken_is_of_its_own_step():
    model = mlp()
    scope, optimizer = Listening(model), torch.optim.SGD(model.parameters(), lr=0.1)
    taken, expected = [], []
    for index in range(3):
        batch = torch.randn(6 + index, 4)
        taken.append(step(model, batch, scope))
        model.zero_grad()
        with listening(model) as alone:
            backward(model(batch))
        expected.append(values(alone.readings()))
        optimizer.step()
    found = [values(each.readings()) for each in taken]  # after the parameters have changed

    for a, b in zip(found, expected, strict=True):
        assert a.equals(b)
    assert values(taken[1].readings(step=7))["step"].unique().to_list() == [7]


def test_within_one_context_steps_are_taken_apart():
    model, x = mlp(), torch.randn(6, 4)
    scope = Listening(model)
    found, attached = [], []
    for _ in range(2):
        with scope.on():
            for _ in range(2):
                model.zero_grad()
                attached.append(hooks(model))
                backward(model(x))
                found.append(values(scope.take().readings()))

    assert all(each.equals(found[0]) for each in found)
    assert attached[0] > attached[1] == attached[2] == attached[3]


@pytest.mark.parametrize("first", ["whole", "halves"])
def test_micro_batches_add_up_in_every_step(first: str):
    model, x = mlp(), torch.randn(12, 4)
    scope = Listening(model)

    def taken(parts: int) -> Readings:
        model.zero_grad()
        with scope.on():
            for part in x.chunk(parts):
                (model(part).square().mean() / parts).backward()
        return scope.take().readings()

    parts = [1, 2] if first == "whole" else [2, 1]
    a, b = (taken(each).rows.drop("cell") for each in parts)
    # The loss is divided by the number of parts, so that a gradient by an activation is the same in either.
    assert a.drop("value").equals(b.drop("value"))
    np.testing.assert_allclose(a["value"], b["value"], rtol=1e-5)


def test_a_patterns_sites_are_those_of_the_first_step():
    model, x = mlp(), torch.randn(6, 4)
    scope = Listening(model, sites=["[0-3]", "network"])
    for _ in range(2):
        readings = step(model, x, scope).readings()
        assert readings.sites["site"].to_list() == ["0", "1", "2", "3", "network"]
        assert "forward_gain" in set(readings.rows["quantity"])  # for which the input is summed too


@pytest.mark.parametrize("kind", ["reentrant", "non-reentrant"])
def test_checkpoints_are_replayed(kind: str):
    plain, batch = made("language")
    model = copy.deepcopy(plain)
    model.checkpointed = kind
    scopes = [Listening(each) for each in (plain, model)]
    for _ in range(2):
        expected, found = (values(step(scope.model, batch, scope).readings()) for scope in scopes)
        if kind == "reentrant":  # autograd does not follow the parts of a gradient inside of these
            expected = expected.filter(~pl.col("quantity").is_in(["shortcut_share", "branch_share"]))
        assert found.drop("value").equals(expected.drop("value"))
        np.testing.assert_allclose(found["value"], expected["value"], rtol=1e-6)


class Skipping(nn.Module):
    """Blocks, of which some may be left out or called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)) for _ in range(4))
        self.last = nn.Linear(4, 3)
        self.order = [0, 1, 2, 3]

    def forward(self, x: Tensor) -> Tensor:
        for index in self.order:
            x = self.blocks[index](x)
        return self.last(x)


def test_a_step_that_runs_otherwise_is_no_step_of_zeros():
    model, x = Skipping(), torch.randn(6, 4)
    scope = Listening(model, sites="*")
    whole = step(model, x, scope).readings()
    model.order = [0, 2, 3]
    fewer = step(model, x, scope).readings()
    model.order = [0, 1, 2, 2, 3]
    step(model, x, scope)  # heard in full, since the last one was not as expected
    model.order = [0, 1, 1, 2, 2, 3]
    more = step(model, x, scope).readings()

    assert "blocks.1.0" in set(whole.rows["site"])
    missing = dict(fewer.sites.select("site", "status").iter_rows())["blocks.1.1"]
    assert missing == "not executed"
    assert "blocks.1.1" not in set(fewer.rows["site"])
    assert "beyond those of the first step listened to" in more.meta["notes"]
    model.order = [0, 1, 2, 3]
    assert values(step(model, x, scope).readings()).equals(values(whole))


def test_a_step_that_fails_leaves_the_next_one_alone():
    model, x = mlp(), torch.randn(6, 4)
    scope = Listening(model)
    expected = values(step(model, x, scope).readings())
    with pytest.raises(RuntimeError), scope.on():
        model(torch.randn(6, 5))
    assert hooks(model) == 0
    assert values(step(model, x, scope).readings()).equals(expected)


def test_a_step_past_the_hooks_is_an_error_every_time():
    model, x = mlp(), torch.randn(6, 4)
    scope = Listening(model)
    step(model, x, scope)
    with scope.on():
        backward(model[:1].forward(x))
    with pytest.raises(InputError, match="0 modules were seen"):
        scope.take()


@pytest.mark.parametrize("name", ZOO)
def test_training_is_bit_for_bit_what_it_is_without(name: str):
    model, batch = made(name)
    heard = copy.deepcopy(model)
    scope = Listening(heard)
    for each, ear in ((model, None), (heard, scope)):
        parameters = [p for p in each.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
        for _ in range(3):
            step(each, batch, ear)
            optimizer.step()
    for (key, a), b in zip(model.state_dict().items(), heard.state_dict().values(), strict=True):
        assert torch.equal(a, b) or (a.isnan() == b.isnan()).all(), key


# ----------------------------------------------------------------------------------------------- work, and what is kept


class Counting(TorchDispatchMode):
    """Counts operations of PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.met: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.met[str(func)] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sites", [None, "*"])
def test_on_a_processor_no_operation_of_pytorch_is_added_and_so_none_of_its_memory(sites: str | None):
    model, batch = made("resnet18")
    scope = Listening(model, sites=sites)
    step(model, batch, scope)
    counts = []
    for ear in (None, scope):
        with Counting() as counted:
            step(model, batch, ear)
        counts.append(counted.met)

    assert set(counts[1] - counts[0]) == {"aten.detach.default"}  # a view, for NumPy to look at


def test_what_is_allocated_is_a_small_part_of_an_activation():
    """A mask of the largest activation that is asked for its sign, a byte an entry; sums, a few numbers a row."""
    model, x = ResNet18(width=16), torch.randn(32, 3, 32, 32)
    scope = Listening(model, sites="*")
    step(model, x, scope)
    largest = 32 * 16 * 32 * 32 * 4
    gc.collect()
    tracemalloc.start()
    taken = step(model, x, scope)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < largest
    assert kept < largest / 4
    assert taken.entries


def test_no_activation_is_kept():
    model, x = mlp(), torch.randn(6, 4)
    refs: list[weakref.ref[Tensor]] = []
    model[3].register_forward_hook(lambda module, args, output: refs.append(weakref.ref(output)))
    scope = Listening(model, sites="*")
    taken = [step(model, x, scope) for _ in range(2)]
    gc.collect()

    assert [ref() for ref in refs] == [None, None]
    assert all(each.entries for each in taken)


def test_one_transfer_a_probe_and_none_in_the_step(monkeypatch: pytest.MonkeyPatch):
    """Where the sums are PyTorch's, as on a device: they come here together, when readings are made."""
    from skipscope.torch import sums

    model, x = mlp(), torch.randn(6, 4)
    monkeypatch.setattr(sums, "_is_plain", lambda tensor: False)
    transfers: list[int] = []
    cpu = Tensor.cpu

    def counted(tensor: Tensor) -> Tensor:
        transfers.append(tensor.numel())
        return cpu(tensor)

    monkeypatch.setattr(Tensor, "cpu", counted)
    scope = Listening(model)
    taken = [step(model, x, scope) for _ in range(2)]

    assert transfers == []
    taken[1].readings()
    assert len(transfers) == 1


def test_formulas_are_called_when_readings_are_made_and_as_often_for_any_depth():
    calls: Counter[int] = Counter()

    def counted(depth: int) -> int:
        model, x = mlp(depth=depth, width=4), torch.randn(6, 4)
        taken = step(model, x, Listening(model, quantities=QUANTITIES))
        before = calls.total()
        taken.readings()
        return calls.total() - before

    from skipscope.torch import evaluation

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "_evaluated", _counting(evaluation._evaluated, calls))
        shallow, deep = counted(10), counted(100)

    assert shallow == deep
    assert shallow > 10


def _counting(function: Any, calls: Counter[int]) -> Any:
    def call(*given: Any) -> Any:
        calls[0] += 1
        return function(*given)

    return call


def test_ones_own_formulas_see_a_site_at_a_time():
    seen: list[str] = []

    def formula(view: Any) -> Any:
        seen.append(view.site.site)
        return np.full(view["activation"].sumsq.shape, view["activation"].units.mean())

    mine = replace(QUANTITIES["dead"], formula=formula)
    model, x = mlp(), torch.randn(6, 4)
    found = skipscope.probe(model, x, quantities=QUANTITIES | {"mine": mine}).rows
    dead, own = (found.filter(pl.col("quantity") == name).sort("site") for name in ("dead", "mine"))

    assert sorted(seen) == own["site"].to_list() == dead["site"].to_list()
    np.testing.assert_allclose(own["value"], 1 - dead["value"])


# ----------------------------------------------------------------------------------------------------- default sites


def test_the_default_sites_are_blocks_ends_and_parameters():
    model, batch = made("resnet18")
    readings = skipscope.probe(model, batch)
    measured = set(readings.rows.filter(pl.col("quantity") == "activation_rms")["site"])
    blocks = {f"layer{stage}.{index}" for stage in range(1, 5) for index in range(2)}

    assert measured == {"input", "layer1.0.input", *blocks, "output"}
    weights = set(readings.rows.filter(pl.col("quantity") == "weight_grad_norm")["site"])
    assert {"conv1", "layer1.0.conv1", "layer4.1.conv2", "fc"} <= weights
    assert "layer1.0.relu" not in set(readings.sites["site"])


def test_by_default_what_is_reported_of_a_site_is_what_all_sites_would_say_of_it():
    model, batch = Language(), made("language")[1]
    model.eval()
    some, every = (skipscope.probe(model, batch, sites=sites).rows.drop("cell") for sites in (None, "*"))

    both = some.join(every, on=[name for name in some.columns if name != "value"], suffix="_all")
    assert both.height == some.height < every.height
    assert both["value"].equals(both["value_all"].alias("value"))


def test_diagnoses_rest_on_the_default():
    model, x = mlp(depth=30, width=16), torch.randn(64, 4)
    some, every = (
        {each.rule: each.verdict for each in skipscope.diagnose(skipscope.probe(model, x, sites=sites))}
        for sites in (None, "*")
    )
    assert some == every
    assert some["gradient"] == "vanishing"
    assert "dead units" in some


def test_a_model_without_blocks_is_measured_everywhere():
    model: Any = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(6, 4)

    assert skipscope.probe(model, x).rows.equals(skipscope.probe(model, x, sites="*").rows)
