"""How networks are trained: the recipe as a value, and the paper's for CIFAR-10. Imports the errors alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from skipscope.errors import InputError, choose, require_int, require_number

__all__ = ["CIFAR_RECIPE", "Recipe", "Schedule"]

Schedule = Literal["constant", "drops", "cosine"]

_WARM_FROM = 110  # layers from which on the paper warms up
_WARM_STEPS, _OF_STEPS = 400, 64_000
_WARM_RATE = 0.01


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained; momentum, weight decay and drops are the paper's (He et al. 2015, section 4.2).

    Attributes:
        steps: updates.
        batch: samples a step.
        rate: the learning rate, before its schedule.
        momentum: the share of its velocity that a weight keeps.
        weight_decay: the pull of every parameter towards 0.
        schedule: `"constant"`; `"drops"`, to a tenth at half and again at three quarters of the steps, as the paper's
            32k and 48k of 64k; `"cosine"`, down to 0 (arXiv:1608.03983).
        warmup: steps over which the rate rises linearly from 0 to `rate` first.
        warmup_rate: the constant rate of those steps; 0 lets it rise.
    """

    steps: int
    batch: int = 64
    rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Schedule = "constant"
    warmup: int = 0
    warmup_rate: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch", 1), ("warmup", 0)):
            object.__setattr__(self, name, require_int(name, getattr(self, name), least=least))
        for name in ("rate", "momentum", "weight_decay", "warmup_rate"):
            object.__setattr__(self, name, require_number(name, getattr(self, name)) + 0.0)
        for name in ("rate", "weight_decay", "warmup_rate"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be at least 0; got {getattr(self, name)}.")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must be at least 0 and below 1; got {self.momentum}.")
        if self.warmup_rate and not self.warmup:
            raise InputError(f"warmup_rate={self.warmup_rate} is that of no step: give warmup, the steps, as well.")
        choose("schedule", self.schedule, get_args(Schedule))

    @classmethod
    def cifar(cls, *, steps: int = _OF_STEPS, depth: int = 20) -> Recipe:
        """The paper's recipe for CIFAR-10 (section 4.2), its drops and its warm-up scaled with the steps.

        Mini-batches of 128, rate 0.1 with a tenth at 32k and a hundredth at 48k of 64k steps, momentum 0.9, weight
        decay 1e-4. Networks of 110 layers and more begin with a rate of 0.01. The paper does so until the training
        error is below 80 %, "about 400 iterations"; here it is 400 of 64k steps whatever the error (at least one), so
        that the rate is a function of the step alone, and the warm-up ends.

        Args:
            steps: updates in all.
            depth: weight layers.

        Raises:
            InputError: a number is out of range.
        """
        warm = require_int("depth", depth, least=1) >= _WARM_FROM
        count = require_int("steps", steps, least=0)
        return cls(
            steps=count,
            batch=128,
            schedule="drops",
            warmup=max(1, round(_WARM_STEPS * count / _OF_STEPS)) if warm else 0,
            warmup_rate=_WARM_RATE if warm else 0.0,
        )

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.warmup_rate or self.rate * (step + 1) / self.warmup
        if self.schedule == "drops":
            return self.rate * 0.1 ** ((2 * step >= self.steps) + (4 * step >= 3 * self.steps))
        if self.schedule == "cosine":
            return self.rate * (1 + math.cos(math.pi * step / max(self.steps, 1))) / 2
        return self.rate

    @property
    def told(self) -> str:
        """All but steps, batch and rate, which tables have columns for: `drops rate, warm-up 0, momentum 0.9, ...`."""
        at = f" at {self.warmup_rate:g}" if self.warmup_rate else ""
        return (
            f"{self.schedule} rate, warm-up {self.warmup}{at}, momentum {self.momentum:g}, weight decay "
            f"{self.weight_decay:g}"
        )


CIFAR_RECIPE = Recipe.cifar()
"""How the paper trains its networks of 20 to 56 layers on CIFAR-10; see `Recipe.cifar` for other lengths and depths."""
