"""What to sum where, before it is known what the sites of a model are; and which of them are reported unasked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from skipscope.moments import Field
from skipscope.probe import matches
from skipscope.protocol import Site
from skipscope.quantities import Quantity

__all__ = ["Wanted", "is_default"]


class Wanted:
    """What to sum where, before it is known which sites there will be."""

    def __init__(self, quantities: Mapping[str, Quantity], patterns: Sequence[Any] | None) -> None:
        self._quantities = list(quantities.values())
        self._patterns = patterns
        self._whole = self._chosen("network")
        self._found: dict[tuple[str, str, bool, bool], Collection[Field] | None] = {}

    def __call__(self, site: str, role: str, activation: str, end: bool) -> Collection[Field] | None:
        """The fields, None where nothing of this role is needed; the ends of a model are what gains are relative to."""
        key = (role, activation, self._chosen(site), end)
        if key not in self._found:
            self._found[key] = self._needed(*key)
        return self._found[key]

    def _chosen(self, site: str) -> bool:
        return self._patterns is None or any(matches(site, str(each)) for each in self._patterns)

    def _needed(self, role: str, activation: str, chosen: bool, end: bool) -> Collection[Field] | None:
        fields: set[Field] = set()
        needed = False
        for quantity in self._quantities:
            read = self._whole if quantity.scope == "network" else chosen or end
            if role in quantity.needs and read and any(quantity.where(site) for site in _possible(activation)):
                needed = True
                fields.update(quantity.needs[role])
        return fields if needed else None


@cache
def _possible(activation: str) -> tuple[Site, ...]:
    """What a site may turn out to be: which call is a block, or the last one, is known when all have been made."""
    plain = Site("", 0, 0, "layer", "", activation)
    return (
        plain,
        *(replace(plain, kind=kind) for kind in ("input", "module", "block")),
        replace(plain, ends="entry"),
        replace(plain, ends="exit", block=1),
        replace(plain, outer="first"),
        replace(plain, outer="last"),
    )


def is_default(site: Site, outputs: Collection[str]) -> bool:
    """Whether a site is reported where no pattern says which are: the blocks, what goes into them, and both ends."""
    reported = site.kind in ("input", "block", "junction", "network") or site.site in outputs
    return reported or site.block > 0 or site.ends != ""
