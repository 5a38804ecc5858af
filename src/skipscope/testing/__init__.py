"""The conformance suite: what an engine must get right, as checks that every engine can be put through.

`check_engine(build)` runs all of them over grids of small networks, dense and convolutional; each can be run on its
own. A check that fails raises an AssertionError that names what differed, with both numbers. The engine is held to
mathematics (finite differences, exact invariants), to itself (a seed gives the same bits alone and in an ensemble) and
to the engine that is written by hand. To put one's own through it, give it a function that builds a network of a
`Spec`, with the weights that `skipscope.draws` draws and the members of `CheckedNetwork`:

    from skipscope import testing

    testing.check_engine(build)                      # everything
    testing.check_engine(build, images=False)        # of an engine without convolutions
    testing.check_network(build, spec)               # one network, e.g. one that failed
    testing.check_steps(step, spec)                  # an optimizer of one's own: see `Step`

This package imports NumPy and the left half of skipscope; neither pytest nor PyTorch.
"""

from skipscope.testing.agreement import check_alone, check_inference, check_pushes, check_same, check_twin
from skipscope.testing.engine import Build, CheckedNetwork
from skipscope.testing.gradients import check_gradients
from skipscope.testing.invariants import check_invariants
from skipscope.testing.networks import (
    GRID,
    IMAGE_GRID,
    crowded_spec,
    homogeneous,
    image_specs,
    specs,
    trained_specs,
)
from skipscope.testing.recording import shown
from skipscope.testing.steps import Descent, State, Step, check_steps, step_by
from skipscope.testing.suite import check_engine, check_network, check_undisturbed

__all__ = [
    "GRID",
    "IMAGE_GRID",
    "Build",
    "CheckedNetwork",
    "Descent",
    "State",
    "Step",
    "check_alone",
    "check_engine",
    "check_gradients",
    "check_inference",
    "check_invariants",
    "check_network",
    "check_pushes",
    "check_same",
    "check_steps",
    "check_twin",
    "check_undisturbed",
    "crowded_spec",
    "homogeneous",
    "image_specs",
    "shown",
    "specs",
    "step_by",
    "trained_specs",
]
