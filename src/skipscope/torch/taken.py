"""What was taken of one step, and the readings that come of it: whenever they are asked for, and not in the step.

`Known` is what the first step told of a model and what every later one has in common with it; `Taken` is a step's sums.
Roles of junctions are entries of the log like any other, with their inner products beside them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from skipscope.errors import InputError
from skipscope.moments import Dot, Field, Moments
from skipscope.probe import Measured, Plan, cell_of
from skipscope.quantities import UPDATE, Quantity
from skipscope.readings import Readings
from skipscope.torch.bodies import Repeated, body_of
from skipscope.torch.evaluation import Dots, Roles, evaluated
from skipscope.torch.layout import Place, Trained, layout
from skipscope.torch.listening import PUSHED, Listener
from skipscope.torch.log import Entry, Heard, Product
from skipscope.torch.parameters import Update, parameters_of, updates_of, wanted_of
from skipscope.torch.sums import Sums, dot_of, gathered
from skipscope.torch.wanted import Wanted, is_default

__all__ = ["Known", "Taken"]


@dataclass(frozen=True)
class _Planned:
    """What is reported of a step.

    Attributes:
        plan: sites and quantities.
        statuses: of sites of which it is not said by whether they have a value.
        at: the sites whose activations are reported; of others in the plan only the parameters are.
        exit_call: which call of the last block is the end of the body.
    """

    plan: Plan
    statuses: Mapping[str, str]
    at: frozenset[str]
    exit_call: int = 0

    @property
    def blocks(self) -> int:
        """How many blocks the body has, whether they are reported or not."""
        return max((site.block for site in self.plan.sites), default=0)


class Known:
    """What a first step told of a model.

    Attributes:
        model: the model.
        listener: what was heard of it.
        held: its parameters.
        sums: what is summed of them.
        updates: what is summed of what an optimizer adds to them.
        joints: the junctions of the steps that were taken, of a model that skips some too.
    """

    def __init__(
        self,
        model: nn.Module,
        listener: Listener,
        classes: Repeated,
        wanted: Wanted,
        quantities: Mapping[str, Quantity],
        patterns: Sequence[Any] | None,
    ) -> None:
        self.model = model
        self.listener = listener
        self.held = parameters_of(model, listener.called)
        self.sums = wanted_of(self.held, lambda site, role: wanted(site, role, "linear", False))
        self.updates = updates_of(self.held, lambda site, role: wanted(site, role, "linear", False))
        self.joints: Sequence[Heard] = ()
        self._body = body_of(listener.heard, classes)
        self._quantities = quantities
        self._patterns = patterns
        self._planned: tuple[Any, _Planned] | None = None

    @property
    def of_updates(self) -> tuple[str, ...]:
        """The names of the quantities that need what an optimizer adds to parameters."""
        return tuple(
            name for name, each in self._quantities.items() if any(role.endswith(UPDATE) for role in each.needs)
        )

    def planned(self, roles: Mapping[Place, Collection[str]], trained: Trained, missed: Collection[Heard]) -> _Planned:
        """What is reported of a step in which this was summed, that happened to parameters, and those were missed.

        Steps are alike, as a rule, so the last answer is kept.

        Raises:
            InputError: a pattern matches no site.
        """
        joints = tuple(each.site for each in self.joints)
        key = tuple((place, *several) for place, several in roles.items()), trained, tuple(missed), joints
        if self._planned is None or self._planned[0] != key:
            self._planned = key, self._plan(roles, trained, missed)
        return self._planned[1]

    def _plan(self, roles: Mapping[Place, Collection[str]], trained: Trained, missed: Collection[Heard]) -> _Planned:
        body = self._body
        sites, statuses = layout(self.model, self.listener, self.joints, body, self.held, trained, roles, missed)
        heard = {site for (site, _), summed in roles.items() if set(summed) & set(PUSHED)}
        silent = {each.site: each.name for each in missed if each.site not in heard}
        statuses |= dict.fromkeys(silent, "not executed")
        for site, status in statuses.items():
            # What was skipped cuts nothing off.
            if status == "no gradient" and any(f"{site}.".startswith(f"{name}.") for name in silent.values()):
                statuses[site] = "not executed"
        outputs = {each.site for each in self.listener.heard if each.module is self.model}
        exit_call = next((each.call for each in reversed(body.blocks) if each not in missed), 0)
        default = [site for site in sites if is_default(site, outputs)]
        if self._patterns is not None or not body.blocks:
            plan = Plan(sites, quantities=self._quantities, patterns=self._patterns)
            return _Planned(plan, statuses, frozenset(site.site for site in sites), exit_call)
        at = frozenset(site.site for site in default)
        reported = at | {each.site for each in self.held}
        chosen = [site for site in sites if site.site in reported]
        plan = Plan(sites, quantities=self._quantities, patterns=None, chosen=chosen)
        return _Planned(plan, statuses, at, exit_call)

    def fields(self, planned: _Planned) -> dict[str, Mapping[str, Collection[Field]]]:
        """What has to be summed of what is handed on, by site, from now on."""
        return {site: fields for site, fields in planned.plan.fields.items() if site in planned.at}


@dataclass(frozen=True, eq=False)
class Taken:
    """The sums of one step.

    Attributes:
        known: what is known of the model.
        entries: the sums of what was handed on, and of what met at junctions.
        products: the inner products of the latter.
        parameters: (site, role, sums) of parameters and gradients.
        update: what the optimizer's step adds to parameters, once it was seen.
        trained: what became of the parameters.
        missed: what the first step had, and this one had not.
        facts: what else was measured, e.g. `loss`, one number each.
        numbers: how many numbers are trained.
        cell: what the table of cells says.
        notes: what `Readings.meta` says.
    """

    known: Known
    entries: Sequence[Entry]
    products: Sequence[Product]
    parameters: Sequence[tuple[str, str, Sums]]
    update: Update
    trained: Trained
    missed: Sequence[Heard]
    facts: Mapping[str, Sums]
    numbers: int
    cell: Mapping[str, Any]
    notes: Mapping[str, str]

    @contextmanager
    def updating(self) -> Iterator[Taken]:
        """Within the context the optimizer makes its step, and what that adds to the weights is read too.

            with scope.take().updating() as taken:
                optimizer.step()

        For quantities of `skipscope.quantities.UPDATES`. The weights that are trained, at the sites to report, are
        copied where the context begins, and the copies are let go where it ends. A step that is not made, as by a
        `GradScaler` that found an overflow, adds exactly 0.

        Raises:
            InputError: no quantity that needs it was asked for, or the step was seen already.
        """
        if not self.known.of_updates:
            raise InputError(
                "updating() is for quantities that need the optimizer's step, and none was asked for: give "
                "Listening(model, quantities=QUANTITIES | UPDATES), of skipscope.quantities."
            )
        if self.update.sums is not None:
            raise InputError(
                "updating() was there for this step already: call take() in every step that is listened to."
            )
        with self.update.seen():
            yield self

    def readings(self, *, step: int = 0, factors: Mapping[str, Any] | None = None) -> Readings:
        """The table.

        Args:
            step: of training, for the column `step`.
            factors: columns for the table of cells.

        Raises:
            InputError: a pattern of the sites to report matches none.
        """
        return self.measured(seeds=(0,), factors=factors or {}, step=step).readings()

    def measured(self, *, seeds: tuple[int, ...], factors: Mapping[str, Any], step: int = 0) -> Measured:
        """The values, before they are a table.

        Raises:
            InputError: a pattern of the sites to report matches none.
        """
        planned = self.planned
        moments, dots, facts = self._moments()
        values = evaluated(planned.plan, moments, dots, {"parameters": self.numbers, **facts}, planned.exit_call)
        return Measured(
            cell=cell_of({**self.cell, "blocks": planned.blocks, **factors}),
            sites=planned.plan.chosen,
            seeds=seeds,
            values=values,
            step=step,
            statuses=planned.statuses,
            notes=self._told,
        )

    @property
    def _told(self) -> Mapping[str, str]:
        """The notes, and which quantities wait for the optimizer's step in vain."""
        waiting = self.known.of_updates
        if not waiting or self.update.sums is not None:
            return self.notes
        told = f"no {', '.join(waiting)}: the optimizer's step was not made within `with scope.take().updating():`"
        before = [self.notes["notes"]] if "notes" in self.notes else []
        return {**self.notes, "notes": "; ".join([*before, told])}

    @cached_property
    def planned(self) -> _Planned:
        """What is reported."""
        roles: dict[Place, dict[str, None]] = defaultdict(dict)
        for heard, role, _ in self.entries:
            roles[heard.site, heard.call][role] = None
        for site, role, _ in self.parameters:
            roles[site, 0][role] = None
        for heard, source in self._aliases():
            mine, theirs = roles[heard.site, heard.call], roles.get((source.site, source.call), {})
            mine.update({role: None for role in theirs if role in PUSHED})
        return self.known.planned(roles, self.trained, self.missed)

    def _aliases(self) -> list[tuple[Heard, Heard]]:
        """What is the very tensor that was heard before, with what holds its sums, where it has none of its own."""
        own = {id(heard) for heard, _, _ in self.entries}
        heard = self.known.listener.heard
        return [(each, each.source) for each in heard if each.same is not None and id(each) not in own]

    def _moments(self) -> tuple[Mapping[Place, Roles], Mapping[Place, Dots], dict[str, Any]]:
        """All sums on the host, in one transfer: by site and call the moments of roles, inner products; the facts."""
        at = self.planned.at
        heard = [(each.site, each.call, role) for each, role, _ in self.entries]
        parameters = (*self.parameters, *(self.update.sums or ()))
        places = [*heard, *((site, 0, role) for site, role, _ in parameters)]
        everything = [one for _, _, one in (*self.entries, *parameters)]
        hosted, products = gathered([*everything, *self.facts.values()], [x for _, _, x in self.products])
        moments: dict[Place, dict[str, Moments]] = defaultdict(dict)
        for (site, call, role), new in zip(places, hosted, strict=False):
            roles = moments[site, call]
            roles[role] = roles[role] + new if role in roles else new
        for each, source in self._aliases():
            theirs = moments.get((source.site, source.call), {})
            moments[each.site, each.call] |= {role: found for role, found in theirs.items() if role in PUSHED}
        kept = {
            (site, call): roles if site in at else {role: one for role, one in roles.items() if role not in PUSHED}
            for (site, call), roles in moments.items()
        }
        facts = {
            name: total.sum * total.scale
            for name, total in zip(self.facts, hosted[len(places) :], strict=True)
            if total.sum is not None
        }
        dots: dict[Place, dict[tuple[str, str], Dot]] = defaultdict(dict)
        for (each, pair, _), values in zip(self.products, products, strict=True):
            of, product = dots[each.site, each.call], dot_of(values)
            of[pair] = of[pair] + product if pair in of else product
        return kept, dots, facts
