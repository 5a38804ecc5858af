"""Study `sweep`: depths x seeds x designs, the notebook's depth scaling (its part N9) over many draws.

Every depth of a seed shares its draw (a shallow network is the beginning of a deep one), so that a trend over depth is
a trend of networks and not of draws; hence also the unit that is resampled is the seed (see `skipscope.trends`, which
says what a sweep shows). By default a network gives a handful of numbers: growth a block, the gain of the whole network
either way, and the notebook's ratio. With `sites=True` every site gives its own too; they are many, so they go to the
parts of a folder and are never all held.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

import polars as pl

from skipscope.designs import DESIGNS, design
from skipscope.draws import CotangentKind
from skipscope.errors import InputError, quoted
from skipscope.protocol import Site
from skipscope.quantities import QUANTITIES, Quantity
from skipscope.readings import Readings
from skipscope.studies.ensemble import Cell, Progress, run
from skipscope.studies.named import Specs, family_of, listed, listed_depths, specs_of
from skipscope.studies.own import of_models

__all__ = ["SITE_QUANTITIES", "SWEEP_DEPTHS", "SWEEP_QUANTITIES", "sweep"]

SWEEP_DEPTHS = (5, 10, 20, 30, 40)
"""The notebook's depths."""

SWEEP_QUANTITIES = (
    "forward_growth",
    "backward_growth",
    "forward_gain",
    "backward_gain",
    "weight_grad_first_last",
    "parameters",
)
"""What `sweep` measures of a network, of `QUANTITIES`: `forward_gain` at `head`, `backward_gain` at `input`, the others
at `network`."""

SITE_QUANTITIES = (
    "activation_rms",
    "forward_gain",
    "backward_gain",
    "weight_grad_norm",
    "branch_ratio",
    "shortcut_share",
    "branch_share",
    "activation_nonfinite",
    "activation_grad_nonfinite",
)
"""What `sweep` measures of every site with `sites=True`."""

_FAR_END = {"forward_gain": "head", "backward_gain": "input"}  # where a gain is that of the whole network
_ENDS = ("network", *_FAR_END.values())


@of_models
def sweep(
    *,
    depths: int | Iterable[int] = SWEEP_DEPTHS,
    designs: Iterable[str] = ("plain", "residual"),
    specs: Specs | None = None,
    width: int | None = None,
    features: int = 16,
    seeds: Iterable[int] = range(200),
    batch: int = 1,
    cotangent: CotangentKind = "gaussian",
    sites: bool = False,
    folder: str | os.PathLike[str] | None = None,
    chunk: int | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
    **fields: Any,
) -> Readings:
    """Measure designs at several depths, over seeds.

    Args:
        depths: d, one or several (see `skipscope.designs`); a trend needs two at least.
        designs: names in `skipscope.designs.DESIGNS`.
        specs: other networks in place of the designs, e.g. `["cifar-20", "cifar-32"]`, which are one design, `"cifar"`,
            at two depths; depths, designs and features are not theirs, and `fields` are those of `Spec.cifar`
            and `Spec.imagenet`.
        width: units of the hidden layers, 36 if not given; of networks given by name the channels of their first
            stage, as they are in the paper if not given.
        features: numbers a sample has, and the network gives.
        seeds: the seeds; every design and depth sees the same.
        batch: samples a network; the laws drawn beside the measurement are those of one sample.
        cotangent: the output gradient; the notebook's is `"ones"`.
        sites: also measure every site; its readings stay in the parts of the folder (`skipscope.runs.scan` reads them).
        folder: keeps what is measured, so that the same call goes on where it was stopped; see `skipscope.runs`.
        chunk, jobs, progress: see `skipscope.studies.ensemble.run`.
        **fields: further fields of `Spec.dense`; the output layer is a ReLU layer unless `output="linear"`, as in the
            notebook.

    Returns:
        The readings of whole networks, `SWEEP_QUANTITIES`, with or without `sites`.

    Raises:
        InputError: a depth, a design, a seed or a field makes no sense, `sites` has no folder, or the folder holds
            something else.

    `sweep(make_model, batch=x, depths=...)` measures models that `make_model(depth, seed)` gives: see
    `skipscope.torch_studies.sweep`.
    """
    if not isinstance(sites, bool):
        raise InputError(f"sites must be True or False; got {quoted(sites)}.")
    if sites and folder is None:
        raise InputError("sites=True needs a folder, as site-level readings are too many to hold: give folder='...'.")
    if specs is None:
        shape = {"width": 36 if width is None else width, "features": features, "output": "relu", **fields}
        names = listed("designs", designs, DESIGNS)
        networks = [(name, d, design(name, depth=d, **shape)) for d in listed_depths(depths) for name in names]
    else:
        networks = [
            (family_of(name), spec.depth, spec) for name, spec in specs_of(specs, width=width, **fields).items()
        ]
    cells = [
        Cell(
            spec=spec,
            factors={"study": "sweep", "design": name, "depth": depth},
            batch=batch,
            cotangent=cotangent,
            quantities=_quantities(sites),
            sites=None if sites else _ENDS,
        )
        for name, depth, spec in networks
    ]
    keep = _of_networks if sites else None
    return run(cells, seeds, chunk=chunk, jobs=jobs, progress=progress, folder=folder, keep=keep)


def _quantities(sites: bool) -> dict[str, Quantity]:
    asked = dict.fromkeys((*SWEEP_QUANTITIES, *SITE_QUANTITIES) if sites else SWEEP_QUANTITIES)
    found = {name: QUANTITIES[name] for name in asked}
    if not sites:
        for name, where in (("forward_gain", _at_head), ("backward_gain", _at_input)):
            found[name] = dataclasses.replace(found[name], where=where)
    return found


def _at_head(site: Site) -> bool:
    return site.site == _FAR_END["forward_gain"]


def _at_input(site: Site) -> bool:
    return site.site == _FAR_END["backward_gain"]


def _of_networks(part: Readings) -> Readings:
    """What a sweep without `sites` would have measured."""
    at_end = pl.col("site") == pl.col("quantity").replace_strict(_FAR_END, default=None, return_dtype=pl.String)
    whole = (pl.col("site") == "network") | at_end
    rows = part.rows.filter(whole & pl.col("quantity").is_in(SWEEP_QUANTITIES))
    sites = part.sites.filter(pl.col("site").is_in(_ENDS))
    found = rows.select("cell", "site").unique().with_columns(found=True)
    known = sites.join(found, on=["cell", "site"], how="left", maintain_order="left")
    status = pl.when(pl.col("found").is_null()).then(pl.lit("undefined")).otherwise(pl.col("status")).alias("status")
    return Readings(rows=rows, cells=part.cells, sites=known.with_columns(status).drop("found"), meta=part.meta)
