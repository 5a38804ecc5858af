"""Study `flow`: signal and gradient by depth, over seeds, for designs that can be compared.

The notebook's parts N4 to N6, with every draw shown instead of one. One input a network (the laws for one input are
exact), a Gaussian cotangent (no output is special; the notebook's ones are coherent with a ReLU output).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from skipscope.designs import DESIGNS, design
from skipscope.draws import CotangentKind
from skipscope.errors import InputError, as_list, choose
from skipscope.quantities import QUANTITIES
from skipscope.readings import Readings
from skipscope.studies.ensemble import Cell, Progress, run
from skipscope.studies.named import Specs, listed, specs_of

__all__ = ["DIAGNOSIS_QUANTITIES", "FLOW_QUANTITIES", "flow"]

FLOW_QUANTITIES = (
    "activation_rms",
    "forward_gain",
    "backward_gain",
    "weight_grad_norm",
    "branch_ratio",
    "branch_cosine",
    "shortcut_share",
    "branch_share",
    "activation_nonfinite",
    "activation_grad_nonfinite",
    "forward_growth",
    "backward_growth",
    "weight_grad_first_last",
    "parameters",
    "multiply_adds",
)
"""What `flow` measures, of `QUANTITIES`."""

DIAGNOSIS_QUANTITIES = (
    "dead",
    "dead_low",
    "dead_high",
    "samples",
    "activation_nonfinite",
    "activation_grad_nonfinite",
    "forward_growth",
    "forward_growth_low",
    "forward_growth_high",
    "backward_growth",
    "backward_growth_low",
    "backward_growth_high",
)
"""What the rules of `skipscope.diagnosis` ask for."""


def flow(
    *,
    depth: int = 28,
    width: int | None = None,
    features: int = 16,
    designs: Iterable[str] = tuple(DESIGNS),
    specs: Specs | None = None,
    seeds: Iterable[int] = range(200),
    batch: int = 1,
    cotangent: CotangentKind = "gaussian",
    quantities: Iterable[str] = FLOW_QUANTITIES,
    chunk: int | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
    **fields: Any,
) -> Readings:
    """Measure signal and gradient at every site of the designs, over seeds.

    Args:
        depth: d: weight layers of the plain network, blocks of the residual one (see `skipscope.designs`).
        width: units of the hidden layers, 36 if not given; of networks given by name the channels of their first
            stage, as they are in the paper if not given.
        features: numbers a sample has, and the network gives.
        designs: names in `skipscope.designs.DESIGNS`.
        specs: other networks in place of the designs, e.g. `["cifar-20", "cifar-20-plain"]`; of the parameters above
            width alone is theirs, and `fields` are those of `Spec.cifar` and `Spec.imagenet`.
        seeds: the seeds; every design sees the same.
        batch: samples a network; the laws drawn beside the measurement are those of one sample.
        cotangent: the output gradient.
        quantities: what to measure, names in `skipscope.QUANTITIES`.
        chunk, jobs, progress: see `skipscope.studies.ensemble.run`.
        **fields: further fields of `Spec.dense`, e.g. `order="after-add"`, `norm="layer"`, `branch_gain="1/L"`; the
            output layer is a ReLU layer unless `output="linear"`, as in the notebook.

    Raises:
        InputError: a design, a depth, a quantity or a field makes no sense.
    """
    asked = as_list(quantities)
    if not asked:
        raise InputError("quantities is empty: name at least one of skipscope.QUANTITIES.")
    measured = {name: QUANTITIES[choose("quantity", name, QUANTITIES)] for name in asked}
    if specs is None:
        shape = {
            "depth": depth,
            "width": 36 if width is None else width,
            "features": features,
            "output": "relu",
            **fields,
        }
        networks = {name: (design(name, **shape), depth) for name in listed("designs", designs, DESIGNS)}
    else:
        networks = {name: (spec, spec.depth) for name, spec in specs_of(specs, width=width, **fields).items()}
    cells = [
        Cell(
            spec=spec,
            factors={"study": "flow", "design": name, "depth": d},
            batch=batch,
            cotangent=cotangent,
            quantities=measured,
        )
        for name, (spec, d) in networks.items()
    ]
    return run(cells, seeds, chunk=chunk, jobs=jobs, progress=progress)
