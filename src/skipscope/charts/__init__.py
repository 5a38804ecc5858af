"""Charts of a summary, with Altair: `charts.flow(summary, "backward_gain").save("flow.svg")` (or .png, .html, .json).

A chart is two functions. `*_data` picks from a summary the table that is drawn, and computes nothing that the summary
has not computed (a histogram alone counts, because a histogram is counting); the drawer beside it says how the table
looks. So a test can compare what is drawn with the summary, and the table is the chart's text alternative. Every chart
is a row of panels with common axes, so that whoever shows it can choose their number a row.
"""

from __future__ import annotations

from skipscope.charts.convergence import training_curves, training_curves_data
from skipscope.charts.degradation import (
    error_by_depth,
    error_by_depth_data,
    gradient_curves,
    gradient_curves_data,
    learning_curves,
    learning_curves_data,
)
from skipscope.charts.draws import depth_ratio, depth_ratio_data, distribution, distribution_data
from skipscope.charts.identity import (
    block_scales,
    block_scales_data,
    block_units,
    block_units_data,
    stack_errors,
    stack_errors_data,
)
from skipscope.charts.lesion import (
    lesion_blocks,
    lesion_blocks_data,
    lesion_deleted,
    lesion_deleted_data,
    lesion_swapped,
    lesion_swapped_data,
)
from skipscope.charts.look import COLOURS, SHAPES, kinds, labels, svg, title_of
from skipscope.charts.models import (
    absent_blocks,
    absent_blocks_data,
    twin_flow,
    twin_flow_data,
    twin_losses,
    twin_losses_data,
)
from skipscope.charts.paths import path_lengths, path_lengths_data, shares, shares_data
from skipscope.charts.profiles import coincident, coincident_words, flow, flow_data, junctions, junctions_data
from skipscope.charts.propagation import (
    body_factors,
    body_factors_data,
    propagation_by_layer,
    propagation_by_layer_data,
)
from skipscope.charts.responses import layer_responses, layer_responses_data
from skipscope.charts.separability import (
    components,
    components_data,
    samples,
    samples_data,
    separability_by_depth,
    separability_data,
    separability_name,
)
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
    "absent_blocks",
    "absent_blocks_data",
    "block_scales",
    "block_scales_data",
    "block_units",
    "block_units_data",
    "body_factors",
    "body_factors_data",
    "coincident",
    "coincident_words",
    "components",
    "components_data",
    "contradictions",
    "contradictions_data",
    "correlation",
    "correlation_data",
    "depth_ratio",
    "depth_ratio_data",
    "distribution",
    "distribution_data",
    "error_by_depth",
    "error_by_depth_data",
    "flow",
    "flow_data",
    "gradient_curves",
    "gradient_curves_data",
    "junctions",
    "junctions_data",
    "kinds",
    "labels",
    "layer_responses",
    "layer_responses_data",
    "learning_curves",
    "learning_curves_data",
    "lesion_blocks",
    "lesion_blocks_data",
    "lesion_deleted",
    "lesion_deleted_data",
    "lesion_swapped",
    "lesion_swapped_data",
    "path_lengths",
    "path_lengths_data",
    "propagation_by_layer",
    "propagation_by_layer_data",
    "rates",
    "rates_data",
    "samples",
    "samples_data",
    "scaling",
    "scaling_data",
    "separability_by_depth",
    "separability_data",
    "separability_name",
    "shares",
    "shares_data",
    "spectrum",
    "spectrum_data",
    "stack_errors",
    "stack_errors_data",
    "svg",
    "title_of",
    "training_curves",
    "training_curves_data",
    "twin_flow",
    "twin_flow_data",
    "twin_losses",
    "twin_losses_data",
]
