"""What every tensor of a forward pass was made of: the record from which shortcuts are told from branches.

A mode of PyTorch is handed every operation that the model's code calls. What it gives becomes a node: which nodes it
was made of, all its ancestors as the bits of one whole number, and whether a weight (a parameter of two axes or more,
in a product) went into it. Nodes are numbered in order of execution, so that questions about paths are answered by
going through a range of numbers, without recursion, however deep the network is. Tensors are known by weak references:
nothing is kept alive but, if asked for, the nodes of autograd, until the pass is over.

Only what comes of the model's inputs is recorded; a node carries data (`data`) if a floating-point input or a weight is
among its ancestors, which a mask or a table of positions is not.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from skipscope.torch.calls import Addition, Calls, Place, addition
from skipscope.torch.listening import tensors_of

__all__ = ["SLICES", "Node", "Provenance", "Sum", "bits", "names"]


def names(words: str) -> frozenset[str]:
    """A set of names of operations, written in a line."""
    return frozenset(words.split())


# A parameter of two axes or more that goes into one of these is no weight of a layer: it shifts, scales or selects.
_NO_LAYER = names(
    "add add_ sub sub_ rsub mul mul_ div div_ true_divide where cat concat concatenate stack maximum minimum pow lerp "
    "layer_norm batch_norm group_norm instance_norm rms_norm normalize prelu expand expand_as view view_as reshape T "
    "clone to type_as masked_fill copy_ __getitem__ __setitem__ addcmul addcdiv dropout pad repeat tile "
    "scaled_dot_product_attention"
)
_LAYERS = names(
    "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d embedding embedding_bag addmm "
    "multi_head_attention_forward lstm gru rnn_tanh rnn_relu bilinear"
)
_SHAPED: frozenset[type] = frozenset((Tensor, nn.Parameter))  # what is lazy has a class of its own
_SINGLE: frozenset[type] = frozenset((int, float, bool, str, type(None), torch.dtype, torch.device))  # hold no tensor
_CONCATENATING = names("cat concat concatenate")
_STACKING = _CONCATENATING | {"stack"}
_SCALING = names("mul mul_ div div_ true_divide")
_NEW = ("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor")  # these take shape and dtype, and no value
SLICES = names(
    "__getitem__ chunk split tensor_split split_with_sizes unbind narrow select index_select hsplit unsafe_chunk"
)


@dataclass(eq=False, slots=True)
class Node:
    """What one operation gave.

    Attributes:
        index: its number, in order of execution.
        parents: what it was made of.
        ancestors: the bits of their numbers, and of those that they were made of.
        made_by: the operation's name; "" of an input.
        weighted: whether a weight went in.
        data: whether it carries data.
        shape: its own.
        call: the call of a module that it was made in.
        factor: what it was multiplied by, where it is a product: a number, or "parameter" or "gate".
        edge: autograd's node and the place in it where its gradient arrives.
        children: what was made of it.
        parts: the tensors that stand in it side by side, each as one entry of an axis, where it was stacked of them.
        axis: that axis.
    """

    index: int
    parents: tuple[int, ...]
    ancestors: int
    made_by: str
    weighted: bool
    data: bool
    shape: tuple[int, ...]
    call: str
    factor: str = ""
    edge: tuple[Any, int] | None = None
    children: list[int] = field(default_factory=list)
    parts: tuple[Node, ...] = ()
    axis: int = 0


@dataclass(eq=False)
class Sum:
    """An addition of two tensors that the model made.

    Attributes:
        place: where.
        terms: the nodes of both operands.
        total: the node of the sum.
        addition: with the tensors, while it is being made; then None.
        in_place: whether the first term becomes the sum.
        ways: of either term, the nodes of autograd that its gradient goes into; while the addition is being made.
        doubt: why it is no plain addition; "" where it is one.
    """

    place: Place
    terms: tuple[Node, Node]
    total: Node | None
    addition: Addition | None
    in_place: bool
    ways: tuple[tuple[Any, ...], tuple[Any, ...]] = ((), ())
    doubt: str = ""


class Provenance(TorchFunctionMode):
    """Records a forward pass of one model, from `on` to `off`.

    Args:
        model: the model.
        adding: called with every addition of two recorded tensors before it is made; what this gives is called with the
            sum after.
        finished: called when the model's own call ends.
        edges: whether to keep where the gradients of what carries data arrive.

    Attributes:
        nodes: everything that was made.
        sums: the additions in order.
        concatenations: how often a tensor was put beside what had been made of it.
    """

    def __init__(
        self,
        model: nn.Module,
        adding: Callable[[Sum], Callable[[Tensor], None] | None],
        *,
        finished: Callable[[], None] = lambda: None,
        edges: bool = False,
    ) -> None:
        super().__init__()
        self._finished = finished
        self._model = model
        self._adding = adding
        self._edges = edges
        self._live: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._fixed: dict[int, tuple[weakref.ref[Tensor], bool]] = {}
        self.calls = Calls(model, self, self._begin, self._ended)
        self.nodes: list[Node] = []
        self.sums: list[Sum] = []
        self.concatenations = 0

    def on(self) -> None:
        """Attach the hooks that record while the model runs."""
        self.calls.on()

    def off(self) -> None:
        """Remove them, and forget the tensors; the record stays."""
        self.calls.off()
        self.forget()

    def forget(self) -> None:
        """Let go of everything that a pass keeps alive."""
        self._live.clear()
        self._fixed.clear()
        for node in self.nodes:
            node.edge = None

    def empty(self) -> None:
        """Let go of the record too, once all is known that was to be."""
        self.forget()
        self.nodes, self.sums, self.concatenations = [], [], 0

    # -------------------------------------------------------------------------------------------------- the record

    def _begin(self, module: nn.Module, given: Any) -> bool:
        if torch._C._current_graph_task_id() != -1:
            return False  # what checkpoints compute again has been recorded
        if module is self._model:
            self.empty()
        for _, x in tensors_of(given, every=True):
            self._note(x, (), "", weighted=False, data=x.is_floating_point() or x.is_complex())
        return True

    def _ended(self, module: nn.Module, given: Any, output: Any) -> None:
        if not isinstance(output, Tensor) or self._node(output) is None:
            self._mend(module, given, output)
        if module is self._model:
            self._finished()

    def _mend(self, module: nn.Module, given: Any, output: Any) -> None:
        """What a module hands on that no operation was seen to make, e.g. one written in C++, is made of its input."""
        lost = [x for _, x in tensors_of(output, every=True) if self._node(x) is None and not self._is_fixed(x)]
        parents = [node for _, x in tensors_of(given, every=True) if (node := self._node(x)) is not None]
        if lost and parents:
            weighted = any(p.ndim >= 2 for p in module.parameters())
            for x in lost:
                self._note(x, parents, "", weighted=weighted)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Let the operation happen, and record what came of it."""
        kwargs = kwargs or {}
        if func.__name__ == "__get__":
            result = func(*args)
            if isinstance(result, Tensor) and self._node(result) is None:  # a view of it, and not what it is
                self._record(func, list(args[:1]), [result], [], None)
            return result
        given = _tensors((args, kwargs) if kwargs else args)
        if any(is_lazy(x) for x in given if x.__class__ not in _SHAPED):  # a parameter is being given its shape
            return func(*args, **kwargs)
        versions = _versions(given)
        after = None
        found = self._sum(func, args, kwargs)
        if found is not None:
            after = self._adding(found)
        result = func(*args, **kwargs)
        changed = _changed(given, versions, func, kwargs)
        met = {id(x) for x in given}
        made = [x for x in _tensors((result,)) if id(x) not in met]
        if made or changed:
            self._record(func, given, made, changed, found, kwargs.get("dim", args[1] if len(args) > 1 else 0))
        if found is not None:
            found.addition = None
            if after is not None:
                after(result)
        return result

    def _sum(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sum | None:
        adding = addition(func, args, kwargs)
        if adding is None:
            return None
        if adding.stacked is not None:
            return self._of_stacked(adding)
        terms = [self._term(x, of) for x, of in zip(adding.operands, adding.made_of, strict=True)]
        place = self.calls.place()
        if None in terms:
            return None
        ways = [
            tuple(x.grad_fn for x in of or (term,)) for term, of in zip(adding.operands, adding.made_of, strict=True)
        ]
        return self._met(place, terms, adding, ways, adding.doubt)

    def _met(self, place: Place, terms: Any, adding: Addition, ways: Any, doubt: str) -> Sum:
        found = Sum(place, tuple(terms), None, adding, adding.in_place, tuple(ways), doubt)
        self.sums.append(found)
        return found

    def _term(self, x: Tensor, of: Sequence[Tensor]) -> Node | None:
        """The node of a term; of one that the operation makes itself, a node that stands for the product."""
        if not of:
            return self._node(x)
        known = [(each, self._node(each)) for each in of]
        parents = [node for _, node in known if node is not None]
        return self._note(x, parents, "mul", weighted=False, factor=self._factor("mul", known)) if parents else None

    def _of_stacked(self, adding: Addition) -> Sum | None:
        """The sum of a tensor along the axis along which two were put side by side."""
        assert adding.stacked is not None
        whole = self._node(adding.stacked)
        if whole is None or not whole.parts or whole.axis != adding.axis:
            return None
        parts, operands, doubt = whole.parts, adding.operands, ""
        if len(parts) > 2:
            doubt = "more than two tensors are stacked and summed"
            pairs = ((a, b) for b in parts for a in parts if b.ancestors >> a.index & 1)
            parts = next(pairs, parts[:2])  # what looks like a junction, if any two do
        elif whole.made_by not in _STACKING:
            doubt = "both terms were multiplied after they had been stacked"
        terms = [self._note(x, [part], "view", weighted=False) for x, part in zip(operands, parts, strict=True)]
        if whole.made_by in _CONCATENATING:  # was none after all
            self.concatenations -= self._is_beside(whole.parts)
        ways = [(None if part.edge is None else part.edge[0],) for part in parts]
        return self._met(self.calls.place(), terms, adding, ways, doubt)

    def _record(
        self,
        func: Any,
        given: list[Tensor],
        made: list[Tensor],
        changed: list[Tensor],
        found: Sum | None,
        axis: Any = None,
    ) -> None:
        name = _name(func)
        known = [(x, self._node(x)) for x in given]
        for x, node in known:
            if node is not None and node.edge is None:
                self._keep_edge(node, x)
        parents = [node for _, node in known if node is not None]
        drawn = (name.endswith("_like") or name in _NEW) and not changed
        if drawn or not parents:
            held = not drawn and any(self._is_held(x) for x in given)
            for x in (*made, *changed):
                self._fixed[id(x)] = weakref.ref(x), held
            return
        weighted = name not in _NO_LAYER and any(
            x.ndim >= 2 and (name in _LAYERS or self._is_held(x)) for x, node in known if node is None
        )
        if name in _CONCATENATING:
            self.concatenations += self._is_beside(parents)
        factor = self._factor(name, known)
        for x in (*made, *changed):
            node = self._note(x, parents, name, weighted=weighted, factor=factor)
            if found is not None:
                found.total = node
            if name in _STACKING:
                node.parts, node.axis = _side_by_side(x, known, axis)
            elif name in _SCALING:
                node.parts, node.axis = _as_stacked(node, parents)
            base = x._base if any(x is each for each in changed) else None
            if base is not None and (before := self._node(base)) is not None:
                self._note(base, [before, node], name, weighted=False)

    def _note(
        self, x: Tensor, parents: Iterable[Node], name: str, *, weighted: bool, data: bool = False, factor: str = ""
    ) -> Node:
        parents = list({node.index: node for node in parents}.values())
        ancestors = 0
        for parent in parents:
            ancestors |= parent.ancestors | 1 << parent.index
            data |= parent.data
        floating = x.is_floating_point() or x.is_complex()
        node = Node(
            index=len(self.nodes),
            parents=tuple(parent.index for parent in parents),
            ancestors=ancestors,
            made_by=name,
            weighted=weighted,
            data=(data or weighted) and floating,
            shape=tuple(x.shape),
            call=self.calls.current,
            factor=factor,
        )
        self._keep_edge(node, x)
        for parent in parents:
            parent.children.append(node.index)
        self.nodes.append(node)
        self._live[id(x)] = (weakref.ref(x), node.index)
        return node

    @staticmethod
    def _is_beside(nodes: Sequence[Node]) -> bool:
        """Whether one of them was made of another."""
        return any(b.ancestors >> a.index & 1 for a in nodes for b in nodes)

    def _keep_edge(self, node: Node, x: Tensor) -> None:
        # Inside of a function of autograd, as full backward hooks are, there is none yet: it is met where x is used.
        if self._edges and node.data and x.requires_grad and (x.grad_fn is not None or torch.is_grad_enabled()):
            made_by = x.grad_fn
            if made_by is None:  # a leaf
                made_by = torch.autograd.graph.get_gradient_edge(x).node
            node.edge = (made_by, x.output_nr)

    def _node(self, x: Tensor) -> Node | None:
        found = self._live.get(id(x))
        return self.nodes[found[1]] if found is not None and found[0]() is x else None

    def _is_held(self, x: Tensor) -> bool:
        """Whether it is a parameter, or was made of parameters alone."""
        if x.requires_grad or isinstance(x, nn.Parameter):
            return True
        found = self._fixed.get(id(x))
        return found is not None and found[1] and found[0]() is x

    def _is_fixed(self, x: Tensor) -> bool:
        """Whether it belongs to the model, or was made of nothing that came in."""
        found = self._fixed.get(id(x))
        if found is not None and found[0]() is x:
            return True
        return any(x is own for own in (*self._model.parameters(), *self._model.buffers()))

    def _factor(self, name: str, known: list[tuple[Tensor, Node | None]]) -> str:
        if name not in _SCALING:
            return ""
        if len(known) < 2:
            return "number"
        if known[0][1] is not None and known[1][1] is not None:
            return "gate"
        return "parameter" if any(node is None and self._is_held(x) for x, node in known) else "number"

    # -------------------------------------------------------------------------------------------- questions of paths

    def weights_between(self, start: Node, end: Node) -> int:
        """The nodes, as bits, on any path from one to the other, the end included, that a weight went into."""
        found = 0
        for index in bits((end.ancestors | 1 << end.index) >> (start.index + 1)):
            node = self.nodes[index + start.index + 1]
            if node.weighted and node.ancestors >> start.index & 1:
                found |= 1 << node.index
        return found

    def is_reached(self, start: Node, end: Node, *, without_weights: bool) -> bool:
        """Whether a path leads from one to the other; on request one without weights."""
        if start is end:
            return True
        if not without_weights:
            return bool(end.ancestors >> start.index & 1)
        stack, met = [end], {end.index}
        while stack:
            node = stack.pop()
            if node.weighted:
                continue
            for index in node.parents:
                if index == start.index:
                    return True
                parent = self.nodes[index]
                if index not in met and parent.ancestors >> start.index & 1:
                    met.add(index)
                    stack.append(parent)
        return False

    def longest(self, start: Node, end: Node) -> int:
        """The largest number of weights on a path from one to the other."""
        most = {start.index: 0}
        for index in bits((end.ancestors | 1 << end.index) >> (start.index + 1)):
            node = self.nodes[index + start.index + 1]
            if node.ancestors >> start.index & 1:
                most[node.index] = node.weighted + max(most[p] for p in node.parents if p in most)
        return most[end.index]

    def between(self, start: Node, end: Node) -> Iterator[Node]:
        """The nodes on paths from one to the other, the end included."""
        for index in bits((end.ancestors | 1 << end.index) >> (start.index + 1)):
            node = self.nodes[index + start.index + 1]
            if node.ancestors >> start.index & 1:
                yield node


Stacked = tuple[tuple[Node, ...], int]  # the parts, and the axis on which each is one entry


def _side_by_side(x: Tensor, given: Sequence[tuple[Tensor, Node | None]], axis: Any) -> Stacked:
    """What was stacked; nothing where some is no data, or more than one entry of the axis."""
    parts = tuple(node for _, node in given if node is not None and node.data)
    if not isinstance(axis, int) or len(parts) < len(given) or not x.ndim or len(parts) != x.shape[axis]:
        return (), 0
    return parts, axis % x.ndim


def _as_stacked(node: Node, parents: Sequence[Node]) -> Stacked:
    """Of a product of what was stacked, the same parts, which are no longer what they were."""
    stacked = next((parent for parent in parents if parent.parts and parent.shape == node.shape), None)
    return ((), 0) if stacked is None else (stacked.parts, stacked.axis)


def bits(number: int) -> Iterator[int]:
    """The places of the ones in a whole number, from the lowest."""
    text = bin(number)[:1:-1]
    place = text.find("1")
    while place >= 0:
        yield place
        place = text.find("1", place + 1)


def _tensors(given: Any) -> list[Tensor]:
    """The tensors of arguments or results: themselves, or in lists, tuples and dicts."""
    found: list[Tensor] = []
    for each in given:
        if isinstance(each, Tensor):
            found.append(each)
        elif each.__class__ in _SINGLE:
            continue
        elif isinstance(each, list | tuple):
            found += _tensors(each)
        elif isinstance(each, Mapping):
            found += _tensors(each.values())
    return found


def _name(func: Any) -> str:
    name = getattr(func, "__name__", "")
    return str(getattr(getattr(func, "__self__", None), "__name__", "")) if name == "__get__" else name


def _versions(given: Sequence[Tensor]) -> list[int]:
    """How often each was changed in place; of tensors of inference mode, which do not count, -1."""
    return [-1 if x.is_inference() else x._version for x in given]


def _changed(given: Sequence[Tensor], versions: Sequence[int], func: Any, kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Those that an operation changed in place; where no count tells, its name must."""
    return [
        x
        for x, version in zip(given, versions, strict=True)
        if (x._version != version if version >= 0 else _writes(_name(func), kwargs))
    ]


def _writes(name: str, kwargs: Mapping[str, Any]) -> bool:
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__")) or kwargs.get("inplace") is True
