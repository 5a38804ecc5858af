"""Plain and residual networks in pairs, as the notebook compares them: their ratios, and the one over the other.

What the section on study `notebook` says rests on these numbers; each is a quantile or a share over draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from skipscope.readings import Readings
from skipscope.report.prose import QUANTILE_NAMES
from skipscope.spec import Spec
from skipscope.summary import QUANTILES, Summary
from skipscope.words import percent

__all__ = ["PAIRED", "RATIO", "Pair", "depth_table", "growth_table", "pairs_of", "quantiles"]

RATIO = "weight_grad_first_last"
"""The notebook's ratio, of `QUANTITIES`."""

PAIRED = "plain / residual"
"""The design of the cell that holds N, the plain network's ratio over the residual one's.

The notebook draws its two networks one after the other, so that they share no weight. A seed gives both the same
normals, and such a pair differs less. So a pair is the plain network of one seed and the residual one of the next.
"""

# ---------------------------------------------------------------------------------------------- pairs of networks


@dataclass(frozen=True)
class Pair:
    """A plain and a residual network of one depth, width and cotangent, over seeds.

    Attributes:
        plain: the spec of the one.
        residual: the spec of the other.
        depth: of both, by the notebook's count.
        width: of both.
        cotangent: what was sent back.
        readings: three cells of ratios: plain, residual, and, under the design `PAIRED`, the one over the other. The
            seed of a residual network is that of the plain one that it is paired with.
        same_seed: the one over the other where both have the same seed.
        cells: the names of the first two cells.
        drawn: pairs, those with a dead network included.
        partner: the residual network's seed, by the plain one's.
    """

    plain: Spec
    residual: Spec
    depth: int
    width: int
    cotangent: str
    readings: Readings
    same_seed: pl.Series
    cells: tuple[str, str]
    drawn: int
    partner: dict[int, int]

    @property
    def features(self) -> int:
        """Numbers a sample has."""
        return self.plain.stem.features

    @property
    def name(self) -> str:
        """The setting, as the notebook would put it."""
        return f"{self.sizes}, depth {self.depth}"

    @property
    def sizes(self) -> str:
        """Numbers in, units of a hidden layer if they are not as many, numbers out."""
        hidden = "" if self.width == self.features else f" → {self.width}"
        return f"{self.features}{hidden} → {self.plain.head.features}"

    def seeds(self, seed: int) -> str:
        """The seeds of the pair whose plain network has `seed`, in words."""
        return f"plain: seed {seed}, residual: seed {self.partner[seed]}"

    def values(self, design: str) -> pl.DataFrame:
        """Columns seed and value of a design's ratio."""
        cell = self.readings.cells.filter(pl.col("design") == design)["cell"][0]
        return self.readings.rows.filter(pl.col("cell") == cell).select("seed", "value").sort("seed")

    @property
    def above(self) -> float:
        """The share of draws in which the plain network's ratio is the larger."""
        return float(str((self.values(PAIRED)["value"] > 1).mean()))


def pairs_of(readings: Readings) -> list[Pair]:
    """The pairs, by width, cotangent and depth; the notebook's cotangent, ones, first."""
    cells = readings.cells.filter(pl.col("design").is_in(["plain", "residual"]), pl.col("spec") != "")
    found = []
    for _, group in cells.group_by("depth", "width", "cotangent", "dtype", maintain_order=True):
        byname = {row["design"]: row for row in group.iter_rows(named=True)}
        if group.height == 2 and len(byname) == 2:
            pair = _pair(readings, byname["plain"], byname["residual"])
            if pair is not None:
                found.append(pair)
    return sorted(found, key=lambda pair: (pair.width, pair.cotangent != "ones", pair.cotangent, pair.depth))


def _pair(readings: Readings, plain: dict[str, object], residual: dict[str, object]) -> Pair | None:
    names = (str(plain["cell"]), str(residual["cell"]))
    seeds = readings.rows.filter(pl.col("cell").is_in(names))["seed"].unique().sort().to_list()
    partner = dict(zip(seeds, seeds[1:] + seeds[:1], strict=True))
    rows = readings.rows.filter(pl.col("quantity") == RATIO, pl.col("step") == pl.col("step").min())
    rows = rows.filter(pl.col("value").is_finite(), pl.col("value") > 0)  # a dead network has no ratio
    first, other = (rows.filter(pl.col("cell") == name) for name in names)
    second = other.with_columns(pl.col("seed").replace_strict({other: seed for seed, other in partner.items()}))
    both = first.join(second, on="seed", suffix="_residual")
    same = first.join(other, on="seed", suffix="_residual")
    if both.is_empty() or same.is_empty():
        return None
    cell = f"{names[0]} / {names[1]}"
    ratio = both.with_columns(cell=pl.lit(cell), value=pl.col("value") / pl.col("value_residual"))
    described = readings.cells.filter(pl.col("cell") == names[0])
    cells = readings.cells.filter(pl.col("cell").is_in(names))
    sites = readings.sites.filter(pl.col("cell").is_in(names), pl.col("site") == "network")
    return Pair(
        plain=Spec.from_json(str(plain["spec"])),
        residual=Spec.from_json(str(residual["spec"])),
        depth=int(str(plain["depth"])),
        width=int(str(plain["width"])),
        cotangent=str(plain["cotangent"]),
        readings=Readings(
            rows=pl.concat([first, second, ratio.select(first.columns)]),
            cells=pl.concat([cells, described.with_columns(cell=pl.lit(cell), design=pl.lit(PAIRED), spec=pl.lit(""))]),
            sites=pl.concat([sites, sites.head(1).with_columns(cell=pl.lit(cell))]),
        ),
        same_seed=same["value"] / same["value_residual"],
        cells=names,
        drawn=len(seeds),
        partner=partner,
    )


# ------------------------------------------------------------------------------------------------------------ tables


def quantiles(pair: Pair, design: str) -> dict[str, float]:
    """The quantiles of a design's ratio, by the summary's names for them."""
    values = pair.values(design)["value"]
    return {name: float(str(values.quantile(level, "linear"))) for name, level in QUANTILES.items()}


def depth_table(pairs: Sequence[Pair]) -> pl.DataFrame:
    """Quantiles of the ratio by depth and cotangent, for both networks and for the one over the other."""
    rows = []
    for pair in pairs:
        row: dict[str, object] = {"d": pair.depth, "sent back": pair.cotangent}
        for design in ("plain", "residual"):
            row |= {f"{design}|{QUANTILE_NAMES[name]}": value for name, value in quantiles(pair, design).items()}
        found = quantiles(pair, PAIRED)
        row |= {f"N|{QUANTILE_NAMES[name]}": found[name] for name in ("q05", "q50", "q95")}
        row |= {"N|above 1": percent(pair.above), "N, same seed|median": float(str(pair.same_seed.median()))}
        row["N, same seed|above 1"] = percent(float(str((pair.same_seed > 1).mean())))
        both = pair.values(PAIRED).height
        rows.append(row | {"draws": both, "dead": pair.drawn - both})
    return pl.DataFrame(rows)


def growth_table(pairs: Sequence[Pair], summary: Summary) -> pl.DataFrame:
    """Median growth of signal and gradient: a block, on the squared norm, and over the body, on the norm."""
    medians = {
        (row["cell"], row["quantity"]): row["q50"]
        for row in summary.table.filter(pl.col("site") == "network").iter_rows(named=True)
    }
    rows = []
    for pair in pairs:
        row: dict[str, object] = {"d": pair.depth, "sent back": pair.cotangent}
        for design, cell, spec in zip(("plain", "residual"), pair.cells, (pair.plain, pair.residual), strict=True):
            for what, quantity in (("signal", "forward_growth"), ("gradient", "backward_growth")):
                growth = medians.get((cell, quantity))
                if growth is not None:
                    row[f"{design}: {what}|a block"] = growth
                    # The whole is a power of the growth a block, and a median keeps its place under a power.
                    row[f"{design}: {what}|whole body"] = growth ** (len(spec.body) / 2)
        if len(row) == 10:
            rows.append(row)
    return pl.DataFrame(rows)
