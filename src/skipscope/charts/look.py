"""How every chart looks: colours, shapes, axes, panels, and a table's rows as the values of a chart.

A design has one colour and one shape everywhere: the four colours of Okabe and Ito (2008, jfly.uni-koeln.de/color) that
stand out (3:1) from white and from black alike, for they have to be told apart in either, also by the colour-blind. All
other ink is `currentColor`: black in a file, and in a page the colour of its text, dark or light.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal
from xml.sax.saxutils import escape

import altair as alt
import polars as pl

from skipscope.designs import DESIGNS
from skipscope.errors import InputError
from skipscope.quantities import QUANTITIES
from skipscope.readings import Readings
from skipscope.spec import Spec
from skipscope.words import number, tenths

__all__ = [
    "COLOURS",
    "INK",
    "LOG_LABELS",
    "NOTE",
    "OTHERS",
    "PERCENT",
    "SHAPES",
    "Rows",
    "Shared",
    "as_means",
    "as_percent",
    "as_percents",
    "as_range",
    "as_ranges",
    "as_rows",
    "as_text",
    "bands",
    "capital",
    "colour",
    "depth_axis",
    "design_places",
    "facet",
    "in_order",
    "kinds",
    "labelled",
    "labels",
    "law_lines",
    "laws_of_means",
    "log_axis",
    "mean_law_lines",
    "mean_law_words",
    "medians",
    "require_rows",
    "seeds_in_words",
    "shape",
    "svg",
    "title_of",
    "tooltip",
    "zoom",
]

COLOURS = {"plain": "#D55E00", "residual": "#0072B2", "twin": "#CC79A7", "matched": "#009E73"}
"""The colour of every design."""

SHAPES = {"plain": "circle", "residual": "square", "twin": "triangle-up", "matched": "diamond"}
"""The point of every design, for those who see no colours."""

OTHERS = ("#8A63D2", "#A0712B", "#7A7A7A", "#C4488E", "#2F8F9D")
"""Colours of what is no design (which part, which statistic, which depth), so that nobody takes it for one."""

_MORE_COLOURS = ("#7A7A7A", "#0072B2", "#D55E00", "#009E73", "#CC79A7")  # of cells that are no design of ours
_MORE_SHAPES = ("circle", "square", "diamond", "triangle-down", "cross")

_TITLES = {
    "activation_rms": "signal (RMS per element)",
    "forward_gain": "signal norm, relative to the input's",
    "backward_gain": "gradient norm, relative to the output's",
    "weight_grad_norm": "weight gradient, norm (loss per weight)",
    "weight_grad_first_last": "first weight gradient / last, in norm",
}

INK = "currentColor"
_NOTHING = "–"

Rows = list[dict[str, Any]]
NOTE: dict[str, Any] = {"color": INK, "fontSize": 11, "y": 8, "clip": True}
Shared = dict[str, Any]  # what the encodings of one axis share: title, scale, axis

# ---------------------------------------------------------------------------------------------------------- words


def title_of(quantity: str) -> str:
    """A quantity in words, with its unit: the title of an axis."""
    if quantity in _TITLES:
        return _TITLES[quantity]
    words = quantity.replace("_", " ")
    known = QUANTITIES.get(quantity)
    return f"{words} ({known.unit.partition(';')[0]})" if known else words


def labels(readings: Readings) -> dict[str, str]:
    """A short name for every cell: its design, and whatever else it takes to tell the cells apart.

    The designs that skipscope knows come first, in its order; other cells in theirs.
    """
    return _labels(readings.cells.to_dicts())


def _labels(rows: Rows) -> dict[str, str]:
    names = list(DESIGNS)
    order = sorted(
        range(len(rows)),
        key=lambda i: (names.index(rows[i]["design"]) if rows[i]["design"] in names else len(names), i),
    )
    base = [row["design"] or row["edit"] or "network" for row in rows]
    differing = [name for name in (rows[0] if rows else ()) if _tells_apart(name, rows, base)]
    found = {
        rows[i]["cell"]: ", ".join([base[i], *(_factor(name, rows[i][name]) for name in differing)]) for i in order
    }
    specs = {row["cell"]: row["spec"] for row in rows}
    alike: dict[str, list[str]] = {}
    for cell, label in found.items():
        alike.setdefault(label, []).append(cell)
    for label, cells in alike.items():
        if len(cells) > 1:
            found |= {cell: ", ".join([label, *more]) for cell, more in _fields_apart(cells, specs).items()}
    if len(set(found.values())) < len(found):  # alike in every factor and field: only their names are left
        return {cell: cell for cell in found}
    return found


def kinds(readings: Readings) -> dict[str, str]:
    """A short name for every cell, which cells that differ in depth only have in common; else as `labels`."""
    alike: dict[str, list[dict[str, Any]]] = {}
    for row in readings.cells.iter_rows(named=True):
        alike.setdefault(_kind(row), []).append(row)
    named = _labels([{**json.loads(kind), "cell": kind} for kind in alike])
    return {row["cell"]: label for kind, label in named.items() for row in alike[kind]}


def _kind(row: dict[str, Any]) -> str:
    """All but its depth that a cell can be told apart by: its row, as if it had one block a stage."""
    spec = ""
    if row["spec"]:
        known = Spec.from_json(row["spec"])
        spec = replace(known, stages=tuple(replace(stage, blocks=1) for stage in known.stages)).to_json()
    deep = dict.fromkeys(("depth", "blocks") if "blocks" in row else ("depth",))
    return json.dumps({**row, "cell": "", "spec": spec, **deep}, sort_keys=True)


def _fields_apart(cells: Sequence[str], specs: dict[str, str]) -> dict[str, list[str]]:
    """For every cell those fields of its spec, with their values, in which the cells differ."""
    if not all(specs[cell] for cell in cells):
        return {cell: [] for cell in cells}
    fields = {cell: _fields(Spec.from_json(specs[cell])) for cell in cells}
    names = dict.fromkeys(name for each in fields.values() for name in each)
    apart = [name for name in names if len({each.get(name) for each in fields.values()}) > 1]
    # What stem and stages have in common is said once, of the stages.
    apart = [name for name in apart if not (name.startswith("stem ") and name.removeprefix("stem ") in apart)]
    return {cell: [f"{name} {fields[cell].get(name, 'none')}" for name in apart] for cell in cells}


def _fields(spec: Spec) -> dict[str, object]:
    """The fields of a spec by the names that `Spec.dense` has for them."""
    found: dict[str, object] = {"init": spec.init, "bias": spec.bias, "dtype": spec.dtype}
    for place, stage in enumerate(spec.stages, start=1):
        of = f"stage {place} " if len(spec.stages) > 1 else ""
        own: dict[str, object] = {
            name: getattr(stage, name)
            for name in ("norm", "order", "activation", "shortcut", "blocks", "layers", "width", "kind", "stride")
        }
        own |= {"shortcut gain": stage.gains.shortcut, "branch gain": stage.gains.branch}
        found |= {of + name: value for name, value in own.items()}
    found |= {"features": spec.stem.features, "outputs": spec.head.features, "output": spec.head.activation}
    return found | {f"stem {name}": getattr(spec.stem, name) for name in ("norm", "activation", "width")}


def _tells_apart(name: str, rows: Rows, base: Sequence[str]) -> bool:
    """Whether a factor differs between cells of one design."""
    if name in ("cell", "spec", "study", "design") or (name == "gain" and all(row["spec"] for row in rows)):
        return False  # which of a junction's two gains it is, the spec says better
    values: dict[str, set[object]] = {}
    for row, key in zip(rows, base, strict=True):
        values.setdefault(key, set()).add(row[name])
    return any(len(each) > 1 for each in values.values())


def _factor(name: str, value: object) -> str:
    if name == "cotangent":
        return f"{value} sent back"
    return f"{value}" if name == "edit" and value else f"{name} {value if value not in (None, '') else 'none'}"


def design_places(readings: Readings) -> dict[str, int]:
    """The place of every design: those without a norm first, plain before residual, scaled branches last."""
    norms = ("none", "layer", "batch")

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        norm = norms.index(row["norm"]) if row["norm"] in norms else len(norms)
        return norm, not str(row["design"]).startswith("plain"), row["gain"] != "1.0, 1.0", str(row["design"])

    return {row["design"]: place for place, row in enumerate(sorted(readings.cells.to_dicts(), key=key))}


def require_rows(table: pl.DataFrame, what: str) -> pl.DataFrame:
    """The table, if it has rows.

    Raises:
        InputError: it has none; `what` says what is missing.
    """
    if table.is_empty():
        raise InputError(f"there is nothing to draw: {what}")
    return table


# ------------------------------------------------------------------------------------------------- how a table looks


def facet(
    layers: Sequence[alt.Chart],
    rows: Rows,
    panels: Sequence[str],
    *,
    columns: int,
    title: str,
    subtitle: list[str],
    description: str,
    independent: bool = False,
    square: bool = False,
    size: tuple[int, int] = (320, 220),
) -> alt.FacetChart:
    """The layers as panels of one chart, in the order of `panels`; `square` ones keep the shape that `size` has."""
    width, height = size
    chart = (
        alt.layer(*layers)
        .properties(width=width, height=height)
        .facet(
            facet=alt.Facet("panel:N", title=None, sort=list(panels), header=alt.Header(labelAnchor="start")),
            data=alt.InlineData(values=rows),
            columns=min(columns, len(panels)),
        )
        .properties(title=alt.Title(title, subtitle=subtitle), description=description)
    )
    if square:
        chart = chart.properties(usermeta={"aspect": height / width})
    if independent:
        chart = chart.resolve_scale(y="independent").properties(bounds="flush", spacing=64)
    configured: alt.FacetChart = chart.configure(**_CONFIG)
    return configured


def svg(chart: alt.FacetChart) -> str:
    """The chart as the text of an SVG file that says in words what it shows, for those who do not see it.

    `chart.save("chart.svg")` draws the same, but Vega leaves a chart's title and description out of the file's own.
    """
    drawn = io.StringIO()
    chart.save(drawn, format="svg")
    start, tag, rest = drawn.getvalue().partition(">")
    spec = chart.to_dict()
    told = f"<title>{escape(spec['title']['text'])}</title><desc>{escape(spec['description'])}</desc>"
    return f'{start} role="img"{tag}{told}{rest}'


def bands(base: alt.Chart, y: Shared) -> list[alt.Chart]:
    """The bands of 5 to 95 and 25 to 75 % of draws."""

    def band(low: str, high: str, opacity: float) -> alt.Chart:
        drawn: alt.Chart = base.mark_area(opacity=opacity, clip=True).encode(y=alt.Y(f"{low}:Q", **y), y2=f"{high}:Q")
        return drawn

    return [band("q05", "q95", 0.18), band("q25", "q75", 0.3)]


def law_lines(x: alt.X, y: Shared) -> list[alt.Chart]:
    """The law's median, dashed, and its 5 and 95 % quantiles, dotted."""

    def line(name: str, width: float, dash: list[int]) -> alt.Chart:
        drawn = alt.Chart().mark_line(color=INK, strokeWidth=width, strokeDash=dash, clip=True)
        dashed: alt.Chart = drawn.encode(x=x, y=alt.Y(f"{name}:Q", **y))
        return dashed

    return [line("law_q05", 0.8, [2, 2]), line("law_q95", 0.8, [2, 2]), line("law_q50", 1.5, [6, 3])]


def laws_of_means() -> list[pl.Expr]:
    """The columns `rms` and `law_rms` of a summary, null but where the law knows of the mean square alone."""
    alone = pl.when(pl.col("law_q50").is_null() & pl.col("law_rms").is_not_null())
    return [alone.then(name).alias(name) for name in ("rms", "law_rms")]


def mean_law_lines(x: alt.X, y: Shared) -> list[alt.Chart]:
    """A law of the mean square alone: its root, dash-dotted, beside the measured root mean square, a thin line."""
    measured = alt.Chart().mark_line(color=INK, strokeWidth=1, opacity=0.7, clip=True)
    law = alt.Chart().mark_line(color=INK, strokeWidth=1.5, strokeDash=[8, 3, 2, 3], clip=True)
    return [measured.encode(x=x, y=alt.Y("rms:Q", **y)), law.encode(x=x, y=alt.Y("law_rms:Q", **y))]


def mean_law_words(table: pl.DataFrame) -> str:
    """How to read `mean_law_lines` in a chart's subtitle; nothing where the table has no such law."""
    if table["law_rms"].null_count() == table.height:
        return ""
    return "dash-dotted: the law of the root mean square over draws; thin: that of these draws"


def medians(
    base: alt.Chart, y: Shared, shape: alt.Shape, tooltip: list[alt.Tooltip], dash: alt.StrokeDash | None = None
) -> list[alt.Chart]:
    """The line of medians and its points; the point nearest to the pointer says what it is."""
    hover = alt.selection_point(name="hover", on="pointerover", clear="pointerout", nearest=True, empty=False)
    height = alt.Y("q50:Q", **y)
    line = base.mark_line(strokeWidth=1.8, clip=True).encode(y=height).add_params(zoom(["x", "y"]))
    if dash is not None:
        line = line.encode(strokeDash=dash)
    points = base.mark_point(filled=True, opacity=1, clip=True).encode(
        y=height, shape=shape, tooltip=tooltip, size=alt.when(hover).then(alt.value(90)).otherwise(alt.value(16))
    )
    return [line, points.add_params(hover)]


def zoom(axes: Sequence[Literal["x", "y"]]) -> alt.Parameter:
    """Drag to move, scroll to zoom, double click to see everything again."""
    return alt.selection_interval(name="zoom", bind="scales", encodings=list(axes))


def depth_axis(depths: pl.Series, column: str, title: str) -> alt.X:
    """From the input to a little beyond the deepest, so that no point is cut in half."""
    end = 1.03 * max(1, int(str(depths.max())))
    scale = alt.Scale(domain=[0, float(f"{end:.3g}")], nice=False)
    return alt.X(f"{column}:Q", title=title, scale=scale, axis=alt.Axis(tickMinStep=1, grid=False))


def log_axis(table: pl.DataFrame, title: str) -> Shared:
    """A log axis, unless values are negative or most medians 0 (a cosine, a count)."""
    zeros = table.filter(pl.col("q50") == 0).height
    if (table["q05"] < 0).any() or 2 * zeros > table.height:
        return {"title": title, "scale": alt.Scale(zero=False), "axis": alt.Axis(tickCount=6)}
    axis = alt.Axis(labelExpr=LOG_LABELS, tickCount=4, gridOpacity=_POWERS_OF_TEN)
    return {"title": title, "scale": alt.Scale(type="log"), "axis": axis}


def _log_labels() -> str:
    """A Vega expression: 0.01 to 1,000 as they are, other powers of ten as 10⁶; what Vega leaves blank stays blank."""
    power = "format(round(log(datum.value) / LN10), 'd')"
    for digit, raised in zip("−0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹", strict=True):  # d3 writes a true minus
        power = f"replace({power}, regexp('{digit}', 'g'), '{raised}')"
    small = "datum.value >= 0.00999 && datum.value < 1001"
    return f"datum.label === '' ? '' : {small} ? format(datum.value, ',~g') : '10' + {power}"


LOG_LABELS = _log_labels()
PERCENT = "format(100 * datum.value, '~g') + ' %'"
"""A Vega expression: the label of a share on an axis, as sentences have it."""

_WHOLE_POWER = "abs(log(datum.value) / LN10 - round(log(datum.value) / LN10)) < 1e-6"
_POWERS_OF_TEN: Any = {"condition": {"test": _WHOLE_POWER, "value": 1}, "value": 0}  # grid lines at no other ticks


def _keys(table: pl.DataFrame) -> dict[str, tuple[str, str]]:
    """Colour and shape of every network that is drawn: its design's, or the next one that is free."""
    column = "label" if "label" in table.columns else "panel"
    found: dict[str, tuple[str, str]] = {}
    for key, known in table.select(column, "design").unique(maintain_order=True).iter_rows():
        design = _design_of(known)
        own = (COLOURS.get(design, ""), SHAPES.get(design, ""))
        if design not in COLOURS or (column == "label" and own in found.values()):
            more = list(zip(_MORE_COLOURS, _MORE_SHAPES, strict=True))
            own = next((each for each in more if each not in found.values()), more[len(found) % len(more)])
        found[key] = own
    return found


def _design_of(name: str | None) -> str:
    """The design whose colour a network has: of the paper's networks by name, `cifar-20-plain`, the plain one's."""
    match = _PAPER.fullmatch(name or "")
    if match is None:
        return name or ""
    return "plain" if match[1] else "residual"


_PAPER = re.compile(r"(?:cifar|imagenet)(?:-[0-9]+)?(?:-(plain)|-A|-A-both|-B|-C)?(?:-v1\.5)?")


def colour(table: pl.DataFrame, *, legend: bool = True) -> alt.Color:
    """The colour of every network of the table."""
    keys = _keys(table)
    column = "label" if "label" in table.columns else "panel"
    shown = alt.Legend(title=None, orient="top", symbolOpacity=1, symbolSize=60) if legend else None
    scale = alt.Scale(domain=list(keys), range=[colour for colour, _ in keys.values()])
    return alt.Color(f"{column}:N", scale=scale, legend=shown)


def shape(table: pl.DataFrame, *, legend: bool = True) -> alt.Shape:
    """The point of every network of the table."""
    keys = _keys(table)
    column = "label" if "label" in table.columns else "panel"
    shown = alt.Legend(title=None, orient="top", symbolOpacity=1, symbolSize=60) if legend else None
    scale = alt.Scale(domain=list(keys), range=[shape for _, shape in keys.values()])
    return alt.Shape(f"{column}:N", scale=scale, legend=shown)


def labelled(rows: pl.DataFrame, readings: Readings) -> pl.DataFrame:
    """The rows with the label of their network, in the order of the designs."""
    named = labels(readings)
    found = [(cell, place, label) for place, (cell, label) in enumerate(named.items())]
    schema = {"cell": pl.String, "place": pl.Int64, "label": pl.String}
    return rows.join(pl.DataFrame(found, schema=schema, orient="row"), on="cell", how="left")


# ------------------------------------------------------------------------------------------------ a table as values


def as_rows(table: pl.DataFrame) -> Rows:
    """The table for a chart: six significant digits are more than anybody can see, and half the size."""
    return [{name: _short(value) for name, value in row.items()} for row in table.iter_rows(named=True)]


def _short(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


def as_text(name: str, column: pl.Expr, digits: int = 3) -> pl.Expr:
    """A column of numbers as people write them, for a tooltip."""
    return column.map_elements(lambda value: number(value, digits), pl.String).fill_null(_NOTHING).alias(name)


def as_range(name: str, low: str, high: str, middle: str | None = None) -> pl.Expr:
    """As text: 0.1 to 2, or with a middle 0.5 (0.1 to 2); an en dash where there is nothing."""

    def told(row: dict[str, Any]) -> str:
        if row[low] is None or row[high] is None:
            return _NOTHING
        between = f"{number(row[low])} to {number(row[high])}"
        return f"{number(row[middle])} ({between})" if middle else between

    columns = [low, high, *([middle] if middle else [])]
    return pl.struct(columns).map_elements(told, pl.String, skip_nulls=False).alias(name)


def as_percent(name: str, column: pl.Expr) -> pl.Expr:
    """A column of shares as percentages to a tenth, for a tooltip."""
    return column.map_elements(tenths, pl.String).fill_null(_NOTHING).alias(name)


def as_percents(name: str, low: str, high: str) -> pl.Expr:
    """As text: 4.0 % to 9.7 %; an en dash where there is nothing."""

    def told(row: dict[str, Any]) -> str:
        return _NOTHING if None in row.values() else f"{tenths(row[low])} to {tenths(row[high])}"

    return pl.struct(low, high).map_elements(told, pl.String, skip_nulls=False).alias(name)


def as_ranges() -> list[pl.Expr]:
    """The two bands in words, for a tooltip."""
    return [as_range("half", "q25", "q75"), as_range("most", "q05", "q95")]


def as_means(name: str) -> pl.Expr:
    """The columns of `laws_of_means` as text, the law's last; an en dash where there is no such law."""
    told = as_range(name, "rms", "law_rms")
    return told.str.replace(" to ", ", law ", literal=True).alias(name)


def tooltip(**columns: str) -> list[alt.Tooltip]:
    """A tooltip of columns that are text already: column=title."""
    return [alt.Tooltip(f"{name}:N", title=title) for name, title in columns.items()]


def in_order(values: Iterable[str]) -> list[str]:
    """The values once each, in the order in which they come."""
    return list(dict.fromkeys(values))


def seeds_in_words(table: pl.DataFrame) -> str:
    """How many seeds the rows rest on, in words."""
    low, high = int(str(table["n"].min())), int(str(table["n"].max()))
    if low == high:
        return f"{low:,} seed{'s' if low != 1 else ''}"
    return f"{low:,} to {high:,} seeds"


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


_CONFIG: dict[str, Any] = {
    "background": "white",
    "font": "Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "domainColor": INK,
        "tickColor": INK,
        "gridColor": INK,
        "gridOpacity": 0.12,
        "domainOpacity": 0.5,
        "tickOpacity": 0.5,
        "titleFontWeight": "normal",
        "titleFontSize": 12,
        "labelFontSize": 11,
        "labelOverlap": True,
    },
    "header": {"labelColor": INK, "labelFontSize": 13, "labelFontWeight": "bold"},
    "legend": {"labelColor": INK, "labelFontSize": 12},
    "title": {
        "color": INK,
        "subtitleColor": INK,
        "anchor": "start",
        "fontSize": 15,
        "subtitleFontSize": 12,
        "offset": 12,
    },
    "facet": {"spacing": 22},
}
