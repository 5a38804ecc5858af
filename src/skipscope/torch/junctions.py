"""The junctions of any model: where `x + f(x)` is computed, found by running it once.

`junctions(model, batch)` follows one forward pass (`skipscope.torch.provenance`) and says of every addition whether it
is one of a shortcut and a branch (`skipscope.torch.shortcuts`). Nothing has to be named, subclassed or traced, and the
model is left as it was. A junction is called by the module in whose `forward` the addition stands: `layer1.0`, and
`layer1.0+2` for the second there; additions in the model's own `forward` are `forward`, `forward+2` and so on.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from skipscope.errors import InputError, as_list, quoted
from skipscope.torch.calls import Place
from skipscope.torch.keeping import eager, kept, only_module, unwrapped
from skipscope.torch.names import apart, clean
from skipscope.torch.provenance import Node, Provenance, Sum
from skipscope.torch.shortcuts import Kind, Shortcut, shortcut_of
from skipscope.torch.steps import arguments
from skipscope.words import counted

__all__ = ["Doubtful", "Junction", "Junctions", "junctions", "named", "structure_of"]


@dataclass(frozen=True)
class Junction:
    """One addition of a shortcut and a branch.

    Attributes:
        site: its name, by the call that it is made in.
        call: how often the module had been called in this place before.
        order: its place among the junctions, from 0.
        kind: of the shortcut: `identity`; `projection` (one weight layer); `parameter-free` (no weight matrix, but
            slices, pads, pools or normalises); `gated` (multiplied by what the model computes).
        module: the path of the module in whose `forward` it stands, "" for the model itself.
        shortcut: what the shortcut passes, in order; "" for an identity.
        branch: the calls that the branch begins and ends in.
        weights: weight layers in the branch, on its longest way.
        scale: what the terms are multiplied by at last, e.g. `branch by a parameter`; "" for nothing.
        in_place: whether the sum is written over one of the terms.
        removable: whether the branch has the shape of the sum; if not, the sum without its shortcut has another shape.
        continues: the junction that adds another branch to the same input before, as where attention and MLP stand side
            by side: the shortcut's gain acts there; "" for none.
        shape: of the sum, with the batch that it was found with.
        operand: which operand of the addition is the shortcut.
        place: where the addition stands in the code.
    """

    site: str
    call: int
    order: int
    kind: Kind
    module: str
    shortcut: str
    branch: str
    weights: int
    scale: str
    in_place: bool
    removable: bool
    continues: str
    shape: tuple[int, ...]
    operand: int = field(repr=False)
    place: Place = field(repr=False)

    @property
    def name(self) -> str:
        """The site, with the call where it is not the first: `encoder.layer`, `encoder.layer#2`."""
        return self.site if self.call == 0 else f"{self.site}#{self.call + 1}"


@dataclass(frozen=True)
class Doubtful:
    """An addition that looks like a junction and is not counted as one.

    Attributes:
        module: the path of the module in whose `forward` it stands, "" for the model itself.
        reason: why.
        shape: of the sum.
        place: where the addition stands in the code.
    """

    module: str
    reason: str
    shape: tuple[int, ...]
    place: Place = field(repr=False)


@dataclass(frozen=True)
class Junctions(Sequence[Junction]):
    """The junctions of a model in order of execution.

    Attributes:
        model: the name of its class.
        found: the junctions.
        not_understood: additions that look like one, each with the reason why it is not counted.
        concatenations: how often a tensor was put beside what had been made of it, as in DenseNet and U-Net.
        structure: of the model that they were found on (`structure_of`), by which another model is told from it; "" is
            of junctions that somebody put together, which are not asked where they come from.
    """

    model: str
    found: tuple[Junction, ...]
    not_understood: tuple[Doubtful, ...] = ()
    concatenations: int = 0
    structure: str = field(default="", compare=False)

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: Any) -> Any:
        return self.found[index]

    def __iter__(self) -> Iterator[Junction]:
        return iter(self.found)

    @property
    def kinds(self) -> dict[str, int]:
        """How many there are of each kind."""
        return dict(Counter(each.kind for each in self.found))

    @property
    def names(self) -> list[str]:
        """Their names in order."""
        return [each.name for each in self.found]

    @property
    def staying(self) -> dict[str, Any]:
        """What is still added where all shortcuts that can be are taken out, by name and count: factors of readings."""
        kept = ", ".join(each.name for each in self.found if not each.removable)
        return {"kept": kept, "not_understood": len(self.not_understood)}

    @property
    def note(self) -> str:
        """What was found, in a line."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items())
        parts = [counted(len(self), "residual addition") + (f" ({kinds})" if kinds else "")]
        if self.not_understood:
            parts.append(f"{counted(len(self.not_understood), 'addition')} not understood")
        if self.concatenations:
            like = "" if self.found else " of a tensor with what was made of it (as in DenseNet and U-Net)"
            parts.append(counted(self.concatenations, "concatenation") + like)
        return "; ".join(parts)

    def at(self, patterns: str | Iterable[str] | None) -> tuple[Junction, ...]:
        """Those whose site or name one of these shell patterns matches; all for None.

        Raises:
            InputError: a pattern matches none, or only what is not understood, or is no text, or there is no pattern.
        """
        if patterns is None:
            return self.found
        chosen: set[str] = set()
        asked = as_list(patterns)
        if not asked:
            raise InputError("at=[] names no junction: give names or shell patterns, or None for all junctions.")
        for pattern in asked:
            if isinstance(pattern, Junction):
                raise InputError(f"at takes names, no junctions: give the junction's name, {pattern.name!r}.")
            matched = {j.name for j in self.found if fnmatchcase(j.site, str(pattern)) or j.name == str(pattern)}
            if not matched:
                doubtful = [each for each in self.not_understood if fnmatchcase(_module(each), str(pattern))]
                if doubtful:
                    raise InputError(f"at={quoted(pattern)}: {self._refused(doubtful)}, so it cannot be re-weighted.")
                known = ", ".join(self.names[:6]) + (", ..." if len(self) > 6 else "")
                raise InputError(
                    f"at={quoted(pattern)} names no junction of this {self.model}: "
                    + (f"there are {known}." if self.found else f"it has {self.note}.")
                )
            chosen |= matched
        return tuple(each for each in self.found if each.name in chosen)

    def require_some(self) -> None:
        """Whether there is one, where there is anything that looks like it.

        Raises:
            InputError: none is understood.
        """
        if not self.found and self.not_understood:
            raise InputError(f"{self._refused(self.not_understood)}, so none of its additions can be re-weighted.")

    def require_of(self, model: nn.Module) -> None:
        """Whether they were found on this model, or on one that is built and written alike, as its copies are.

        Raises:
            InputError: they were found on another.
        """
        if self.structure not in ("", structure_of(model)):
            raise InputError(
                f"batch: these junctions were found on another model, a {self.model}, or before the modules or the "
                f"code of this {type(unwrapped(model)).__name__} were changed: find them anew with junctions(model, "
                "batch), or give a batch."
            )

    def _refused(self, doubtful: Sequence[Doubtful]) -> str:
        first, more = doubtful[0], len(doubtful) - 1
        others = f" (and {counted(more, 'other')})" if more else ""
        return f"the addition at {_module(first)}{others} of this {self.model} is not understood: {first.reason}"

    def __repr__(self) -> str:
        lines = [f"{self.model}: {self.note}"]
        width = max((len(each.name) for each in self.found), default=0)
        for each in self.found:
            passed = f"the sum at {each.continues}" if each.continues else each.shortcut
            about = [each.kind + (f" ({passed})" if passed else ""), f"+ {each.branch}"]
            about += [each.scale] if each.scale else []
            about += ["in place"] if each.in_place else []
            about += [] if each.removable else ["the branch is broadcast, so the shortcut cannot be removed"]
            lines.append(f"  {each.name:<{width}}  {', '.join(about).replace(', +', ' +', 1)}")
        reasons = Counter((_module(each), each.reason) for each in self.not_understood)
        for (module, reason), count in reasons.items():
            times = f" ({count} times)" if count > 1 else ""
            lines.append(f"  not understood: {module}{times}: {reason}")
        return "\n".join(lines)


def _module(of: Doubtful) -> str:
    return of.module or "forward"


def structure_of(model: nn.Module) -> str:
    """A digest of what says where a model adds: every module's name and class, and where its code stands.

    It is the same of copies, of a model that was saved and loaded, and of what `torch.compile` makes of it; shapes,
    weights and the mode are not in it. Where code is made anew for every copy, as by `torch.fx`, it is another.
    """
    # What a wrapper holds goes by the wrapper's name and comes after it.
    told = {clean(name): _written(module) for name, module in unwrapped(model).named_modules()}
    return hashlib.blake2b(repr(list(told.items())).encode(), digest_size=8).hexdigest()


def _written(module: nn.Module) -> tuple[str, str, int]:
    """The module's class, and where its `forward` begins."""
    code = getattr(module.forward, "__code__", None)
    return type(module).__qualname__, getattr(code, "co_filename", ""), getattr(code, "co_firstlineno", 0)


def junctions(model: nn.Module, batch: Any) -> Junctions:
    """Find every addition of a shortcut and a branch that the model makes, by running it once.

    Args:
        model: any module; buffers and random states are put back after the run.
        batch: as for `skipscope.probe`: what the model is given, or a pair of that and the targets.

    Raises:
        InputError: the model cannot be run by one process, or the batch is not what it says.
    """
    model = only_module(model)
    _require_no_junctions(batch)
    args, kwargs = arguments(batch)
    met: list[Shortcut] = []

    def adding(of: Sum) -> Any:
        shortcut = shortcut_of(record, of)
        if shortcut is not None:
            met.append(shortcut)

    record = Provenance(model, adding)
    record.on()
    try:
        with kept(model), eager():
            model(*args, **kwargs)
    finally:
        record.off()
    return replace(named(model, record, met)[0], structure=structure_of(model))


def _require_no_junctions(batch: object) -> None:
    first = batch[0] if isinstance(batch, list | tuple) and batch else batch
    if isinstance(first, Junction | Junctions):
        raise InputError(
            "batch must be what the model is to see; got junctions: only gains take them in its place, and all that "
            "junctions(model, batch) has given."
        )


def named(model: nn.Module, record: Provenance, met: Sequence[Shortcut]) -> tuple[Junctions, list[Shortcut]]:
    """The junctions of a pass, and the shortcuts of `met` that they are of."""
    streams = _streams(record, met)
    doubts = {id(each): each.doubt or streams.get(id(each), "") for each in met}
    sure = [each for each in met if not doubts[id(each)]]
    counts: Counter[tuple[str, int]] = Counter()
    found: list[Junction] = []
    for order, each in enumerate(sure):
        place = each.sum.place
        counts[place.call, place.number] += 1
        ordinal = counts[place.call, place.number]
        site = (apart(place.call) or "forward") + (f"+{ordinal}" if ordinal > 1 else "")
        continues = _continued(each, list(zip(sure, found, strict=False)))
        found.append(_junction(record, each, site, order, continues))
    doubtful = tuple(
        Doubtful(each.sum.place.call, doubts[id(each)], _shape(each), each.sum.place)
        for each in met
        if doubts[id(each)]
    )
    return Junctions(type(model).__name__, tuple(found), doubtful, record.concatenations), sure


def _streams(record: Provenance, met: Sequence[Shortcut]) -> dict[int, str]:
    """The doubt that one branch is added to several streams side by side, by the id of its additions."""
    of_branch: dict[int, list[Shortcut]] = defaultdict(list)
    for each in met:
        of_branch[record.weights_between(each.source, each.branch).bit_length()].append(each)
    doubt = "one branch is added to several streams, as in hyper-connections"
    return {
        id(each): doubt
        for members in of_branch.values()
        for each in members
        if any(_side_by_side(each.sum.total, other.sum.total) for other in members if other is not each)
    }


def _side_by_side(a: Node | None, b: Node | None) -> bool:
    return a is not None and b is not None and not (a.ancestors >> b.index & 1 or b.ancestors >> a.index & 1)


def _junction(record: Provenance, each: Shortcut, site: str, order: int, continues: str) -> Junction:
    place, branch, shape = each.sum.place, each.branch, _shape(each)
    calls = [node.call for node in record.between(each.source, branch)]
    inside = list(dict.fromkeys(_below(call, place.call) for call in calls if call != place.call))
    passed = [node.made_by or "a module" for node in each.path]
    scale = [
        f"{term} by {'a number' if factor == 'number' else f'a {factor}'}"
        for term, factor in zip(("shortcut", "branch"), each.factors, strict=True)
        if factor
    ]
    return Junction(
        site=site,
        call=place.number,
        order=order,
        kind=each.kind,
        module=place.call,
        shortcut=", ".join(passed[:6]) + (", ..." if len(passed) > 6 else ""),
        branch=" to ".join(dict.fromkeys((inside[0], inside[-1]))) if inside else "its own operations",
        weights=record.longest(each.source, branch),
        scale=", ".join(scale),
        in_place=each.sum.in_place,
        removable=branch.shape == shape,
        continues=continues,
        shape=shape,
        operand=each.index,
        place=place,
    )


def _continued(each: Shortcut, before: Sequence[tuple[Shortcut, Junction]]) -> str:
    """The name of the junction whose sum, of the same source, is what the shortcut carries; "" for none."""
    return next((junction.name for other, junction in before if _carries(each, other)), "")


def _carries(each: Shortcut, other: Shortcut) -> bool:
    return each.source is other.source and other.sum.total in each.path


def _below(call: str, of: str) -> str:
    """The name of a call as seen from another that it is part of."""
    return call.removeprefix(f"{of}.") if of else call


def _shape(each: Shortcut) -> tuple[int, ...]:
    return each.sum.total.shape if each.sum.total is not None else each.shortcut.shape
