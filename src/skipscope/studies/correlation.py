"""Study `correlation`: how alike the gradients at two inputs are, over depth and seeds (shattering).

Two inputs x_1, x_2 go through the same network, and the same random vector v is sent back from both outputs. The
quantity is the cosine between the gradients that arrive, g_i = J(x_i)^T v, one number a network; the *correlation* is
its mean over networks. Balduzzi et al. 2017 (arXiv:1702.08591) found that depth shatters gradients: in plain networks
they come to be as unrelated as white noise, and skip connections slow that down. Which regime is measured must be said,
because it decides the outcome:

- **Their 2^-L** assumes that two inputs open the same gate with probability 1/4 in every layer, as if the layer's
  inputs were unrelated. Batch normalisation keeps them so, by taking away what all samples share.
- **Without centring** a He network aligns any two inputs (their activations share a positive mean), the gates agree
  more and more, and the correlation falls as a power of depth, about L^-3 (`skipscope.shattering`).

The law is in `skipscope.shattering`.

*Other definitions.* Pooling, sum <g_1, g_2> / sum |g|^2 over networks, weights networks by their squared gradient; the
readings `gradient_inner` and `gradient_square` are there for it. Balduzzi's correlation is of the derivative by one
input number over networks, with the mean taken away; by symmetry of v that mean is 0, and it is the pooled one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipscope import draws
from skipscope.engines.numpy_engine import NumpyNetwork, build
from skipscope.engines.spread import one_thread
from skipscope.errors import InputError, as_list, choose, quoted, require_int, require_number
from skipscope.losses import Cotangent
from skipscope.protocol import sites_of
from skipscope.quantities import Quantity
from skipscope.readings import Readings
from skipscope.spec import Spec
from skipscope.studies import room
from skipscope.studies.gather import gather
from skipscope.studies.named import NAMED_DESIGNS, listed, listed_depths, named_design
from skipscope.studies.tabulated import tabulated

__all__ = [
    "CORRELATION_DESIGNS",
    "CORRELATION_QUANTITIES",
    "CorrelationCell",
    "Pair",
    "correlation",
    "measure",
]

Array = NDArray[np.float64]

CORRELATION_DESIGNS = {name: told for name, told in NAMED_DESIGNS.items() if name != "residual, 1/L"}
"""The designs of the study: one of `skipscope.designs.DESIGNS`, and fields of `Spec.dense`."""


# --------------------------------------------------------------------------------------------------- quantities


@dataclass(frozen=True)
class Pair:
    """What the quantities of this study are formulas on: the two samples' rows at a site, of shape (s, 2, n) each."""

    activation: Array
    gradient: Array


def _cosine(rows: Array) -> Any:
    units, norms = _units(rows)
    return np.ma.masked_array((units[:, 0] * units[:, 1]).sum(axis=-1), mask=(norms == 0).any(axis=1))


def _units(rows: Array) -> tuple[Array, Array]:
    """Every row over its norm (0 stays 0), and the norm."""
    with np.errstate(all="ignore"):
        scale = np.abs(rows).max(axis=-1, keepdims=True)  # squares must not overflow where the numbers do not
        scaled = rows / np.where(scale == 0, 1.0, scale)
        size = np.sqrt((scaled * scaled).sum(axis=-1, keepdims=True))
        return scaled / np.where(size == 0, 1.0, size), (scale * size)[..., 0]


def _inner(pair: Pair) -> Any:
    with np.errstate(all="ignore"):
        return (pair.gradient[:, 0] * pair.gradient[:, 1]).sum(axis=-1)


def _square(pair: Pair) -> Any:
    with np.errstate(all="ignore"):
        return (pair.gradient * pair.gradient).sum(axis=(-2, -1)) / 2


_SHATTERED = "Balduzzi et al. 2017, arXiv:1702.08591"
CORRELATION_QUANTITIES: dict[str, Quantity] = {
    "gradient_cosine": Quantity(
        formula=lambda pair: _cosine(pair.gradient),
        symbol="cos(g_1, g_2)",
        unit="dimensionless",
        about="Cosine between the gradients by the site's activation at two inputs, the same vector sent back.",
        source=_SHATTERED,
        at_init="about depth^-3 in a plain He network without centring, from orthogonal inputs",
    ),
    "activation_cosine": Quantity(
        formula=lambda pair: _cosine(pair.activation),
        symbol="cos(a_1, a_2)",
        unit="dimensionless",
        about="Cosine between the site's activations at two inputs; at the input it is what was asked for.",
        source="Cho & Saul 2009 (arc-cosine kernels)",
        at_init="tends to 1 with depth in a ReLU network without centring",
    ),
    "gradient_inner": Quantity(
        formula=_inner,
        symbol="<g_1, g_2>",
        unit="loss per activation, squared",
        about="Inner product of the two gradients; over `gradient_square`, both summed over seeds: pooled correlation.",
        source=_SHATTERED,
    ),
    "gradient_square": Quantity(
        formula=_square,
        symbol="(|g_1|^2 + |g_2|^2)/2",
        unit="loss per activation, squared",
        about="Mean of the two gradients' squared norms.",
    ),
}
"""What the study measures, in the order of the docs; the formulas are on a `Pair` instead of a `View`."""


# --------------------------------------------------------------------------------------------------- the study


@dataclass(frozen=True)
class CorrelationCell:
    """One kind of network, and which pair of inputs it is shown.

    Attributes:
        spec: the network.
        factors: the study's columns in the table of cells.
        cosine: between the two inputs; None leaves them as they are drawn.
        batch: samples a network; the first two are the pair.
        sites: where it is measured; None is everywhere.
    """

    spec: Spec
    factors: Mapping[str, Any]
    cosine: float | None = 0.0
    batch: int = 2
    sites: tuple[str, ...] | None = ("input",)


def correlation(
    *,
    depths: Iterable[int] = (5, 10, 20, 40),
    width: int = 100,
    designs: Iterable[str] = tuple(CORRELATION_DESIGNS),
    cosine: float | None = 0.0,
    sites: Iterable[str] | None = ("input",),
    seeds: int | Iterable[int] = range(200),
    batch: int = 32,
    chunk: int | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
    **fields: Any,
) -> Readings:
    """Measure the correlation of gradients between two inputs, over depth and seeds.

    The inputs are Gaussian and of one length; the second is turned until their cosine is `cosine`. Under batch
    normalisation they are the first two of `batch` Gaussian samples, and g_i is the gradient of <v, y_i> alone by x_i,
    with the batch's statistics moving along (the total derivative, as in the study `jacobian`).

    Args:
        depths: d: weight layers of a plain network, blocks of a residual one (see `skipscope.designs`).
        width: units of the hidden layers; a sample has as many features, and the output too, unless `fields` differ.
        designs: names in `CORRELATION_DESIGNS`.
        cosine: between the two inputs, from -1 to 1: 0 is orthogonal. None leaves them independent, as drawn.
        sites: names of sites to report; None is all of them.
        seeds: the seeds; every design sees the same.
        batch: samples of a network with batch normalisation; others are shown the two.
        chunk, jobs, progress: see `skipscope.studies.gather.gather`.
        **fields: further fields of `Spec.dense`.

    Raises:
        InputError: a design, a depth, the cosine or a field makes no sense.
    """
    names = listed("designs", designs, CORRELATION_DESIGNS)
    if cosine is not None and not -1 <= require_number("cosine", cosine) <= 1:
        raise InputError(f"cosine must be from -1 to 1; got {quoted(cosine)}.")
    chosen = None if sites is None else tuple(as_list(sites))
    regime = {"inputs": "independent"} if cosine is None else {"inputs": _regime(cosine), "input_cosine": float(cosine)}
    cells = []
    for name in names:
        for depth in listed_depths(depths):
            spec = named_design(name, depth=depth, width=width, **fields)
            if cosine is not None and spec.stem.features < 2:
                raise InputError("features must be at least 2 for two inputs of a chosen cosine; or use cosine=None.")
            factors = {"study": "correlation", "design": name, "depth": depth, **regime}
            samples = require_int("batch", batch, least=2) if spec.coupled else 2
            cells.append(CorrelationCell(spec, factors, cosine, samples, chosen))
    return gather(
        measure, cells, seeds, numbers=_numbers, readings=_readings, chunk=chunk, jobs=jobs, progress=progress
    )


def measure(cell: CorrelationCell, seeds: tuple[int, ...]) -> Readings:
    """The readings of one cell over some seeds (a top-level function, so that it can be sent)."""
    network = build(cell.spec, seed=seeds)
    batch = draws.normals(seeds, "input", (cell.batch, cell.spec.stem.features))
    if cell.cosine is not None:
        batch[:, 1] = _turned(batch[:, 0], batch[:, 1], cell.cosine)
    v = draws.normals(seeds, "cotangent", (1, cell.spec.head.features))
    sites = [site.site for site in sites_of(cell.spec) if site.kind != "network"]
    for name in cell.sites or ():
        choose("site", name, sites)
    chosen = [site for site in sites if cell.sites is None or site in cell.sites]
    with one_thread():
        pairs = _pairs(network, batch, v, chosen)
    told = {"data": f"gaussian, {cell.factors['inputs']}", "cotangent": "gaussian, the same twice", "batch": cell.batch}
    return tabulated(network, batch, CORRELATION_QUANTITIES, pairs, factors={**told, **cell.factors})


def _pairs(network: NumpyNetwork, batch: Array, v: Array, sites: Sequence[str]) -> dict[str, Pair]:
    """Both samples' activations and gradients at the sites: each sample's gradient is that of its own output."""
    rows: list[slice] = [slice(0, 1), slice(1, 2)] if network.spec.coupled else [slice(0, 2)]
    found = {site: Pair(np.empty(0), np.empty(0)) for site in sites}
    for which in rows:
        sent = np.zeros((*batch.shape[:2], v.shape[-1]))
        sent[:, which] = v
        seen = _Rows(which, set(sites))
        network.run(batch, Cotangent(sent), seen)
        for site in sites:
            found[site] = Pair(
                _joined(found[site].activation, seen.kept[site, "activation"]),
                _joined(found[site].gradient, seen.kept[site, "activation_grad"]),
            )
    return found


def _joined(before: Array, rows: Array) -> Array:
    return rows if before.size == 0 else np.concatenate([before, rows], axis=1)


class _Rows:
    """The observer that keeps some samples' rows of the activations and their gradients."""

    def __init__(self, rows: slice, sites: set[str]) -> None:
        self.rows = rows
        self.sites = sites
        self.kept: dict[tuple[str, str], Array] = {}

    def wants(self, site: str) -> Collection[str]:
        return ("activation", "activation_grad") if site in self.sites else ()

    def __call__(self, site: str, /, **roles: Any) -> None:
        for role in self.wants(site):
            if role in roles:
                self.kept[site, role] = np.array(roles[role][:, self.rows], np.float64)


def _turned(x: Array, other: Array, cosine: float) -> Array:
    """`other` (s, n), turned in its plane with x, and of x's length, so that their cosine is as asked."""
    (along, across), norm = _frame(x, other)
    turned: Array = norm * (cosine * along + (1 - cosine * cosine) ** 0.5 * across)
    return turned


def _frame(x: Array, other: Array) -> tuple[tuple[Array, Array], Array]:
    """Two orthogonal unit vectors, the first of them along x, that span both; and the norm of x, of shape (s, 1)."""
    norm = np.sqrt((x * x).sum(axis=-1, keepdims=True))
    along = x / norm
    across = other
    for _ in range(2):  # the second time takes out what rounding has left
        across = across - (across * along).sum(axis=-1, keepdims=True) * along
    return (along, across / np.sqrt((across * across).sum(axis=-1, keepdims=True))), norm


def _regime(cosine: float) -> str:
    return "orthogonal" if cosine == 0 else f"cosine {cosine:g}"


def _numbers(cell: CorrelationCell) -> int:
    return room.numbers(cell.spec, 2 * cell.batch)


def _readings(cell: CorrelationCell) -> int:
    return len(CORRELATION_QUANTITIES) * (room.sites(cell.spec) if cell.sites is None else len(cell.sites))
