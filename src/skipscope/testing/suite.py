"""All checks at once, on one network or on a grid of them.

Imports the checks, the networks, the NumPy engine, the spec and NumPy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from skipscope.engines import numpy_engine
from skipscope.spec import Spec
from skipscope.testing.agreement import check_alone, check_inference, check_pushes, check_same, check_twin
from skipscope.testing.engine import Build
from skipscope.testing.gradients import check_gradients
from skipscope.testing.invariants import check_invariants
from skipscope.testing.networks import crowded_spec, homogeneous, image_specs, specs, trained_specs
from skipscope.testing.recording import shown
from skipscope.testing.steps import check_steps, step_by

__all__ = ["check_engine", "check_network", "check_undisturbed"]

_CROWD = 33  # images: an odd number, and more than the NumPy engine works on together
_SINGLE = 1e-5  # of the norm, in float32: numbers are 6e-8 apart, and twenty layers come to 2e-6


def check_engine(build: Build, *, together: int = 3, images: bool = True) -> None:
    """Put an engine through all checks, on the networks of `specs(together)` and `image_specs(together)`.

    Args:
        build: what builds its networks, as `skipscope.build` does, in the precision that their spec says.
        together: thins the grids; all of them take the NumPy engine minutes, 3 some seconds.
        images: whether the engine has convolutional networks too.
    """
    for spec in (*specs(together), *(image_specs(together) if images else ())):
        check_network(build, spec)
    if images:
        check_network(build, crowded_spec(), seeds=(3, 1), samples=_CROWD)
    for spec in trained_specs():
        if images or not spec.images:
            with _about(spec):
                check_steps(step_by(build), spec)
                _check_single(build, spec)


def check_network(build: Build, spec: Spec, *, seeds: Sequence[int] = (3, 1, 2), samples: int = 5) -> None:
    """Put an engine through all checks, but that of training, on one network.

    Args:
        build: what builds the network.
        spec: of the network, in float64.
        seeds: of the ensemble.
        samples: of the batch.

    Raises:
        AssertionError: what differed, with both numbers, and the network.
    """
    inputs, loss = shown(spec, seeds, samples)
    with _about(spec):
        network, reference = build(spec, seed=seeds), numpy_engine.build(spec, seed=seeds)
        check_pushes(network, inputs, loss)
        check_same(network, reference, inputs, loss)
        if network.running:
            check_inference(network, reference, inputs, loss)
        check_gradients(network, inputs, loss)
        if homogeneous(spec):
            check_invariants(network, inputs, loss.v)
            fewest = 2 if spec.coupled else 1
            check_invariants(build(spec, seed=seeds[0]), inputs[:1, :fewest], loss.v[:1, :fewest])
        check_alone(build, spec, seeds, samples=samples)
        if _has_twin(spec):
            check_twin(build, spec, seeds, samples=samples)


def _check_single(build: Build, spec: Spec) -> None:
    """Both engines are the same in float32, to its precision."""
    single = dataclasses.replace(spec, dtype="float32")
    inputs, loss = shown(single, (3, 1))
    check_same(build(single, seed=(3, 1)), numpy_engine.build(single, seed=(3, 1)), inputs, loss, tolerance=_SINGLE)


@contextmanager
def _about(spec: Spec) -> Iterator[None]:
    """Names the network in whatever fails."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{error} The network: {spec.to_json()}") from error


def _has_twin(spec: Spec) -> bool:
    """Whether it is residual throughout, and its twin does not output 0 alone."""
    return bool(spec.stages) and not any(stage.plain or stage.gains.silent for stage in spec.stages)


# ------------------------------------------------------------------------------------------ on a model of one's own


def check_undisturbed(model: Any, batch: Any, *, loss: Callable[[Any, Any], Any] | None = None, seed: int = 0) -> None:
    """A `torch.nn.Module` trains bit for bit as it does without the scope; see `skipscope.torch.checking`."""
    from skipscope.torch import checking  # whoever has such a model has PyTorch

    checking.check_undisturbed(model, batch, loss=loss, seed=seed)
