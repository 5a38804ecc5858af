"""Study `highway`: by which way the gradient comes back, through the shortcuts or through the branches.

Shortcuts are said to be a highway for gradients, and residual networks to be an ensemble in which the short paths
carry the gradient. Both can be measured. At every junction: the shares of the gradient that came through the shortcut
and through the branch. Over the whole body: how much of it came through k branches, for every k (see
`skipscope.engines.paths`).

In the readings a set of paths is a site: `paths.27` are all the paths through 27 branches, and `path_weight` there is
their share. (A length is neither a call of a site nor part of what a quantity means.) The sites are of the kind
`network`, for a path runs through all of it.

Source of the count: Veit, Wilber & Belongie 2016, arXiv:1605.06431. The law of the lengths, what is
computed from the readings and the verdicts are in `skipscope.paths`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from skipscope.designs import design
from skipscope.draws import CotangentKind
from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.engines.paths import path_gradients, path_moments, path_weights
from skipscope.errors import InputError, as_list, quoted
from skipscope.probe import Measured
from skipscope.protocol import Loss, Site
from skipscope.quantities import QUANTITIES
from skipscope.readings import Readings
from skipscope.spec import GainRule, Norm, Order, Spec
from skipscope.studies.ensemble import Cell, Progress, run
from skipscope.studies.named import Specs, specs_of

__all__ = ["HIGHWAY_QUANTITIES", "highway"]

HIGHWAY_QUANTITIES = ("shortcut_share", "branch_share", "backward_growth")
"""What `highway` measures of `QUANTITIES`; `path_weight`, `path_length_mean` and `path_length_sd` are its own."""


def highway(
    *,
    depth: int | Iterable[int] = 54,
    width: int | None = None,
    features: int = 16,
    designs: Iterable[str] = ("residual",),
    specs: Specs | None = None,
    orders: Iterable[Order] = ("before-add", "after-add", "pre-activation"),
    gains: Iterable[float | GainRule] = (1.0, "1/sqrt(L)"),
    norms: Iterable[Norm] = ("none",),
    seeds: Iterable[int] = range(200),
    batch: int = 1,
    cotangent: CotangentKind = "gaussian",
    chunk: int | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
    **fields: Any,
) -> Readings:
    """Measure shares at every junction and the lengths of the gradient's paths, over seeds.

    Every design is measured in every order, with every branch gain and every norm.

    Args:
        depth: d, one or several (see `skipscope.designs`); the residual design has d blocks. 54 are those of the
            paper's network of 110 layers.
        width: units of the hidden layers, 36 if not given; of networks given by name the channels of their first
            stage, as they are in the paper if not given.
        features: numbers a sample has, and the network gives.
        designs: names in `skipscope.designs.DESIGNS`.
        specs: other networks in place of the designs, e.g. `["cifar-20", "cifar-20-B"]`; depth, features,
            designs, orders, gains and norms are not theirs, and `fields` are those of `Spec.cifar` and `Spec.imagenet`.
        orders: where the activation stands: see `skipscope.spec`.
        gains: gains of the branch.
        norms: normalisations; `"batch"` needs a batch of 2 at least.
        seeds: the seeds; every cell sees the same.
        batch: samples a network.
        cotangent: the output gradient.
        chunk, jobs, progress: see `skipscope.studies.ensemble.run`.
        **fields: further fields of `Spec.dense`, e.g. `layers=1` for a design of your own, `activation="linear"`.

    Returns:
        Readings with the factor `order`: `shortcut_share` and `branch_share` at the junctions, `path_weight` at the
        sites `paths.0`, `paths.1`, ..., and `path_length_mean`, `path_length_sd` (in branches passed) and
        `backward_growth` at `network`. Where no gradient arrives there are none.

    Raises:
        InputError: a design, a depth, an order, a gain, a norm or a field makes no sense.
    """
    if specs is not None:
        named = [
            (spec, {"design": name, "depth": spec.depth, "order": spec.stages[-1].order if spec.stages else ""})
            for name, spec in specs_of(specs, width=width, **fields).items()
        ]
        cells = [_cell(spec, factors, batch, cotangent) for spec, factors in named]
        return run(cells, seeds, chunk=chunk, jobs=jobs, progress=progress)
    chosen = [_listed(name, each) for name, each in (("designs", designs), ("depth", depth), ("orders", orders))]
    chosen += [_listed(name, each) for name, each in (("gains", gains), ("norms", norms))]
    width = 36 if width is None else width
    cells = [
        _cell(
            design(name, depth=d, width=width, features=features, order=order, branch_gain=gain, norm=norm, **fields),
            {"design": name, "depth": d, "order": order},
            batch,
            cotangent,
        )
        for name, d, order, gain, norm in itertools.product(*chosen)
    ]
    return run(cells, seeds, chunk=chunk, jobs=jobs, progress=progress)


def _cell(spec: Spec, factors: dict[str, Any], batch: int, cotangent: CotangentKind) -> Cell:
    return Cell(
        spec=spec,
        factors={"study": "highway", **factors},
        batch=batch,
        cotangent=cotangent,
        quantities={each: QUANTITIES[each] for each in HIGHWAY_QUANTITIES},
        more=_with_paths,
    )


def _listed(name: str, given: Any) -> list[Any]:
    """One value or several, each once."""
    listed = as_list(given)
    if not listed:
        raise InputError(f"{name} is empty: give at least one.")
    return list({quoted(value): value for value in listed}.values())


def _with_paths(network: NumpyNetwork, batch: Any, loss: Loss, measured: Measured) -> Measured:
    """What was measured, with the weight of every path length."""
    weights = path_weights(path_gradients(network, batch, loss))
    mean, deviation = path_moments(weights)
    sites = _path_sites(measured.sites, lengths=weights.shape[1])
    values = {(site.site, "path_weight"): weights[:, k] for k, site in enumerate(sites)}
    values |= {("network", "path_length_mean"): mean, ("network", "path_length_sd"): deviation}
    return replace(measured, sites=(*measured.sites, *sites), values={**measured.values, **values})


def _path_sites(sites: Sequence[Site], lengths: int) -> list[Site]:
    network = sites[-1]
    return [
        replace(
            network,
            site=f"paths.{k}",
            order=network.order + 1 + k,
            name=f"all paths through {k} of {lengths - 1} branches",
        )
        for k in range(lengths)
    ]
