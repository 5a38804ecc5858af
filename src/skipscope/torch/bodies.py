"""Which calls of a model are its blocks, and where its body begins and ends.

A block is a call of a class of modules that the model repeats (many instances, or one that it calls again and again)
and whose output has the shape of its input, in most calls. Such classes hold one another: the outermost is taken, for a
block is made of parts that are repeated too, but for one whose instances are stages or towers, that is lists of blocks
themselves. Where several classes follow each other, as encoder and decoder do, the blocks of all are the body, in order
of execution; which of them belong together is judged by their names, in `skipscope.ranges`. A model that repeats no
such class is a chain: its blocks are the weight layers between the first and the last, each with what follows it before
the next.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from torch import nn

from skipscope.torch.listening import is_weight_layer
from skipscope.torch.log import Heard

__all__ = ["Body", "body_of", "repeated"]

Repeated = dict[type[nn.Module], list[nn.Module]]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Body:
    """The blocks in order of execution, and what the first of them gets.

    Attributes:
        blocks: what each block hands on.
        entry: what the first block gets; None where it was not heard.
        whole: whether a block is a module of several layers (or a weight layer with what follows it).
    """

    blocks: Sequence[Heard]
    entry: Heard | None
    whole: bool


def repeated(model: nn.Module) -> Repeated:
    """The classes of modules with weight layers in them, less what stands inside another of the same class.

    One instance is enough: it may be called many times.
    """
    found: Repeated = defaultdict(list)
    walk: list[tuple[nn.Module, frozenset[type[nn.Module]]]] = [(model, frozenset())]
    met: set[int] = set()
    while walk:
        module, around = walk.pop()
        if id(module) in met:
            continue
        met.add(id(module))
        kind = type(module)
        if _is_composite(module) and module is not model:
            if kind not in around:
                found[kind].append(module)
            around = around | {kind}
        walk += [(child, around) for child in reversed(list(module.children()))]
    weighted = {kind: [each for each in modules if _weights(each)] for kind, modules in found.items()}
    return {kind: modules for kind, modules in weighted.items() if modules}


def _is_composite(module: nn.Module) -> bool:
    """Whether it has parts of its own; a parametrized module has a class of its own, which is no sign of anything."""
    return bool(module._modules) and not _is_parametrized(module) and not isinstance(module, _CONTAINERS)


def _is_parametrized(module: nn.Module) -> bool:
    return "parametrizations" in module._modules


def _weights(module: nn.Module) -> int:
    return sum(is_weight_layer(each) for each in module.modules())


def body_of(heard: Sequence[Heard], classes: Repeated) -> Body:
    """The body of the model of which this was heard."""
    chosen: list[Heard] = []
    around: set[int] = set()  # modules that are blocks, or inside of one
    for kind in _outermost_first(classes):
        members = {id(module) for module in classes[kind]} - around
        blocks = _one_each([each for each in heard if id(each.module) in members])
        if len(blocks) < 2 or 2 * sum(map(_keeps, blocks)) <= len(blocks) or _holds(classes[kind], chosen):
            continue
        if not _are_stages(blocks, heard) and (not chosen or _is_listed(blocks)):
            chosen += blocks
            around.update(id(inside) for module in classes[kind] for inside in module.modules())
    if not chosen:
        return _chain(heard)
    chosen.sort(key=lambda each: each.order)
    given = (each for each in heard if each.kind == "input" and each.into is chosen[0].module)
    return _between(chosen, next(given, None), heard, whole=True)


def _outermost_first(classes: Repeated) -> list[type[nn.Module]]:
    """A class is outside of another if it holds instances of it; among others the one with more instances."""
    inside = {
        kind: sum(
            any(inner is not each and type(inner) is other for inner in each.modules())
            for other in classes
            if other is not kind
            for each in classes[kind][:1]
        )
        for kind in classes
    }
    return sorted(classes, key=lambda kind: (-inside[kind], -len(classes[kind])))


def _one_each(outputs: Sequence[Heard]) -> list[Heard]:
    """Of every call the output that has the shape of its input, else the first."""
    by_call: dict[tuple[str, int], list[Heard]] = defaultdict(list)
    for each in outputs:
        by_call[each.name, each.call].append(each)
    return [next(filter(_keeps, found), found[0]) for found in by_call.values()]


def _keeps(each: Heard) -> bool:
    return each.shape == each.entered


def _holds(modules: Sequence[nn.Module], blocks: Sequence[Heard]) -> bool:
    """Whether blocks are inside of these modules."""
    found = {id(each.module) for each in blocks}
    return any(id(inside) in found for module in modules for inside in module.modules())


def _is_listed(blocks: Sequence[Heard]) -> bool:
    """Whether they stand in one list, or are calls of one module: other modules of one class may be anything."""
    listed = Counter(re.sub(r"\d+", "*", each.name) for each in blocks if each.call or each.name[-1:].isdigit())
    return max(listed.values(), default=0) >= 2


# ------------------------------------------------------------------------------------------------------------ stages


def _are_stages(blocks: Sequence[Heard], heard: Sequence[Heard]) -> bool:
    """Whether most of these modules are lists of blocks: stages, towers, whole encoders."""
    outputs: dict[int, list[Heard]] = defaultdict(list)
    for each in heard:
        if each.module is not None:
            outputs[id(each.module)].append(each)
    modules = {id(each.module): each for each in blocks}
    stages = sum(_is_stage(each, len(blocks), outputs) for each in modules.values())
    return 2 * stages > len(modules)


def _is_stage(block: Heard, calls: int, outputs: dict[int, list[Heard]]) -> bool:
    """Whether it holds a list of parts that keep the shape, and is no more than that list.

    A residual block may hold a list as well: of its convolutions, say, each with its norm. So the parts must have
    several layers each and be as many as there are calls, or the module must hand on the very tensor that the last part
    did, without adding to it.
    """
    assert block.module is not None
    for parts in _lists(block.module):
        kept = [part for part in parts if _weights(part) and any(map(_keeps, outputs[id(part)]))]
        deep = [part for part in kept if _weights(part) >= 2]
        alike = max(Counter(type(part) for part in deep).values(), default=0)
        if alike >= 2 and (alike >= calls or _hands_on(block, parts[-1], outputs)):
            return True
        if len(kept) > calls and _hands_on(block, parts[-1], outputs):
            return True
    return False


def _lists(module: nn.Module) -> Iterator[list[nn.Module]]:
    """What stands in the lists that it holds, in lists inside of them too; not in those of its parts."""
    waiting = [child for child in module.children() if isinstance(child, _CONTAINERS)]
    while waiting:
        held = waiting.pop()
        parts: list[nn.Module] = []
        inner = list(held.children())
        while inner:
            part = inner.pop(0)
            if isinstance(part, _CONTAINERS):
                inner = [*part.children(), *inner]
            else:
                parts.append(part)
        if parts:
            yield parts


def _hands_on(block: Heard, part: nn.Module, outputs: dict[int, list[Heard]]) -> bool:
    """Whether what the module hands on is the very tensor that this part handed on."""
    source = block.source
    return source is not block and any(each.source is source for each in outputs[id(part)])


# -------------------------------------------------------------------------------------------------------- both ends


def _chain(heard: Sequence[Heard]) -> Body:
    """The weight layers but the first and the last, each to the last module before the next."""
    leaves = _one_each([each for each in heard if _is_leaf(each)])
    weights = [index for index, each in enumerate(leaves) if each.module is not None and is_weight_layer(each.module)]
    if len(weights) < 3:
        return Body((), None, whole=False)
    ends = [leaves[after - 1] for after in weights[1:]]  # what stands before the next weight layer
    return _between(ends[1:], ends[0], heard, whole=False)


def _is_leaf(each: Heard) -> bool:
    return each.module is not None and (not each.module._modules or _is_parametrized(each.module))


def _between(blocks: Sequence[Heard], entry: Heard | None, heard: Sequence[Heard], *, whole: bool) -> Body:
    """The body from an entry to its last block.

    Where the module that holds all blocks is called again and again, as the tower of a siamese network is, the body is
    what one call of it runs: what the others run stands beside it, and is looked at in `skipscope.ranges`. A block that
    is called in a loop is as many blocks.
    """
    run = blocks if whole or entry is None else [entry, *blocks]  # of a chain, the entry is what a part of it hands on
    first = run[: len(run) // _passes(run, heard)]
    return Body(first if run is blocks else first[1:], entry, whole)


def _passes(run: Sequence[Heard], heard: Sequence[Heard]) -> int:
    """How often all of these are run, each time by another call of what holds them."""
    split = [each.name.split(".")[:-1] for each in run]
    levels = [level[0] for level in takewhile(lambda level: len(set(level)) == 1, zip(*split, strict=False))]
    holders = [".".join(levels[:count]) for count in range(len(levels), 0, -1)]
    calls = ({each.call for each in heard if each.name == holder and each.module is not None} for holder in holders)
    passes = max(1, len(next(filter(None, calls), ())))
    return passes if len(run) % passes == 0 and _starts_again(run, passes) else 1


def _starts_again(blocks: Sequence[Heard], passes: int) -> bool:
    """Whether the same blocks come in the same order in every pass."""
    size = len(blocks) // passes
    return all(each.site == blocks[index % size].site for index, each in enumerate(blocks))
