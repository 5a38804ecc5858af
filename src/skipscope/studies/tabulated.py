"""Readings of what was found by other means than a probe's observers, e.g. from the Jacobian of the whole network.

The quantities of such a study are formulas on what was found at a site, in place of a `View`. A probe makes the table,
so that readings have the same sites, columns and checks whatever they are of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.probe import probe
from skipscope.quantities import Quantity
from skipscope.readings import Readings

__all__ = ["tabulated"]


def tabulated(
    network: NumpyNetwork,
    batch: Any,
    quantities: Mapping[str, Quantity],
    found: Mapping[str, Any],
    *,
    factors: Mapping[str, Any],
) -> Readings:
    """The readings of quantities that are formulas on what was found.

    Args:
        network: the network that was measured.
        batch: of shape (s, b, n); what the network was shown.
        quantities: their formulas map what was found at a site, or at `network`, to values of shape (s,).
        found: by site.
        factors: columns for the table of cells.
    """
    return probe(
        network,
        batch[..., :2, :],  # the probe runs them for nothing, and batch normalisation needs two
        cotangent="ones",
        quantities={name: _bound(each, found) for name, each in quantities.items()},
        sites=list(found),
        factors=factors,
    )


def _bound(quantity: Quantity, found: Mapping[str, Any]) -> Quantity:
    """The quantity with its formula bound to what was found."""
    formula = quantity.formula
    if quantity.scope == "network":
        return replace(quantity, formula=lambda _: formula(found["network"]))
    return replace(quantity, formula=lambda view: formula(found[view.site.site]), where=lambda site: site.site in found)
