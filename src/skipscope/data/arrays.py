"""A user's arrays: what must hold of them before they are a data set, and how they are standardised.

Whatever does not fit is refused with a line that says which part it is in and where. Imports NumPy and the errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skipscope.errors import InputError, as_list, quoted, require_int, require_type

Array = NDArray[np.float64]
Standardise = Literal["feature", "whole", "none"]


def pair(part: str, given: Any) -> tuple[Any, Any]:
    """Inputs and targets, if those two were given."""
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise InputError(f"{part} must be a pair (inputs, targets); got {type(given).__name__}.")
    return given[0], given[1]


def numbers(what: str, given: Any) -> NDArray[Any]:
    """`given` as an array of real numbers."""
    try:
        array = np.asarray(given)
    except ValueError as error:  # rows of different lengths
        raise InputError(f"{what} must be an array of numbers; got rows of different lengths.") from error
    except MemoryError:
        raise InputError(f"{what} are more than memory can hold; got {quoted(given)}.") from None
    if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)):
        raise InputError(f"{what} must be real numbers; got an array of {array.dtype}. Convert it first.")
    return array


def finite(what: str, given: Any) -> NDArray[Any]:
    """`given` as an array of finite real numbers."""
    array = numbers(what, given)
    bad = ~np.isfinite(array)
    if bad.any():
        place = np.argwhere(bad)[0].tolist()
        raise InputError(f"{what} must be finite; got {array[tuple(place)]} at {place}, and {bad.sum()} such in all.")
    return array


def inputs(part: str, given: Any) -> Array:
    """Numbers of shape (b, n), or (b, height, width), in float64."""
    array = finite(f"{part} inputs", given)
    if array.ndim < 2 or array.size == 0:
        raise InputError(
            f"{part} inputs must have the shape (b, n), or (b, height, width), and not be empty; got {array.shape}."
        )
    with np.errstate(over="ignore"):
        wide = array.astype(np.float64)
    if not np.isfinite(wide).all():
        raise InputError(f"{part} inputs exceed the range of float64, in which networks are given them.")
    return wide


def targets(part: str, given: Any, samples: int) -> NDArray[Any]:
    """Labels of shape (b,) as int64, or targets of shape (b, n_out) as float64."""
    what = f"{part} targets"
    array = finite(what, given)
    labels = np.issubdtype(array.dtype, np.integer)
    if array.ndim not in ((1,) if labels else (1, 2)) or 0 in array.shape[1:]:
        shapes = "(b,), for whole numbers are labels (give floats for a regression)" if labels else "(b,) or (b, n_out)"
        raise InputError(f"{what} must have the shape {shapes}; got {array.shape}.")
    if len(array) != samples:
        raise InputError(f"{what} must be as many as {part} inputs, {samples}; got {len(array)}.")
    if labels:
        if array.min() < 0 or array.max() >= 2**31:
            raise InputError(f"{what} must be labels counted from 0; got {array.min()} to {array.max()}.")
        return array.astype(np.int64)
    return array.astype(np.float64).reshape(samples, -1)


def classes(targets: dict[str, NDArray[Any]], given: int | None) -> int | None:
    """How many classes there are, None in a regression; the parts must agree, and labels be in range."""
    train, test = targets["train"], targets["test"]
    if train.dtype != test.dtype or train.shape[1:] != test.shape[1:]:
        raise InputError(f"train and test targets must be of one kind; got {_kind(train)} and {_kind(test)}.")
    if train.ndim == 2:
        if given is not None:
            raise InputError(f"classes={given!r} needs targets that are whole numbers, from 0; got floats.")
        return None
    highest = int(train.max())
    known = highest + 1 if given is None else require_int("classes", given, least=2)
    if known < 2:
        raise InputError("train targets must be labels of at least two classes; got 0 alone.")
    for part, labels in targets.items():
        if labels.max() >= known:
            told = "" if given is not None else ", as train has them; give classes= if there are more"
            raise InputError(f"{part} targets must be labels from 0 to {known - 1}{told}; got {labels.max()}.")
    if given is None:
        absent = np.setdiff1d(np.arange(min(known, len(train) + 1)), train)
        if len(absent):
            raise InputError(
                f"train targets must have every label from 0 to {highest}; there is no {absent[0]}. Count labels from "
                f"0, or give classes={known} if it is meant to be so."
            )
    return known


def _kind(targets: NDArray[Any]) -> str:
    return "labels" if targets.ndim == 1 else f"floats, {targets.shape[1]} a sample"


def class_names(given: Sequence[str] | None, classes: int | None) -> tuple[str, ...]:
    """What the labels mean: as many texts as there are classes, the numbers where none are given."""
    if classes is None:
        if given is not None:
            raise InputError("class_names needs labels; targets are floats, and this is a regression.")
        return ()
    if given is None:
        return tuple(map(str, range(classes)))
    names = as_list(given)
    if isinstance(given, str) or len(names) != classes or not all(isinstance(each, str) for each in names):
        raise InputError(f"class_names must be {classes} texts, one a class; got {quoted(given)}.")
    return tuple(names)


def picture_shape(found: tuple[int, ...], given: Sequence[int] | None) -> tuple[int, ...] | None:
    """The shape of one sample as a picture: that of the inputs, or the one given for flat inputs."""
    if given is None:
        return found if len(found) > 1 else None
    require_type("shape", given, Sequence, "e.g. (8, 8)")
    shape = tuple(require_int("shape", each, least=1) for each in given)
    if math.prod(shape) != math.prod(found) or (len(found) > 1 and shape != found):
        raise InputError(f"shape={shape} does not fit inputs of shape (b, {listed(found)}).")
    return shape


def require_told(name: str, description: str, classes: int | None, names: tuple[str, ...]) -> None:
    """Check what a data set says of itself.

    Raises:
        InputError: it is of the wrong type, or there are not as many names as classes (or none at all).
    """
    for told, text in (("name", name), ("description", description)):
        require_type(told, text, str, "it is text")
    known = classes if classes is None else require_int("classes", classes, least=2)
    require_type("class_names", names, tuple, 'e.g. ("cat", "dog")')
    if names:
        class_names(names, known)


def listed(shape: tuple[int, ...]) -> str:
    """A shape as messages show the part of one."""
    return ", ".join(map(str, shape))


def statistics(inputs: Array, standardise: Standardise, resolution: float) -> tuple[Array, Array]:
    """What to subtract from the features and what to divide them by, each of shape (n,)."""
    features = inputs.shape[1]
    if standardise == "none":
        return np.zeros(features), np.ones(features)
    columns = inputs if standardise == "feature" else inputs.reshape(-1, 1)
    with np.errstate(all="ignore"):
        centre, spread = columns.mean(axis=0), columns.std(axis=0)
    if not (np.isfinite(centre).all() and np.isfinite(spread).all()):
        raise InputError("train inputs are too large to be standardised in float64: divide them by a constant first.")
    # The mean of equal numbers may differ from them in the last bit: a constant feature is to become 0, not that bit.
    constant = columns.min(axis=0) == columns.max(axis=0)
    centre = np.where(constant, columns[0], centre)
    spread = np.where(constant, 0.0, spread)
    scale = np.where(spread > resolution, spread, resolution or 1.0)
    return np.broadcast_to(centre, features).copy(), np.broadcast_to(scale, features).copy()


def standardised(part: str, inputs: Array, centre: Array, scale: Array) -> Array:
    """The inputs as networks are given them, if float64 can hold them."""
    with np.errstate(all="ignore"):
        standard: Array = (inputs - centre) / scale
    if not np.isfinite(standard).all():
        raise InputError(f"{part} inputs exceed the range of float64 when standardised: use standardise='none'.")
    return standard
