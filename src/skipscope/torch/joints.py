"""What meets at the junctions of a model, summed as entries of the log of a step like anything else.

`skipscope.torch.meeting` shows shortcut, branch and sum while the model runs, and the parts of the gradient on the way
back; which of these meetings are junctions, and by which names, is known when a pass is over. Imports the meeting, the
log and what sums.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from skipscope.moments import Field
from skipscope.protocol import Site
from skipscope.quantities import Quantity
from skipscope.torch.log import Heard, Log
from skipscope.torch.meeting import Meetings
from skipscope.torch.sums import pair, product

__all__ = ["Joints"]

_ANY = Site("", 0, 0, "junction", "")
_HANDED_ON = ("activation", "activation_grad")  # by the module that the junction stands in, which is heard anyway


class Joints:
    """Sums what meets at the junctions of one model, from `on` to `off`.

    Args:
        model: the model.
        log: what the sums are added to.
        quantities: what is to be computed of them.
        place: the order and the depth of the moment.
    """

    def __init__(
        self, model: nn.Module, log: Log, quantities: Mapping[str, Quantity], place: Callable[[], tuple[int, int]]
    ) -> None:
        asked = [quantity for quantity in quantities.values() if quantity.scope != "network" and quantity.where(_ANY)]
        wants: dict[str, set[Field]] = {}
        for quantity in asked:
            for role, fields in quantity.needs.items():
                if role not in _HANDED_ON:
                    wants.setdefault(role, set()).update(fields)
        self._wants: Mapping[str, Collection[Field]] = {role: tuple(fields) for role, fields in wants.items()}
        self._pairs = sorted({pair for quantity in asked for pair in quantity.pairs})
        self._bare = {role for role, fields in self._wants.items() if not fields}  # of which the norm is all
        self._log = log
        self._place = place
        self._met: dict[int, Heard] = {}
        self._meetings = Meetings(model, self._meet)

    def on(self) -> None:
        """Attach the hooks, if anything is asked of junctions."""
        if self._wants:
            self._meetings.attach()

    def off(self) -> None:
        """Remove them."""
        self._meetings.detach()

    def named(self) -> list[Heard]:
        """The junctions of the last pass; what turned out to be none is taken out of the log."""
        if not self._met:
            return []
        found: list[Heard] = []
        for number, junction in self._meetings.junctions.items():
            heard = self._met.get(number)
            if heard is not None:
                heard.site, heard.call, heard.shape = junction.site, junction.call, junction.shape
                heard.about = f"{junction.kind} shortcut + {junction.branch}"
                found.append(heard)
        none = {id(heard) for heard in self._met.values()} - {id(heard) for heard in found}
        if none:
            self._log.entries = [each for each in self._log.entries if id(each[0]) not in none]
            self._log.products = [each for each in self._log.products if id(each[0]) not in none]
        return found

    def _meet(self, number: int, roles: Mapping[str, Tensor]) -> None:
        with torch._C.DisableTorchFunction(), torch.no_grad():
            if number not in self._met:
                order, depth = self._place()
                self._met[number] = Heard(
                    f"junction {number}", 0, order, depth, None, kind="junction", wants=self._wants
                )
            heard = self._met[number]
            if (
                "total_grad" in self._wants and "branch_grad" in roles
            ):  # of no quantity of the package, but of somebody's
                roles = {**roles, "total_grad": roles["shortcut_grad"] + roles["branch_grad"]}
            first = next(iter(roles.values()))
            # Several passes may come before their backward passes: a part of a gradient is of one that is as large.
            batch = len(first) if first.ndim and len(first) in self._log.sizes else self._log.batch
            summed: set[str] = set()
            for each in self._pairs:
                if not roles.keys() >= set(each):
                    continue
                if self._bare >= set(each):
                    *both, crossed = pair(roles[each[0]], roles[each[1]], batch=batch)
                    self._log.entries += [(heard, role, one) for role, one in zip(each, both, strict=True)]
                    self._log.products.append((heard, each, crossed))
                    summed.update(each)
                else:
                    self._log.products.append((heard, each, product(roles[each[0]], roles[each[1]])))
            for role, x in roles.items():
                if role not in summed:
                    self._log.sum(heard, role, x, batch)
