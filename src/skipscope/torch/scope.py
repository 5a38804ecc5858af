"""A probe of any `torch.nn.Module`: `skipscope.probe(model, batch, loss=fn)`, and `Listening` for steps of one's own.

The probe goes forward once and back once by `torch.autograd.grad`, which leaves `.grad` alone (by `backward()`, with
`.grad` put back, where checkpoints are of the reentrant kind). It measures sums where the tensors are, one transfer
brings them here, and the same formulas as for a NumPy network make readings of them. How a batch is handed over is said
in `skipscope.torch.steps`; what is said of a model without a spec, in `sites` and `cells`, is found in `layout`;
`Readings.meta["notes"]` says what the path of measuring changed.

What is reported unless `sites` says otherwise: the blocks, the junctions, what the first block is given, the inputs and
outputs, the network as a whole, and all parameters with their gradients; of a model in which no blocks are found, every
module. `sites="*"` is every module of any model. Sites have the names of modules, and `input`, `output` and `network`
of their own; where a part of the model is called that, `skipscope.torch.names` says who has the prime.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from skipscope import draws
from skipscope.errors import InputError, as_list
from skipscope.moments import Field
from skipscope.probe import Measured, require_quantities
from skipscope.quantities import QUANTITIES, Quantity
from skipscope.readings import Readings
from skipscope.torch import gains
from skipscope.torch.bodies import repeated
from skipscope.torch.joints import Joints
from skipscope.torch.keeping import compiled, eager, kept, only_module
from skipscope.torch.layout import Trained
from skipscope.torch.listening import Listener
from skipscope.torch.log import Heard, Log
from skipscope.torch.parameters import Update, summed
from skipscope.torch.replaying import Replay, wanting
from skipscope.torch.steps import arguments, data_of, gradients, require_followed, sent_back
from skipscope.torch.sums import one_number
from skipscope.torch.taken import Known, Taken
from skipscope.torch.wanted import Wanted

__all__ = ["Listening", "listening", "measure"]

Parameters = Sequence[nn.Parameter | None]

_NOTHING = (
    "0 modules were seen: nothing was run while listening, or the model was run past its hooks (model.forward(x) in "
    "place of model(x), or compiled before they were attached)."
)


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
    scope = Listening(model, quantities=quantities, sites=sites)
    args, kwargs = arguments(batch)
    if loss is not None and not torch.is_grad_enabled():
        raise InputError(
            "loss is given, but autograd is off (torch.no_grad or inference_mode), so that it has no gradient: probe "
            "outside of that context, or without a loss for the forward readings alone."
        )
    numbers = draws.require_seeds(0 if seed is None else seed)
    with kept(scope.model), scope.on():
        output = scope.model(*args, **kwargs)
        sent, told = sent_back(output, batch, loss, numbers)
        if loss is not None:
            require_followed(scope.model, sent)
        found = gradients(scope.model, sent, (args, kwargs), unfollowed=scope.log.unfollowed)
    facts = {} if sent is None or sent.weight is not None else {"loss": sent.value}
    by_parameter = {id(parameter): gradient for parameter, gradient in found}
    taken = scope.taken(lambda parameter: by_parameter.get(id(parameter)), facts=facts)
    data = data_of((args, kwargs))
    return taken.measured(seeds=numbers, factors={"cotangent": told, "data": data, **factors})


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

    Outputs, gradients and everything after are bit for bit what they are without it. Several micro-batches add up. To
    listen to several steps of one model keep a `Listening`, which knows from the first one where to listen.

    Raises:
        InputError: the model cannot be run by one process.
    """
    scope = Listening(model, quantities=quantities, sites=sites)
    with scope.on():
        yield scope


class Listening:
    """A model that is listened to, in one step or in many.

        scope = Listening(model)
        for step, (x, y) in enumerate(loader):
            with scope.on() if step % 100 == 0 else nullcontext():
                criterion(model(x), y).backward()
            if step % 100 == 0:
                taken.append(scope.take())
            optimizer.step()
            optimizer.zero_grad()
        tables = [each.readings() for each in taken]

    The first step is listened to through hooks on every module; it tells which of them are measured, and from then on
    those alone have hooks, from `on` to its end and at no other time. A model whose modules are changed needs a new
    Listening.

    Attributes:
        model: the model.
        log: the sums of the step that was heard last.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        quantities: Mapping[str, Quantity] = QUANTITIES,
        sites: str | Iterable[str] | None = None,
    ) -> None:
        self.model = only_module(model)
        require_quantities(quantities)
        self.log = Log()
        self._compiled = compiled(model)
        self._quantities = quantities
        self._patterns = None if sites is None else as_list(sites)
        self._classes = repeated(self.model)
        self._wanted = Wanted(quantities, self._patterns)
        self._ear: Listener | Replay | None = None
        self._joints = Joints(self.model, self.log, quantities, self._place)
        self._joined = True  # whether junctions are looked at: until a first step has none of which something is asked
        self._known: Known | None = None
        self._fields: Mapping[str, Mapping[str, Collection[Field]]] = {}

    @contextmanager
    def on(self) -> Iterator[None]:
        """Within the context the model is listened to; what was heard before is let go.

        What was compiled runs as written: of compiled code hooks would see nothing, or be compiled with it.
        """
        with eager():
            self._ready()
            try:
                yield
            finally:
                if self._ear is not None:
                    self._ear.off()
                self._joints.off()
                self.log.off()

    def take(self) -> Taken:
        """What was heard of this step, with the parameters and their `.grad` as they are now; then begin the next one.

        To be called after `backward()` and before gradients are zeroed or parameters change. It is cheap: readings are
        made by `Taken.readings()`, at any later time. Where the update of the weights is to be read as well, the
        optimizer's step comes next, within `Taken.updating()`.

        Raises:
            InputError: nothing was heard.
        """
        found = self.taken(lambda parameter: parameter.grad)
        if self._ear is not None and self._ear.attached:
            self._ear.off()
            self._joints.off()
            self._ready()
        return found

    def readings(self, *, factors: Mapping[str, Any] | None = None) -> Readings:
        """What was heard so far of this step, with the parameters' `.grad` as it is now: after `backward()`.

        Raises:
            InputError: nothing was heard.
        """
        return self.taken(lambda parameter: parameter.grad).readings(factors=factors)

    def taken(
        self, gradient_of: Callable[[nn.Parameter], Tensor | None], *, facts: Mapping[str, Tensor] | None = None
    ) -> Taken:
        """What was heard so far of this step, with these gradients of the parameters.

        Raises:
            InputError: nothing was heard.
        """
        ear = self._ear
        if isinstance(ear, Listener):
            if not ear.called:
                raise InputError(_NOTHING)
            self._known = Known(self.model, ear, self._classes, self._wanted, self._quantities, self._patterns)
        elif not self.log.passes:
            raise InputError(_NOTHING)
        known = self._known
        if known is None:
            raise InputError(_NOTHING)
        # A junction that this step has not is one all the same, in a model that skips blocks.
        known.joints = tuple({each.site: each for each in (*known.joints, *self._joints.named())}.values())
        missed = ear.missed() if isinstance(ear, Replay) else []
        parameters = [each.parameter for each in known.held]
        of = {id(p): gradient_of(p) for p in parameters if p is not None and p.requires_grad}
        found = Taken(
            known=known,
            entries=tuple(self.log.entries),
            products=tuple(self.log.products),
            parameters=summed(known.sums, lambda p: of.get(id(p))),
            update=Update(known.updates),
            trained=Trained(
                tuple(p is not None and p.requires_grad for p in parameters),
                tuple(of.get(id(p)) is not None for p in parameters),
                self.log.graded,
            ),
            missed=missed,
            facts={name: one_number(value) for name, value in (facts or {}).items()},
            numbers=sum({id(p): p.numel() for p in parameters if p is not None and p.requires_grad}.values()),
            cell=self._cell(known, parameters),
            notes=self._notes(parameters, missed),
        )
        if isinstance(ear, Listener):
            self._fields = known.fields(found.planned)
            self._joined = any(each.site in found.planned.at for each in known.joints)
        return found

    def _ready(self) -> None:
        """Attach the hooks for another step: few, where the last step told which and the model still runs like that."""
        ear = self._ear
        # A step in which nothing was run says nothing: so it is when one is taken and none follows in the context.
        stays = isinstance(ear, Replay) and not (self.log.passes and (ear.strange or ear.missed()))
        self.log.clear()
        if isinstance(ear, Listener) and self._known is not None and Replay.possible(self.model, ear.heard):
            wanting(ear.heard, self._fields)
            self._ear = Replay(self.model, self.log, ear.heard)
        elif not stays:
            self._known, self._joined = None, True
            firsts = [members[0] for members in self._classes.values()]
            self._ear = Listener(self.model, self.log, self._wanted, first_of=firsts)
        assert self._ear is not None
        self._ear.on()
        if self._joined:
            self._joints.on()

    def _place(self) -> tuple[int, int]:
        """How much was heard up to now, and how deep that is; asked in the step that is listened to in full."""
        ear = self._ear
        return (len(ear.heard), ear.depth) if isinstance(ear, Listener) else (0, 0)

    def _cell(self, known: Known, parameters: Parameters) -> dict[str, Any]:
        gain, turned = gains.told(self.model)
        edits = ["inference"] if not self.model.training else []
        dtypes = {p.dtype for p in parameters if p is not None and p.is_floating_point()}
        return {
            "design": type(self.model).__name__,
            "depth": known.listener.depth,
            "batch": self.log.samples,
            "gain": gain,
            "edit": ", ".join([*edits, turned] if turned else edits),
            "dtype": ", ".join(sorted(str(each).removeprefix("torch.") for each in dtypes)),
        }

    def _notes(self, parameters: Parameters, missed: Sequence[Heard]) -> dict[str, str]:
        model, notes = self.model, []
        if self._compiled:
            notes.append("the model is compiled; it was measured as it is written, run eagerly")
        if self.log.passes > 1:
            notes.append(f"{self.log.passes} passes (micro-batches) are added up")
        if not self.log.graded:
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
        if missed:
            names = list(dict.fromkeys(each.name for each in missed))
            notes.append(
                f"{', '.join(names[:6])}{', ...' if len(names) > 6 else ''}: not called as often as in the first step "
                "listened to; the next one is listened to in full"
            )
        if isinstance(self._ear, Replay) and self._ear.strange:
            calls = f"{self._ear.strange} call" + ("s" if self._ear.strange > 1 else "")
            notes.append(
                f"{calls} beyond those of the first step listened to: left out; the next one is listened to in full"
            )
        devices = sorted({str(device) for device in {p.device for p in parameters if p is not None}})
        told = {"torch": torch.__version__, "device": ", ".join(devices) or "cpu"}
        return {**told, "notes": "; ".join(notes)} if notes else told
