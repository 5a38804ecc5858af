"""How large every study of the demo is: `demo` for a first look, `full` with the draws and steps of a result.

The studies are those of the original notebook and those that its takeaways are judged by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from inspect import signature
from pathlib import Path
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
from skipscope.training import Recipe

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

    def run_in(self, folder: Path, **how: Any) -> Readings:
        """The same; a study that can be kept in a folder has one of its name in this one."""
        if "folder" in signature(self.study).parameters:
            how["folder"] = folder / self.study.__name__
        return self.run(**how)

    @property
    def described(self) -> dict[str, Any]:
        """What is measured, as JSON."""
        settings = {name: asdict(it) if isinstance(it, Recipe) else it for name, it in self.settings.items()}
        return {"study": self.study.__name__, "seeds": self.seeds, "settings": settings}


def _trained(settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings of a study that trains on data, in the precision that training is done in."""
    return {"dtype": "float32", **{name: value for name, value in (settings or {}).items() if name != "seeds"}}


_RATES_DEMO = {"rates": (0.0003, 0.001, 0.01, 0.03, 0.1)}
"""Of these none of the demo's networks takes the first or the last, so that no verdict hangs on where they end."""

_LONG = {
    "rates": (0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    "tuning": 4,
    "recipe": Recipe(steps=1500),
}
"""Three times the study's own steps: whether deeper networks are merely slower is what a reader would ask next."""

_WIDE = {"rates": (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)}
"""Small enough for the deepest residual stack without a norm, large enough for the shallowest gated one."""

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
        Part("the identity", identity, 8, {**IDENTITY_DEMO, "rates": (0.3, 0.1, 0.01, 0.003, 0.001)}),
        Part("degradation", degradation, 8, _trained({**DEGRADATION_DEMO, **_RATES_DEMO})),
        Part("representation", representation, 8, _trained(REPRESENTATION_DEMO)),
        Part("lesions", lesion, 8, _trained(LESION_DEMO)),
    ),
    "full": (
        Part("gradient flow", flow, 1000),
        Part("as the notebook did it", notebook, 10000),
        Part("depth", sweep, 5000),
        Part("shortcut and branch", highway, 2000),
        Part("singular values", jacobian, 100),
        Part("correlation of gradients", correlation, 400),
        Part("the identity", identity, 16, _WIDE),
        Part("degradation", degradation, 16, _trained(_LONG)),
        Part("representation", representation, 24, _trained()),
        Part("lesions", lesion, 32, _trained()),
    ),
}
"""The studies by preset, in the order of the report; seeds are those of the demo's default number of seeds."""
