"""skipscope measures what depth and skip connections do to a neural network.

    >>> import skipscope
    >>> network = skipscope.build(skipscope.Spec.dense(width=36, blocks=28, features=16), seed=range(200))
    >>> readings = skipscope.probe(network, batch=1)
    >>> for finding in skipscope.diagnose(readings):
    ...     print(finding.statement)

Networks are probed; a probe yields readings; readings are summarised, diagnosed and drawn. Importing this module costs
little more than importing NumPy and Polars: PyTorch is never imported by it, and the libraries that draw and fit are
imported when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from skipscope.errors import InputError
from skipscope.probe import probe
from skipscope.quantities import QUANTITIES, Quantity
from skipscope.readings import Readings
from skipscope.spec import Gains, Head, Spec, Stage, Stem

if TYPE_CHECKING:
    from skipscope import charts, losses, report, studies, testing, theory
    from skipscope import torch as torch
    from skipscope.comparison import compare
    from skipscope.designs import design
    from skipscope.diagnosis import Finding, diagnose
    from skipscope.engines.numpy_engine import build
    from skipscope.notebook import PlainLayer, PlainNetwork, ResidualBlock, ResidualNetwork
    from skipscope.summary import Summary, summarise

__version__ = "0.1.0"

# Imported on first use, so that `import skipscope` stays light.
_LATER = {
    "Finding": "skipscope.diagnosis",
    "PlainLayer": "skipscope.notebook",
    "PlainNetwork": "skipscope.notebook",
    "ResidualBlock": "skipscope.notebook",
    "ResidualNetwork": "skipscope.notebook",
    "Summary": "skipscope.summary",
    "build": "skipscope.engines.numpy_engine",
    "compare": "skipscope.comparison",
    "design": "skipscope.designs",
    "diagnose": "skipscope.diagnosis",
    "summarise": "skipscope.summary",
}
_MODULES = ("charts", "losses", "report", "studies", "testing", "theory", "torch")  # `torch` needs PyTorch

__all__ = [
    "QUANTITIES",
    "Finding",
    "Gains",
    "Head",
    "InputError",
    "PlainLayer",
    "PlainNetwork",
    "Quantity",
    "Readings",
    "ResidualBlock",
    "ResidualNetwork",
    "Spec",
    "Stage",
    "Stem",
    "Summary",
    "build",
    "charts",
    "compare",
    "design",
    "diagnose",
    "losses",
    "probe",
    "report",
    "studies",
    "summarise",
    "testing",
    "theory",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"skipscope.{name}")
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module 'skipscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
