"""What is asked of a function that somebody gives, before anything is run with it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from skipscope.errors import InputError, require_function


class Scale:
    """An object that can be called, and whose class can be called with as many arguments."""

    def __init__(self, x: Any = 1, y: Any = 1) -> None:
        self.by = x

    def __call__(self, x: Any, y: Any) -> Any:
        return self.by

    def method(self, x: Any, y: Any = 0, *, z: Any = 0) -> Any:
        return x


def asked(function: object, **more: Any) -> None:
    require_function("mine", function, ("x", "y"), "lambda x, y: 0", **more)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: 0,
        lambda *given: 0,
        lambda x, y, z=0: 0,
        functools.partial(lambda x, y, z: 0, z=1),
        Scale(),
        Scale().method,
        mock.Mock(),
        min,  # has no signature
        dict.get,
    ],
)
def test_whatever_can_be_called_so_is_taken(function: Callable[..., Any]):
    asked(function)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("ce", "got 'ce'."),
        (3, "got 3."),
        (None, "got None."),
        (lambda x: 0, "got <lambda>(x): too many positional arguments."),
        (lambda x, y, z: 0, "got <lambda>(x, y, z): missing a required argument: 'z'."),
        (lambda x, y, *, z: 0, "got <lambda>(x, y, *, z): missing a required argument: 'z'."),
        (functools.partial(lambda x, y: 0, y=1), "got partial(x, *, y=1): too many positional arguments."),
        (Scale, "got the class Scale, which makes an object in place of an answer."),
    ],
)
def test_whatever_cannot_is_refused_in_a_line(function: Any, words: str):
    with pytest.raises(InputError) as caught:
        asked(function)

    assert (
        str(caught.value) == f"mine must be a function of (x, y), e.g. lambda x, y: 0; got {words.removeprefix('got ')}"
    )


def test_a_class_makes_an_object():
    asked(Scale, makes=True)
    with pytest.raises(InputError, match="too many positional arguments"):
        asked(type("One", (), {"__init__": lambda self, x: None}), makes=True)


def test_a_function_is_not_called_to_find_out():
    function = mock.Mock(side_effect=AssertionError)
    asked(function)

    function.assert_not_called()


def test_a_long_signature_is_cut():
    def function(x: int = 0, **options: tuple[int, int, int, int, int, int, int, int, int, int, int, int, int]) -> None:
        pass

    with pytest.raises(InputError) as caught:
        asked(function)

    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)
