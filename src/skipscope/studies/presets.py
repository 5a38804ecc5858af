"""How large every study of the demo is: `demo` in about a minute, `full` at the studies' own sizes.

The studies are those of the original notebook and those that its takeaways are judged by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from skipscope.readings import Readings
from skipscope.studies.correlation import correlation
from skipscope.studies.degradation import DEGRADATION_DEMO, degradation
from skipscope.studies.flow import flow
from skipscope.studies.highway import highway
from skipscope.studies.identity import IDENTITY_DEMO, identity
from skipscope.studies.jacobian import jacobian
from skipscope.studies.lesion import LESION_DEMO, lesion
from skipscope.studies.notebook import notebook
from skipscope.studies.representation import REPRESENTATION_DEMO, representation
from skipscope.studies.sweep import sweep

__all__ = ["PRESETS", "Part"]


@dataclass(frozen=True)
class Part:
    """One study of a preset.

    Attributes:
        about: what is done, for the progress bar.
        study: the study.
        seeds: how many.
        settings: its arguments.
    """

    about: str
    study: Callable[..., Readings]
    seeds: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    def own(self, seeds: range, *, whole: int) -> range:
        """Its seeds, from the first of the seeds on: as many of its own as `seeds` are of `whole`, but two at least."""
        return range(seeds.start, seeds.start + max(2, round(self.seeds * len(seeds) / whole)))

    def run(self, *, seeds: range, whole: int, **how: Any) -> Readings:
        """The readings of its own seeds; its settings go before `how`."""
        return self.study(seeds=self.own(seeds, whole=whole), **{**how, **self.settings})


def _trained(settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings of a study that trains on data, in the precision that training is done in."""
    return {"dtype": "float32", **{name: value for name, value in (settings or {}).items() if name != "seeds"}}


_FEW = {
    "depths": (5, 10, 20),
    "designs": ("plain", "residual", "residual, 1/sqrt(L)", "residual, layer norm"),
}

PRESETS: dict[str, tuple[Part, ...]] = {
    "demo": (
        Part("gradient flow", flow, 200),
        Part("as the notebook did it", notebook, 2000),
        Part("depth", sweep, 500),
        Part("shortcut and branch", highway, 300),
        Part("singular values", jacobian, 60, _FEW),
        Part("correlation of gradients", correlation, 100, _FEW),
        Part("the identity", identity, 8, IDENTITY_DEMO),
        Part("representation", representation, 8, _trained(REPRESENTATION_DEMO)),
        Part("degradation", degradation, 8, _trained(DEGRADATION_DEMO)),
        Part("lesions", lesion, 8, _trained(LESION_DEMO)),
    ),
    "full": (
        Part("gradient flow", flow, 1000),
        Part("as the notebook did it", notebook, 10000),
        Part("depth", sweep, 1000),
        Part("shortcut and branch", highway, 500),
        Part("singular values", jacobian, 50),
        Part("correlation of gradients", correlation, 200),
        Part("the identity", identity, 8),
        Part("representation", representation, 8, _trained()),
        Part("degradation", degradation, 8, _trained()),
        Part("lesions", lesion, 8, _trained()),
    ),
}
"""The studies by preset, in the order of the report; seeds are those of the demo's default number of seeds."""
