"""Which calls of a model are its blocks, and where its body begins and ends.

A block is an instance of a class of modules that the model repeats and whose output has the shape of its input, in most
instances: the outermost such class, for a block is made of parts that are repeated too, while a stage changes the
shape. A model that repeats no such class is a chain: its blocks are the weight layers between the first and the last,
each with what follows it before the next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from skipscope.torch.listening import is_weight_layer
from skipscope.torch.log import Heard

__all__ = ["Body", "body_of", "repeated"]

Repeated = dict[type[nn.Module], list[nn.Module]]


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
    """The classes of modules with weight layers in them that occur twice or more, outside of each other."""
    found: Repeated = defaultdict(list)
    walk: list[tuple[nn.Module, frozenset[type[nn.Module]]]] = [(model, frozenset())]
    met: set[int] = set()
    while walk:
        module, around = walk.pop()
        if id(module) in met:
            continue
        met.add(id(module))
        kind = type(module)
        # A parametrized module has a class of its own, which is no sign of anything.
        composite = bool(module._modules) and "parametrizations" not in module._modules
        if composite and not isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict) and module is not model:
            if kind not in around:
                found[kind].append(module)
            around = around | {kind}
        walk += [(child, around) for child in reversed(list(module.children()))]
    weighted = {kind: [each for each in modules if _weighted(each)] for kind, modules in found.items()}
    return {kind: modules for kind, modules in weighted.items() if len(modules) >= 2}


def _weighted(module: nn.Module) -> bool:
    return any(is_weight_layer(each) for each in module.modules())


def body_of(heard: Sequence[Heard], classes: Repeated) -> Body:
    """The body of the model of which this was heard."""
    for kind in _outermost_first(classes):
        members = {id(module) for module in classes[kind]}
        outputs = [each for each in heard if each.call == 0 and id(each.module) in members]
        blocks = _one_each(outputs)
        kept = sum(each.shape == each.entered for each in blocks)
        if len(blocks) >= 2 and 2 * kept >= len(blocks):
            entries = {each.site: each for each in heard if each.module is None}
            name = blocks[0].site.removesuffix(blocks[0].path)
            return Body(blocks, entries.get(f"{name}.input"), whole=True)
    return _chain(heard)


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
    """Of every block the output that has the shape of its input, else the first."""
    by_block: dict[str, list[Heard]] = defaultdict(list)
    for each in outputs:
        by_block[each.site.removesuffix(each.path)].append(each)
    return [next((each for each in found if each.shape == each.entered), found[0]) for found in by_block.values()]


def _chain(heard: Sequence[Heard]) -> Body:
    """The weight layers but the first and the last, each to the last module before the next."""
    leaves = [each for each in heard if each.module is not None and not each.module._modules and each.call == 0]
    leaves = _one_each(leaves)
    weights = [index for index, each in enumerate(leaves) if each.module is not None and is_weight_layer(each.module)]
    if len(weights) < 3:
        return Body((), None, whole=False)
    ends = [leaves[after - 1] for after in weights[1:]]  # what stands before the next weight layer
    return Body(ends[1:], ends[0], whole=False)
