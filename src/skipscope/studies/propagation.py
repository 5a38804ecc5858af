"""Study `propagation`: signal and gradient through the paper's networks at initialisation, layer by layer.

The paper (section 4.1) says that vanishing gradients are unlikely to be what makes deep plain networks hard to train:
with batch normalisation forward signals have a variance and gradients "healthy norms". It gives no numbers. Here the
networks of its section 4.2 are measured, plain and residual, with and without the normalisation, with its three
options for shortcuts and, beside them, in pre-activation order; as they are drawn, before any training.

Samples are Gaussian noise of RMS 1, for which there are laws (`skipscope.theory.images`); normalisation needs a batch,
and its size is part of the result. What the readings say is in `skipscope.propagation`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from skipscope.draws import CotangentKind
from skipscope.errors import InputError
from skipscope.quantities import QUANTITIES
from skipscope.readings import Readings
from skipscope.spec import Spec
from skipscope.studies.ensemble import Cell, Progress, run
from skipscope.studies.named import listed, listed_depths

__all__ = [
    "PROPAGATION_DEPTHS",
    "PROPAGATION_DESIGNS",
    "PROPAGATION_FULL",
    "PROPAGATION_QUANTITIES",
    "propagation",
]

PROPAGATION_DEPTHS = (20, 56, 110)
"""Of the paper's depths the shallowest, and the two of which the plain networks train worse than it."""

PROPAGATION_DESIGNS: dict[str, Mapping[str, Any]] = {
    "plain, batch norm": {"shortcut": "none"},
    "option A, batch norm": {"shortcut": "A"},
    "option B, batch norm": {"shortcut": "B"},
    "option C, batch norm": {"shortcut": "C"},
    "pre-activation, batch norm": {"shortcut": "A", "order": "pre-activation"},
    "plain": {"shortcut": "none", "norm": "none"},
    "option A": {"shortcut": "A", "norm": "none"},
    "pre-activation": {"shortcut": "A", "order": "pre-activation", "norm": "none"},
}
"""By name: fields of `Spec.cifar`. The first two are the paper's (section 4.2); pre-activation is with option A."""

PROPAGATION_FULL: dict[str, Any] = {"depths": (20, 32, 44, 56, 110), "width": 16, "size": 32, "batch": 128}
"""The paper's own width, images and batch. 20 seeds of all designs take hours on two cores: keep them in a folder."""

PROPAGATION_QUANTITIES = (
    "activation_rms",
    "forward_gain",
    "backward_gain",
    "weight_grad_norm",
    "activation_nonfinite",
    "activation_grad_nonfinite",
    "forward_growth",
    "backward_growth",
    "weight_grad_first_last",
    "parameters",
)
"""What `propagation` measures, of `QUANTITIES`."""


def propagation(
    *,
    depths: int | Iterable[int] = PROPAGATION_DEPTHS,
    designs: Iterable[str] = tuple(PROPAGATION_DESIGNS),
    width: int = 8,
    size: int = 16,
    batch: int = 8,
    seeds: Iterable[int] = range(20),
    cotangent: CotangentKind = "gaussian",
    folder: str | os.PathLike[str] | None = None,
    chunk: int | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
    **fields: Any,
) -> Readings:
    """Measure signal and gradient at every site of the paper's CIFAR networks, over seeds.

    By default they are half as wide as the paper's, on images half as high, so that it takes less than a minute; see
    `PROPAGATION_FULL`. 1202 layers of width 8 on images of size 8 take 2 seconds a network, and half a GB of memory.

    Args:
        depths: weight layers, 6n + 2, one or several.
        designs: names in `PROPAGATION_DESIGNS`.
        width: channels of the first stage, 16 in the paper; the others have twice and four times as many.
        size: height and width of the images, 32 in the paper.
        batch: samples a network, over which batch normalisation takes its statistics; 128 in the paper.
        seeds: the seeds; every network sees the same.
        cotangent: the output gradient.
        folder: keeps what is measured, so that the same call goes on where it was stopped; see `skipscope.runs`.
        chunk, jobs, progress: see `skipscope.studies.ensemble.run`.
        **fields: further fields of `Spec.cifar`, e.g. `channels=1`, `init="lecun"`, `dtype="float64"`.

    Raises:
        InputError: a design, a depth or a field makes no sense, or the folder holds something else.
    """
    names = listed("designs", designs, PROPAGATION_DESIGNS)
    for field in fields.keys() & {"shortcut", "order", "norm"}:
        raise InputError(f"{field} is what the designs differ in: choose designs instead.")
    cells = [
        Cell(
            spec=Spec.cifar(depth, width=width, size=size, **PROPAGATION_DESIGNS[name], **fields),
            factors={"study": "propagation", "design": name, "depth": depth},
            batch=batch,
            cotangent=cotangent,
            quantities={each: QUANTITIES[each] for each in PROPAGATION_QUANTITIES},
        )
        for depth in listed_depths(depths)
        for name in names
    ]
    return run(cells, seeds, chunk=chunk, jobs=jobs, progress=progress, folder=folder)
