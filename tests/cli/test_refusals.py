"""One clear line for whatever the user can mend, and no traceback for anything."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipscope import studies
from skipscope.readings import Readings

SMALL = ["--seeds", "8", "--depth", "6", "--width", "8"]


FLOW = ["flow", *SMALL]
BAD: dict[str, tuple[list[str], str]] = {
    # commands and options
    "unknown command": (["flwo"], "flwo"),
    "unknown option": ([*FLOW, "--sedes", "3"], "--sedes"),
    "option of another command": (["compare", "{he}", "{he}", "--depth", "3"], "--depth"),
    "option without its value": (["flow", "--depth"], "--depth"),
    "extra argument": ([*FLOW, "extra"], "extra"),
    "missing argument": (["compare", "{he}"], "'B'"),
    "no file": (["report", "--out", "page.html"], "FILES"),
    "no page": (["report", "{he}"], "--out"),
    # names
    "design": ([*FLOW, "--design", "residul"], r"design must be one of .*; got 'residul'\. Did you mean 'residual'\?"),
    "no design": ([*FLOW, "--design", ""], r"design must be one of .*; got ''"),
    "two designs": ([*FLOW, "--design", "plain,twin"], "got 'plain,twin'. Write e.g. --design plain --design residual"),
    "format": ([*FLOW, "--format", "xml"], "'xml' is not one of 'table', 'json', 'csv'"),
    "dtype": ([*FLOW, "--dtype", "float16"], r"dtype must be one of 'float32', 'float64'; got 'float16'"),
    "dtype of the demo": (["demo", "--dtype", "half"], "dtype must be one of .*'half'"),
    "init": ([*FLOW, "--init", "hee"], "init must be one of .*'hee'.*Did you mean 'he'"),
    "norm": ([*FLOW, "--norm", "group"], "norm must be one of 'none', 'batch', 'layer'; got 'group'"),
    "order": ([*FLOW, "--order", "post"], "order must be one of .*'post'"),
    "activation": ([*FLOW, "--activation", "gelu"], "activation must be one of .*'gelu'"),
    "output": ([*FLOW, "--output", "softmax"], "output must be one of .*'softmax'"),
    "cotangent": ([*FLOW, "--cotangent", "normal"], "cotangent must be one of .*'normal'"),
    # numbers
    "depth 0": ([*FLOW, "--depth", "0"], "depth must be at least 2; got 0"),
    "depth 1": ([*FLOW, "--depth", "1"], "depth must be at least 2; got 1"),
    "depth odd": ([*FLOW, "--depth", "7"], "depth must be even for the matched design.*got 7"),
    "depth negative": ([*FLOW, "--depth", "-4"], "depth must be at least 2; got -4"),
    "depth word": ([*FLOW, "--depth", "deep"], "--depth.*'deep' is not a valid integer"),
    "depth fraction": ([*FLOW, "--depth", "6.0"], "--depth.*'6.0' is not a valid integer"),
    "depth endless": ([*FLOW, "--depth", "9" * 5000], "--depth"),
    "width 0": ([*FLOW, "--width", "0"], "width must be at least 1; got 0"),
    "features 0": ([*FLOW, "--features", "0"], "features must be at least 1; got 0"),
    "seeds 0": ([*FLOW, "--seeds", "0"], "--seeds must be at least 1; got 0"),
    "seeds -1": ([*FLOW, "--seeds", "-1"], "--seeds must be at least 1; got -1"),
    "seeds 1.5": ([*FLOW, "--seeds", "1.5"], "--seeds.*'1.5' is not a valid integer"),
    "seeds empty": ([*FLOW, "--seeds", ""], "--seeds.*'' is not a valid integer"),
    "seed -1": ([*FLOW, "--seed", "-1"], "--seed must be at least 0; got -1"),
    "seed too large": ([*FLOW, "--seed", str(2**63)], r"--seed must be below 2\^63, for .*; got 9223372036854775808"),
    "seeds too far": ([*FLOW, "--seed", str(2**63 - 1)], r"--seed 9223372036854775807 with --seeds 8 goes beyond"),
    "jobs 0": ([*FLOW, "--jobs", "0"], "jobs must be at least 1; got 0"),
    "batch 0": ([*FLOW, "--batch", "0"], "batch must be at least 1; got 0"),
    "batch norm of one": ([*FLOW, "--norm", "batch"], "batch of 1 sample: batch normalisation"),
    "gain nan": ([*FLOW, "--branch-gain", "nan"], "branch_gain must be a finite number; got nan"),
    "gain inf": ([*FLOW, "--shortcut-gain", "inf"], "shortcut_gain must be a finite number; got inf"),
    "gain word": ([*FLOW, "--branch-gain", "1/l"], r"branch_gain must be one of .*; got '1/l'\. Did you mean '1/L'\?"),
    "gain zero of a plain network": ([*FLOW, "--branch-gain", "0"], r"branch_gain=0.0 needs a shortcut"),
    # too large
    "depth huge": ([*FLOW, "--depth", "10000000"], "this is too large.*depth 10000000.*GB of memory"),
    "width huge": ([*FLOW, "--width", "1000000", "--seeds", "200"], "this is too large.*width 1000000"),
    "seeds huge": ([*FLOW, "--seeds", "1" + "0" * 15], "this is too large.*seeds=1000000000000000"),
    "batch huge": ([*FLOW, "--batch", "1" + "0" * 30], r"batch must be below 2\^63"),
    "features huge": ([*FLOW, "--features", "1" + "0" * 400], r"features must be below 2\^63.*; got 10+\.\.\.\."),
    "jobs huge": ([*FLOW, "--jobs", "1000000"], "this is too large.*1000000 processes"),
    "demo huge": (["demo", "--seeds", "1" + "0" * 15], "this is too large"),
    # files to read
    "missing file": (["diagnose", "{missing}"], "cannot read .*missing.parquet.*: there is no such file"),
    "folder as file": (["diagnose", "{folder}"], "cannot read .*folder.*: it is a directory"),
    "empty file": (["diagnose", "{empty}"], "empty.parquet' is empty"),
    "truncated file": (["compare", "{he}", "{cut}"], "cut.parquet' is (cut off or )?damaged"),
    "damaged file": (["compare", "{flipped}", "{he}"], "flipped.parquet' is damaged: its checksum does not match"),
    "foreign file": (["report", "{he}", "{foreign}", "--out", "page.html"], "is a Parquet file, but none"),
    "text file": (["diagnose", "{text}"], "text.parquet' is not a Parquet file"),
    "later version": (["diagnose", "{later}"], "has version 99 of the format"),
    "options beside a file": (["diagnose", "{he}", "--depth", "28"], "--depth describes a network to measure"),
    # what does not go together
    "no cell in common": (["compare", "{he}", "{deep}"], "no cells match: .*plain-6-.*against.*plain-8-"),
    "no seed in common": (["compare", "{he}", "{others}"], "no reading in common: seeds 0 to 7 against 100 to 103"),
    "unknown quantity": (["compare", "{he}", "{lecun}", "--quantity", "forward_gian"], "Did you mean 'forward_gain'"),
    "unknown site": (["compare", "{he}", "{lecun}", "--site", "stage9.*"], r"site='stage9\.\*' matches nothing"),
    # files to write
    "readings as text": ([*FLOW, "--out", "flow.csv"], "--out must end in .parquet; got 'flow.csv'"),
    "readings without a name": ([*FLOW, "--out", ""], "--out must end in .parquet"),
    "report as text": ([*FLOW, "--report", "flow.txt"], "--report must end in .html; got 'flow.txt'"),
    "page as text": (["report", "{he}", "--out", "page.pdf"], "--out must end in .html; got 'page.pdf'"),
    "no such folder": ([*FLOW, "--out", "no/such/flow.parquet"], "there is no directory 'no/such'; create it first"),
    "below a file": ([*FLOW, "--out", "{he}/flow.parquet"], "a part of the path is a file"),
    "folder as page": (["report", "{he}", "--out", "{folder}"], "--out must end in .html"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(
    refused: Callable[..., str],
    tree: Callable[..., Any],
    case: str,
    here: Path,
    saved: dict[str, Path],
):
    arguments, reason = BAD[case]
    sources = next(iter(saved.values())).parent
    before = tree(sources)

    message = refused(*[argument.format(**saved) if "{" in argument else argument for argument in arguments])

    assert re.search(reason, message), message
    assert "Traceback" not in message
    assert tree(here) == {}
    assert tree(sources) == before


def test_bad_input_in_a_process_of_its_own(process: Callable[..., Any], tree: Callable[..., Any], here: Path):
    done = process("flow", "--depth", "10000000", "--out", "flow.parquet")
    out, err = done.communicate()

    assert (done.returncode, out) == (2, b"")
    assert err.decode().splitlines() == [mock.ANY]
    assert tree(here) == {}


def test_a_report_that_cannot_be_finished_leaves_nothing(
    refused: Callable[..., str], tree: Callable[..., Any], here: Path, saved: dict[str, Path]
):
    damaged = refused("report", saved["he"], saved["cut"], "--out", "page.html")

    assert "damaged" in damaged
    assert tree(here) == {}


# ----------------------------------------------------------------------------------------------------------- properties

# No argument of a process holds a null character; bytes that are no text arrive as U+DC80 to U+DCFF.
TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF),
    max_size=12,
)
WHOLE = st.integers(-3, 10**25).map(str)
NUMBER = WHOLE | st.floats().map(str) | TEXT
VALUES = {
    "--design": st.sampled_from(["plain", "residual", "twin", "matched", "none", "plain,residual"]) | TEXT,
    **dict.fromkeys(("--depth", "--width", "--features", "--seeds", "--seed", "--jobs", "--batch"), NUMBER),
    **dict.fromkeys(("--shortcut-gain", "--branch-gain"), st.sampled_from(["1/L", "1/sqrt(L)", "zero", "0"]) | NUMBER),
    "--dtype": st.sampled_from(["float32", "float64"]) | TEXT,
    "--order": st.sampled_from(["before-add", "after-add", "pre-activation"]) | TEXT,
    "--norm": st.sampled_from(["none", "batch", "layer"]) | TEXT,
    "--init": st.sampled_from(["he", "xavier", "lecun", "torch"]) | TEXT,
    "--activation": st.sampled_from(["relu", "tanh", "linear"]) | TEXT,
    "--output": st.sampled_from(["relu", "tanh", "linear"]) | TEXT,
    "--cotangent": st.sampled_from(["gaussian", "ones"]) | TEXT,
    "--format": st.sampled_from(["table", "json", "csv"]) | TEXT,
}  # fmt: skip
GIVEN = st.lists(
    st.sampled_from(sorted(VALUES)).flatmap(lambda name: st.tuples(st.just(name), VALUES[name])), max_size=5
)
real_flow = studies.flow


def small_flow(**fields: Any) -> Readings:
    """The study, at sizes at which it takes no time; sizes that it would refuse are left as they are."""
    least = {"depth": 4, "width": 3, "features": 2, "batch": 2, "jobs": 1}
    smaller = {name: min(fields[name], most) for name, most in least.items()}
    return real_flow(**{**fields, **smaller, "seeds": fields["seeds"][:2]})


@given(st.sampled_from(["flow", "diagnose"]), GIVEN)
def test_no_value_of_an_option_gives_a_traceback(run: Callable[..., Any], command: str, given: list[tuple[str, str]]):
    with mock.patch.object(studies, "flow", small_flow):
        result = run(command, *[text for pair in given for text in pair])

    if result.code == 0:
        assert result.err == ""
        assert result.out
        if ("--format", "json") in given[-1:]:
            json.loads(result.out, parse_constant=pytest.fail)
    else:
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith("skipscope: ")
        assert result.err.count("\n") == 1


@given(st.sampled_from(["diagnose", "compare", "report"]), st.lists(TEXT, min_size=1, max_size=3))
def test_no_name_of_a_file_gives_a_traceback(run: Callable[..., Any], command: str, names: list[str]):
    if {"-h", "--help"} & set(names):
        return

    result = run(command, *names)

    assert (result.code, result.out) == (2, "")
    assert result.err.count("\n") == 1
