"""Studies: functions that return readings, one short file each.

A study says which networks to measure and how; ensemble.py measures them over seeds, in chunks and in processes. What
the readings mean is said elsewhere (summary, diagnosis, report), from the readings alone. `lesion`, `sweep` and `twin`
take a model of one's own (see `skipscope.torch_studies`).
"""

from __future__ import annotations

from skipscope.studies.correlation import CORRELATION_DESIGNS, CORRELATION_QUANTITIES, correlation
from skipscope.studies.degradation import (
    DEGRADATION_DEMO,
    DEGRADATION_DEPTHS,
    DEGRADATION_QUANTITIES,
    DEGRADATION_RATES,
    degradation,
)
from skipscope.studies.flow import DIAGNOSIS_QUANTITIES, FLOW_QUANTITIES, flow
from skipscope.studies.highway import HIGHWAY_QUANTITIES, highway
from skipscope.studies.identity import IDENTITY_DEMO, IDENTITY_DESIGNS, IDENTITY_QUANTITIES, identity
from skipscope.studies.jacobian import JACOBIAN_DESIGNS, JACOBIAN_QUANTITIES, jacobian
from skipscope.studies.lesion import LESION_DEMO, LESION_QUANTITIES, LESION_RECIPE, lesion
from skipscope.studies.notebook import notebook
from skipscope.studies.own import twin
from skipscope.studies.pictures import pictures
from skipscope.studies.propagation import (
    PROPAGATION_DEPTHS,
    PROPAGATION_DESIGNS,
    PROPAGATION_FULL,
    PROPAGATION_QUANTITIES,
    propagation,
)
from skipscope.studies.representation import (
    REPRESENTATION_DEMO,
    REPRESENTATION_QUANTITIES,
    REPRESENTATION_RECIPE,
    representation,
)
from skipscope.studies.responses import (
    RESPONSES_DEMO,
    RESPONSES_QUANTITIES,
    RESPONSES_RECIPE,
    RESPONSES_SPECS,
    responses,
)
from skipscope.studies.sweep import SITE_QUANTITIES, SWEEP_DEPTHS, SWEEP_QUANTITIES, sweep
from skipscope.studies.train import train

__all__ = [
    "CORRELATION_DESIGNS",
    "CORRELATION_QUANTITIES",
    "DEGRADATION_DEMO",
    "DEGRADATION_DEPTHS",
    "DEGRADATION_QUANTITIES",
    "DEGRADATION_RATES",
    "DIAGNOSIS_QUANTITIES",
    "FLOW_QUANTITIES",
    "HIGHWAY_QUANTITIES",
    "IDENTITY_DEMO",
    "IDENTITY_DESIGNS",
    "IDENTITY_QUANTITIES",
    "JACOBIAN_DESIGNS",
    "JACOBIAN_QUANTITIES",
    "LESION_DEMO",
    "LESION_QUANTITIES",
    "LESION_RECIPE",
    "PROPAGATION_DEPTHS",
    "PROPAGATION_DESIGNS",
    "PROPAGATION_FULL",
    "PROPAGATION_QUANTITIES",
    "REPRESENTATION_DEMO",
    "REPRESENTATION_QUANTITIES",
    "REPRESENTATION_RECIPE",
    "RESPONSES_DEMO",
    "RESPONSES_QUANTITIES",
    "RESPONSES_RECIPE",
    "RESPONSES_SPECS",
    "SITE_QUANTITIES",
    "SWEEP_DEPTHS",
    "SWEEP_QUANTITIES",
    "correlation",
    "degradation",
    "flow",
    "highway",
    "identity",
    "jacobian",
    "lesion",
    "notebook",
    "pictures",
    "propagation",
    "representation",
    "responses",
    "sweep",
    "train",
    "twin",
]
