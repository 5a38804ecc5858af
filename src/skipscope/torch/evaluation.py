"""The formulas on what was summed of a model, each once for all sites that are alike, as if they were one ensemble.

A model has hundreds of sites and one network, s = 1; a formula is written for s networks at once. So sites of the same
roles, sizes and sums are stacked along the axis s, and a formula is called once for all of them: a call costs as much
for a hundred sites as for one. That holds for the formulas of `skipscope.QUANTITIES`, which are known to treat networks
apart; somebody's own are called site by site.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skipscope.formulas import Profile, View
from skipscope.moments import Dot, Moments
from skipscope.probe import Plan
from skipscope.protocol import Site
from skipscope.quantities import QUANTITIES, UPDATES, Quantity

__all__ = ["Dots", "Roles", "evaluated"]

Place = tuple[str, int]  # site and call
Roles = Mapping[str, Moments]
Dots = Mapping[tuple[str, str], Dot]

_APART = {id(quantity.formula) for quantity in (QUANTITIES | UPDATES).values()}


def evaluated(
    plan: Plan, moments: Mapping[Place, Roles], dots: Mapping[Place, Dots], facts: Mapping[str, Any], exit_call: int = 0
) -> dict[tuple[Any, ...], Any]:
    """(site, quantity), or (site, quantity, call) of further calls, -> values of shape (1,), less what is undefined.

    Args:
        plan: sites and quantities.
        moments: what was summed, by site and call.
        dots: inner products, likewise.
        facts: what is known without it.
        exit_call: which call of the last block is the end of the body: a block that is called in a loop ends it late.
    """
    found: dict[tuple[Any, ...], Any] = {}
    by_site = {site.site: site for site in plan.chosen}
    alike = _alike({place: roles for place, roles in moments.items() if place[0] in by_site and roles}, dots)
    with np.errstate(all="ignore"):
        for name, quantity in plan.quantities.items():
            if quantity.scope == "network":
                if "network" in by_site:
                    value = quantity.formula(_profile(plan, moments, dots, facts, exit_call))
                    if not np.ma.getmaskarray(value).all():
                        found["network", name] = value
                continue
            where = {site.site for site in plan.chosen if quantity.where(site)}
            values: dict[Place, Any] = {}
            for each in alike:
                places = [place for place in each.places if place[0] in where]
                if places and each.has(quantity):
                    first, last = _ends(plan, moments, each.call)
                    values |= _evaluated(quantity, each, places, first, last, by_site)
            for place in sorted(values, key=lambda place: (place[1], by_site[place[0]].order)):
                found[(place[0], name, place[1]) if place[1] else (place[0], name)] = values[place]
    return found


def _profile(
    plan: Plan, moments: Mapping[Place, Roles], dots: Mapping[Place, Dots], facts: Mapping[str, Any], exit_call: int
) -> Profile:
    first, last = _ends(plan, moments, 0)
    places = [
        (site, (site.site, exit_call if site.ends == "exit" else 0)) for site in plan.sites if site.kind != "network"
    ]
    views = [View(site, moments.get(place, {}), dots.get(place, {}), first, last) for site, place in places]
    return Profile(views, facts, 1)


def _ends(plan: Plan, moments: Mapping[Place, Roles], call: int) -> tuple[Roles, Roles]:
    """What goes into the model and what comes out: of this call of theirs, or, where they have but one, of that."""
    first, last = (
        moments.get((site.site, call)) or moments.get((site.site, 0), {}) for site in (plan.sites[0], plan.last)
    )
    return first, last


# ------------------------------------------------------------------------------------------------------------ alike


@dataclass(frozen=True)
class _Alike:
    """Sites, each with its call, of which the same was summed, in the same sizes; and the stacks made of them."""

    call: int
    places: Sequence[Place]
    roles: Mapping[Place, Roles]
    dots: Mapping[Place, Dots]
    stacks: dict[tuple[Any, ...], Any]

    def has(self, quantity: Quantity) -> bool:
        """Whether all is there that a quantity needs."""
        one = self.roles[self.places[0]]
        needs = all(
            role in one and all(getattr(one[role], each) is not None for each in fields)
            for role, fields in quantity.needs.items()
        )
        return needs and all(pair in self.dots.get(self.places[0], {}) for pair in quantity.pairs)

    def stacked(self, quantity: Quantity, places: Sequence[Place]) -> tuple[Roles, Dots]:
        """What the quantity needs, stacked."""
        of = tuple(places)
        for role in quantity.needs:
            if (role, of) not in self.stacks:
                self.stacks[role, of] = _stack_moments([self.roles[place][role] for place in places])
        for pair in quantity.pairs:
            if (pair, of) not in self.stacks:
                self.stacks[pair, of] = _stack_dots([self.dots[place][pair] for place in places])
        return (
            {role: self.stacks[role, of] for role in quantity.needs},
            {pair: self.stacks[pair, of] for pair in quantity.pairs},
        )


def _alike(moments: Mapping[Place, Roles], dots: Mapping[Place, Dots]) -> list[_Alike]:
    found: dict[Any, list[Place]] = defaultdict(list)
    for place, roles in moments.items():
        kind = tuple(sorted((role, *_kind(each)) for role, each in roles.items()))
        found[place[1], kind, frozenset(dots.get(place, ()))].append(place)
    return [_Alike(key[0], places, moments, dots, {}) for key, places in found.items()]


_FIELDS = ("sum", "positive", "nonfinite", "units", "samples")


def _kind(of: Moments) -> tuple[Any, ...]:
    """What must be the same of two that are to be stacked."""
    arrays = [getattr(of, name) for name in _FIELDS]
    return of.count, of.rows, *(0 if array is None else array.shape[-1] + 1 for array in arrays)


def _stack_moments(several: Sequence[Moments]) -> Moments:
    one = several[0]
    further = {
        name: None if getattr(one, name) is None else np.concatenate([getattr(each, name) for each in several])
        for name in _FIELDS
    }
    scale, sumsq = (np.concatenate([getattr(each, name) for each in several]) for name in ("scale", "sumsq"))
    return Moments(count=one.count, rows=one.rows, scale=scale, sumsq=sumsq, **further)


def _stack_dots(several: Sequence[Dot]) -> Dot:
    return Dot(*(np.concatenate([getattr(each, name) for each in several]) for name in ("value", "scale_x", "scale_y")))


# ---------------------------------------------------------------------------------------------------------- formulas


def _evaluated(
    quantity: Quantity, alike: _Alike, places: Sequence[Place], first: Roles, last: Roles, sites: Mapping[str, Site]
) -> dict[Place, Any]:
    """A quantity at sites that are alike, where it is defined."""
    if id(quantity.formula) not in _APART:
        each = {
            place: quantity.formula(View(sites[place[0]], alike.roles[place], alike.dots.get(place, {}), first, last))
            for place in places
        }
        return {place: value for place, value in each.items() if not np.ma.getmaskarray(value).all()}
    roles, dots = alike.stacked(quantity, places)
    ends = (_repeated(end, quantity.needs, len(places)) for end in (first, last))
    values = quantity.formula(View(sites[places[0][0]], roles, dots, *ends))
    defined, plain = ~np.ma.getmaskarray(values), np.asarray(np.ma.getdata(values), np.float64)
    return {place: plain[index : index + 1] for index, place in enumerate(places) if defined[index]}


def _repeated(end: Roles, roles: Collection[str], times: int) -> Roles:
    """An end of the network as often as there are sites to be compared with it."""
    return {
        role: Moments(
            count=each.count, rows=each.rows, scale=np.repeat(each.scale, times), sumsq=np.repeat(each.sumsq, times)
        )
        for role, each in end.items()
        if role in roles
    }
