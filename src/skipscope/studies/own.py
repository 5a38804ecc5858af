"""Studies that take a model of one's own as well: who gives one is handed on to `skipscope.torch_studies`.

The studies of this package's networks take names and numbers by keyword; a model is given first, by its place, as it is
to `skipscope.probe`. So what is there says which is meant, and PyTorch is imported only where there is a model.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, overload

from skipscope.errors import InputError
from skipscope.readings import Readings

__all__ = ["Study", "of_models", "twin"]

P = ParamSpec("P")


class Study(Protocol[P]):
    """A study of designs, by keywords; or of a model, given first."""

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Readings: ...
    @overload
    def __call__(self, model: Any, /, *batches: Any, **asked: Any) -> Readings: ...


def of_models(study: Callable[P, Readings]) -> Study[P]:
    """A study whose keywords are those of designs, which takes a model first as well.

    Raises:
        InputError: a model is given, and PyTorch is not installed.
    """
    designs: Any = study

    @functools.wraps(study)
    def either(*given: Any, **asked: Any) -> Readings:
        return _of_a_model(study.__name__, given, asked) if given else designs(**asked)

    return either


def twin(model: Any, batches: Any, **asked: Any) -> Readings:
    """Measure a model of one's own with and without its shortcuts; see `skipscope.torch_studies.twin`.

    The networks of this package have their twins as a design: `studies.flow(designs=["residual", "twin"])`.

    Raises:
        InputError: PyTorch is not installed, or something cannot be used.
    """
    return _of_a_model("twin", (model, batches), asked)


def _of_a_model(name: str, given: tuple[Any, ...], asked: dict[str, Any]) -> Readings:
    if importlib.util.find_spec("torch") is None:
        raise InputError(f"studies.{name} of a model needs PyTorch: pip install 'skipscope[torch]'.")
    study = getattr(importlib.import_module("skipscope.torch_studies"), name)
    try:
        bound = inspect.signature(study).bind(*given, **asked)
    except TypeError as error:
        raise InputError(f"studies.{name} of a model: {error}; see skipscope.torch_studies.{name}.") from None
    found: Readings = study(*bound.args, **bound.kwargs)
    return found
