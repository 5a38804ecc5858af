"""Studies: functions that return readings, one short file each.

A study says which networks to measure and how; ensemble.py measures them over seeds, in chunks and in processes. What
the readings mean is said elsewhere (summary, diagnosis, report), from the readings alone.
"""

from __future__ import annotations

from skipscope.studies.correlation import CORRELATION_DESIGNS, CORRELATION_QUANTITIES, correlation
from skipscope.studies.flow import DIAGNOSIS_QUANTITIES, FLOW_QUANTITIES, flow
from skipscope.studies.highway import HIGHWAY_QUANTITIES, highway
from skipscope.studies.jacobian import JACOBIAN_DESIGNS, JACOBIAN_QUANTITIES, jacobian
from skipscope.studies.notebook import notebook
from skipscope.studies.sweep import SITE_QUANTITIES, SWEEP_DEPTHS, SWEEP_QUANTITIES, sweep

__all__ = [
    "CORRELATION_DESIGNS",
    "CORRELATION_QUANTITIES",
    "DIAGNOSIS_QUANTITIES",
    "FLOW_QUANTITIES",
    "HIGHWAY_QUANTITIES",
    "JACOBIAN_DESIGNS",
    "JACOBIAN_QUANTITIES",
    "SITE_QUANTITIES",
    "SWEEP_DEPTHS",
    "SWEEP_QUANTITIES",
    "correlation",
    "flow",
    "highway",
    "jacobian",
    "notebook",
    "sweep",
]
