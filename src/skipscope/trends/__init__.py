"""What a sweep over depth says: trends with intervals, beside the law where one holds.

Tables from readings, and findings from the tables. Four questions:

    by_depth        how do growth, gains and the notebook's ratio change with depth?
    rates           by how much a block, fitted over depths?
    contradictions  which share of draws contradicts what the notebook concludes from one?
    misfit          do measurement and law agree, and where is there no law?

**Rates.** A network of L blocks has y = ln of a squared norm ratio. Of every seed, the slope of y against L is fitted
over the depths by least squares. All depths of a seed share their draw, so rows of (seed, depth) are not independent:
the unit is the seed, and every interval here is over seeds, of the mean of n independent slopes (Student's t). The mean
slope is that of the *typical* draw, as E y is close to the median. What the *mean square* does is another matter
(`skipscope.diagnosis` says why): where y is close to normal, ln E[ratio^2] = E y + Var y / 2. The variance over seeds
grows with depth, and the slope of E y + Var y / 2 is a mean over seeds too, of

    slope of y_s(L)  +  1/2 slope of (y_s(L) - mean over seeds)^2 n / (n - 1),

so that it gets its interval in the same way. A seed that has no finite ratio at some depth (dead, or overflowed) is
left out at all depths, and counted.

`fits` has the tables of trends and of the law, `dissent` those of the draws, and `verdicts` the findings; all is to be
imported from here. Right of the waist: imports readings, summary, diagnosis, and what both halves share.
"""

from __future__ import annotations

from skipscope.trends.dissent import DISSENT, contradictions, wilson
from skipscope.trends.fits import RATES, RATIO, by_depth, misfit, rates
from skipscope.trends.verdicts import findings

__all__ = [
    "DISSENT",
    "RATES",
    "RATIO",
    "by_depth",
    "contradictions",
    "findings",
    "misfit",
    "rates",
    "wilson",
]
