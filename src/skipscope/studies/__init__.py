"""Studies: functions that return readings, one short file each.

A study says which networks to measure and how; ensemble.py measures them over seeds, in chunks and in processes. What
the readings mean is said elsewhere (summary, diagnosis, report), from the readings alone.
"""

from __future__ import annotations

from skipscope.studies.flow import DIAGNOSIS_QUANTITIES, FLOW_QUANTITIES, flow
from skipscope.studies.notebook import notebook

__all__ = ["DIAGNOSIS_QUANTITIES", "FLOW_QUANTITIES", "flow", "notebook"]
