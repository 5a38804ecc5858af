"""Readings that a function cannot use: every public function that reads them or their summary, with everything else.

The functions are found in every `__all__` right of the waist, so that new ones join by themselves. Each is given what
are no readings, the readings of all studies (its own and foreign ones), and readings that are spoiled: values that are
nan, inf or 0, no quantities that it knows, no factors, no spec, one seed, none at all. It answers, or refuses in one
line; nothing else is raised, and no warning.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import skipscope
from skipscope import InputError, Readings, Spec, build, checkpoints, data, studies, summarise
from skipscope.readings import CELLS
from skipscope.training import Recipe, evaluate, loss_of, train

JUNK: dict[str, Any] = {
    "None": None, "True": True, "negative": -1, "fraction": 1.5, "nan": float("nan"), "text": "nope", "no text": "",
    "surrogate": "\udc80", "bytes": b"x", "endless": 10**5000, "no list": [], "list": [None], "mapping": {},
    "object": object(), "array": np.zeros((3, 3)), "number in an array": np.array(3), "table": pl.DataFrame(),
    "range": range(2**63), "function": len,
}  # fmt: skip
FEW = ("None", "negative", "text", "endless", "list", "array", "table")  # where every try draws a chart
# What one module hands to another: tables, pairs and parts of charts, of readings that were checked.
INSIDE = ("skipscope.charts.look", "skipscope.report.prose", "skipscope.report.pairs", "skipscope.report.page")
READERS = ("charts", "report", "trends", "paths", "spectra", "shattering", "separability", "identity", "lesions",
           "responses", "degradation", "stops", "diagnosis", "summary", "takeaways")  # fmt: skip
# Texts of a page, which nothing is looked up by; what is no text is written as Python writes it.
FREE = {"anchor", "title", "beside"}


def readers() -> dict[str, Callable[..., Any]]:
    """The public functions whose first argument are readings, or a summary of them."""
    found: dict[str, Callable[..., Any]] = {}
    for module in pkgutil.walk_packages(skipscope.__path__, "skipscope."):
        if module.name.split(".")[1] not in READERS or module.name in INSIDE:
            continue
        loaded = importlib.import_module(module.name)
        for name in getattr(loaded, "__all__", ()):
            function = getattr(loaded, name)
            if inspect.isfunction(function) and function.__module__ == module.name:
                first = next(iter(inspect.signature(function).parameters), "")
                if first in ("readings", "summary") and not name.startswith("require_"):
                    found[f"{module.name.removeprefix('skipscope.')}.{name}"] = function
    return found


READING = readers()


def measured() -> dict[str, Readings]:
    """Small readings of every study, of networks of the package and of a model of one's own."""
    torch = pytest.importorskip("torch")
    model = torch.nn.TransformerEncoderLayer(4, 2, 4, dropout=0.0, batch_first=True)
    batches = [torch.linspace(-1, 1, 24).reshape(3, 2, 4), torch.linspace(2, -1, 24).reshape(3, 2, 4)]
    recipe = Recipe(steps=6, batch=16)
    three: dict[str, Any] = {"seeds": range(3)}
    trained: dict[str, Any] = {"data": "patterns", "width": 6, "recipe": recipe, **three}
    two: dict[str, Any] = {"width": 6, "designs": ["plain", "residual"], **three}
    return {
        "flow": studies.flow(depth=4, width=6, **three),
        "notebook": studies.notebook(depths=(4, 6), **three),
        "sweep": studies.sweep(depths=(4, 6), width=6, **three),
        "highway": studies.highway(depth=4, width=6, **three),
        "jacobian": studies.jacobian(depths=(3, 5), **two),
        "correlation": studies.correlation(depths=(3, 5), **two),
        "identity": studies.identity(depths=[4], scales=(1, 0.1), width=32, steps=4, rates=[0.1], batch=16, **three),
        "representation": studies.representation(depth=2, **trained),
        "degradation": studies.degradation(depths=(4, 6), rates=0.1, **trained),
        "lesion": studies.lesion(depth=2, draws=1, **trained),
        "train": studies.train(["cifar-8", "cifar-8-plain", "cifar-14"], width=4, steps=3, batch=16, record=2, **three),
        "responses": studies.responses(specs=["cifar-8", "cifar-8-plain"], width=2, recipe=recipe, batch=16, **three),
        "twin": studies.twin(model, batches, loss=lambda y, _: y.pow(4).mean(), steps=3),
        "lesion of a model": studies.lesion(model, batches, loss=lambda y, _: y.pow(4).mean()),
    }


def valued(readings: Readings, value: float) -> Readings:
    return Readings(readings.rows.with_columns(value=pl.lit(value)), readings.cells, readings.sites)


def renamed(readings: Readings) -> Readings:
    rows = readings.rows.with_columns(quantity=pl.concat_str(pl.lit("my_"), pl.col("quantity")))
    return Readings(rows, readings.cells, readings.sites)


SPOILED: dict[str, Callable[[Readings], Readings]] = {
    "": lambda readings: readings,
    "nan": lambda readings: valued(readings, float("nan")),
    "inf": lambda readings: valued(readings, float("inf")),
    "zero": lambda readings: valued(readings, 0.0),
    "other quantities": renamed,
    "no factors": lambda readings: Readings(readings.rows, readings.cells.select(*CELLS), readings.sites),
    "no spec": lambda readings: Readings(
        readings.rows, readings.cells.with_columns(spec=pl.lit("")), readings.sites
    ),
    "one seed": lambda readings: readings.select(seed=0),
}  # fmt: skip


@pytest.fixture(scope="module")
def all_readings() -> dict[str, Readings]:
    found = {
        f"{study}, {name}" if name else study: spoil(readings)
        for study, readings in measured().items()
        for name, spoil in SPOILED.items()
    }
    whole = Readings.concat(readings for name, readings in found.items() if "," not in name)
    return found | {"none at all": Readings.concat([]), "all together": whole}


@pytest.fixture(scope="module")
def summaries(all_readings: dict[str, Readings]) -> dict[str, Any]:
    return {name: summarise(readings) for name, readings in all_readings.items()}


def arguments(function: Callable[..., Any]) -> dict[str, Any]:
    """Of what has no default beside the readings."""
    asked = list(inspect.signature(function).parameters.values())[1:]
    given = {"quantity": "train_loss", "design": "plain"}
    return {
        each.name: given[each.name] for each in asked if each.default is each.empty and each.kind != each.VAR_KEYWORD
    }


def refusal(function: Callable[..., Any], told: str, /, *given: Any, **named: Any) -> str | None:
    """The line by which it is refused; None where there is an answer."""
    try:
        function(*given, **named)
    except InputError as error:
        line = str(error)
        assert line.isprintable(), line
        assert 10 < len(line) <= 1000
        return line
    except Exception as error:
        error.add_note(f"from {told}")
        raise
    return None


def first_of(function: Callable[..., Any]) -> str:
    return next(iter(inspect.signature(function).parameters))


@pytest.mark.parametrize("name", READING)
def test_what_are_no_readings_is_refused_by_name_and_type(name: str):
    function = READING[name]
    for told, value in JUNK.items():
        line = refusal(function, f"{name}({told})", value, **arguments(function))
        assert line is not None, told
        assert line.startswith(f"{first_of(function)} must be a ")
        assert line.endswith(f"; got {type(value).__name__}.")


@pytest.mark.parametrize("name", READING)
def test_other_arguments_are_refused_by_name(name: str, all_readings: dict[str, Readings], summaries: dict[str, Any]):
    function = READING[name]
    given = summaries if first_of(function) == "summary" else all_readings
    fits = next(
        (each for told, each in given.items() if not refusal(function, told, each, **arguments(function))), None
    )
    assert fits is not None, "no study gives what it reads"
    for parameter in [each for each in list(inspect.signature(function).parameters)[1:] if each not in FREE]:
        for told in FEW:
            value = JUNK[told]
            line = refusal(function, f"{name}({parameter}={told})", fits, **{**arguments(function), parameter: value})
            assert line is None or parameter in line, line


@pytest.mark.slow
@pytest.mark.parametrize("name", READING)
def test_foreign_and_spoiled_readings_are_answered_or_refused(
    name: str, all_readings: dict[str, Readings], summaries: dict[str, Any]
):
    function = READING[name]
    given = summaries if first_of(function) == "summary" else all_readings
    lines = [refusal(function, f"{name}({told})", each, **arguments(function)) for told, each in given.items()]
    assert None in lines, "no study gives what it reads"


def test_every_reader_is_tried():
    tried = {name.split(".")[0] for name in READING}
    assert tried == set(READERS)
    assert len(READING) > 60


# ------------------------------------------------------------------------------------------------------------ training

PATTERNS = data.patterns(seed=0, train=40, test=20)
NETWORK = build(Spec.dense(width=6, blocks=1, features=64, outputs=3), seed=[0])
FUNCTIONS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "Recipe": (Recipe, {"steps": 2}),
    "train": (train, {"network": NETWORK, "data": PATTERNS, "recipe": Recipe(steps=1, batch=8)}),
    "evaluate": (evaluate, {"network": NETWORK, "samples": PATTERNS.test, "loss": loss_of(PATTERNS)}),
    "loss_of": (loss_of, {"data": PATTERNS}),
}
# Callables, and values of types of their own, in which only a programmer is mistaken.
CALLED = {"progress", "loss"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_of_training_are_refused_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    function, given = FUNCTIONS[name]
    refused = 0
    for parameter in sorted(set(inspect.signature(function).parameters) - CALLED):
        for told, value in JUNK.items():
            if parameter == "checkpoint" and told in ("text", "surrogate"):
                continue  # a name of a file that can be
            line = refusal(function, f"{name}({parameter}={told})", **{**given, parameter: value})
            refused += line is not None
            assert line is None or parameter in line or parameter in ("sites", "checkpoint"), line
    assert refused >= 15
    assert [each.name for each in tmp_path.iterdir()] == []


@pytest.mark.parametrize("told", JUNK)
def test_checkpoints_are_refused_in_one_line_and_leave_nothing(
    told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    value = JUNK[told]
    network = np.zeros((2, 2))
    path = tmp_path / "state"
    calls: list[tuple[Any, ...]] = [(path, value, {}), (path, {"a": network}, value), (path, {"a": value}, {})]
    for arguments in (*calls, (value, {}, {})):
        if arguments[0] is value and told in ("text", "surrogate"):
            continue  # a name of a file that can be
        if refusal(checkpoints.write, f"write({told})", *arguments) is None:
            assert arguments[0] == path
            checkpoints.read(path)
            path.unlink()
        assert list(tmp_path.iterdir()) == []
    assert refusal(checkpoints.read, f"read({told})", value) is not None


def test_a_checkpoint_that_is_damaged_or_foreign_is_refused(tmp_path: Path):
    path = tmp_path / "state"
    checkpoints.write(path, {"a": np.arange(6.0)}, {"step": 3})
    whole = path.read_bytes()
    run: dict[str, Any] = {"network": NETWORK, "data": PATTERNS, "recipe": Recipe(steps=1, batch=8)}
    for spoiled in (b"", whole[:-1], whole + b"x", b"\xff" * 100, whole[:20], whole[:-4] + b"\0\0\0\1"):
        path.write_bytes(spoiled)
        assert refusal(checkpoints.read, "read", path) is not None
        assert refusal(train, "train", **run, checkpoint=path) is not None
        assert path.read_bytes() == spoiled
    path.unlink()
    checkpoints.write(path, {"a": np.arange(6.0)}, {"step": 3})  # whole, and of something else
    assert refusal(train, "train", **run, checkpoint=path) is not None
