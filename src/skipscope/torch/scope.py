"""A probe of any `torch.nn.Module`: `skipscope.probe(model, batch, loss=fn)`, and `listening` for a step of one's own.

How a batch is handed over: a tensor is the model's input; of a tuple or list the first entry is, and the rest is for
the loss; a mapping gives keyword arguments. Inputs that are several are a tuple inside the tuple: `((x, mask), y)`. The
loss is called as `loss(output, batch)`; a loss module of PyTorch as `loss(output, target)`.

The probe goes forward once and back once by `torch.autograd.grad`, which leaves `.grad` alone (by `backward()`, with
`.grad` put back, where checkpoints are of the reentrant kind). It measures sums on the device, one transfer brings them
here, and the same formulas as for a NumPy network make readings of them. What it says of a model without a spec is in
`sites` and `cells`; `Readings.meta["notes"]` says what the path of measuring changed.
"""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from skipscope import draws
from skipscope.errors import InputError, as_list, quoted
from skipscope.moments import Field, Moments
from skipscope.probe import Measured, Plan, cell_of, digest_of, evaluated
from skipscope.protocol import Site
from skipscope.quantities import QUANTITIES, Quantity
from skipscope.readings import Readings
from skipscope.torch.bodies import Body, Repeated, body_of, repeated
from skipscope.torch.keeping import compiled, eager, kept, require_plain, unwrapped
from skipscope.torch.listening import Heard, Listener, clean, is_weight_layer, tensors_of
from skipscope.torch.sums import Sums, gathered, norms_of, sums

__all__ = ["Listening", "listening", "measure"]


def measure(
    model: nn.Module,
    batch: Any,
    loss: Callable[[Any, Any], Any] | None,
    seed: int | None,
    *,
    quantities: Mapping[str, Quantity],
    sites: str | Iterable[str] | None,
    factors: Mapping[str, Any],
) -> Measured:
    """`skipscope.probe` of a module.

    Raises:
        InputError: the model cannot be run by one process, or batch and loss are not what the module docstring says.
    """
    require_plain(model)
    scope = Listening(unwrapped(model), quantities=quantities, sites=sites)
    args, kwargs = _arguments(batch)
    if loss is not None and not torch.is_grad_enabled():
        raise InputError(
            "loss is given, but autograd is off (torch.no_grad or inference_mode), so that it has no gradient: probe "
            "outside of that context, or without a loss for the forward readings alone."
        )
    numbers = draws.require_seeds(0 if seed is None else seed)
    with kept(scope.model), eager(), scope.on():
        output = scope.model(*args, **kwargs)
        sent, told = _sent_back(output, batch, loss, numbers)
        gradients = _gradients(scope, sent, (args, kwargs))
    facts = {} if sent is None or sent.weight is not None else {"loss": sent.value}
    data = _data((args, kwargs))
    return scope.measured(gradients, facts=facts, seeds=numbers, factors={"cotangent": told, "data": data, **factors})


@contextmanager
def listening(
    model: nn.Module, *, quantities: Mapping[str, Quantity] = QUANTITIES, sites: str | Iterable[str] | None = None
) -> Iterator[Listening]:
    """Listen to a step of one's own: what is run in the context is measured, and nothing else is changed.

        with listening(model) as scope:
            loss = criterion(model(x), y)
            loss.backward()
            readings = scope.readings()
        optimizer.step()

    Outputs, gradients and everything after are bit for bit what they are without it. Several micro-batches add up.

    Raises:
        InputError: the model cannot be run by one process.
    """
    require_plain(model)
    scope = Listening(unwrapped(model), quantities=quantities, sites=sites)
    with scope.on():
        yield scope


class Listening:
    """A model, what was heard of it, and the readings that come of that.

    Attributes:
        model: the model.
    """

    def __init__(
        self, model: nn.Module, *, quantities: Mapping[str, Quantity], sites: str | Iterable[str] | None
    ) -> None:
        self.model = model
        self._quantities = quantities
        self._patterns = None if sites is None else as_list(sites)
        self._classes: Repeated = repeated(model)
        self._wanted = _Wanted(quantities, self._patterns)
        self.heard = Listener(model, self._wanted, first_of=[members[0] for members in self._classes.values()])

    @contextmanager
    def on(self) -> Iterator[None]:
        """Within the context the model is listened to."""
        self.heard.on()
        try:
            yield
        finally:
            self.heard.off()

    def readings(self, *, factors: Mapping[str, Any] | None = None) -> Readings:
        """What was heard so far, with the parameters' `.grad` as it is now: after `backward()`, before it is zeroed.

        Raises:
            InputError: nothing was heard.
        """
        gradients = [(parameter, parameter.grad) for parameter in _trained(self.model)]
        return self.measured(gradients, facts={}, seeds=(0,), factors=factors or {}).readings()

    def measured(
        self,
        gradients: Sequence[tuple[nn.Parameter, Tensor | None]],
        *,
        facts: Mapping[str, Tensor],
        seeds: tuple[int, ...],
        factors: Mapping[str, Any],
    ) -> Measured:
        """What was heard, with these gradients of the parameters.

        Raises:
            InputError: nothing was heard.
        """
        if not self.heard.called:
            raise InputError(
                "0 modules were seen: nothing was run while listening, or the model was run past its hooks "
                "(model.forward(x) in place of model(x), or compiled before they were attached)."
            )
        held = _parameters(self.model, self.heard)
        moments, known = self._hosted(held, gradients, facts)
        body = body_of(self.heard.heard, self._classes)
        sites, statuses = _sites(self, held, gradients, body, moments)
        plan = Plan(sites, quantities=self._quantities, patterns=self._patterns)
        parameters = sum(parameter.numel() for parameter in _trained(self.model))
        values: dict[tuple[Any, ...], Any] = {}
        for call in range(1 + max((each.call for each in self.heard.heard), default=0)):
            here = {site: roles for (site, at), roles in moments.items() if at == call}
            if call:
                here |= {
                    site.site: moments.get((site.site, 0), {})
                    for site in (sites[0], plan.last)
                    if site.site not in here
                }
            found = evaluated(plan, here, {}, {"parameters": parameters, **known}, 1)
            for (site, name), value in found.items():
                if moments.get((site, call)):
                    values[(site, name, call) if call else (site, name)] = value
                elif site == "network" and not call:
                    values[site, name] = value
        return Measured(
            cell=self._cell(factors),
            sites=plan.chosen,
            seeds=seeds,
            values=values,
            statuses=statuses,
            notes=self._notes(),
        )

    def _hosted(
        self,
        held: Sequence[_Held],
        gradients: Sequence[tuple[nn.Parameter, Tensor | None]],
        facts: Mapping[str, Tensor],
    ) -> tuple[dict[tuple[str, int], dict[str, Moments]], dict[str, Any]]:
        """All sums on the host, in one transfer: (site, call) -> role -> moments; and the facts."""
        places: list[tuple[str, int, str]] = []
        everything: list[Sums] = []
        for each in self.heard.heard:
            for role, found in each.sums.items():
                for one in found:
                    places.append((each.site, each.call, role))
                    everything.append(one)
        by_parameter = {id(parameter): gradient for parameter, gradient in gradients}
        places_held, sums_held = self._held(held, by_parameter)
        places += places_held
        everything += sums_held
        everything += [
            Sums(1, 1, {"norms": value.detach().abs().reshape(1), "sums": value.detach().reshape(1)})
            for value in facts.values()
        ]
        hosted = gathered(everything)
        moments: dict[tuple[str, int], dict[str, Moments]] = defaultdict(dict)
        for (site, call, role), new in zip(places, hosted, strict=False):
            roles = moments[site, call]
            roles[role] = roles[role] + new if role in roles else new
        for each in self.heard.heard:
            if each.same is not None:
                source = each.source
                moments[each.site, each.call] |= {
                    role: found for role, found in moments[source.site, source.call].items() if role in _PUSHED
                }
        known = {
            name: total.sum * total.scale
            for name, total in zip(facts, hosted[len(places) :], strict=True)
            if total.sum is not None
        }
        return dict(moments), known

    def _held(
        self, held: Sequence[_Held], gradients: Mapping[int, Tensor | None]
    ) -> tuple[list[tuple[str, int, str]], list[Sums]]:
        """The sums of parameters and their gradients; a parameter that several modules share is summed once."""
        places: list[tuple[str, int, str]] = []
        tensors: list[tuple[Tensor, Collection[Field]]] = []
        for each in held:
            if each.tied_to:
                continue
            for role, tensor in ((each.role, each.parameter), (f"{each.role}_grad", gradients.get(id(each.parameter)))):
                fields = self._wanted(each.site, role, "linear")
                if tensor is not None and fields is not None:
                    places.append((each.site, 0, role))
                    tensors.append((tensor, fields))
        bare = [index for index, (_, fields) in enumerate(tensors) if not fields]
        norms = dict(zip(bare, norms_of([tensors[index][0] for index in bare]), strict=True))
        found = [norms[index] if index in norms else sums(x, fields) for index, (x, fields) in enumerate(tensors)]
        return places, found

    def _cell(self, factors: Mapping[str, Any]) -> dict[str, Any]:
        dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in self.model.parameters() if p.is_floating_point()})
        return cell_of(
            {
                "design": type(self.model).__name__,
                "depth": self.heard.depth,
                "batch": self.heard.batch,
                "edit": "inference" if not self.model.training else "",
                "dtype": ", ".join(dtypes),
                **factors,
            }
        )

    def _notes(self) -> dict[str, str]:
        model, notes = self.model, []
        if compiled(model):
            notes.append("the model is compiled; it was measured as it is written, run eagerly")
        if not any(each.graded for each in self.heard.heard):
            notes.append(
                "no gradients: "
                + (
                    "autograd is off (torch.no_grad or inference_mode)"
                    if not torch.is_grad_enabled()
                    else "nothing that the model was given or holds requires one"
                )
                + ", so these are the forward readings alone"
            )
            if not model.training and any(isinstance(m, nn.TransformerEncoderLayer) for m in model.modules()):
                notes.append(
                    "nn.TransformerEncoderLayer took its ordinary path: its fused path for inference is closed to hooks"
                )
        devices = sorted({str(parameter.device) for parameter in model.parameters()})
        told = {"torch": torch.__version__, "device": ", ".join(devices) or "cpu"}
        return {**told, "notes": "; ".join(notes)} if notes else told


_PUSHED = ("activation", "activation_grad")


# ----------------------------------------------------------------------------------------------------- what is wanted


class _Wanted:
    """What to sum where, before it is known which sites there will be."""

    def __init__(self, quantities: Mapping[str, Quantity], patterns: Sequence[Any] | None) -> None:
        self._quantities = list(quantities.values())
        self._patterns = patterns
        self._whole = self._chosen("network")
        self._found: dict[tuple[str, str, bool, bool], Collection[Field] | None] = {}

    def __call__(self, site: str, role: str, activation: str) -> Collection[Field] | None:
        """The fields, None where nothing of this role is needed."""
        end = site.startswith(("input", "output"))  # what gains are relative to
        key = (role, activation, self._chosen(site), end)
        if key not in self._found:
            self._found[key] = self._needed(*key)
        return self._found[key]

    def _chosen(self, site: str) -> bool:
        return self._patterns is None or any(fnmatch.fnmatchcase(site, str(each)) for each in self._patterns)

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


# --------------------------------------------------------------------------------------------------------- one step


def _arguments(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments of the model."""
    if isinstance(batch, bool | int | float | str | np.ndarray) or batch is None:
        raise InputError(
            f"batch must be what the model is to see: a tensor, (inputs, targets) or a mapping of keyword arguments; "
            f"got {quoted(batch)}."
        )
    inputs = batch
    if isinstance(batch, list | tuple) and not hasattr(batch, "_fields"):
        if not batch:
            raise InputError("batch is empty: give a tensor, or (inputs, targets).")
        inputs = batch[0]
    args, kwargs = ((), dict(inputs)) if isinstance(inputs, Mapping) else (_positional(inputs), {})
    for path, x in tensors_of((args, kwargs), every=True):
        if x.numel() == 0:
            raise InputError(
                f"batch is empty: its input{path[3:]} has the shape {tuple(x.shape)}; give 1 sample at least."
            )
    return args, kwargs


def _positional(inputs: Any) -> tuple[Any, ...]:
    return tuple(inputs) if isinstance(inputs, list | tuple) and not hasattr(inputs, "_fields") else (inputs,)


@dataclass(frozen=True)
class _Sent:
    """What is differentiated: a scalar, or an output that is weighted by a cotangent."""

    value: Tensor
    weight: Tensor | None = None


def _sent_back(
    output: Any, batch: Any, loss: Callable[[Any, Any], Any] | None, seeds: tuple[int, ...]
) -> tuple[_Sent | None, str]:
    """What goes back through the model, None where nothing can; and in words."""
    if loss is not None:
        value = _loss_of(loss, output, batch)
        return _Sent(value), f"loss {getattr(loss, '__name__', type(loss).__name__)}"
    own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(own, Tensor) and own.requires_grad:
        return _Sent(own.mean()), "the model's own loss"
    found = [(path, x) for path, x in tensors_of(output) if x.requires_grad]
    if not found:
        return None, ""
    y = found[0][1]
    v = torch.from_numpy(draws.normals(seeds[:1], "cotangent", tuple(y.shape))[0]).to(y.device, y.dtype)
    return _Sent(y, v), f"gaussian, seed {seeds[0]}"


def _loss_of(loss: Callable[[Any, Any], Any], output: Any, batch: Any) -> Tensor:
    if type(loss).__module__.startswith("skipscope.losses"):
        raise InputError(
            f"loss {quoted(loss)} is one of NumPy networks: of a module give a function of PyTorch, e.g. "
            "lambda output, batch: torch.nn.functional.cross_entropy(output, batch[1])."
        )
    pair = isinstance(batch, list | tuple) and len(batch) == 2
    value = loss(output, batch[1]) if pair and isinstance(loss, nn.modules.loss._Loss) else loss(output, batch)
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"loss must give one number, as a tensor that autograd follows; got {quoted(shape)}.")
    return value


def _gradients(scope: Listening, sent: _Sent | None, given: Any) -> list[tuple[nn.Parameter, Tensor | None]]:
    """The gradients of the parameters; on the way the hooks see those of the activations."""
    trained = list(_trained(scope.model))
    if sent is None or not sent.value.requires_grad:
        return [(parameter, None) for parameter in trained]
    leaves: list[Tensor] = [*trained]
    leaves += [x for _, x in tensors_of(given) if x.requires_grad and not any(x is each for each in trained)]
    if scope.heard.unfollowed:
        return list(zip(trained, _backward(sent, leaves)[: len(trained)], strict=True))
    found = torch.autograd.grad(sent.value, leaves, grad_outputs=sent.weight, allow_unused=True)
    return list(zip(trained, found, strict=False))


def _backward(sent: _Sent, leaves: Sequence[Tensor]) -> list[Tensor | None]:
    """By `backward()`, which parts that were run without autograd (reentrant checkpoints) need; `.grad` is put back."""
    hooked = [leaf for leaf in leaves if getattr(leaf, "_post_accumulate_grad_hooks", None)]
    if hooked:
        raise InputError(
            "the model has reentrant checkpoints, whose gradients need backward(), and hooks on its parameters that "
            "would act on it: use checkpoint(..., use_reentrant=False), or remove the hooks for the probe."
        )
    before = [leaf.grad for leaf in leaves]
    try:
        for leaf in leaves:
            leaf.grad = None
        torch.autograd.backward(sent.value, None if sent.weight is None else sent.weight)
        return [leaf.grad for leaf in leaves]
    finally:
        for leaf, gradient in zip(leaves, before, strict=True):
            leaf.grad = gradient


def _data(given: Any) -> str:
    """What the model saw, in short; what is on another device is not brought here to be read."""
    arrays = [x.detach() for _, x in tensors_of(given, every=True)]
    if not arrays or any(x.device.type != "cpu" or x.layout != torch.strided for x in arrays):
        return "given"
    bytes_of = [np.array([str(x.dtype), str(tuple(x.shape))]) for x in arrays]
    bytes_of += [x.contiguous().reshape(-1).view(torch.uint8).numpy() for x in arrays]
    return f"given, {digest_of(*bytes_of)}"


# ------------------------------------------------------------------------------------------------ parameters and sites


@dataclass(frozen=True)
class _Held:
    """A parameter, and the site and role that it is measured at."""

    site: str
    role: str
    parameter: nn.Parameter
    module: nn.Module
    tied_to: str = ""


def _trained(model: nn.Module) -> Iterator[nn.Parameter]:
    for parameter in model.parameters():
        if parameter.requires_grad and not is_lazy(parameter):
            yield parameter


def _parameters(model: nn.Module, heard: Listener) -> list[_Held]:
    """Every parameter of real or complex numbers once, and again, tied, for every module that shares it."""
    held: list[_Held] = []
    known: dict[int, str] = {}
    for prefix, module in model.named_modules():
        name = heard.called.get(id(module), clean(prefix))
        for attribute, parameter in module._parameters.items():
            if parameter is None or is_lazy(parameter):
                continue
            if not (parameter.is_floating_point() or parameter.is_complex()):
                continue
            site, role = _place(module, name, attribute, parameter)
            held.append(_Held(site, role, parameter, module, known.get(id(parameter), "")))
            known.setdefault(id(parameter), site)
    return held


def _place(module: nn.Module, name: str, attribute: str, parameter: nn.Parameter) -> tuple[str, str]:
    """The site and the role: those of the module for its weight and bias, else a site of the parameter's own."""
    weight = module._parameters.get("weight")
    if attribute in ("weight", "bias") and (name or not module._modules):
        vector = weight is not None and weight.ndim < 2
        roles = {"weight": "gamma" if vector else "weight", "bias": "beta" if vector else "bias"}
        return name or "output", roles[attribute]
    return f"{name}.{attribute}" if name else attribute, "weight"


@dataclass
class _Draft:
    """A site that is being described."""

    site: str
    kind: str
    name: str
    depth: int = 0
    activation: str = "linear"
    block: int = 0
    ends: str = ""
    outer: str = ""
    tied_to: str = ""
    modules: list[nn.Module] = field(default_factory=list)


def _sites(
    scope: Listening,
    held: Sequence[_Held],
    gradients: Sequence[tuple[nn.Parameter, Tensor | None]],
    body: Body,
    moments: Mapping[tuple[str, int], Mapping[str, Moments]],
) -> tuple[list[Site], dict[str, str]]:
    """All sites in order of execution, and of some what there is to say beside a reading."""
    heard = scope.heard
    drafts: dict[str, _Draft] = {}
    for each in heard.heard:
        unused = each.module is None and each.site.endswith(".input") and each is not body.entry
        if each.site not in drafts and not unused:
            drafts[each.site] = _draft(each)
    _number(drafts, body, moments)
    statuses = _status_of_calls(scope, drafts)
    _add_parameters(drafts, held)
    got = {id(parameter) for parameter, gradient in gradients if gradient is not None}
    sent = any(each.graded for each in heard.heard)
    by_site: dict[str, list[_Held]] = defaultdict(list)
    for one in held:
        by_site[one.site].append(one)
    for site, members in by_site.items():
        if statuses.get(site) == "not executed":
            continue
        if not any(one.parameter.requires_grad for one in members):
            statuses[site] = "frozen"
        elif sent and not any(id(one.parameter) in got for one in members if one.parameter.requires_grad):
            statuses[site] = "no gradient"
    weights = [s for s in drafts if {"weight", "weight_grad"} <= set(moments.get((s, 0), {}))]
    if weights:
        drafts[weights[0]].outer = "first"
        drafts[weights[-1]].outer = "last"
    ordered = _ordered(list(drafts.values()), heard)
    return [
        Site(d.site, order, d.depth, d.kind, d.name, d.activation, d.block, d.ends, d.outer, d.tied_to)  # type: ignore[arg-type]
        for order, d in enumerate([*ordered, _Draft("network", "network", "the network as a whole", heard.depth)])
    ], statuses


def _draft(each: Heard) -> _Draft:
    if each.module is None:
        what = "what the first block is given" if each.site.endswith(".input") else "input"
        return _Draft(each.site, "input", f"{what}, of shape {each.shape}", each.depth)
    kind = "layer" if is_weight_layer(each.module) else "module"
    activation = {nn.ReLU: "relu", nn.ReLU6: "relu", nn.Tanh: "tanh"}.get(type(each.module), "linear")
    return _Draft(each.site, kind, _described(each.module), each.depth, activation, modules=[each.module])


def _described(module: nn.Module) -> str:
    text = f"{type(module).__name__}({module.extra_repr()})" if not module._modules else type(module).__name__
    return text if len(text) <= 100 else f"{text[:99]}…"


def _number(drafts: dict[str, _Draft], body: Body, moments: Mapping[tuple[str, int], Mapping[str, Moments]]) -> None:
    """Which sites are blocks, and the ends of the body."""
    blocks = list(body.blocks)
    if not blocks:
        return

    def graded(each: Heard | None) -> bool:
        return each is not None and "activation_grad" in moments.get((each.site, each.call), {})

    entry, first = body.entry, 1
    if entry is None or (graded(blocks[-1]) and not graded(entry)):
        # Where the gradient does not reach what the first block is given, the body is counted from what it hands on.
        entry, first = blocks[0], 0
    for number, each in enumerate(blocks, start=first):
        draft = drafts[each.site]
        draft.block = number
        if body.whole:
            draft.kind = "block"
    if len(blocks) + first > 1:
        drafts[entry.site].ends = "entry"
        drafts[blocks[-1].site].ends = "exit"


def _status_of_calls(scope: Listening, drafts: dict[str, _Draft]) -> dict[str, str]:
    """Modules that were not called, and calls that handed on nothing that can be measured, become sites too."""
    statuses: dict[str, str] = {}
    heard = scope.heard
    for name in heard.silent:
        if name not in drafts:
            drafts[name] = _Draft(name, "module", "no floating-point output")
            statuses[name] = "undefined"
    for prefix, module in scope.model.named_modules():
        if (
            id(module) in heard.called
            or module._modules
            or not prefix
            or isinstance(module, nn.ModuleList | nn.ModuleDict)
        ):
            continue
        if isinstance(module, nn.Identity) or "parametrizations" in prefix:
            continue
        name = clean(prefix)
        if name not in drafts:
            kind = "layer" if is_weight_layer(module) else "module"
            drafts[name] = _Draft(name, kind, _described(module), modules=[module])
            statuses[name] = "not executed"
    return statuses


def _add_parameters(drafts: dict[str, _Draft], held: Sequence[_Held]) -> None:
    for one in held:
        if one.site not in drafts:
            depth = max((d.depth for name, d in drafts.items() if one.site.startswith(f"{name}.")), default=0)
            drafts[one.site] = _Draft(one.site, "layer", f"parameter of shape {tuple(one.parameter.shape)}", depth)
        draft = drafts[one.site]
        if one.tied_to and one.tied_to != one.site:
            draft.tied_to = one.tied_to


def _beside(site: str, other: str) -> bool:
    """Whether the other site is of the same module, of a part of it, or of the module that holds it."""
    holder = site.rpartition(".")[0]
    return other.startswith((f"{site}.", f"{site}[")) or (bool(holder) and f"{other}.".startswith(f"{holder}."))


def _ordered(drafts: list[_Draft], heard: Listener) -> list[_Draft]:
    """In order of execution; a parameter's own site before its module, and what was not run before the end."""
    run = {each.site: float(each.order) for each in reversed(heard.heard)}
    place = dict(run)
    outputs = [d.site for d in drafts if d.site == "output" or d.site.startswith(("output[", "output."))]
    for index, draft in enumerate(drafts):
        if draft.site not in run:
            near = [run[site] for site in run if _beside(draft.site, site)]
            place[draft.site] = (min(near) - 0.5 if near else len(run) + 1.0) + index * 1e-6
    last = max(place.values(), default=0.0)
    for index, site in enumerate(reversed(outputs)):  # the first of several outputs is the one that is looked back from
        place[site] = last + 1 + index
    inputs = [d.site for d in drafts if d.site == "input" or d.site.startswith(("input[", "input."))]
    for index, site in enumerate(inputs):
        place[site] = -len(inputs) + index
    return sorted(drafts, key=lambda draft: place[draft.site])
