"""Whether an addition is one of a shortcut and a branch, and which of its terms is which: by what they were made of.

Where one term was made of the other, with a weight on the way, the other is an identity shortcut. Else both must have
been made of one tensor: one of them without a weight (a scaled or gated shortcut, or one that slices, pads or pools)
and the other by way of weights alone; or by one single weight (a projection) beside a branch of two or more and a
nonlinearity (where it is linear and of low rank, it is an update of the layer). What looks like that and is not, or
cannot be told, is given with the reason. What has no weight between (the polynomial in GELU, rotary embeddings), or
carries no data (masks, biases, positions), is no shortcut at all.
Imports the record that it reads, and no PyTorch.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

from skipscope.torch.provenance import SLICES, Node, Provenance, Sum, bits, names

__all__ = ["Kind", "Shortcut", "broadcast", "shortcut_of"]

Kind = Literal["identity", "projection", "parameter-free", "gated"]
Walked = list[tuple[Node, list[Node], bool]]

# What a shortcut may pass and still be what came in: another shape, a copy, a factor of its own, a term added to it.
_SAME = names(
    "add add_ view view_as reshape flatten unflatten permute transpose contiguous clone to type_as float half bfloat16 "
    "dropout detach mul mul_ div div_ true_divide T mT squeeze unsqueeze swapaxes movedim roll __getitem__"
)
_LINEAR = _SAME | names(
    "linear conv1d conv2d conv3d addmm matmul mm bmm __matmul__ __rmatmul__ einsum embedding batch_norm layer_norm "
    "group_norm instance_norm rms_norm sub sub_ rsub neg sum mean pad cat avg_pool1d avg_pool2d avg_pool3d split chunk "
    "adaptive_avg_pool2d interpolate pixel_shuffle"
)
_SPREADING = names("mul mul_ einsum expand repeat stack matmul __matmul__")


@dataclass(frozen=True, eq=False)
class Shortcut:
    """An addition that is one of a shortcut and a branch, or looks like it.

    Attributes:
        sum: the addition.
        index: which of its operands is the shortcut.
        source: what both were made of: the block's input.
        kind: of the shortcut.
        factors: what the shortcut and the branch are multiplied by at last: "", "number", "parameter" or "gate".
        doubt: why it is not counted; "" where it is.
        path: what the shortcut passes after the source.
    """

    sum: Sum
    index: int
    source: Node
    kind: Kind
    factors: tuple[str, str] = ("", "")
    doubt: str = ""
    path: tuple[Node, ...] = ()

    @property
    def shortcut(self) -> Node:
        """The term that is the shortcut."""
        return self.sum.terms[self.index]

    @property
    def branch(self) -> Node:
        """The other."""
        return self.sum.terms[1 - self.index]


def shortcut_of(record: Provenance, of: Sum) -> Shortcut | None:
    """What the addition is; None where it is nothing of the kind. Of a sum that may not have been made yet."""
    if not all(term.data for term in of.terms) or of.terms[0] is of.terms[1]:
        return None
    whole = max((term.shape for term in of.terms), key=len)
    if len(whole) < 2:
        return None  # losses and other single numbers
    found = [each for index in (0, 1) if (each := _as_shortcut(record, of, index)) is not None]
    if not found:
        return None
    if of.doubt:
        return _doubted(found[0], of.doubt)
    if len(found) == 2:
        sure = [each for each in found if not each.doubt and each.kind != "projection"]
        if len(sure) == 1:
            found = sure
        else:
            return _doubted(found[0], "each term holds what the other was made of, so that neither is the branch")
    return found[0]


def _as_shortcut(record: Provenance, of: Sum, index: int) -> Shortcut | None:
    """The addition, if the term with this index is a shortcut."""
    shortcut, branch = of.terms[index], of.terms[1 - index]
    if branch.ancestors >> shortcut.index & 1:
        if not record.weights_between(shortcut, branch) or _conditions(record, of, shortcut):
            return None
        found = Shortcut(of, index, shortcut, "identity", ("", _factor(record, branch)))
    else:
        walked = _walked_back(record, shortcut, branch)
        other = _without_weight(record, of, index, walked) or _by_projection(record, of, index, walked)
        if other is None:
            return None
        found = other
    if found.doubt:
        return found
    if shortcut.shape != broadcast(shortcut.shape, branch.shape):
        return _doubted(found, "the term that would be the shortcut is broadcast, like a condition on the other")
    if _is_spread(record, found):
        return _doubted(found, "the branch is spread over several streams, as in hyper-connections")
    return found


def _without_weight(record: Provenance, of: Sum, index: int, walked: Walked) -> Shortcut | None:
    """A shortcut on which there is no weight."""
    shortcut, branch = of.terms[index], of.terms[1 - index]
    for source, path, past in walked:
        if past or record.is_reached(source, branch, without_weights=True):
            continue
        factors = _factor(record, shortcut), _factor(record, branch)
        found = Shortcut(of, index, source, _kind(record, path), factors, path=tuple(path))
        if _of_another_part(record, source, path, branch):
            return _doubted(found, "one part of a tensor is added to what was made of another part, as in Res2Net")
        if found.kind == "gated" and any(_is_slice(record, node) for node in path):
            return _doubted(found, "what is gated is one part of what the other term was made of, as in a recurrence")
        return found
    return None


def _by_projection(record: Provenance, of: Sum, index: int, walked: Walked) -> Shortcut | None:
    """A shortcut of a single weight layer, beside a branch of two or more."""
    shortcut, branch = of.terms[index], of.terms[1 - index]
    for source, path, past in walked:
        if not past or record.longest(source, shortcut) != 1 or record.longest(source, branch) < 2:
            continue
        if record.is_reached(source, branch, without_weights=True) or not _made_of_alone(record, source, shortcut):
            continue
        found = Shortcut(of, index, source, "projection", ("", _factor(record, branch)), path=tuple(path))
        if all(node.made_by in _LINEAR and node.factor != "gate" for node in record.between(source, branch)):
            if _is_update(record, source, branch):
                return None
            return _doubted(found, "both terms are linear in what they were made of: neither is a block")
        if _of_another_part(record, source, path, branch):
            return _doubted(found, "what was made of one part of a tensor is added to what was made of another part")
        return found
    return None


def _walked_back(record: Provenance, shortcut: Node, branch: Node) -> Walked:
    """What both terms were made of, on ways from the shortcut back past one weight at most.

    Each with the nodes on the way, from the source on, and whether there is a weight among them.
    """
    found: Walked = []
    waiting: deque[tuple[Node, Any, bool]] = deque([(shortcut, None, False)])
    met = {(shortcut.index, False)}
    while waiting:
        node, way, past = waiting.popleft()
        if node.data and branch.ancestors >> node.index & 1:
            path: list[Node] = []
            while way is not None:
                each, way = way
                path.append(each)
            found.append((node, path, past))
        elif not (node.weighted and past):
            past = past or node.weighted
            for index in node.parents:
                if (index, past) not in met:
                    met.add((index, past))
                    waiting.append((record.nodes[index], (node, way), past))
    return found


def _is_slice(record: Provenance, node: Node) -> bool:
    """Whether it is a part of what it was made of, and not all of it, as `x[None]` is."""
    return node.made_by in SLICES and prod(node.shape) != max(prod(record.nodes[p].shape) for p in node.parents)


def _kind(record: Provenance, path: list[Node]) -> Kind:
    if any(node.factor == "gate" for node in path):
        return "gated"
    sliced = any(_is_slice(record, node) for node in path)
    return "identity" if not sliced and all(node.made_by in _SAME for node in path) else "parameter-free"


def _factor(record: Provenance, term: Node) -> str:
    """What it was multiplied by, as the last thing but its change of shape or kind, and dropout."""
    node = term
    while not node.factor and node.made_by in _SAME and node.made_by not in ("add", "add_") and len(node.parents) == 1:
        node = record.nodes[node.parents[0]]
    return node.factor


def _is_update(record: Provenance, source: Node, branch: Node) -> bool:
    """Whether a linear branch is of low rank, as with LoRA: beside one weight layer, that is an update of the layer."""
    weights = [record.nodes[index] for index in bits(record.weights_between(source, branch))]
    return len(weights) == 2 and weights[0].shape[-1] < min(source.shape[-1], branch.shape[-1])


def _of_another_part(record: Provenance, source: Node, path: list[Node], branch: Node) -> bool:
    """Whether the shortcut is a slice of the source, and the branch was made of other slices alone."""
    ways = 1 << branch.index | branch.ancestors
    towards = [record.nodes[index] for index in source.children if ways >> index & 1]
    return (
        bool(path)
        and path[0].made_by in SLICES
        and path[0] not in towards
        and all(node.made_by in SLICES for node in towards)
    )


def _is_spread(record: Provenance, found: Shortcut) -> bool:
    """Whether the branch was made larger, after its last weight, by a product with what is of another shape."""
    weights = record.weights_between(found.source, found.branch)
    if not weights:
        return False
    last = record.nodes[weights.bit_length() - 1]
    if prod(found.branch.shape) <= prod(last.shape):
        return False
    return any(
        node.made_by in _SPREADING and prod(node.shape) > max(prod(record.nodes[p].shape) for p in node.parents)
        for node in record.between(last, found.branch)
    )


def _made_of_alone(record: Provenance, source: Node, node: Node) -> bool:
    """Whether everything with data that went into it came by way of the source."""
    for index in bits(node.ancestors & ~(source.ancestors | 1 << source.index)):
        other = record.nodes[index]
        if other.data and not other.ancestors >> source.index & 1:
            return False
    return True


def _conditions(record: Provenance, of: Sum, term: Node) -> bool:
    """Whether the term had been added before to something that was not made of it: a mask, an injected input."""
    for earlier in record.sums:
        if earlier is not of and _is_plain(earlier) and any(each is term for each in earlier.terms):
            other = earlier.terms[1 - next(i for i, each in enumerate(earlier.terms) if each is term)]
            if not other.ancestors >> term.index & 1 and other is not term:
                return True
    return False


def _is_plain(of: Sum) -> bool:
    """Whether it was an addition and nothing else."""
    return of.total is None or of.total.made_by.strip("_").lstrip("ri") in ("add", "")


def _doubted(found: Shortcut, doubt: str) -> Shortcut:
    return replace(found, doubt=doubt)


def broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the sum of two tensors of these shapes."""
    long, short = (a, b) if len(a) >= len(b) else (b, a)
    padded = (1,) * (len(long) - len(short)) + short
    return tuple(x if y == 1 else y for x, y in zip(long, padded, strict=True))
