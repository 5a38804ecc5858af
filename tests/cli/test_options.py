"""How the values of shared options are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import pytest

from skipscope.cli import options
from skipscope.errors import InputError
from skipscope.studies import IDENTITY_DESIGNS
from skipscope.studies.named import NAMED_DESIGNS


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
    assert read(options.gains, "--gain", "0.5, 1/L") == [0.5, "1/L"]
    assert read(options.norms) == ["none"]


def test_a_design_is_given_once_for_each():
    for option in (options.designs("plain"), options.designs()):
        assert read(option, "--design", "residual", "--design", "plain") == ["residual", "plain"]
    assert read(options.designs("plain", "twin")) == ["plain", "twin"]
    assert read(options.designs()) == []


@pytest.mark.parametrize("name", [*NAMED_DESIGNS, *IDENTITY_DESIGNS])
def test_names_of_designs_may_have_commas(name: str):
    assert read(options.designs(), "--design", name, "--design", "plain") == [name, "plain"]


@pytest.mark.parametrize("given", ["plain,residual", "residual, twin", "plain,", ",", "residual, layer norm, plain"])
def test_designs_with_commas_between_them_are_refused(given: str):
    for option in (options.designs("plain"), options.designs()):
        with pytest.raises(InputError) as refusal:
            read(option, "--design", given)
        assert str(refusal.value) == (
            f"--design is one design, given once for each and not with commas; got {given!r}. Write e.g. "
            "--design plain --design residual."
        )


def test_what_is_not_chosen_is_left_out():
    assert options.chosen(designs=("plain",), parts=()) == {"designs": ["plain"]}
