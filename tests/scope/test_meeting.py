"""What meets at the junctions of a module is what meets at those of the network that is written by hand."""

from __future__ import annotations

import copy
import dataclasses
import gc
import weakref
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

import skipscope
from scope.designs import DESIGNS, design
from scope.zoo import made
from skipscope import Spec, draws
from skipscope.engines.ops import EPS
from skipscope.losses import Cotangent
from skipscope.moments import Moments, moments
from skipscope.quantities import QUANTITIES, View
from skipscope.torch import gains
from skipscope.torch.meeting import Meetings
from skipscope.torch.sums import dot_of, inner

pytestmark = pytest.mark.usefixtures("one_thread")

AT_JUNCTIONS = ("branch_ratio", "branch_cosine", "shortcut_share", "branch_share")


class Hand(nn.Module):
    """The network of a spec as somebody would write it, with the weights that another engine drew."""

    def __init__(self, spec: Spec, parameters: Mapping[str, Any]) -> None:
        super().__init__()
        self.spec = spec
        self.held = nn.ParameterDict(
            {
                name.replace(".", "_"): nn.Parameter(torch.from_numpy(array[0].copy()))
                for name, array in parameters.items()
            }
        )

    def weight(self, site: str, name: str) -> Any:
        return self.held[f"{site}.{name}".replace(".", "_")]

    def layer(self, x: Tensor, layer: Any) -> Tensor:
        x = x if layer.first == "affine" else self.activated(x, layer.site, layer)
        x = nn.functional.linear(x, self.weight(layer.site, "weight"))
        return self.activated(x, layer.site, layer) if layer.first == "affine" else x

    def activated(self, x: Tensor, site: str, layer: Any) -> Tensor:
        if layer.norm != "none":
            axis = 0 if layer.norm == "batch" else 1
            mean = x.mean(axis, keepdim=True)
            x = (x - mean) / ((x - mean).square().mean(axis, keepdim=True) + EPS).sqrt()
            x = x * self.weight(site, "gamma") + self.weight(site, "beta")
        return torch.relu(x) if layer.activation == "relu" else x

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x, self.spec.stem_layer)
        for block in self.spec.body:
            branch = x
            for layer in block.layers:
                branch = self.layer(branch, layer)
            total = x + branch
            x = torch.relu(total) if block.activation == "relu" else total
        if self.spec.pre_activation:
            x = self.activated(x, "final", self.spec.stages[-1])
        return self.layer(x, self.spec.head_layer)


class Kept:
    """An observer that makes moments at once, and keeps nothing else."""

    def __init__(self) -> None:
        self.moments: dict[int, dict[str, Moments]] = defaultdict(dict)
        self.dots: dict[int, dict[tuple[str, str], Any]] = defaultdict(dict)

    def __call__(self, number: int, roles: Mapping[str, Tensor]) -> None:
        self.moments[number] |= {role: moments(x.double().numpy()[None]) for role, x in roles.items()}
        for a in roles:
            for b in roles:
                self.dots[number][a, b] = dot_of(inner(roles[a], roles[b]).numpy())

    def readings(self, meetings: Meetings) -> dict[tuple[str, str], float]:
        found = {}
        for number, junction in meetings.junctions.items():
            site: Any = skipscope.protocol.Site(junction.site, junction.order, 0, "junction", "")
            view = View(site, self.moments[number], self.dots[number])
            for name in AT_JUNCTIONS:
                if all(role in view.roles for role in QUANTITIES[name].needs):
                    found[junction.name, name] = np.ma.getdata(QUANTITIES[name].formula(view)).item()
        return found


@pytest.mark.parametrize("order", ["before-add", "after-add", "pre-activation"])
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_a_probe_reads_junctions(order: str, norm: str):
    """As the test below, by the verb that everybody uses."""
    spec = Spec.dense(width=6, blocks=4, features=4, outputs=3, order=order, norm=norm)  # type: ignore[arg-type]
    network = skipscope.build(spec, seed=[5])
    x = draws.normals((5,), "input", (8, 4))
    v = draws.normals((5,), "cotangent", (8, 3))
    expected = skipscope.probe(network, x, loss=Cotangent(v)).rows.filter(pl.col("quantity").is_in(AT_JUNCTIONS))

    model = Hand(spec, network.parameters)
    readings = skipscope.probe(model, torch.from_numpy(x[0]), loss=lambda y, batch: (y * torch.from_numpy(v[0])).sum())

    sites = readings.sites.filter(pl.col("kind") == "junction")["site"].to_list()
    assert sites == [f"forward+{number}" if number > 1 else "forward" for number in range(1, 5)]
    for name in AT_JUNCTIONS:
        mine = readings.select(quantity=name).rows
        theirs = expected.filter(pl.col("quantity") == name)
        assert mine["value"].to_list() == pytest.approx(theirs["value"].to_list(), rel=1e-9), name


def test_a_quantity_of_ones_own_may_ask_for_the_whole_gradient_at_a_junction():
    mine = dataclasses.replace(
        QUANTITIES["branch_ratio"], formula=lambda view: view["total_grad"].norm, needs={"total_grad": ()}
    )
    model, batch = design("x + f(x)")

    readings = skipscope.probe(model, batch, quantities=QUANTITIES | {"mine": mine}, sites="*")

    (site, *_) = readings.sites.filter(pl.col("kind") == "junction")["site"]
    found = readings.select(quantity="mine", site=site).rows["value"].to_list()
    expected = readings.select(quantity="activation_grad_norm", site="0").rows["value"].to_list()  # what comes in
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("order", ["before-add", "after-add", "pre-activation"])
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("turned", [{}, {"branch": 0.5}, {"shortcut": 0.25}], ids=str)
def test_readings_are_those_of_the_network_by_hand(order: str, norm: str, turned: dict[str, Any]):
    """In float64 to 1e-9: both round to 1e-16, and sums of a few hundred terms lose three digits at most."""
    spec = Spec.dense(width=6, blocks=4, features=4, outputs=3, order=order, norm=norm)  # type: ignore[arg-type]
    network = skipscope.build(spec, seed=[5])
    x = draws.normals((5,), "input", (8, 4))
    v = draws.normals((5,), "cotangent", (8, 3))
    with network.gains(**turned):
        expected = skipscope.probe(network, x, loss=Cotangent(v)).rows.filter(pl.col("quantity").is_in(AT_JUNCTIONS))

    model = Hand(spec, network.parameters)
    rows = torch.from_numpy(x[0])
    kept = Kept()
    meetings = Meetings(model, kept)
    with gains(model, rows, **turned), meetings.on():
        model(rows).backward(torch.from_numpy(v[0]))
    found = kept.readings(meetings)

    sites = [site.site for site in network.sites if site.kind == "junction"]
    names = dict(zip(["forward", "forward+2", "forward+3", "forward+4"], sites, strict=True))
    assert len(found) == 4 * 4 == len(expected)
    for (name, quantity), value in found.items():
        row = expected.filter(site=names[name], quantity=quantity)
        assert value == pytest.approx(row["value"].item(), rel=1e-9, abs=1e-12), (name, quantity)


@pytest.mark.parametrize("name", DESIGNS)
def test_the_parts_of_the_gradient_make_the_whole(name: str):
    """At an input that only shortcut and branch consume, a hook on it sees the sum of both parts."""
    model, batch = design(name)
    parts: dict[int, dict[str, Tensor]] = defaultdict(dict)
    meetings = Meetings(model, lambda number, roles: parts[number].update({r: x.clone() for r, x in roles.items()}))
    with meetings.on():
        output = model(**batch) if isinstance(batch, dict) else model(batch)
        (output.square().sum()).backward()

    junctions = meetings.junctions
    assert len(junctions) == len(meetings.found)
    for number in junctions:
        roles = parts[number]
        assert {"shortcut", "branch", "total", "shortcut_grad", "branch_grad"} == set(roles)
        torch.testing.assert_close(roles["total"], roles["shortcut"] + roles["branch"])
        assert roles["branch_grad"].abs().sum() > 0


def test_parts_at_a_projection_and_a_block_with_several_consumers():
    torch.manual_seed(0)
    stem, query, key, value, ws = (nn.Linear(5, 5) for _ in range(5))
    seen: dict[str, Tensor] = {}

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.query, self.key, self.value, self.ws = stem, query, key, value, ws

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            seen["x"] = x
            x.retain_grad()
            branch = self.value(torch.softmax(self.query(x), -1) * torch.tanh(self.key(x)))
            return branch + self.ws(x)

    x = torch.randn(7, 5)
    parts: dict[str, Tensor] = {}
    meetings = Meetings(Block(), lambda number, roles: parts.update({r: x.clone() for r, x in roles.items()}))
    with meetings.on():
        meetings._model(x).backward(torch.ones(7, 5))

    (junction,) = meetings.found
    assert junction.kind == "projection"
    torch.testing.assert_close(parts["shortcut_grad"], torch.ones(7, 5) @ ws.weight.detach())
    assert seen["x"].grad is not None
    torch.testing.assert_close(parts["shortcut_grad"] + parts["branch_grad"], seen["x"].grad)


def test_14_the_shortcut_of_a_changed_shape_is_what_the_projection_gives():
    model, batch = made("resnet18")
    given: dict[str, Tensor] = {}
    model.layer2[0].downsample.register_forward_hook(
        lambda module, args, output: given.update(projected=output.clone())
    )
    seen: dict[int, Tensor] = {}
    meetings = Meetings(
        model, lambda number, roles: seen.update({number: roles["shortcut"].clone()}) if "shortcut" in roles else None
    )
    with meetings.on():
        model(batch)
    (number,) = (number for number, junction in meetings.junctions.items() if junction.name == "layer2.0")
    assert meetings.junctions[number].kind == "projection"
    assert torch.equal(seen[number], given["projected"])


@pytest.mark.parametrize("name", ["resnet18", "language", "language, checkpointed", "encoder"])
def test_nothing_is_changed_by_it(name: str):
    results = []
    for looking in (False, True):
        model, batch = made(name)
        torch.manual_seed(1)
        meetings = Meetings(model, lambda number, roles: None)
        if looking:
            with meetings.on():
                output = model(**batch) if isinstance(batch, dict) else model(batch)
                loss = output.loss if isinstance(batch, dict) else output.square().mean()
                loss.backward()
        else:
            output = model(**batch) if isinstance(batch, dict) else model(batch)
            loss = output.loss if isinstance(batch, dict) else output.square().mean()
            loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.parameters()), *model.buffers()])
        copy.deepcopy(model)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_shared_and_repeated_calls_and_micro_batches_have_their_own_numbers():
    block = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block = nn.Linear(4, 4), block

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for _ in range(3):
                x = x + self.block(x)
            return x

    counts: dict[tuple[int, str], int] = defaultdict(int)

    def observe(number: int, roles: Mapping[str, Tensor]) -> None:
        for role in roles:
            counts[number, role] += 1

    model = Shared()
    meetings = Meetings(model, observe)
    with meetings.on():
        for _ in range(2):
            model(torch.randn(5, 4)).sum().backward()
    assert [each.name for each in meetings.junctions.values()] == ["forward", "forward+2", "forward+3"]
    assert set(counts.values()) == {2}


def test_the_graph_is_not_kept():
    model, batch = design("resnet-18")
    meetings = Meetings(model, lambda number, roles: None)
    with meetings.on():
        output = model(batch)
        alive = weakref.ref(output)
        output.sum().backward()
        del output
        gc.collect()
        assert alive() is None


def test_without_autograd_there_are_the_forward_roles_alone():
    model, batch = design("resnet-18")
    seen: set[str] = set()
    meetings = Meetings(model, lambda number, roles: seen.update(roles))
    with torch.no_grad(), meetings.on():
        model(batch)
    assert seen == {"shortcut", "branch", "total"}
    assert len(meetings.found) == 8
