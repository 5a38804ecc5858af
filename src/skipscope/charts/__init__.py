"""Charts of a summary, with Altair: `charts.flow(summary, "backward_gain").save("flow.svg")` (or .png, .html, .json).

A chart is two functions. `*_data` picks from a summary the table that is drawn, and computes nothing that the summary
has not computed (a histogram alone counts, because a histogram is counting); the drawer beside it says how the table
looks. So a test can compare what is drawn with the summary, and the table is the chart's text alternative. Every chart
is a row of panels with common axes, so that whoever shows it can choose their number a row.
"""

from __future__ import annotations

from skipscope.charts.draws import depth_ratio, depth_ratio_data, distribution, distribution_data
from skipscope.charts.look import COLOURS, SHAPES, kinds, labels, svg, title_of
from skipscope.charts.paths import path_lengths, path_lengths_data, shares, shares_data
from skipscope.charts.profiles import coincident, coincident_words, flow, flow_data, junctions, junctions_data
from skipscope.charts.shattering import correlation, correlation_data
from skipscope.charts.spectra import CURVES, spectrum, spectrum_data
from skipscope.charts.trends import (
    contradictions,
    contradictions_data,
    rates,
    rates_data,
    scaling,
    scaling_data,
)

__all__ = [
    "COLOURS",
    "CURVES",
    "SHAPES",
    "coincident",
    "coincident_words",
    "contradictions",
    "contradictions_data",
    "correlation",
    "correlation_data",
    "depth_ratio",
    "depth_ratio_data",
    "distribution",
    "distribution_data",
    "flow",
    "flow_data",
    "junctions",
    "junctions_data",
    "kinds",
    "labels",
    "path_lengths",
    "path_lengths_data",
    "rates",
    "rates_data",
    "scaling",
    "scaling_data",
    "shares",
    "shares_data",
    "spectrum",
    "spectrum_data",
    "svg",
    "title_of",
]
