"""Pipes, terminals and signals: most of these tests start a process of their own."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from skipscope import studies

SMALL = ["--seeds", "8", "--depth", "6", "--width", "8"]


def with_terminal(
    process: Callable[..., Any], *arguments: object, streams: Sequence[str], **environment: str
) -> tuple[int, bytes, bytes]:
    """Run with some streams on a pseudo-terminal: the exit code, what came through the pipes, and on the terminal."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    options: dict[str, Any] = dict.fromkeys(streams, slave)
    done = process(*arguments, env={"TERM": "xterm-256color", **environment}, **options)
    os.close(slave)
    seen: list[bytes] = []
    reader = threading.Thread(target=lambda: seen.extend(read_terminal(master)))
    reader.start()
    out, err = done.communicate()
    reader.join()
    os.close(master)
    return done.returncode, (out or b"") + (err or b""), b"".join(seen)


def read_terminal(master: int) -> Iterator[bytes]:
    try:
        while data := os.read(master, 4096):
            yield data
    except OSError:  # how Linux says that nobody writes to it any more
        return


def test_json_is_alone_on_stdout_while_progress_is_on_the_terminal(process: Callable[..., Any]):
    code, out, terminal = with_terminal(process, "flow", *SMALL, "--format", "json", streams=["stderr"])

    assert code == 0
    assert len(json.loads(out)) > 100
    assert b"networks" in terminal
    assert b"gradient flow" in terminal


def test_quiet_means_no_progress(process: Callable[..., Any]):
    code, out, terminal = with_terminal(process, "flow", *SMALL, "--format", "csv", "--quiet", streams=["stderr"])

    assert (code, terminal) == (0, b"")
    assert out.startswith(b"cell,step,site")


def test_a_terminal_gets_bold_type_unless_told_otherwise(process: Callable[..., Any]):
    arguments = ["diagnose", *SMALL, "--quiet"]

    bold = with_terminal(process, *arguments, streams=["stdout", "stderr"])
    plain = with_terminal(process, *arguments, streams=["stdout", "stderr"], NO_COLOR="1")

    assert bold[:2] == plain[:2] == (0, b"")
    assert b"\x1b[1m" in bold[2]
    assert b"\x1b" not in plain[2]


@pytest.mark.parametrize("arguments", [["flow", *SMALL], ["diagnose", *SMALL], ["--help"]], ids=lambda each: each[0])
def test_what_goes_into_a_pipe_has_no_escape_codes(process: Callable[..., Any], arguments: list[str]):
    done = process(*arguments, env={"FORCE_COLOR": "1", "TERM": "xterm-256color"})
    out, err = done.communicate()

    assert (done.returncode, err) == (0, b"")
    assert b"\x1b" not in out


def test_the_lines_of_a_pipe_are_whole(process: Callable[..., Any]):
    out, _ = process("diagnose", *SMALL, "--seeds", "20", env={"COLUMNS": "40"}).communicate()

    lines = out.decode().splitlines()
    assert len(lines) == 4 * 3 * 2
    assert max(map(len, lines)) > 200


@pytest.mark.parametrize("format_", ["json", "csv", "table"])
def test_a_reader_that_leaves_is_no_error(process: Callable[..., Any], format_: str, here: Path):
    deep = studies.flow(depth=300, width=2, designs=["plain"], seeds=range(2))
    deep.save("deep.parquet")  # as any format more than a pipe holds
    done = process("compare", "deep.parquet", "deep.parquet", "--site", "*", "--format", format_)
    assert done.stdout is not None
    assert done.stderr is not None

    line = done.stdout.readline()
    done.stdout.close()

    assert line.strip()
    assert (done.wait(), done.stderr.read()) == (0, b"")
    done.stderr.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("format_", ["json", "csv", "table"])
def test_a_full_disk_is_one_line(process: Callable[..., Any], format_: str):
    with open("/dev/full", "w") as full:
        done = process("diagnose", *SMALL, "--format", format_, stdout=full)
        _, err = done.communicate()

    assert done.returncode == 2
    assert err == b"skipscope: cannot write the output: no space left on device; write it elsewhere.\n"


def test_a_closed_stdout_is_no_error(process: Callable[..., Any]):
    done = process("flow", *SMALL, stdout=None, preexec_fn=lambda: os.close(1))
    _, err = done.communicate()

    assert (done.returncode, err) == (0, b"")


def test_an_old_terminal_is_no_error(process: Callable[..., Any]):
    arguments = ["diagnose", "--design", "residual", "--depth", "40", "--width", "8", "--seeds", "20"]
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    done, record = process(*arguments, env=ascii_only), process(*arguments, "--format", "json", env=ascii_only)
    out, err = done.communicate()
    written, _ = record.communicate()

    assert (done.returncode, err, record.returncode) == (0, b"", 0)
    assert b"? 10?" in out  # for " × 10⁵" and the like
    statements = [each["statement"] for each in json.loads(written)]
    assert re.search(" × 10[⁵⁶⁷⁸⁹]", statements[0])


# A signal from within comes at the same moment on any machine.
INTERRUPTED = """
import os, signal, sys
from skipscope import cli
from skipscope.studies import ensemble
real = ensemble.measure
def measure(cell, seeds, **options):
    if seeds[-1] >= 20:
        os.kill(os.getpid(), signal.SIGINT)
    return real(cell, seeds, **options)
ensemble.measure = measure
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["flow", "--seeds", "60", "--depth", "20", "--width", "64", "--out", "flow.parquet", "--report", "flow.html"],
        ["demo", "--seeds", "60"],
    ],
    ids=["flow", "demo"],
)
def test_interrupted(
    process: Callable[..., Any],
    tree: Callable[..., Any],
    arguments: list[str],
    here: Path,
):
    done = process(*arguments, code=["-c", INTERRUPTED])
    out, err = done.communicate()

    assert (done.returncode, out) == (130, b"")
    assert err.decode().strip() == "skipscope: interrupted; no file is half written."
    assert tree(here) == {}
