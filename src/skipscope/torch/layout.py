"""The sites of a model that was listened to: in order of execution, with what stands there, and the body among them.

What is said of a model without a spec is found here: its blocks and the ends of its body (`bodies`), the first and the
last weight, what was not called, what is frozen, and what no gradient reaches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from skipscope.protocol import Site, SiteKind
from skipscope.torch.bodies import Body
from skipscope.torch.listening import Listener, activation_of, is_weight_layer
from skipscope.torch.log import Heard
from skipscope.torch.names import apart, clean
from skipscope.torch.parameters import Held

__all__ = ["Trained", "layout"]

Place = tuple[str, int]  # site and call


@dataclass(frozen=True)
class Trained:
    """What became of the parameters.

    Attributes:
        trained: by parameter, whether it is there to be trained.
        reached: likewise, whether it has a gradient.
        sent: whether anything was sent back.
    """

    trained: tuple[bool, ...]
    reached: tuple[bool, ...]
    sent: bool


@dataclass
class _Draft:
    """A site that is being described."""

    site: str
    kind: SiteKind
    name: str
    depth: int = 0
    activation: str = "linear"
    block: int = 0
    ends: str = ""
    outer: str = ""
    tied_to: str = ""


def layout(
    model: nn.Module,
    listener: Listener,
    joints: Sequence[Heard],
    body: Body,
    held: Sequence[Held],
    trained: Trained,
    roles: Mapping[Place, Collection[str]],
    missed: Collection[Heard] = (),
) -> tuple[list[Site], dict[str, str]]:
    """All sites in order of execution, and of some what there is to say beside a reading.

    Args:
        model: the model.
        listener: what was heard of it.
        joints: its junctions.
        body: its blocks.
        held: its parameters.
        trained: what became of them.
        roles: what was summed, by site and call.
        missed: what was heard in the first step, and not in this one.
    """
    drafts: dict[str, _Draft] = {}
    outputs = _outputs(model, listener.heard, roles)
    for each in listener.heard:
        if each.module is model and each not in outputs:
            continue
        unused = each.kind == "input" and each.into is not model and each is not body.entry
        if each.site not in drafts and not unused:
            drafts[each.site] = _draft(each, model)
    _number(drafts, body, roles, missed)
    _join(drafts, joints)
    statuses = _not_measured(model, listener, drafts)
    _add_parameters(drafts, held)
    _add_statuses(statuses, held, trained)
    weights = [site for site in drafts if "weight_grad" in roles.get((site, 0), ())]
    if weights:
        drafts[weights[0]].outer = "first"
        drafts[weights[-1]].outer = "last"
    inputs = [each.site for each in listener.heard if each.into is model]
    ends = inputs, [each.site for each in outputs]
    ordered = _ordered(list(drafts.values()), listener.heard, joints, ends)
    return [
        Site(d.site, order, d.depth, d.kind, d.name, d.activation, d.block, d.ends, d.outer, d.tied_to)  # type: ignore[arg-type]
        for order, d in enumerate([*ordered, _Draft("network", "network", "the network as a whole", listener.depth)])
    ], statuses


def _outputs(model: nn.Module, heard: Sequence[Heard], roles: Mapping[Place, Collection[str]]) -> list[Heard]:
    """What the model hands on: at last what all else is looked back from.

    That is the first output of two axes or more that a gradient came to, or what comes nearest to it. A single number
    beside other outputs is a loss that the model computes, and is left out.
    """
    outputs = [each for each in heard if each.module is model]
    several = [each for each in outputs if each.shape] or outputs

    def rank(each: Heard) -> tuple[bool, int]:
        return "activation_grad" in roles.get((each.site, each.call), ()), min(len(each.shape), 2)

    last = max(several, key=rank, default=None)  # of equal ones the first
    return [each for each in several if each is not last] + [each for each in several if each is last]


def _draft(each: Heard, model: nn.Module) -> _Draft:
    if each.module is None:
        what = "input" if each.into is model else "what the first block is given"
        return _Draft(each.site, "input", f"{what}, of shape {each.shape}", each.depth)
    kind: SiteKind = "layer" if is_weight_layer(each.module) else "module"
    return _Draft(each.site, kind, _described(each.module), each.depth, activation_of(each.module))


def _described(module: nn.Module) -> str:
    text = f"{type(module).__name__}({module.extra_repr()})" if not module._modules else type(module).__name__
    return text if len(text) <= 100 else f"{text[:99]}…"


def _number(
    drafts: dict[str, _Draft], body: Body, roles: Mapping[Place, Collection[str]], missed: Collection[Heard]
) -> None:
    """Which sites are blocks, and the ends of the body; a block that a step skips keeps its number."""
    blocks = list(body.blocks)
    run = [each for each in blocks if each not in missed]
    if not run:
        return

    def graded(each: Heard | None) -> bool:
        return each is not None and "activation_grad" in roles.get((each.site, each.call), ())

    entry, first = body.entry, 1
    if entry is None or entry in missed or (graded(run[-1]) and not graded(entry)):
        # Where the gradient does not reach what the first block is given, the body is counted from what it hands on.
        entry, first = run[0], -blocks.index(run[0])
    for number, each in enumerate(blocks, start=first):
        draft = drafts[each.site]
        draft.block = max(number, 0)
        if body.whole:
            draft.kind = "block"
    if entry is not run[-1]:
        drafts[entry.site].ends = "entry"
        drafts[run[-1].site].ends = "exit"


def _join(drafts: dict[str, _Draft], joints: Sequence[Heard]) -> None:
    """A junction is the site of the module that makes its sum; the second of a module has a site of its own."""
    for each in joints:
        if each.site in drafts:
            draft = drafts[each.site]
            draft.name = f"{draft.name}, {each.about}" if draft.kind != "junction" else draft.name
            draft.kind = "junction"
        else:
            drafts[each.site] = _Draft(each.site, "junction", each.about, each.depth)


def _not_measured(model: nn.Module, listener: Listener, drafts: dict[str, _Draft]) -> dict[str, str]:
    """Modules that were not called, and calls that handed on nothing that can be measured, become sites too."""
    statuses: dict[str, str] = {}
    for name in listener.silent:
        if name not in drafts:
            drafts[name] = _Draft(name, "module", "no floating-point output")
            statuses[name] = "undefined"
    for prefix, module in model.named_modules():
        if id(module) in listener.called or module._modules or not prefix:
            continue
        if isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Identity) or "parametrizations" in prefix:
            continue
        name = apart(clean(prefix))
        if name not in drafts:
            kind: SiteKind = "layer" if is_weight_layer(module) else "module"
            drafts[name] = _Draft(name, kind, _described(module))
            statuses[name] = "not executed"
    return statuses


def _add_parameters(drafts: dict[str, _Draft], held: Sequence[Held]) -> None:
    for one in held:
        if one.site not in drafts:
            depth = max((d.depth for name, d in drafts.items() if one.site.startswith(f"{name}.")), default=0)
            shape = () if one.parameter is None else tuple(one.parameter.shape)
            drafts[one.site] = _Draft(one.site, "layer", f"parameter of shape {shape}", depth)
        draft = drafts[one.site]
        if one.tied_to and one.tied_to != one.site:
            draft.tied_to = one.tied_to


def _add_statuses(statuses: dict[str, str], held: Sequence[Held], trained: Trained) -> None:
    """What is frozen, and what no gradient reaches."""
    by_site: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for one, is_trained, reached in zip(held, trained.trained, trained.reached, strict=True):
        by_site[one.site].append((is_trained, reached))
    for site, members in by_site.items():
        if not any(is_trained for is_trained, _ in members):
            statuses[site] = "frozen"  # whether it was called or not: nobody waits for its gradient
        elif statuses.get(site) == "not executed":
            continue
        elif trained.sent and not any(reached for is_trained, reached in members if is_trained):
            statuses[site] = "no gradient"


def _beside(site: str, other: str) -> bool:
    """Whether the other site is of the same module, of a part of it, or of the module that holds it."""
    holder = site.rpartition(".")[0]
    return other.startswith((f"{site}.", f"{site}[")) or (bool(holder) and f"{other}.".startswith(f"{holder}."))


def _ordered(
    drafts: list[_Draft], heard: Sequence[Heard], joints: Sequence[Heard], ends: tuple[Sequence[str], Sequence[str]]
) -> list[_Draft]:
    """In order of execution; a parameter's own site before its module, and what was not run before the end."""
    inputs, outputs = ends
    # A sum is made after all that was heard before it, and before what is heard next.
    run = {each.site: each.order - 0.5 for each in reversed(joints)}
    run |= {each.site: float(each.order) for each in reversed(heard)}
    place = dict(run)
    for index, draft in enumerate(drafts):
        if draft.site not in run:
            near = [run[site] for site in run if _beside(draft.site, site)]
            place[draft.site] = (min(near) - 0.5 if near else len(run) + 1.0) + index * 1e-6
    last = max(place.values(), default=0.0)
    for index, site in enumerate(outputs):
        place[site] = last + 1 + index
    for index, site in enumerate(inputs):
        place[site] = float(index - len(inputs))
    return sorted(drafts, key=lambda draft: place[draft.site])
