"""Bad input, everywhere: every parameter of every verb and of every study, with every kind of value that it cannot use.

The tables say what is wrong with a value; the verbs, their options and the studies are found, so that new ones join by
themselves. Whatever is refused is refused by one line that names the parameter and the value, with exit code 2, before
any work, and leaves no file behind. What single refusals say is tested where they are.
"""

from __future__ import annotations

import inspect
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import click
import numpy as np
import polars as pl
import pytest
from click.types import FloatParamType, IntParamType
from hypothesis import given
from hypothesis import strategies as st

import skipscope
from skipscope import InputError, Readings, Spec, build, cli, studies
from skipscope.cli import options
from skipscope.engines import pretrained
from skipscope.errors import as_list, choose, one_line, quoted, require_int
from skipscope.training import Recipe

# Sizes at which whatever is not refused takes no time; parameters that are called otherwise keep their defaults.
SMALL = {"depth": "4", "depths": "4,6", "width": "4", "seeds": "4"}
LEAST = {  # what a verb needs at least
    "identity": {"width": "32"},
    "twin": {"model": "a_small_model:residual", "input_": "8x4", "seeds": "1"},
    "train": {"specs": "cifar-8", "seeds": "1", "steps": "2"},
    "responses": {"specs": "cifar-8", "seeds": "1", "steps": "2"},
    "evaluate": {"weights": "{weights}", "name": "cifar-8"},
    "propagation": {"depths": "8", "size": "8"},
}
MODEL = """
import torch


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(4, 4)

    def forward(self, x):
        return x + self.inner(x)


def residual():
    return torch.nn.Sequential(Block(), Block())
"""
FREE = {("report", "title")}  # takes any text

LONG = 100_000
WRONG = {
    "whole number": ("", "many", "3.5", "nan", "1e400", "-2", "9" * 30, "9" * 5000, "\udc80", "a\nb"),
    "number": ("", "much", "nan", "inf", "-inf", "1e400", "1/0", "\udc80", "a\nb"),
    "choice": ("", "nope", "\udc80", "a\nb", "\x1b[2J", "x" * LONG),
    "text": ("", "nope", "nan", "1e400", "1:2:3:4", "5:1", "1:9:0", f"1:{'9' * 30}", "\udc80", "a\nb", "\x1b[2J",
             "x" * LONG),
}  # fmt: skip
# Where no file can be, whatever is to be read or written there: below a file, at a name too long, in another directory
# than there is, a device, a directory.
NOWHERE = ("{file}/{name}", f"{'x' * 300}{{suffix}}", "/dev/null", "/dev/null/{name}", "{folder}")
UNREADABLE = (*NOWHERE, "", "\udc80\n", "{missing}", "{empty}", "{cut}", "{flipped}", "{foreign}", "{text}")


class Case(NamedTuple):
    verb: click.Command
    parameter: click.Parameter
    value: str

    def __str__(self) -> str:
        shown = self.value if len(self.value) < 20 else f"{self.value[:12]}...{len(self.value)}"
        return f"{self.verb.name}-{self.parameter.name}-{shown!a}"


def kind_of(parameter: click.Parameter) -> str:
    if isinstance(parameter.type, click.Path):
        return "path"
    if isinstance(parameter.type, IntParamType):
        return "whole number"
    if isinstance(parameter.type, FloatParamType):
        return "number"
    return "choice" if isinstance(parameter.type, click.Choice) else "text"


def takes_values(parameter: click.Parameter) -> bool:
    return not getattr(parameter, "is_flag", False)


CASES = [
    Case(verb, parameter, value)
    for verb in cli.VERBS
    for parameter in verb.params
    if takes_values(parameter) and (verb.name, parameter.name) not in FREE and kind_of(parameter) != "path"
    for value in WRONG[kind_of(parameter)]
]
PLACES = [
    Case(verb, parameter, value)
    for verb in cli.VERBS
    for parameter in verb.params
    if kind_of(parameter) == "path"
    for value in (UNREADABLE if isinstance(parameter, click.Argument) else NOWHERE)
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of readings, and others that are none."""
    folder = tmp_path_factory.mktemp("files")
    found = {name: folder / f"{name}.parquet" for name in ("file", "empty", "cut", "flipped", "foreign", "text")}
    studies.flow(depth=4, width=4, seeds=range(4)).save(found["file"])
    whole = found["file"].read_bytes()
    found["empty"].write_bytes(b"")
    found["cut"].write_bytes(whole[:-100])
    found["flipped"].write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    found["text"].write_text("no Parquet\n")
    pl.DataFrame({"a": [1]}).write_parquet(found["foreign"])
    (folder / "a_small_model.py").write_text(MODEL)
    found["weights"] = folder / "weights.safetensors"
    spec = Spec.cifar(8, width=4, size=8, channels=1)
    pretrained.save(found["weights"], spec, build(spec, seed=0).arrays, 0)
    full = folder / "folder"
    full.mkdir()
    (full / "somebody's.txt").write_text("here\n")
    return found | {"folder": full, "missing": folder / "missing.parquet"}


@pytest.fixture
def here(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the verbs run; a model is found beside."""
    monkeypatch.syspath_prepend(files["file"].parent)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(each.relative_to(folder)): each.read_bytes() if each.is_file() else None for each in folder.rglob("*")}


def command(verb: click.Command, saved: dict[str, Path], /, **given: str) -> list[str]:
    """A small command line of a verb, with the values given; whatever is required is there."""
    named: list[str] = []
    placed: list[str] = []
    small = {**SMALL, **{name: value.format(**saved) for name, value in LEAST.get(verb.name or "", {}).items()}}
    for parameter in verb.params:
        assert parameter.name is not None
        if isinstance(parameter, click.Argument):
            value = given.get(
                parameter.name, small.get(parameter.name, str(saved["file"]) if parameter.required else None)
            )
            placed += [] if value is None else [value]
        else:
            value = given.get(parameter.name, small.get(parameter.name, "page.html" if parameter.required else None))
            named += [] if value is None else [f"{parameter.opts[0]}={value}"]
    if placed and verb.name == "diagnose":  # which either reads or measures
        named = []
    return [verb.name or "", *named, "--", *placed]


def run(arguments: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.main(arguments)
    return code, out.getvalue(), err.getvalue()


def refused(arguments: list[str]) -> str:
    """The one line by which it is refused."""
    code, out, err = run(arguments)
    assert (code, out) == (2, ""), (code, out, err)
    assert err.startswith("skipscope: ")
    assert err.splitlines() == [err[:-1]]
    assert err.isprintable() or err[:-1].isprintable()
    assert len(err) < 1100
    return err


def names(message: str, parameter: click.Parameter) -> bool:
    """Whether the message says which parameter: by its option or its argument, or as the study calls it."""
    option = parameter.opts[0].removeprefix("--")
    called = {option, option.removesuffix("s"), parameter.name or "", parameter.human_readable_name}
    return any(word in message for name in called for word in (name, name.replace("-", "_")))


def shows(message: str, value: str) -> bool:
    """Whether the message says which value: as it was given, or as the number it reads as."""
    said = {repr(value)[1:-1][:20], *(repr(piece)[1:-1][:20] for piece in value.split(","))}
    with_number = said | ({repr(float(value))} if re.fullmatch(r"-?(nan|inf|[\de.]+)", value) else set())
    return "is empty" in message or any(each in message for each in with_number)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_value_that_makes_no_sense(case: Case, files: dict[str, Path], here: Path):
    assert case.parameter.name is not None

    message = refused(command(case.verb, files, **{case.parameter.name: case.value}))

    assert names(message, case.parameter), message
    assert shows(message, case.value), message
    assert tree(here) == {}


@pytest.mark.parametrize("case", PLACES, ids=str)
def test_a_place_where_no_file_can_be(case: Case, files: dict[str, Path], here: Path):
    assert case.parameter.name is not None
    told = (case.parameter.help or "") if isinstance(case.parameter, click.Option) else ""
    suffix = next(iter(re.findall(r"\.[a-z]+(?=\))", told)), "")
    value = case.value.format(**files, suffix=suffix, name=f"new{suffix}")
    sources = tree(files["file"].parent)

    message = refused(command(case.verb, files, **{case.parameter.name: value}))

    assert repr(str(Path(value)))[1:40] in message
    assert tree(here) == {}
    assert tree(files["file"].parent) == sources


def test_every_verb_is_tried():
    assert {case.verb.name for case in (*CASES, *PLACES)} == set(cli.cli.commands)


# ------------------------------------------------------------------------------------------------- while it is written

WRITERS = [
    pytest.param(verb, id=verb.name, marks=[pytest.mark.slow] if verb.name == "demo" else [])  # it runs all studies
    for verb in cli.VERBS
    if any(parameter.name == "out" for parameter in verb.params)
]


@contextmanager
def no_room() -> Iterator[None]:
    """Files of at most 100 bytes: as on a full disk, it is the operating system that refuses, and while writing."""
    resource = pytest.importorskip("resource", reason="needs the limits of POSIX")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def writing(verb: click.Command, files: dict[str, Path]) -> list[str]:
    parameter = next(each for each in verb.params if each.name == "out")
    told = parameter.help if isinstance(parameter, click.Option) else None
    suffix = next(iter(re.findall(r"\.[a-z]+(?=\))", told or "")), "")
    seeds = {"seeds": "1"} if verb.name == "demo" else {}
    return command(verb, files, out=f"new{suffix}", **seeds)


@pytest.mark.parametrize("verb", WRITERS)
def test_a_full_disk_is_one_line_and_leaves_nothing(verb: click.Command, files: dict[str, Path], here: Path):
    arguments = writing(verb, files)

    with no_room():
        message = refused(arguments)

    assert re.search("cannot write 'new.*: it would be larger than files may be here; choose", message), message
    assert tree(here) == {}


def test_a_full_disk_is_one_line_in_a_folder(files: dict[str, Path], here: Path):
    sweep = cli.cli.commands["sweep"]
    with no_room():
        message = refused(command(sweep, files, folder="run"))
    assert "cannot write 'run/plan.json'" in message
    assert set(tree(here)) == {"run", "run/.lock"}

    code, _, _ = run(command(sweep, files, folder="run"))
    assert code == 0


def test_ctrl_c_while_a_file_is_written_leaves_nothing(files: dict[str, Path], here: Path):
    for verb in (cli.cli.commands[name] for name in ("flow", "report")):
        with mock.patch.object(os, "fsync", side_effect=KeyboardInterrupt):
            code, out, err = run(writing(verb, files))
        assert (code, out, err.strip()) == (130, "", "skipscope: interrupted; no file is half written.")
        assert tree(here) == {}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_stderr_may_be_full_as_well():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "skipscope", "flow", "--depth", "0"], stderr=full, check=False)
    assert done.returncode == 2


# ---------------------------------------------------------------------------------------------------------- in Python

JUNK: dict[str, Any] = {
    "None": None, "True": True, "zero": 0, "negative": -1, "fraction": 1.5, "nan": float("nan"), "inf": float("inf"),
    "digits": "3", "text": "nope", "no text": "", "long": "x" * LONG, "surrogate": "\udc80", "bytes": b"x",
    "large": 10**30, "endless": 10**5000, "no list": [], "list": [None], "mapping": {}, "object": object(),
    "array": np.zeros((30, 30)), "number in an array": np.array(3), "NumPy's": np.int64(3), "table": pl.DataFrame(),
    "range": range(2**63), "function": len,
}  # fmt: skip
STUDIES = {
    name: function
    for name in studies.__all__
    if inspect.isfunction(function := getattr(studies, name))
    and inspect.signature(function).return_annotation == "Readings"
}
SMALL_STUDY: dict[str, Any] = {"depth": 4, "depths": [3], "width": 4, "seeds": range(2), "steps": 2}
# A callable; places, tried above; further fields of Spec.dense; what a model is given, which the model refuses.
UNTRIED = {"progress", "folder", "checkpoint", "save", "fields", "batches"}


def assert_one_line(error: InputError, names: str = "") -> None:
    message = str(error)
    assert names in message
    assert message.isprintable(), message
    assert message.count("\n") == 0
    assert 10 < len(message) <= 1000


@pytest.mark.parametrize("name", STUDIES)
def test_no_argument_of_a_study_is_refused_by_anything_but_one_line(name: str):
    parameters = set(inspect.signature(STUDIES[name]).parameters)
    small = {key: value for key, value in SMALL_STUDY.items() if key in parameters}
    if "designs" in parameters:
        small["designs"] = ["plain"] if name != "highway" else ["residual"]
    if name == "responses":
        small |= {"specs": ["cifar-8"], "recipe": Recipe(steps=2, batch=16)}
    if name == "twin":  # which is of a model of one's own
        torch = pytest.importorskip("torch")
        small |= {"model": torch.nn.TransformerEncoderLayer(4, 2, 4, batch_first=True), "batches": torch.ones(3, 2, 4)}
    refusals = 0

    for parameter in sorted(parameters - UNTRIED):
        for told, value in JUNK.items():
            if told == "number in an array" or (parameter, told) == ("jobs", "NumPy's"):
                continue  # three processes make sense, and take long; a number in an array is as good as one, or none
            try:
                found = STUDIES[name](**{**small, parameter: value})
            except InputError as error:
                assert_one_line(error)
                refusals += 1
            except Exception as error:
                error.add_note(f"from {name}({parameter}={told})")
                raise
            else:
                assert isinstance(found, Readings), (parameter, told)

    assert refusals > 5 * len(parameters - UNTRIED)


def functions() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """The other public functions, each with arguments that it takes."""
    readings = studies.flow(depth=4, width=4, seeds=range(3), designs=["plain", "residual"])
    spec = Spec.dense(width=4, blocks=2)
    return {
        "Spec.dense": (Spec.dense, {"width": 4, "blocks": 2}),
        "Spec": (Spec, {"stem": spec.stem, "stages": spec.stages, "head": spec.head}),
        "Spec.from_json": (Spec.from_json, {"text": spec.to_json()}),
        "Stage": (skipscope.Stage, {"blocks": 2, "width": 4}),
        "Stem": (skipscope.Stem, {"features": 3, "width": 4}),
        "Head": (skipscope.Head, {"features": 3}),
        "Gains": (skipscope.Gains, {}),
        "design": (skipscope.design, {"name": "plain", "depth": 4, "width": 4}),
        "build": (skipscope.build, {"spec": spec, "seed": 0}),
        "probe": (skipscope.probe, {"network": skipscope.build(spec, seed=0), "batch": 2}),
        "summarise": (skipscope.summarise, {"readings": readings}),
        "diagnose": (skipscope.diagnose, {"readings": readings}),
        "compare": (skipscope.compare, {"a": readings, "b": readings}),
        "laws": (skipscope.theory.laws, {"spec": spec}),
        "Readings": (Readings, {"rows": readings.rows, "cells": readings.cells, "sites": readings.sites}),
        "Readings.load": (Readings.load, {"path": "none.parquet"}),
        "Readings.concat": (Readings.concat, {"parts": [readings]}),
        "Readings.select": (
            lambda cell, seed, site, depth: readings.select(cell=cell, seed=seed, site=site, depth=depth),
            {"cell": readings.cells["cell"].to_list(), "seed": 0, "site": "*", "depth": 4},
        ),
    }


# Left out: what only a programmer can mistake (a loss is a callable with a gradient, quantities are Quantity values).
CALLABLES = {"loss", "quantities", "fields"}


def test_no_argument_of_a_function_is_refused_by_anything_but_one_line(here: Path):
    for name, (function, arguments) in functions().items():
        refusals = 0
        for parameter in sorted(set(inspect.signature(function).parameters) - CALLABLES):
            for told, value in JUNK.items():
                try:
                    function(**{**arguments, parameter: value})
                except InputError as error:
                    assert_one_line(error)
                    refusals += 1
                except Exception as error:
                    error.add_note(f"from {name}({parameter}={told})")
                    raise
        assert refusals > 10, name
    assert tree(here) == {}


BATCHES: dict[str, Any] = {
    "wrong width": np.zeros((2, 5)), "a vector": np.zeros(4), "four axes": np.zeros((1, 1, 2, 4)),
    "no samples": np.zeros((0, 4)), "texts": np.full((2, 4), "a"), "objects": np.full((2, 4), None),
    "complex": np.ones((2, 4), complex), "ragged": [[1.0, 2.0], [3.0]], "None": None, "text": "nope", "zero": 0,
}  # fmt: skip


@pytest.mark.parametrize("case", BATCHES)
def test_a_batch_of_a_wrong_shape_or_kind(case: str):
    network = skipscope.build(Spec.dense(width=4, blocks=2), seed=range(2))
    with pytest.raises(InputError, match="batch") as caught:
        skipscope.probe(network, BATCHES[case])
    assert_one_line(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e308])
def test_a_batch_that_is_not_finite_is_measured_or_refused_without_a_warning(value: float):
    network = skipscope.build(Spec.dense(width=4, blocks=2), seed=range(2))
    try:
        readings = skipscope.probe(network, np.full((2, 4), value))
    except InputError as error:
        assert_one_line(error)
    else:
        found = readings.select(quantity="activation_nonfinite").rows["value"]
        assert found.max() == 1.0 or value == 1e308  # undefined is no row, and what is not finite is told


# --------------------------------------------------------------------------------------------------------- properties

VALUE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 6),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([np.int64(3), np.float32(0.5), "1/L", "zero", "none", "identity", "layer", "batch", "tanh", []]),
)
FIELDS = sorted(inspect.signature(Spec.dense).parameters)


@given(st.dictionaries(st.sampled_from(FIELDS), VALUE, max_size=4))
def test_a_spec_is_refused_in_one_line_or_is_whole(fields: dict[str, Any]):
    try:
        spec = Spec.dense(**{"width": 4, "blocks": 2, **fields})
    except InputError as error:
        assert_one_line(error)
        return

    assert Spec.from_json(spec.to_json()) == spec
    assert hash(Spec.from_json(spec.to_json())) == hash(spec)
    sizes = (spec.stem.features, spec.stem.width, spec.head.features, sum(stage.blocks for stage in spec.stages))
    if max(sizes) < 10:
        network = skipscope.build(spec, seed=0)
        assert network.spec == spec
        assert len(skipscope.probe(network, batch=2)) > 0


@given(st.text() | st.recursive(VALUE, lambda each: st.lists(each) | st.dictionaries(st.text(), each)).map(repr))
def test_no_text_is_read_as_a_spec_unless_it_is_one(text: str):
    with pytest.raises(InputError) as caught:
        Spec.from_json(text)
    assert_one_line(caught.value)


DEPTH = st.integers(-5, 20_000)
RANGE = st.tuples(DEPTH, st.integers(0, 500), st.integers(1, 60)).map(lambda ends: (ends[0], sum(ends[:2]), ends[2]))


def read(option: Callable[[Any], Any], *arguments: str) -> Any:
    """What a command is given for the one option that it has, or for the option and what follows from it."""

    @click.command()
    @option
    def command(**given: Any) -> Any:
        return next(iter(given.values()))

    return command.main(list(arguments), standalone_mode=False)


@given(st.lists(DEPTH, min_size=1, max_size=20))
def test_depths_that_are_written_are_read(depths: list[int]):
    assert read(options.depths("1"), f"--depths={','.join(map(str, depths))}") == depths


@given(st.lists(RANGE, min_size=1, max_size=4))
def test_ranges_of_depths_that_are_written_are_read(ranges: list[tuple[int, int, int]]):
    written = ",".join(f"{first}:{last}:{step}" for first, last, step in ranges)
    expected = [depth for first, last, step in ranges for depth in range(first, last + 1, step)]
    assert read(options.depths("1"), f"--depths={written}") == expected


@given(st.text(st.sampled_from("0123456789:,-. x"), max_size=25) | st.text(max_size=10))
def test_what_are_no_depths_is_one_line(text: str):
    try:
        depths = read(options.depths("1"), f"--depths={text}")
    except InputError as error:
        assert_one_line(error, names="--depths")
    else:
        assert 0 < len(depths) <= 10_000
        assert all(type(depth) is int for depth in depths)


@given(st.lists(st.floats() | st.sampled_from(["1/L", "1/sqrt(L)", "zero"]), min_size=1, max_size=5))
def test_gains_that_are_written_are_read(gains: list[float | str]):
    found = read(options.gains, f"--gain={','.join(map(str, gains))}")
    assert list(map(repr, found)) == list(map(repr, gains))  # nan is not nan, but reads as one


NAMES = st.lists(st.text(st.characters(exclude_characters=",", exclude_categories=["Z", "C"]), min_size=1), min_size=1)


@given(NAMES)
def test_names_that_are_written_are_read(listed: list[str]):
    assert read(options.norms, f"--norm={','.join(listed)}") == listed
    for option in (options.designs("plain"), options.designs()):
        assert read(option, *[f"--design={name}" for name in listed]) == listed


@given(st.integers(1, 2**62), st.integers(0, 2**62))
def test_seeds_that_are_written_are_read(seeds: int, seed: int):
    assert read(options.seeds(), f"--seeds={seeds}", f"--seed={seed}") == range(seed, seed + seeds)


# ------------------------------------------------------------------------------------------------------ how it is said


@given(st.text(), st.integers(20, 200))
def test_a_message_is_one_line_with_both_its_ends(text: str, most: int):
    line = one_line(text, most)
    assert len(line) <= most
    assert len(line.splitlines()) <= 1
    if len(text) <= most and len(text.splitlines()) <= 1:
        assert line.rstrip() == text.rstrip()


def test_an_error_is_one_line_whatever_is_quoted_in_it():
    assert str(InputError("depth must be\nat least 1.")) == "depth must be at least 1."
    long = str(InputError(f"depth must be at least 1; got {'9' * LONG}. Use another."))
    assert long.startswith("depth must be at least 1; got 999")
    assert long.endswith("9. Use another.")


def test_values_are_quoted_in_short():
    assert quoted("a\nb") == r"'a\nb'"
    assert quoted(10**5000) == "<int>"
    assert quoted(np.zeros((2, 2))) == "array([[0., 0.], [0., 0.]])"
    assert quoted("x" * 100) == "'" + "x" * 76 + "..."


def test_a_whole_number_fits_the_readings():
    assert require_int("seed", 2**63 - 1, least=0) == 2**63 - 1
    for value in (2**63, 10**5000):
        with pytest.raises(InputError, match=r"seed must be below 2\^63, for readings keep it in 64 bits; got [<\d]"):
            require_int("seed", value, least=0)


def test_one_value_or_several_are_a_list():
    assert as_list("plain") == ["plain"]
    assert as_list(3) == [3]
    assert as_list(iter([1, 2])) == [1, 2]
    assert len(as_list(np.array(3))) == 1
    with pytest.raises(InputError, match=r"range\(0, 9223372036854775808\) are more than 1,000,000 values: give fewer"):
        as_list(range(2**63))


def test_a_long_name_is_not_compared_with_the_choices():
    with pytest.raises(InputError, match=r"got 'x+\.\.\.\.$"):
        choose("design", "x" * 10**7, ["plain"])
