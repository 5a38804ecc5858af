"""What can go wrong through no fault of the program, and how it is said.

Everything that a user can mend is an `InputError`: one line that names the parameter, the value and what to
do. The command line prints that line and exits with 2; anything else that is raised is a bug of ours. This module
imports nothing of the package, so that every other module can import it.
"""

from __future__ import annotations

import difflib
import math
import numbers
import operator
from collections.abc import Iterable
from typing import Any

__all__ = ["InputError", "choose", "require_int", "require_number", "require_type"]


class InputError(ValueError):
    """A value that the user gave cannot be used; the message says which, why, and what to do instead."""


def choose(parameter: str, value: object, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`.

    Raises:
        InputError: it is not; the message lists the choices and the nearest of them.
    """
    known = list(choices)
    if isinstance(value, str) and value in known:
        return value
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InputError(f"{parameter} must be one of {', '.join(map(repr, known))}; got {value!r}.{hint}")


def require_int(parameter: str, value: Any, *, least: int) -> int:
    """Return `value` if it is a whole number (not a bool) of at least `least`.

    Raises:
        InputError: it is not.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise InputError(f"{parameter} must be a whole number of at least {least}; got {value!r}.")
    if number < least:
        raise InputError(f"{parameter} must be at least {least}; got {number}.")
    return number


def require_number(parameter: str, value: object) -> float:
    """Return `value` as a float if it is a finite real number.

    Raises:
        InputError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InputError(f"{parameter} must be a number; got {value!r}.")
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond the range of floats
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{parameter} must be a finite number; got {value!r}.")
    return number


def require_type(parameter: str, value: object, kind: type, hint: str) -> None:
    """Check that `value` is a `kind`; `hint` says how one comes by it.

    Raises:
        InputError: it is not.
    """
    if not isinstance(value, kind):
        raise InputError(f"{parameter} must be a {kind.__name__}: {hint}; got {type(value).__name__}.")
