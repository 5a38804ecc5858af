"""How long the gradient's paths are: the binomial law, what the readings of study `highway` say, and the verdicts.

`law` has the law, `lengths` the tables of shares and lengths beside it, and `verdicts` the findings; all is to be
imported from here. Right of the waist: readings in, tables and findings out (which of them are drawn, see
`skipscope.charts.paths`).

Source of the count: Veit, Wilber & Belongie 2016, arXiv:1605.06431. The law is elementary (see `skipscope.paths.law`).
"""

from __future__ import annotations

from skipscope.paths.law import PathLaw, path_law
from skipscope.paths.lengths import misfit_data, paths_data, shares_data
from skipscope.paths.verdicts import judge
from skipscope.theory.paths import lengths_of

__all__ = ["PathLaw", "judge", "lengths_of", "misfit_data", "path_law", "paths_data", "shares_data"]
