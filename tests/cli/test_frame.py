"""The frame of the command line: help, versions and options."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from unittest import mock

import click
import pytest

import skipscope
from skipscope import cli, studies

SMALL = ["--seeds", "8", "--depth", "6", "--width", "8"]


def test_version(succeeded: Callable[..., str]):
    assert succeeded("--version") == f"skipscope {skipscope.__version__}\n"


def test_module_and_script_are_the_command_line(process: Callable[..., Any]):
    done = process("--version")
    assert done.communicate() == (f"skipscope {skipscope.__version__}\n".encode(), b"")
    assert done.returncode == 0


def test_without_a_command_there_is_help_and_code_2(run: Callable[..., Any]):
    result = run()

    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("Usage: skipscope")


SEEDS = "--seeds --seed --dtype --jobs"
RESULT = "--format --quiet"
STUDY = f"{SEEDS} --out --report --overwrite {RESULT}"
LAYERS = "--init --activation --output --bias"
DENSE = f"--width --features --order --norm {LAYERS} --shortcut-gain --branch-gain --cotangent --batch"
OPTIONS = {
    "demo": f"--preset {SEEDS} --out --folder --overwrite --quiet",
    "flow": f"--input --input-dtype --high --loss --sites --spec --size --design --depth {DENSE} {STUDY}",
    "sweep": f"--input --input-dtype --high --loss --twin --depths --spec --size --design {DENSE} --sites --folder "
    f"{STUDY}",
    "highway": f"--depth --spec --size --width --features --design --order --gain --norm {LAYERS} --cotangent --batch "
    f"{STUDY}",
    "propagation": f"--depths --design --width --size --batch --init --cotangent --full --folder {STUDY}",
    "jacobian": f"--depths --width --design --part --blocks {LAYERS} --batch {STUDY}",
    "correlation": f"--depths --width --design --cosine --independent {LAYERS} --batch {STUDY}",
    "degradation": f"--data --depths --width --design --norms --order --steps --batch --rate --schedule --tuning "
    f"--record --folder {STUDY}",
    "identity": f"--scales --depths --width --design --rates --steps --batch --only --folder {STUDY}",
    "representation": f"--design --depth --width --data --order --norm --steps --rate --batch --folder {STUDY}",
    "lesion": "--input --input-dtype --high --loss --batches --at --spec --design --depth --width --data --order "
    f"--norm --steps --rate --batch --deleted --swapped --draws --folder {STUDY}",
    "responses": "--weights --spec --width --order --data --data-folder --batch --steps --rate --train-batch "
    f"--folder {STUDY}",
    "evaluate": "--weights --spec --width --data --data-folder --part --validation --seed --normalise --mean --std "
    f"--engine --device --dtype --check --batch --jobs --out --overwrite {RESULT}",
    "train": "--spec --width --data --data-folder --train-images --test-images --validation --normalise --augment "
    "--engine --steps --batch --rate --record --checkpoint --every --save --device --channels-last --autocast "
    f"--compile {STUDY}",
    "networks": "--format",
    "twin": f"--input --input-dtype --high --loss --sites --batch --batches --steps --rate {STUDY}",
    "theory": f"--design --depth {DENSE} {RESULT}",
    "diagnose": f"--design --depth {DENSE} {SEEDS} {RESULT}",
    "compare": f"--quantity --site {RESULT}",
    "report": "--out --title --overwrite --quiet",
}


@pytest.mark.parametrize("command", OPTIONS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_has_every_option(succeeded: Callable[..., str], command: str, flag: str):
    text = succeeded(command, flag)

    assert set(re.findall(r"^  (?:-h, )?(--[a-z-]+)", text, flags=re.MULTILINE)) == {
        *OPTIONS[command].split(),
        "--help",
    }
    assert text.startswith(f"Usage: skipscope {command}")


def test_every_option_says_what_it_is():
    for command in cli.cli.commands.values():
        assert command.help
        for parameter in command.params:
            assert isinstance(parameter, click.Argument) or getattr(parameter, "help", None), parameter.name


def test_help_lists_every_command(succeeded: Callable[..., str]):
    text = succeeded("--help")

    assert set(OPTIONS) == set(cli.cli.commands)
    assert len(cli.VERBS) == len(cli.cli.commands)
    for command in cli.cli.commands:
        assert re.search(rf"^  {command} ", text, flags=re.MULTILINE)


@pytest.mark.parametrize("columns", ["60", "80", "200"])
def test_help_lists_commands_in_the_order_of_use_with_whole_sentences(process: Callable[..., Any], columns: str):
    text = process("--help", env={"COLUMNS": columns}).communicate()[0].decode()
    listed = text.partition("Commands:\n")[2]

    assert re.findall(r"^  (\w+) ", listed, flags=re.MULTILINE) == [verb.name for verb in cli.VERBS]
    assert "..." not in listed
    for sentence in re.split(r"^  \w+ +", listed, flags=re.MULTILINE)[1:]:
        assert sentence.count("(") == sentence.count(")"), sentence
        assert sentence.rstrip().endswith((".", "?")), sentence


def test_every_option_of_the_network_reaches_the_study(run: Callable[..., Any]):
    with mock.patch.object(studies, "flow", side_effect=KeyboardInterrupt) as flow:
        given = {
            "depth": 6, "width": 8, "features": 4, "batch": 3, "jobs": 2, "dtype": "float32", "order": "after-add",
            "norm": "layer", "init": "xavier", "activation": "tanh", "output": "linear", "cotangent": "ones",
            "shortcut_gain": 0.5, "branch_gain": "1/L",
        }  # fmt: skip
        options = [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", value)]
        run("flow", "--design", "residual", "--design", "plain", "--seeds", "5", "--seed", "7", "--bias", *options)

    expected = {**given, "designs": ["residual", "plain"], "seeds": range(7, 12), "bias": True, "progress": None}
    assert flow.call_args.kwargs == expected
