"""Study `jacobian`: the singular values of networks, of their bodies and of their blocks, over depth and seeds.

The Jacobian J is that of one sample's output by its own input (see `skipscope.engines.jacobian`, which says what that
is under batch normalisation). A direction that J maps to 0 is lost, forward and backward; singular values that are all
near one are what Pennington, Schoenholz and Ganguli 2017 (arXiv:1711.04735) call dynamical isometry; a block whose
|J - I| is small is near the identity (Hardt and Ma 2016, arXiv:1611.04231). A network begins and ends with layers that
its design does not choose, and a single ReLU takes about half of the directions away; so the body, all blocks in a row,
is measured beside the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from skipscope import draws
from skipscope.engines.jacobian import Linear, largest_singular_value, linearise, singular_values
from skipscope.engines.numpy_engine import NumpyNetwork, build
from skipscope.engines.spread import one_thread
from skipscope.errors import InputError, quoted, require_int
from skipscope.protocol import Site
from skipscope.quantities import Quantity
from skipscope.readings import Readings
from skipscope.spec import Spec
from skipscope.studies import room
from skipscope.studies.gather import gather
from skipscope.studies.named import NAMED_DESIGNS, listed, listed_depths, named_design
from skipscope.studies.tabulated import tabulated

__all__ = [
    "EXACT_WIDTH",
    "JACOBIAN_DESIGNS",
    "JACOBIAN_QUANTITIES",
    "JacobianCell",
    "Spectrum",
    "jacobian",
    "measure",
    "of_network",
]

Values = NDArray[np.float64]
Part = Literal["network", "body"]

EXACT_WIDTH = 512
"""Up to this width J is computed whole; above it only what products with J give: sigma_max and one gain."""

JACOBIAN_DESIGNS = NAMED_DESIGNS
"""The designs of the study: one of `skipscope.designs.DESIGNS`, and fields of `Spec.dense`."""


# --------------------------------------------------------------------------------------------------- quantities


@dataclass(frozen=True)
class Spectrum:
    """What the quantities of this study are formulas on: arrays of a Jacobian of every network.

    Attributes:
        values: singular values in falling order, (s, m), 0 where they are rounding; None above `EXACT_WIDTH`.
        largest: the largest of them, (s,).
        gain: |J u|/|u| for a random vector u, (s,).
        from_identity: |J - I| in the Frobenius norm over that of I, and in the spectral norm, (s,) each; None where J
            is not square or not known.
        inputs: n_in.
    """

    values: Values | None
    largest: Values
    gain: Values
    from_identity: tuple[Values, Values] | None
    inputs: int


def _sigma(pick: Callable[[Values], Values]) -> Callable[[Spectrum], Any]:
    def formula(found: Spectrum) -> Any:
        return _undefined(found) if found.values is None else pick(found.values)

    return formula


def _condition(found: Spectrum) -> Any:
    if found.values is None:
        return _undefined(found)
    least = found.values[:, -1]
    with np.errstate(all="ignore"):
        return np.ma.masked_array(found.values[:, 0] / np.where(least == 0, 1.0, least), mask=least == 0)


def _mean_square(found: Spectrum) -> Any:
    if found.values is None:
        return _undefined(found)
    with np.errstate(over="ignore"):
        return (found.values**2).sum(axis=1) / found.inputs


def _rank(found: Spectrum) -> Any:
    if found.values is None:
        return _undefined(found)
    return np.ma.masked_array((found.values > 0).sum(axis=1).astype(float), mask=np.isnan(found.largest))


def _from_identity(which: int) -> Callable[[Spectrum], Any]:
    def formula(found: Spectrum) -> Any:
        return _undefined(found) if found.from_identity is None else found.from_identity[which]

    return formula


def _undefined(found: Spectrum) -> Any:
    return np.ma.masked_array(np.zeros(found.largest.shape), mask=True)


_ISOMETRY = "Pennington et al. 2017, arXiv:1711.04735"
_IDENTITY = "Hardt & Ma 2016, arXiv:1611.04231"
_OVERALL: dict[str, Quantity] = {
    "jacobian_sigma_max": Quantity(
        formula=lambda found: found.largest,
        scope="network",
        symbol="s_max(J)",
        unit="output per input",
        about="Largest singular value of the Jacobian: the most that any direction is stretched.",
        source=_ISOMETRY,
        at_init="grows with depth/width in a plain He network, although the mean square stays",
    ),
    "jacobian_sigma_median": Quantity(
        formula=_sigma(lambda values: np.median(values, axis=1)),
        scope="network",
        symbol="s_median(J)",
        unit="output per input",
        about="Median of the singular values, those that are 0 counted.",
        source=_ISOMETRY,
        at_init="0 in a plain ReLU network, whose rank falls below half its width",
    ),
    "jacobian_sigma_min": Quantity(
        formula=_sigma(lambda values: values[:, -1]),
        scope="network",
        symbol="s_min(J)",
        unit="output per input",
        about="Smallest singular value; 0 where it is below the rounding of the largest.",
        source=_ISOMETRY,
        at_init="0 behind any ReLU layer; above 0 in the body of a residual network",
    ),
    "jacobian_condition": Quantity(
        formula=_condition,
        scope="network",
        symbol="s_max(J)/s_min(J)",
        unit="dimensionless",
        about="Condition number; undefined where the smallest singular value is 0 to working precision.",
        source=_ISOMETRY,
    ),
    "jacobian_rank": Quantity(
        formula=_rank,
        scope="network",
        symbol="rank(J)",
        unit="directions",
        about="How many singular values are above rounding: directions of the input that reach the output.",
        source="definition, as numpy.linalg.matrix_rank",
        at_init="below half the width in a plain ReLU network",
    ),
    "jacobian_mean_square": Quantity(
        formula=_mean_square,
        scope="network",
        symbol="|J|^2/n_in",
        unit="output per input, squared",
        about="Squared Frobenius norm over the number of inputs: the mean of |J u|^2 over all unit vectors u.",
        source=_ISOMETRY,
        at_init="constant over depth in the mean for a plain He network; (1 + a^2)^L for pre-activation blocks",
    ),
    "jacobian_gain": Quantity(
        formula=lambda found: found.gain,
        scope="network",
        symbol="|J u|/|u|",
        unit="output per input",
        about="How much one random direction u is stretched.",
        source="Hanin & Nica 2018, arXiv:1812.05994",
        at_init="law (a) in a plain He network, exactly",
    ),
    "jacobian_minus_identity": Quantity(
        formula=_from_identity(0),
        scope="network",
        symbol="|J - I|/|I|",
        unit="dimensionless",
        about="Distance of a square Jacobian from the identity in the Frobenius norm, over the norm of the identity.",
        source=_IDENTITY,
    ),
    "jacobian_minus_identity_spectral": Quantity(
        formula=_from_identity(1),
        scope="network",
        symbol="s_max(J - I)",
        unit="dimensionless",
        about="Distance of a square Jacobian from the identity in the spectral norm; below 1, J is invertible.",
        source=_IDENTITY,
    ),
}


def _is_block(site: Site) -> bool:
    return site.block > 0


def _block_quantity(each: Quantity) -> Quantity:
    about = f"Of one block, at its input: {each.about[0].lower()}{each.about[1:]}"
    return replace(each, scope="site", where=_is_block, symbol=f"{each.symbol}, block", about=about, at_init="")


JACOBIAN_QUANTITIES: dict[str, Quantity] = _OVERALL | {
    f"block_{name}": _block_quantity(each) for name, each in _OVERALL.items()
}
"""What the study measures, in the order of the docs; the formulas are on a `Spectrum` instead of a `View`."""


# --------------------------------------------------------------------------------------------------- the study


@dataclass(frozen=True)
class JacobianCell:
    """One kind of network, and what of it is measured.

    Attributes:
        spec: the network.
        factors: the study's columns in the table of cells.
        part: whose singular values the readings of the whole are.
        blocks: whether every block is measured too.
        batch: samples drawn a network; the first is the one that J belongs to.
    """

    spec: Spec
    factors: Mapping[str, Any]
    part: Part = "network"
    blocks: bool = False
    batch: int = 1


def jacobian(
    *,
    depths: Iterable[int] = (5, 10, 20, 40),
    width: int = 36,
    designs: Iterable[str] = tuple(JACOBIAN_DESIGNS),
    parts: Iterable[Part] = get_args(Part),
    blocks: bool = True,
    seeds: int | Iterable[int] = range(50),
    batch: int = 64,
    chunk: int | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
    **fields: Any,
) -> Readings:
    """Measure the singular values of networks, bodies and blocks, over depth and seeds.

    Args:
        depths: d: weight layers of a plain network, blocks of a residual one (see `skipscope.designs`).
        width: units of the hidden layers; a sample has as many features, and the output too, unless `fields` differ.
        designs: names in `JACOBIAN_DESIGNS`.
        parts: `"network"` (output by input) and `"body"` (last block's output by first block's input).
        blocks: whether to measure every block of the body by itself as well, in the cells of the body (or, where that
            is not asked for, of the network).
        seeds: the seeds; every design sees the same.
        batch: samples of a network with batch normalisation; others are shown one.
        chunk, jobs, progress: see `skipscope.studies.gather.gather`.
        **fields: further fields of `Spec.dense`, e.g. `features=16`, `output="relu"`, `init="lecun"`.

    Raises:
        InputError: a design, a part, a depth or a field makes no sense.
    """
    names = listed("designs", designs, JACOBIAN_DESIGNS)
    wanted = listed("parts", parts, get_args(Part))
    if not isinstance(blocks, bool):
        raise InputError(f"blocks must be True or False; got {quoted(blocks)}.")
    of_blocks = "body" if "body" in wanted else "network"
    cells = [
        JacobianCell(
            spec=spec,
            factors={"study": "jacobian", "design": name, "depth": depth, "part": part},
            part=part,  # type: ignore[arg-type]  # chosen among them
            blocks=blocks and part == of_blocks,
            batch=require_int("batch", batch, least=2) if spec.coupled else 1,
        )
        for name in names
        for depth in listed_depths(depths)
        for spec in (named_design(name, depth=depth, width=width, **fields),)
        for part in wanted
    ]
    return gather(
        measure, cells, seeds, numbers=_numbers, readings=_readings, chunk=chunk, jobs=jobs, progress=progress
    )


def measure(cell: JacobianCell, seeds: tuple[int, ...]) -> Readings:
    """The readings of one cell over some seeds (a top-level function, so that it can be sent)."""
    network = build(cell.spec, seed=seeds)
    batch = draws.normals(seeds, "input", (cell.batch, cell.spec.stem.features))
    factors = {"data": "gaussian", "cotangent": "one-hot", **cell.factors}
    return of_network(network, batch, part=cell.part, blocks=cell.blocks, factors=factors)


def of_network(
    network: NumpyNetwork,
    batch: Any,
    *,
    part: Part = "network",
    blocks: bool = True,
    sample: int = 0,
    factors: Mapping[str, Any] | None = None,
) -> Readings:
    """The readings of a network at one sample of a batch: of the part as a whole, and of every block.

    Args:
        network: e.g. from `skipscope.build`; its gains count as they are.
        batch, sample: see `skipscope.engines.jacobian.linearise`.
        part, blocks: see `jacobian`.
        factors: columns for the table of cells.

    Raises:
        InputError: the batch does not fit, or the network has no body.
    """
    if part == "body" and not network.spec.body:
        raise InputError("part='body' needs a network with blocks: ask for part='network', or for more depth.")
    with one_thread():
        whole = linearise(network, batch, sample=sample)
        overall = _spectrum(whole if part == "network" else whole.at(part))
        spectra = {block.site: _spectrum(whole.at(block.site)) for block in network.spec.body if blocks}
    # Without blocks their quantities have no site.
    quantities = {name: each for name, each in JACOBIAN_QUANTITIES.items() if each.scope == "network" or spectra}
    given = np.asarray(batch[0] if isinstance(batch, tuple) else batch)
    told = {"study": "jacobian", "cotangent": "one-hot", "part": part, "batch": given.shape[-2], **(factors or {})}
    return tabulated(network, given, quantities, {"network": overall, **spectra}, factors=told)


def _spectrum(linear: Linear) -> Spectrum:
    u = draws.normals(linear.seeds, "cotangent", (1, linear.inputs))
    gain = _norm(linear.jvp(u)[:, 0]) / _norm(u[:, 0])
    if max(linear.inputs, linear.outputs) > EXACT_WIDTH:
        return Spectrum(None, largest_singular_value(linear), gain, None, linear.inputs)
    J = linear.matrix()
    values = singular_values(J)
    return Spectrum(values, values[:, 0], gain, _distance(J), linear.inputs)


def _distance(J: NDArray[Any]) -> tuple[Values, Values] | None:
    """|J - I|_F / |I|_F and |J - I|_2, where J is square."""
    n_out, n_in = J.shape[-2:]
    if n_out != n_in:
        return None
    difference = J - np.eye(n_in, dtype=J.dtype)
    return _norm(difference.reshape(len(J), -1)) / n_in**0.5, singular_values(difference)[:, 0]


def _norm(x: NDArray[Any]) -> Values:
    """The norm of every row, without overflow on the way."""
    with np.errstate(all="ignore"):
        scale = np.abs(x).max(axis=-1).astype(np.float64)
        scaled = x / np.where(scale == 0, 1.0, scale)[:, None]
        norm: Values = scale * np.sqrt((scaled * scaled).sum(axis=-1))
    return norm


def _numbers(cell: JacobianCell) -> int:
    """What one network takes: its weights, what its forward pass keeps, and all vectors at one depth."""
    spec = cell.spec
    widest = max(spec.stem.features, spec.stem.width, spec.head.features, *(stage.width for stage in spec.stages))
    return room.numbers(spec, 2 * cell.batch) + 4 * widest * widest


def _readings(cell: JacobianCell) -> int:
    parts = 1 + (sum(stage.blocks for stage in cell.spec.stages) if cell.blocks else 0)
    return len(_OVERALL) * parts
