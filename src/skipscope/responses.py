"""What the readings of study `responses` say: how strongly layers respond, with shortcuts and without, and in depth.

Right of the waist: readings in, tables and findings out (drawn by `skipscope.charts.responses`).

He et al. 2015 (arXiv:1512.03385, section 4.2) read two things off their Fig. 7: responses of residual networks are
generally smaller than those of plain ones, and the more layers a residual network has the smaller they are. They show
one network each. Here a verdict on either is about designs, and rests on seeds: every seed's networks are paired, a
network counts by the median over its 3x3 layers, of the logarithm, and intervals are Student's t over seeds. Files of
weights are one network each: their tables say how they compare, and no verdict is given.

A third question is about the networks at hand: whether gamma and beta alone tell what is measured on data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skipscope.diagnosis import Finding, Verdict
from skipscope.errors import InputError, choose
from skipscope.intervals import student
from skipscope.readings import Readings, require_factors, require_readings
from skipscope.spec import Spec
from skipscope.words import number, tenths

__all__ = [
    "MODES",
    "NETWORKS",
    "TOLD",
    "differences",
    "findings",
    "layer_data",
    "network_data",
    "response_data",
    "sorted_data",
]

Array = NDArray[np.float64]

MODES = ("training", "parameters", "inference")
"""How responses are had, the first before the next where there are several: see `skipscope.studies.responses`."""

NETWORKS = 5
"""Seeds that a verdict on a design needs."""

TOLD = 0.05
"""The largest relative difference at which gamma and beta alone tell a response."""

_OWN = ("cell", "mode", "batch", "edit")  # in which the cells of one kind of network differ


# --------------------------------------------------------------------------------------------------------- the tables


def response_data(readings: Readings) -> pl.DataFrame:
    """Every response that was measured.

    Returns:
        One row a network, mode and layer, shallower networks first, residual before plain, and their layers in order of
        depth. Columns `kind` (a cell that stands for all of that kind of network), `design`,
        `plain`, `depth`, `mode`, `seed`, `site`, `kernel` (of its convolution), `std` and `law` (what it is by gamma,
        beta and the batch's variances; null but in mode `"training"`).

    Raises:
        InputError: the readings hold no responses.
    """
    cells = _kinds(readings)
    rows = readings.rows.filter(pl.col("quantity").is_in(("response_std", "response_law")))
    if rows.filter(pl.col("quantity") == "response_std").is_empty():
        raise InputError("these readings hold no response_std: measure with studies.responses.")
    rows = rows.join(cells, on="cell", how="semi")
    if rows.is_empty():
        raise InputError("of these responses there is no spec that says which layers they are of: measure again.")
    wide = rows.pivot("quantity", index=["cell", "seed", "site"], values="value")
    if "response_law" not in wide.columns:
        wide = wide.with_columns(response_law=pl.lit(None, pl.Float64))
    places = readings.sites.select("cell", "site", "order")
    found = wide.join(cells, on="cell").join(places, on=["cell", "site"]).join(_kernels(readings), on=["cell", "site"])
    return found.sort("depth", "plain", "place", pl.col("mode").cast(pl.Enum(MODES)), "seed", "order").select(
        "kind", "design", "plain", "depth", "mode", "seed", "site", "kernel", std="response_std", law="response_law"
    )


def _kinds(readings: Readings) -> pl.DataFrame:
    """Columns `cell`, `kind`, `place` (of the kind among all), `design`, `plain`, `depth`, `mode`."""
    require_readings(readings)
    require_factors(readings, "responses", "mode", "source")
    alike: dict[str, list[dict[str, Any]]] = {}
    for cell in readings.cells.iter_rows(named=True):
        if cell["study"] == "responses" and cell["spec"]:
            key = json.dumps({name: value for name, value in cell.items() if name not in _OWN}, sort_keys=True)
            alike.setdefault(key, []).append(cell)
    rows = []
    for place, cells in enumerate(alike.values()):
        # The same one however the table is sorted.
        kind = min(cells, key=lambda cell: MODES.index(cell["mode"]) if cell["mode"] in MODES else len(MODES))["cell"]
        plain = all(stage.plain for stage in Spec.from_json(cells[0]["spec"]).stages)
        rows += [(each["cell"], kind, place, each["design"], plain, each["depth"], each["mode"]) for each in cells]
    schema = {"cell": pl.String, "kind": pl.String, "place": pl.Int64, "design": pl.String, "plain": pl.Boolean}
    return pl.DataFrame(rows, schema={**schema, "depth": pl.Int64, "mode": pl.String}, orient="row")


def _kernels(readings: Readings) -> pl.DataFrame:
    """Height and width of every layer's convolution: columns `cell`, `site`, `kernel`."""
    rows = []
    for cell, text in readings.cells.select("cell", "spec").iter_rows():
        if text:
            spec = Spec.from_json(text)
            rows += [(cell, layer.site, layer.kernel) for layer in (*spec.layers, *spec.projections)]
    return pl.DataFrame(rows, schema={"cell": pl.String, "site": pl.String, "kernel": pl.Int64}, orient="row")


def _of_mode(readings: Readings, mode: str | None) -> pl.DataFrame:
    """The rows of one mode; if none is named, of every kind of network in the first of `MODES` that it has."""
    found = response_data(readings)
    if mode is not None:
        return found.filter(mode=choose("mode", mode, MODES))
    rank = pl.col("mode").cast(pl.Enum(MODES)).to_physical()
    return found.filter(rank == rank.min().over("kind"))


def layer_data(readings: Readings, *, mode: str | None = None) -> pl.DataFrame:
    """The response of every layer, as in the upper panel of Fig. 7.

    Args:
        readings: of study `responses`.
        mode: one of `MODES`; if not given, of every network the first that it has.

    Returns:
        One row a kind of network and layer, in order of depth. Columns `kind`, `design`, `plain`, `depth`, `mode`,
        `site`, `kernel`, `layer` (its place among the layers of its kernel, from 1), `n` networks (whose response is
        finite), `std` (the mean over them) with its 95 % interval `low`, `high` (null for fewer than two).

    Raises:
        InputError: the readings hold no responses, or there is no such mode.
    """
    rows = _of_mode(readings, mode)
    counted = pl.int_range(1, pl.len() + 1).over("kind", "mode", "seed", "kernel").alias("layer")
    return _means(rows.with_columns(counted), ["kind", "site"], "site", "kernel", "layer")


def sorted_data(readings: Readings, *, mode: str | None = None) -> pl.DataFrame:
    """The responses of 3x3 layers sorted by magnitude, as in the lower panel of Fig. 7.

    Every network's layers are sorted by themselves, and then meaned over networks, rank by rank.

    Args:
        readings, mode: see `layer_data`.

    Returns:
        As `layer_data`, but for `site` and `kernel`; `layer` is the rank, from 1, the largest response.

    Raises:
        InputError: see `layer_data`.
    """
    rows = _of_mode(readings, mode).filter(kernel=3)
    rank = pl.col("std").rank("ordinal", descending=True).over("kind", "mode", "seed").cast(pl.Int64).alias("layer")
    ranked = rows.with_columns(rank)
    order = {kind: place for place, kind in enumerate(ranked["kind"].unique(maintain_order=True))}
    ranked = ranked.sort(pl.col("kind").replace_strict(order, return_dtype=pl.Int64), "layer", maintain_order=True)
    return _means(ranked, ["kind", "layer"], "layer")


def _means(rows: pl.DataFrame, by: Sequence[str], *more: str) -> pl.DataFrame:
    """Means over networks with their intervals; other columns as they first come."""
    found = []
    columns = ("kind", "design", "plain", "depth", "mode", *more)
    for _, part in rows.group_by(by, maintain_order=True):
        first = part.row(0, named=True)
        found.append({name: first[name] for name in columns} | _spread("std", part["std"].to_numpy()))
    schema: dict[str, Any] = {name: rows.schema[name] for name in columns}
    schema |= {"n": pl.Int64, "std": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    return pl.DataFrame(found, schema=schema)


def _spread(name: str, values: Array) -> dict[str, Any]:
    """How many are finite, and their mean with its 95 % interval."""
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return {"n": len(known), name: float(known[0]) if len(known) else None, "low": None, "high": None}
    return {"n": len(known), **dict(zip((name, "low", "high"), student(known), strict=True))}


def network_data(readings: Readings) -> pl.DataFrame:
    """One row a kind of network: how strongly its 3x3 layers respond.

    Returns:
        `kind`, `design`, `source`, `plain`, `depth`, `mode` (the first of `MODES` that it has), `layers` (3x3), `n`
        networks; `std`, the median over layers, meaned over networks, with its 95 % interval `low`, `high`; `least` and
        `most` over layers, of the mean over networks; `test_error`, the mean, null where nothing was trained here.

    Raises:
        InputError: the readings hold no responses.
    """
    layers = layer_data(readings).filter(kernel=3)
    medians = _medians(_of_mode(readings, None))
    sources = readings.cells.select("source", kind="cell")
    errors = _errors(readings)
    found = []
    for (kind,), part in layers.group_by(["kind"], maintain_order=True):
        own = medians.filter(kind=kind)
        found.append(
            {
                **part.select("kind", "design", "plain", "depth", "mode").row(0, named=True),
                "source": sources.filter(kind=kind)["source"][0],
                "layers": part.height,
                **_spread("std", own["std"].to_numpy()),
                "least": part["std"].min(),
                "most": part["std"].max(),
                "test_error": errors.get(str(kind)),
            }
        )
    names = ("kind", "design", "source", "plain", "depth", "mode", "layers", "n", "std", "low", "high", "least", "most")
    floats = dict.fromkeys(("std", "low", "high", "least", "most", "test_error"), pl.Float64)
    return pl.DataFrame(found, schema_overrides=floats).select(*names, "test_error")


def _medians(rows: pl.DataFrame) -> pl.DataFrame:
    """The median over 3x3 layers of every network: columns `kind`, `seed`, `std`."""
    by = rows.filter(kernel=3).group_by("kind", "seed", maintain_order=True)
    return by.agg(pl.col("std").median())


def _errors(readings: Readings) -> dict[str, float]:
    """The mean test error of every kind of network that was trained here."""
    kinds = _kinds(readings).select("cell", "kind")
    rows = readings.rows.filter(pl.col("quantity") == "test_error").join(kinds, on="cell")
    last = rows.filter(pl.col("step") == pl.col("step").max().over("cell"))
    return dict(last.group_by("kind").agg(pl.col("value").mean()).iter_rows())


def differences(readings: Readings) -> pl.DataFrame:
    """What is measured on data against what gamma and beta alone say, layer by layer.

    Returns:
        One row a kind of network, mode (training or inference) and layer that is normalised. Columns `kind`, `design`,
        `mode`, `site`, `kernel`, `n` networks, `alone` and `measured` (means over networks), and `difference`,
        measured/alone - 1 of the network for which it is largest in size. No rows where nothing was measured on data.

    Raises:
        InputError: the readings hold no responses.
    """
    found = response_data(readings)
    alone = found.filter(mode="parameters").select("kind", "seed", "site", alone="std")
    both = found.filter(pl.col("mode") != "parameters").join(alone, on=["kind", "seed", "site"], maintain_order="left")
    relative = both.with_columns(difference=pl.col("std") / pl.col("alone") - 1)
    largest = pl.col("difference").sort_by(pl.col("difference").abs()).last()
    firsts = pl.col("design", "kernel").first()
    by = relative.group_by("kind", "mode", "site", maintain_order=True)
    means = (pl.col("alone").mean(), pl.col("std").mean().alias("measured"))
    table = by.agg(firsts, pl.len().cast(pl.Int64).alias("n"), *means, largest)
    return table.select("kind", "design", "mode", "site", "kernel", "n", "alone", "measured", "difference")


# ----------------------------------------------------------------------------------------------------------- findings

SMALLER = "residual responses are smaller than plain ones"
DEEPER = "deeper residual networks respond less"
ALONE = {
    "training": "gamma and beta alone tell the responses to a mini-batch",
    "inference": "gamma and beta alone tell the responses in inference",
}

_PAPER = "He et al. 2015, arXiv:1512.03385, section 4.2 and Fig. 7"
_T = f"interval: Student's t over seeds, 95 %; a verdict needs {NETWORKS} seeds of trained networks"
_SMALLER = (
    "holds: the response of a 3x3 layer relative to that of the same layer in the plain network of the same seed, the "
    "median over layers, is below 1, with its whole interval; does not hold: it is above"
)
_DEEPER = (
    "holds: the median over 3x3 layers is smaller in the deeper network of the same seed, with the whole interval of "
    "the ratio; does not hold: it is larger"
)
_ALONE = (
    f"holds: no layer of any of the networks differs by more than {TOLD:g} of what gamma and beta say; does not hold: "
    "one does"
)


@dataclass(frozen=True)
class _Kind:
    """One kind of network, with its rows of `response_data` in the first mode that it has."""

    cell: dict[str, Any]
    spec: Spec
    rows: pl.DataFrame
    error: float | None  # on the test part, where it was trained here

    @property
    def name(self) -> str:
        return str(self.cell["design"])

    @property
    def plain(self) -> bool:
        return all(stage.plain for stage in self.spec.stages)

    @property
    def subject(self) -> str:
        steps = f", {self.cell['steps']:,} steps" if self.cell.get("steps") else ""
        data = f", {self.cell['data']}" if self.cell["data"] else ""
        return f"{self.name} at width {self.spec.width}{data}{steps}"

    @property
    def trained(self) -> bool:
        return bool(self.cell["source"] == "trained")

    def alike(self, *but: str) -> str:
        """All that it is, but for some of its factors, its name and its spec."""
        left = {*_OWN, *but, "design", "spec"}
        return json.dumps({name: value for name, value in self.cell.items() if name not in left}, sort_keys=True)

    @property
    def bare(self) -> Spec:
        """Without its shortcuts."""
        return replace(self.spec, stages=tuple(replace(stage, shortcut="none") for stage in self.spec.stages))

    @property
    def shallow(self) -> Spec:
        """Of one block a stage."""
        return replace(self.spec, stages=tuple(replace(stage, blocks=1) for stage in self.spec.stages))


def findings(readings: Readings) -> list[Finding]:
    """The two claims of Fig. 7, of networks that were trained or initialised here, and what gamma and beta tell.

    Raises:
        InputError: the readings hold no responses.
    """
    rows = _of_mode(readings, None).filter(pl.col("std").is_finite(), pl.col("std") > 0)
    cells = {cell["cell"]: cell for cell in readings.cells.iter_rows(named=True)}
    errors = _errors(readings)
    kinds = [
        _Kind(cells[kind], Spec.from_json(cells[kind]["spec"]), rows.filter(kind=kind, kernel=3), errors.get(kind))
        for kind in rows["kind"].unique(maintain_order=True)
    ]
    of_designs = [kind for kind in kinds if kind.cell["source"] != "weights"]
    return [*_against_plain(of_designs), *_in_depth(of_designs), *_alone(readings, kinds)]


def _against_plain(kinds: Sequence[_Kind]) -> Iterator[Finding]:
    for kind in kinds:
        for other in kinds:
            if not kind.plain and other.plain and kind.alike() == other.alike() and kind.bare == other.spec:
                yield _smaller(kind, other)


def _smaller(kind: _Kind, other: _Kind) -> Finding:
    paired = kind.rows.join(other.rows.select("seed", "site", plain_std="std"), on=["seed", "site"])
    logs = paired.with_columns(log=(pl.col("std") / pl.col("plain_std")).log())
    by_seed = logs.group_by("seed").agg(pl.col("log").median(), layers=pl.len()).sort("seed")
    by_layer = logs.group_by("site", maintain_order=True).agg(ratio=pl.col("log").mean().exp())
    layers, below = by_layer.height, by_layer.filter(pl.col("ratio") < 1).height
    evidence = by_seed.select("seed", ratio=pl.col("log").exp())
    said = (
        f"The 3x3 layers of {kind.name} respond {{}} times as strongly as the same layers of {other.name}: the median "
        f"over {layers} layers, seed by seed; {below} of them respond less.{_learnt(kind, other)}"
    )
    return _judged(SMALLER, kind, by_seed["log"].to_numpy(), said, evidence, _SMALLER)


def _in_depth(kinds: Sequence[_Kind]) -> Iterator[Finding]:
    families: dict[tuple[str, str], list[_Kind]] = {}
    for kind in kinds:
        if not kind.plain:
            families.setdefault((kind.alike("depth"), kind.shallow.to_json()), []).append(kind)
    for family in families.values():
        family.sort(key=lambda kind: kind.spec.depth)
        for shallow, deep in pairwise(family):
            yield _deeper(shallow, deep)


def _deeper(shallow: _Kind, deep: _Kind) -> Finding:
    shallower, deeper = (_medians(each.rows).select("seed", "std") for each in (shallow, deep))
    both = deeper.join(shallower, on="seed", suffix="_shallower").sort("seed")
    logs = (both["std"] / both["std_shallower"]).log().to_numpy()
    middle = (float(str(each["std"].mean())) if each.height else math.nan for each in (deeper, shallower))
    deep_std, shallow_std = (number(each) for each in middle)
    said = (
        f"The median 3x3 layer of {deep.name} responds {{}} times as strongly as that of {shallow.name} ({deep_std} "
        f"against {shallow_std} in the mean), seed by seed.{_learnt(deep, shallow)}"
    )
    evidence = both.rename({"std": "deeper", "std_shallower": "shallower"})
    return _judged(DEEPER, deep, logs, said, evidence, _DEEPER)


def _learnt(kind: _Kind, other: _Kind) -> str:
    """What both have learnt, for a network that learnt nothing responds as it was initialised."""
    if kind.error is None or other.error is None:
        return ""
    return f" Their test errors are {tenths(kind.error)} and {tenths(other.error)}."


def _judged(rule: str, kind: _Kind, logs: Array, said: str, evidence: pl.DataFrame, threshold: str) -> Finding:
    """Whether a factor is below 1, of its logarithms seed by seed."""
    verdict: Verdict = "cannot tell"
    if not kind.trained:
        said = (
            "These networks are as they are initialised: gamma is 1 and beta 0, so that every response that is "
            "normalised is 1 whatever the network. Fig. 7 is about trained ones; train them first."
        )
    elif len(logs) < NETWORKS:
        middle = number(math.exp(float(logs.mean()))) if len(logs) else "not a known number of"
        said = f"{said.format(middle)} That is of {len(logs)} seeds, and a verdict needs {NETWORKS}."
    else:
        mean, low, high = student(logs)
        verdict = "holds" if high < 0 else "does not hold" if low > 0 else "cannot tell"
        ends = f"{number(math.exp(low))} to {number(math.exp(high))}"
        said = said.format(f"{number(math.exp(mean))} (95 % interval {ends}, {len(logs)} seeds)")
    source = f"the claim: {_PAPER}; {_T}"
    return Finding(rule, kind.cell["cell"], kind.subject, verdict, said, evidence, threshold, source)


def _alone(readings: Readings, kinds: Sequence[_Kind]) -> Iterator[Finding]:
    table = differences(readings)
    for kind in kinds:
        for mode, rule in ALONE.items():
            own = table.filter(kind=kind.cell["cell"], mode=mode)
            if not own.is_empty():
                yield _told(kind, mode, rule, own)


def _told(kind: _Kind, mode: str, rule: str, own: pl.DataFrame) -> Finding:
    known = own.filter(pl.col("difference").is_finite())
    worst = known.sort(pl.col("difference").abs()).tail(1)
    how = "in training mode" if mode == "training" else "normalised by the running averages"
    if worst.is_empty():
        said = f"On a mini-batch {how} no response of {kind.name} is a number that can be compared."
        verdict: Verdict = "cannot tell"
    else:
        row = worst.row(0, named=True)
        off = abs(row["difference"])
        side = "above" if row["difference"] > 0 else "below"
        said = (
            f"On one mini-batch, {how}, the responses of {kind.name} differ most from sqrt(mean gamma^2 + var beta) at "
            f"{row['site']}: {number(100 * off, 2)} % {side} it. All {own.height} layers that are normalised were "
            "compared."
        )
        verdict = "holds" if off <= TOLD and known.height == own.height else "does not hold"
    source = f"{_PAPER}; exact in training mode but for eps = 1e-5 in the variance"
    return Finding(rule, kind.cell["cell"], kind.subject, verdict, said, own, _ALONE, source)
