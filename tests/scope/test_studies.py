"""Studies of a user's own model: the twin, lesions, and a sweep of what a factory makes."""

from __future__ import annotations

import copy
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import skipscope
from scope.designs import design
from scope.test_gains import plain
from scope.zoo import made
from skipscope import InputError, Readings, absences, charts, lesions, report, runs, studies, trends, twins
from skipscope.torch import gains
from skipscope.torch_studies import TWIN_QUANTITIES
from skipscope.torch_studies.batches import each_batch, reseed

pytestmark = pytest.mark.usefixtures("one_thread")


class Block(nn.Module):
    def __init__(self, width: int, shortcut: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + x if self.shortcut else self.body(x)


def deep(depth: int, seed: int, shortcut: bool = True) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), *(Block(8, shortcut) for _ in range(depth)), nn.Linear(8, 3))


def model_of(depth: int = 4, *, shortcut: bool = True) -> Any:
    torch.manual_seed(0)
    return deep(depth, 0, shortcut)


def batch_of(seed: int = 0, samples: int = 40) -> tuple[Tensor, Tensor]:
    """Samples whose class is where the largest of three numbers is, whatever their sign."""
    x = torch.randn(samples, 6, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :3].abs().argmax(1)


def loss(output: Tensor, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(output, batch[1])


BATCHES = [batch_of(seed) for seed in range(6)]


def trained(steps: int = 300) -> Any:
    """A model that has learnt the classes."""
    model = model_of()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(steps):
        x, y = batch_of(100 + step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def learnt() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = trained()
    torch.set_num_threads(threads)
    return found


def state(model: Any) -> dict[str, Any]:
    """Whatever of a model or its surroundings a study might change."""
    found: dict[str, Any] = {name: x.clone() for name, x in model.state_dict().items()}
    found |= {f"grad of {name}": None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    for name, module in model.named_modules():
        hooks = {key: len(x) for key, x in vars(module).items() if key.endswith("_hooks")}
        found |= {f"{name} mode": module.training, f"{name} has": sorted(vars(module)), f"{name} hooks": hooks}
    return found | {"random": torch.get_rng_state().clone()}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) if isinstance(a[key], Tensor) else a[key] == b[key] for key in a
    )


def values(readings: Readings, **cell: Any) -> dict[tuple[Any, ...], float]:
    """(step, site, call, quantity) -> value of the one cell that is like that."""
    cells = readings.cells.filter(*(pl.col(name).eq_missing(pl.lit(value)) for name, value in cell.items()))
    assert cells.height == 1, cells
    found = readings.rows.filter(pl.col("cell") == cells["cell"][0])
    return {(s, site, c, q): v for s, site, c, q, v in found.drop("cell", "seed").iter_rows()}


# ---------------------------------------------------------------------------------------------------------------- twin


@pytest.mark.parametrize("name", ["x + f(x)", "out += x", "cifar resnet-20"])
def test_without_shortcuts_is_the_model_that_is_written_without_them(name: str):
    model, batch = design(name)
    found = studies.twin(model, batch)
    quantities = {each: skipscope.QUANTITIES[each] for each in TWIN_QUANTITIES}
    for done, other in (("as it is", model), ("without shortcuts", plain(model))):
        expected = skipscope.probe(other, batch, seed=0, quantities=quantities).rows
        told = {(step, s, c, q): v for step, s, c, q, v in expected.drop("cell", "seed").iter_rows()}
        assert values(found, done=done) == pytest.approx(told, rel=0, abs=0, nan_ok=True)


def test_every_batch_is_probed_with_and_without():
    model = model_of()
    found = studies.twin(model, BATCHES, loss=loss, probes=4)
    assert found.cells.sort("batch_number", "done").select("batch_number", "done", "removed").rows() == [
        (part, done, removed) for part in (1, 2, 3, 4) for done, removed in (("as it is", 0), ("without shortcuts", 4))
    ]
    with gains(model, BATCHES[2], shortcut=0):
        expected = skipscope.probe(model, BATCHES[2], loss=loss)
    mine = values(found, batch_number=3, done="without shortcuts")
    theirs = {(r[2], r[3], r[4], r[5]): r[6] for r in expected.rows.iter_rows()}
    assert mine.items() <= theirs.items()


def test_training_is_that_of_both_models_written_out():
    model, steps = model_of(), 7
    found = studies.twin(model, BATCHES, loss=loss, steps=steps, rate=0.05, probes=1)
    for done, other in (("as it is", model_of()), ("without shortcuts", model_of(shortcut=False))):
        optimizer = torch.optim.SGD(other.parameters(), lr=0.05, momentum=0.9)
        expected: dict[Any, float] = {}
        for step in range(steps):
            optimizer.zero_grad()
            value = loss(other(BATCHES[step % 6][0]), BATCHES[step % 6])
            expected[step, "network", 0, "loss"] = value.item()
            value.backward()
            optimizer.step()
        with torch.no_grad():
            for call, batch in enumerate(BATCHES):
                expected[steps, "network", call, "loss"] = loss(other(batch[0]), batch).item()
        assert values(found, done=done, steps=steps) == expected


def test_both_draw_alike_in_training():
    """The same dropout in front of both, step by step, whatever was drawn before."""

    def model_with(shortcut: bool) -> Any:
        torch.manual_seed(0)
        return nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 8), Block(8, shortcut), nn.Linear(8, 3))

    torch.manual_seed(9)
    found = twins.training_data(studies.twin(model_with(True), BATCHES, loss=loss, steps=2, seed=3))
    for side, shortcut in (("with_", True), ("without", False)):
        other = model_with(shortcut)
        reseed(3, 0)
        assert found[side][0] == loss(other(BATCHES[0][0]), BATCHES[0]).item()
        assert found[side][0] != loss(other.eval()(BATCHES[0][0]), BATCHES[0]).item()


def test_another_optimizer():
    found = studies.twin(
        model_of(), BATCHES, loss=loss, steps=2, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.5)
    )
    assert set(found.cells["optimizer"].drop_nulls()) == {"Adam, rate 0.5"}


def test_findings_of_a_twin():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), *(Block(16) for _ in range(12)), nn.Linear(16, 3))
    found = studies.twin(model, BATCHES, loss=loss, steps=60, rate=0.02)
    said = {finding.rule: finding for finding in twins.findings(found)}
    assert {rule: finding.verdict for rule, finding in said.items()} == {
        "without shortcuts less of the signal arrives": "holds",
        "without shortcuts less of the gradient arrives": "holds",
        "with its shortcuts the model trains better": "trains better",
    }
    flow = twins.flow_data(found).filter(what="gradient")
    growth = {(s, q): v for (_, s, _, q), v in values(found, batch_number=1, done="without shortcuts").items()}
    assert flow["without"][0] == pytest.approx(growth["network", "backward_growth"] ** 6)
    assert (flow["without"] < 1e-4 * flow["with_"]).all()
    assert "12 blocks" in said["without shortcuts less of the gradient arrives"].statement
    assert "after 60 steps" in said["with its shortcuts the model trains better"].statement


def test_one_batch_has_an_interval_over_its_samples_and_two_are_too_few():
    model = model_of(12)
    one, two = (
        {finding.rule: finding for finding in twins.findings(studies.twin(model, batches, loss=loss))}
        for batches in (BATCHES[0], BATCHES[:2])
    )
    rule = "without shortcuts less of the gradient arrives"
    assert one[rule].verdict == "holds"
    assert "over the samples of one batch" in one[rule].statement
    assert two[rule].verdict == "cannot tell"


def test_the_body_is_known_whatever_sites_are_asked_for():
    model = model_of()
    some, default = (studies.twin(model, BATCHES[0], loss=loss, sites=sites) for sites in ("2.body.*", None))
    assert twins.flow_data(some).equals(twins.flow_data(default))
    assert "2.body.1" in set(some.sites["site"]) - set(default.sites["site"])


def test_a_run_that_diverges_is_said_to():
    found = studies.twin(model_of(), BATCHES, loss=loss, steps=40, rate=1e6)
    said = twins.findings(found)[-1]
    assert said.verdict in ("cannot tell", "trains better", "trains worse")
    assert "no finite number after" in said.statement
    losses = twins.training_data(found)
    assert losses.height < 40
    assert not math.isfinite(losses["with_"].drop_nulls()[-1]) or not math.isfinite(losses["without"].drop_nulls()[-1])


def test_shortcuts_that_cannot_be_removed_are_named():
    class Broadcast(Block):
        def forward(self, x: Tensor) -> Tensor:
            return x + self.body(x.mean(0, keepdim=True))

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), Block(8), Broadcast(8), Block(8), nn.Linear(8, 3))
    found = studies.twin(model, BATCHES[0], loss=loss)
    assert set(found.cells["kept"]) == {"2"}
    assert set(found.cells.filter(done="without shortcuts")["removed"]) == {2}
    assert "the shortcut at 2 cannot be removed" in twins.findings(found)[0].subject
    with pytest.raises(InputError, match="none of the shortcuts at 1 can be removed"):
        studies.twin(nn.Sequential(nn.Linear(6, 8), Broadcast(8), nn.Linear(8, 3)), BATCHES[0], loss=loss)


# -------------------------------------------------------------------------------------------------------------- lesion


def test_a_branch_taken_out_is_the_model_without_the_block(learnt: Any):
    found = studies.lesion(learnt, BATCHES, loss=loss)
    for part, (x, y) in enumerate(BATCHES, start=1):
        lost = values(found, batch_number=part, done="one deleted")
        bare = values(found, batch_number=part, done="nothing")
        with torch.no_grad():
            intact = learnt(x)
            assert bare[0, "network", 0, "test_loss"] == loss(intact, (x, y)).item()
            for place in ("1", "2", "3", "4"):
                short = nn.Sequential(*(layer for i, layer in enumerate(learnt) if str(i) != place))(x)
                assert lost[0, place, 0, "test_loss"] == loss(short, (x, y)).item()
                was, now = intact.argmax(1) == y, short.argmax(1) == y
                assert lost[0, place, 0, "test_error"] == pytest.approx((~now).double().mean().item())
                assert lost[0, place, 0, "spoilt"] == (was & ~now).double().mean().item()
                assert lost[0, place, 0, "mended"] == (~was & now).double().mean().item()
    commonest = torch.cat([y for _, y in BATCHES]).bincount().max().item()
    assert values(found, batch_number=1, done="nothing")[0, "network", 0, "guess_error"] == 1 - commonest / 240


def test_batch_statistics_are_those_of_training():
    model, batch = made("resnet18")
    assert model.training
    before = state(model)
    found = studies.lesion(model, batch, loss=lambda output, batch: output.square().mean(), at="layer2.*")
    assert same(before, state(model))
    twin = copy.deepcopy(model).eval()
    with torch.no_grad(), gains(twin, batch, branch=0, at="layer2.1"):
        expected = twin(batch).square().mean().item()
    lost = values(found, done="one deleted")
    assert {site for _, site, _, _ in lost} == {"layer2.0", "layer2.1"}
    assert lost[0, "layer2.1", 0, "test_loss"] == expected


def test_findings_of_lesions(learnt: Any):
    found = studies.lesion(learnt, BATCHES, loss=loss)
    table = absences.block_data(found)
    assert table["site"].to_list() == ["1", "2", "3", "4"]
    assert table["more"].to_list() == pytest.approx((table["error"] - table["intact"]).to_list())
    assert ((table["rise_low"] < table["rise"]) & (table["rise"] < table["rise_high"])).all()
    verdicts = {finding.rule: finding.verdict for finding in absences.findings(found)}
    assert verdicts == {
        "without each of its blocks the loss rises": "holds",
        "one deleted block hardly matters": "does not hold",
    }
    few = {f.rule: f.verdict for f in absences.findings(studies.lesion(learnt, BATCHES[:2], loss=loss))}
    assert few["without each of its blocks the loss rises"] == "cannot tell"


def test_a_model_that_has_learnt_nothing_has_nothing_to_lose():
    said = absences.findings(studies.lesion(model_of(), BATCHES, loss=loss))
    assert said[1].verdict == "cannot tell"
    assert "has learnt too little" in said[1].statement


def test_interval_of_paired_shares_covers():
    """Of 4,000 draws of 200 answers the 95 % interval covers the true difference in 95 %; +- 3 standard errors: 1 %."""
    generator = torch.Generator().manual_seed(0)
    spoilt, mended, n, draws = 0.10, 0.04, 200, 4000
    u = torch.rand(draws, n, generator=generator)
    b, c = (u < spoilt).sum(1).tolist(), (u > 1 - mended).sum(1).tolist()
    covered = 0
    for one, other in zip(b, c, strict=True):
        _, low, high = absences._paired_shares(one, other, n, 1)
        covered += low <= spoilt - mended <= high
    assert abs(covered / draws - 0.95) < 0.012


def test_accuracy_of_ones_own_and_losses_without_answers(learnt: Any):
    found = studies.lesion(learnt, BATCHES, loss=loss, accuracy=lambda output, batch: output.argmax(1) != batch[1])
    other = studies.lesion(learnt, BATCHES, loss=loss)
    assert values(found, batch_number=1, done="nothing")[0, "network", 0, "test_error"] == pytest.approx(
        1 - values(other, batch_number=1, done="nothing")[0, "network", 0, "test_error"]
    )
    alone = studies.lesion(learnt, (each[0] for each in BATCHES), loss=lambda output, batch: output.square().mean())
    assert set(alone.rows["quantity"]) == {"test_loss"}
    assert len(absences.findings(alone)) == 1


# --------------------------------------------------------------------------------------------------------------- sweep

SWEEP: dict[str, Any] = {"batch": BATCHES[0], "depths": [2, 4, 6], "seeds": range(3), "loss": loss}


def test_a_sweep_is_probes_of_what_the_factory_makes():
    found = studies.sweep(deep, **SWEEP, twin=True)
    for name, shortcut in (("Sequential", 1), ("Sequential without shortcuts", 0)):
        torch.manual_seed(2)
        model = deep(4, 2)
        with gains(model, BATCHES[0], shortcut=shortcut):
            expected = skipscope.probe(model, BATCHES[0], loss=loss, seed=2)
        cell = found.cells.filter(design=name, depth=4)
        assert cell["blocks"].to_list() == [4]
        mine = found.rows.filter(pl.col("cell") == cell["cell"][0], pl.col("seed") == 2)
        known = dict(mine.select("quantity", "value").iter_rows())
        theirs = expected.rows.filter(site="network")
        whole = dict(theirs.select("quantity", "value").iter_rows())
        for quantity in ("forward_growth", "backward_growth", "weight_grad_first_last", "parameters", "loss"):
            assert known[quantity] == whole[quantity]
        norms = dict(expected.rows.filter(quantity="activation_grad_norm").select("site", "value").iter_rows())
        assert known["backward_gain"] == pytest.approx(norms["1.input"] / norms["4"], rel=1e-9)


SOURCE = """
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))

    def forward(self, x):
        return self.body(x) + x


def deep(depth, seed):
    return nn.Sequential(nn.Linear(6, 8), *(Block() for _ in range(depth)), nn.Linear(8, 3))


def loss(output, batch):
    return nn.functional.cross_entropy(output, batch[1])
"""


def test_jobs_and_parts_change_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "ourstudies.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    alone = studies.sweep(deep, **SWEEP)
    make, named = "ourstudies:deep", {**SWEEP, "loss": "ourstudies:loss"}
    others = [
        studies.sweep(make, **named, jobs=2),
        studies.sweep(deep, **SWEEP, chunk=2, folder=tmp_path / "a"),
        studies.sweep(make, **named, jobs=2, folder=tmp_path / "b"),
        Readings.load(tmp_path / "a" / "readings.parquet"),
    ]
    alone.save(tmp_path / "alone.parquet")
    for place, other in enumerate(others):
        other.save(tmp_path / f"{place}.parquet")
        assert (tmp_path / f"{place}.parquet").read_bytes() == (tmp_path / "alone.parquet").read_bytes()


def test_a_sweep_goes_on_where_it_stopped(tmp_path: Path):
    made: list[tuple[int, int]] = []

    def factory(depth: int, seed: int) -> nn.Module:
        made.append((depth, seed))
        if len(made) == 5:
            raise KeyboardInterrupt
        return deep(depth, seed)

    with pytest.raises(KeyboardInterrupt):
        studies.sweep(factory, **SWEEP, folder=tmp_path / "run")
    assert len(list((tmp_path / "run").glob("part-*"))) == 4
    found = studies.sweep(factory, **SWEEP, folder=tmp_path / "run")
    assert made == [*made[:5], *made[4:5], *made[6:]]
    assert len(made) == 9 + 1  # one of nine models was begun twice
    studies.sweep(factory, **SWEEP, folder=tmp_path / "whole")
    name = "readings.parquet"
    assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(found)
    with pytest.raises(InputError, match=r"holds another run: .*batch"):
        studies.sweep(factory, **{**SWEEP, "batch": BATCHES[1]}, folder=tmp_path / "run")


def test_sites_stay_in_the_folder(tmp_path: Path):
    found = studies.sweep(deep, **SWEEP, sites=True, folder=tmp_path / "run")
    assert set(found.rows["site"]) == {"network"}
    assert {"1", "2.body.0"} <= set(runs.scan(tmp_path / "run").select("site").collect()["site"])
    assert found.rows.sort(pl.all()).equals(studies.sweep(deep, **SWEEP).rows.sort(pl.all()))


def test_trends_of_models():
    found = studies.sweep(deep, batch=BATCHES[0], depths=[4, 8, 12], seeds=range(20), twin=True)
    verdicts = {(each.subject, each.rule): each.verdict for each in trends.findings(found)}
    assert verdicts["the model Sequential without shortcuts", "trend of the gradient"] == "vanishing"
    assert verdicts["the model Sequential", "trend of the gradient"] == "healthy"
    rates = trends.rates(found).filter(quantity="backward_gain", design="Sequential without shortcuts")
    rows_ = found.rows.join(found.cells.filter(design="Sequential without shortcuts"), on="cell")
    logs = (
        rows_.filter(quantity="backward_gain")
        .group_by("depth")
        .agg(value=2 * pl.col("value").log().mean())
        .sort("depth")
    )
    slope = (logs["value"][2] - logs["value"][0]) / 8  # least squares through three even depths: that of the ends
    assert rates["rate"][0] == pytest.approx(slope)
    (section,) = report.sections_of(found)
    assert section.title == "Depth by depth"
    assert "vanishes in the Sequential without shortcuts" in section.answer


# ---------------------------------------------------------------------------------------------------- charts, sections


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 30])
def test_no_step_is_named_twice(steps: int, tmp_path: Path):
    """Ticks between steps would be named after the nearest: 0 1 1 2 2."""
    charts.twin_losses(studies.twin(model_of(), BATCHES[0], loss=loss, steps=steps)).save(tmp_path / "losses.svg")
    axis = (tmp_path / "losses.svg").read_text(encoding="utf-8").partition("X-axis titled 'step'")[2]
    labels = [int(each) for each in re.findall(r"<text[^>]*>(\d+)</text>", axis.partition(">step</text>")[0])]

    assert labels == sorted(set(labels))
    assert labels[0] == 0
    assert len(labels) >= min(steps, 2)


def test_what_is_drawn_of_a_twin_is_what_was_measured():
    found = studies.twin(model_of(), BATCHES[0], loss=loss, steps=3)
    flow = charts.twin_flow_data(found)
    bare = values(found, batch_number=1, done="without shortcuts")
    for site, value in (
        flow.filter(label="without shortcuts", panel="the gradient, backward").select("site", "value").rows()
    ):
        assert value == bare[0, site, 0, "activation_grad_norm"]
    assert flow.filter(panel="the signal, forward", label="as it is").sort("place")["site"].to_list()[0] == "input"
    losses = charts.twin_losses_data(found).filter(label="as it is")["value"].to_list()
    assert losses == twins.training_data(found)["with_"].to_list()
    for chart in (charts.twin_flow(found), charts.twin_losses(found)):
        assert "without shortcuts" in chart.to_dict()["description"]
    (section,) = report.sections_of(found)
    assert section.title == "With and without shortcuts"
    assert len([block for block in section.blocks if isinstance(block, report.Figure)]) == 2
    with pytest.raises(InputError, match="nothing was trained"):
        charts.twin_losses(studies.twin(model_of(), BATCHES[0], loss=loss))


def test_what_is_drawn_of_lesions_is_what_was_found(learnt: Any):
    found = studies.lesion(learnt, BATCHES, loss=loss)
    table, drawn = absences.block_data(found), charts.absent_blocks_data(found)
    for panel, name in (("rise of the loss", "rise"), ("rise of the error", "more")):
        part = drawn.filter(panel=panel)
        assert part["value"].to_list() == table[name].to_list()
        assert part["low"].to_list() == table[f"{name}_low"].to_list()
    assert "Rise of the loss" in charts.absent_blocks(found).to_dict()["description"]
    (section,) = report.sections_of(found)
    assert section.title == "Without each block"
    with pytest.raises(InputError, match="absences says what they show"):
        lesions.findings(found)


# ------------------------------------------------------------------------------------------------------ what all share


@pytest.mark.parametrize("which", ["twin", "twin, trained", "lesion"])
@pytest.mark.parametrize("name", ["resnet18", "language"])
def test_the_model_is_left_as_it_was(which: str, name: str):
    model, batch = made(name)
    own = (lambda output, batch: output.square().mean()) if isinstance(batch, Tensor) else None
    for parameter in list(model.parameters())[:3]:
        parameter.grad = torch.ones_like(parameter)
    before = state(model)
    if which == "lesion":
        studies.lesion(model, iter([batch, batch]), loss=own)
    else:
        studies.twin(model, iter([batch, batch]), loss=own, steps=2 if which == "twin, trained" else 0)
    assert same(before, state(model))
    with pytest.raises(ZeroDivisionError):
        getattr(studies, which.partition(",")[0])(model, batch, loss=lambda output, batch: 1 / 0)
    assert same(before, state(model))


def test_a_sweep_leaves_random_state_and_threads():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    studies.sweep(deep, **SWEEP)
    assert torch.equal(before, torch.get_rng_state())


def test_a_loader_is_several_batches_and_its_shuffle_is_the_seeds(learnt: Any):
    data = TensorDataset(*batch_of(7, 90))
    loader = DataLoader(data, batch_size=30, shuffle=True)
    torch.manual_seed(1)
    first = studies.twin(learnt, loader, loss=loss, steps=4)
    torch.manual_seed(2)
    second = studies.twin(learnt, loader, loss=loss, steps=4)
    assert first.rows.equals(second.rows)
    assert set(first.cells["batch_number"].drop_nulls()) == {1, 2, 3}
    found = studies.lesion(learnt, DataLoader(data, batch_size=40), loss=loss)
    assert found.cells.filter(done="nothing").sort("batch_number")["batch"].to_list() == [40, 40, 10]


def test_one_batch_or_several():
    x, y = BATCHES[0]
    for given in (x, (x, y), [x, y], {"x": x}, [(x, y)]):
        assert len(list(each_batch(given))) == 1
    assert len(list(each_batch(iter([x, x])))) == 2
    assert len(list(each_batch([[x, y]] * 3))) == 3


def flat(model: Any) -> Any:
    return nn.Sequential(nn.Linear(6, 3))


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda: studies.twin(deep, BATCHES), "model must be a torch.nn.Module"),
        (lambda: studies.twin(flat(None), BATCHES), "adds no shortcut that was found"),
        (lambda: studies.twin(model_of(), []), "batches is empty"),
        (lambda: studies.twin(model_of(), 3), "batch must be what the model is to see"),
        (lambda: studies.twin(model_of(), BATCHES, steps=-1), "steps must be at least 0; got -1"),
        (lambda: studies.twin(model_of(), BATCHES, probes=0), "probes must be at least 1; got 0"),
        (lambda: studies.twin(model_of(), BATCHES, loss=loss, steps=1, rate=0), "rate must be above 0; got 0"),
        (lambda: studies.twin(model_of(), BATCHES, steps=1), "loss is missing"),
        (lambda: studies.twin(model_of(), BATCHES, step=1), "unexpected keyword argument 'step'"),
        (lambda: studies.twin(model_of().requires_grad_(False), BATCHES, loss=loss, steps=1), "nothing to train"),
        (lambda: studies.lesion(model_of(), BATCHES), "loss is missing"),
        (lambda: studies.lesion(model_of(), BATCHES, loss=loss, at="9"), "at='9' names no junction"),
        (lambda: studies.lesion(model_of(), BATCHES, loss=loss, accuracy=loss), "must give a tensor of truth values"),
        (lambda: studies.lesion(model_of(), BATCHES, depth=3), "unexpected keyword argument 'depth'"),
        (lambda: studies.sweep(3, **SWEEP), "make_model must be a function"),
        (lambda: studies.sweep(lambda depth, seed: 3, **SWEEP), r"make_model\(depth=2, seed=0\) must make a torch.nn"),
        (lambda: studies.sweep(deep, **{**SWEEP, "depths": []}), "depths is empty"),
        (lambda: studies.sweep(deep, **SWEEP, sites=True), "sites=True needs a folder"),
        (lambda: studies.sweep(deep, **SWEEP, twin=1), "twin must be True or False"),
        (lambda: studies.sweep("nowhere:deep", **SWEEP), "there is no module 'nowhere'"),
        (lambda: twins.findings(studies.sweep(deep, **SWEEP)), "not of study twin"),
        (lambda: absences.findings(studies.sweep(deep, **SWEEP)), "no lesions of a model"),
    ],
)
def test_what_is_refused(run: Callable[[], Any], words: str):
    with pytest.raises(InputError, match=words):
        run()
