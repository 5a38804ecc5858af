"""What can go wrong through no fault of the program, and how it is said.

Everything that a user can mend is an `InputError`: one line that names the parameter, the value and what to
do. The command line prints that line and exits with 2; anything else that is raised is a bug of ours. This module
imports nothing of the package, so that every other module can import it.
"""

from __future__ import annotations

import difflib
import inspect
import math
import numbers
import operator
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

__all__ = [
    "InputError",
    "as_list",
    "choose",
    "one_line",
    "quoted",
    "require_function",
    "require_int",
    "require_number",
    "require_type",
]

_LARGEST = 2**63 - 1  # what a column of readings can hold
_MOST = 1_000_000  # values in a list that somebody gave


class InputError(ValueError):
    """A value that the user gave cannot be used; the message says which, why, and what to do instead.

    The message is one line, whatever is quoted in it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(message: str, most: int = 1000) -> str:
    """The message in one line of at most so many characters, cut in its middle: name and remedy are at its ends."""
    line = " ".join(message.splitlines())
    half = (most - 5) // 2
    return line if len(line) <= most else f"{line[:half]} ... {line[-half:]}"


def quoted(value: object, most: int = 80) -> str:
    """A value as messages show it: as Python writes it, if that is short."""
    try:
        text = repr(value)
    except Exception:  # a number of more digits than Python writes, or an object whose own `repr` fails
        text = f"<{type(value).__name__}>"
    text = " ".join(text.split()) if "\n" in text else text  # arrays and tables are written in several lines
    return text if len(text) <= most else f"{text[: most - 3]}..."


def as_list(value: Any) -> list[Any]:
    """One value or several, as a list; text is one value, and so is whatever does not consist of others.

    Raises:
        InputError: there are so many that listing them would take all memory.
    """
    if isinstance(value, str | bytes):
        return [value]
    try:
        values = iter(value)
    except TypeError:
        return [value]
    listed = list(islice(values, _MOST + 1))
    if len(listed) > _MOST:
        raise InputError(f"{quoted(value)} are more than {_MOST:,} values: give fewer.")
    return listed


def choose(parameter: str, value: object, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`.

    Raises:
        InputError: it is not; the message lists the choices and the nearest of them.
    """
    known = list(choices)
    if isinstance(value, str) and value in known:
        return value
    text = value[:80] if isinstance(value, str) else quoted(value)  # to compare long texts takes long
    near = difflib.get_close_matches(text, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InputError(f"{parameter} must be one of {', '.join(map(repr, known))}; got {quoted(value)}.{hint}")


def require_function(parameter: str, value: object, given: Sequence[str], example: str, *, makes: bool = False) -> None:
    """Check that `value` is a function of so many arguments, as far as its signature tells.

    It is not called here, so that whatever it raises by itself stays what it is.

    Args:
        parameter: its name, for the message.
        value: what was given as the function.
        given: names of the arguments that it will get, by their places.
        example: such a function, for the message.
        makes: whether it is to make an object, so that a class will do.

    Raises:
        InputError: it cannot be called so.
    """
    wanted = f"{parameter} must be a function of ({', '.join(given)}), e.g. {example}"
    if isinstance(value, type) and not makes:
        raise InputError(f"{wanted}; got the class {value.__name__}, which makes an object in place of an answer.")
    if not callable(value):
        raise InputError(f"{wanted}; got {quoted(value)}.")
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # of some built-in functions nothing is known
        return
    try:
        signature.bind(*given)
    except TypeError as error:
        name = getattr(value, "__qualname__", type(value).__name__)
        raise InputError(f"{wanted}; got {one_line(f'{name}{signature}', 80)}: {error}.") from None


def require_int(parameter: str, value: Any, *, least: int) -> int:
    """Return `value` if it is a whole number (not a bool) of at least `least`, and of 64 bits.

    Raises:
        InputError: it is not.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise InputError(f"{parameter} must be a whole number of at least {least}; got {quoted(value)}.")
    if number < least:
        raise InputError(f"{parameter} must be at least {least}; got {quoted(number)}.")
    if number > _LARGEST:
        raise InputError(f"{parameter} must be below 2^63, for readings keep it in 64 bits; got {quoted(number)}.")
    return number


def require_number(parameter: str, value: object) -> float:
    """Return `value` as a float if it is a finite real number.

    Raises:
        InputError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InputError(f"{parameter} must be a number; got {quoted(value)}.")
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond the range of floats
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{parameter} must be a finite number; got {quoted(value)}.")
    return number


def require_type(parameter: str, value: object, kind: type, hint: str) -> None:
    """Check that `value` is a `kind`; `hint` says how one comes by it.

    Raises:
        InputError: it is not.
    """
    if not isinstance(value, kind):
        raise InputError(f"{parameter} must be a {kind.__name__}: {hint}; got {type(value).__name__}.")
