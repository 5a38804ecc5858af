"""How the values of shared options are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import pytest

from skipscope.cli import options
from skipscope.errors import InputError


def read(option: Callable[[Any], Any], *arguments: str) -> Any:
    """What a command is given for the one option that it has."""

    @click.command()
    @option
    def command(**given: Any) -> Any:
        (value,) = given.values()
        return value

    return command.main(list(arguments), standalone_mode=False)


@pytest.mark.parametrize(
    ("given", "depths"),
    [
        ("4,6", [4, 6]),
        ("4:10:2", [4, 6, 8, 10]),
        ("4:9:2", [4, 6, 8]),
        ("4:6", [4, 5, 6]),
        ("3,5:9:4,20", [3, 5, 9, 20]),
    ],
)
def test_depths_are_numbers_and_ranges(given: str, depths: list[int]):
    assert read(options.depths("1"), "--depths", given) == depths


def test_an_option_of_depths_is_called_by_its_name():
    with pytest.raises(InputError, match=r"--depth must be numbers such as .*; got 'many'"):
        read(options.depths("54", "--depth"), "--depth", "many")


def test_lists_are_separated_by_commas():
    assert read(options.designs("plain"), "--design", " residual,plain,") == ["residual", "plain"]
    assert read(options.gains, "--gain", "0.5, 1/L") == [0.5, "1/L"]
    assert read(options.norms) == ["none"]


def test_what_is_not_chosen_is_left_out():
    assert options.chosen(designs=("plain",), parts=()) == {"designs": ["plain"]}
