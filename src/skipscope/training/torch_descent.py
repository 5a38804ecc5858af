"""Descent by PyTorch: one network after another, each as a fast module that takes its turn.

There is one module and one optimizer for all networks of a run: a network's weights, velocities and running averages
are NumPy arrays between its turns, which costs a copy every few dozen steps, and keeps one network alone on the device
and one program alone compiled. Gradients are autograd's; the update is `torch.optim.SGD`'s, fused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from skipscope.data import Samples
from skipscope.engines.torch_devices import device_for
from skipscope.engines.torch_engine import TorchNetwork
from skipscope.engines.torch_module import NetworkModule, arrays_of, state_of
from skipscope.errors import InputError
from skipscope.losses import CrossEntropy
from skipscope.protocol import Loss
from skipscope.training.descent import State, Stopped, Task, first_bad
from skipscope.training.evaluation import outcome
from skipscope.training.ways import Ways

__all__ = ["TorchDescent"]

Array = NDArray[np.floating[Any]]

_COMPILERS = ("torch._dynamo", "torch._inductor")  # whose errors are about compilation, and not about the network


class TorchDescent:
    """The networks of a run, see `skipscope.training.descent.Descent`; the given network is left as it is."""

    def __init__(self, network: TorchNetwork, task: Task, ways: Ways) -> None:
        spec = network.spec
        own = next(network.module.parameters()).device
        self.device = own if ways.device is None else device_for(ways.device, dtype=spec.dtype)
        if ways.autocast and spec.dtype != "float32":
            raise InputError(f"autocast is for dtype float32, and the network has {spec.dtype}: leave one out.")
        layout = spec.images if ways.channels_last is None else ways.channels_last
        self.task, self.spec, self.ways = task, spec, ways
        self.seeds = network.seeds
        self.arrays = {name: array.copy() for name, array in network.arrays.items()}
        self._names = tuple(network.parameters)
        self._velocity = {name: np.zeros_like(self.arrays[name]) for name in self._names}
        self.module = NetworkModule(spec, channels_last=layout).to(self.device)
        self._forward: Callable[[Tensor], Tensor] = torch.compile(self.module) if ways.compile else self.module
        self._optimizer = _optimizer(self.module, task)
        told = dataclasses.asdict(ways) | {"device": str(self.device), "channels_last": layout}
        self.identity: Mapping[str, Any] = {
            "engine": "torch",
            "number of threads": task.jobs,
            "way of PyTorch": told,
        }
        self.factors: Mapping[str, str] = {"engine": _told(self.device, ways)}
        self._begin(0)

    def _begin(self, step: int) -> None:
        batch = self.task.recipe.batch
        self._batches = [self.task.data.batches((seed,), size=batch, start=step) for seed in self.seeds]
        self._known: TorchNetwork | None = None

    # ----------------------------------------------------------------------------------------------- as all descents

    @property
    def network(self) -> TorchNetwork:
        """Of copies of the arrays: PyTorch goes on in others."""
        if self._known is None:
            self._known = self._of(range(len(self.seeds)))
        return self._known

    def _of(self, rows: Sequence[int]) -> TorchNetwork:
        """The networks at these rows, as they are now."""
        arrays = {name: array[list(rows)] for name, array in self.arrays.items()}
        parameters = {name: arrays.pop(name) for name in self._names}
        seeds = tuple(self.seeds[row] for row in rows)
        return TorchNetwork(self.spec, seeds, parameters, running=arrays, device=self.device)

    @property
    def velocity(self) -> Mapping[str, Array]:
        """The velocity of every parameter."""
        return self._velocity

    @contextmanager
    def computing(self) -> Iterator[None]:
        """PyTorch has the threads of the task."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.task.jobs)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def keep(self, rows: Sequence[int], step: int) -> None:
        """Go on with these networks alone."""
        chosen = list(rows)
        self.seeds = tuple(self.seeds[row] for row in chosen)
        self.arrays = {name: array[chosen] for name, array in self.arrays.items()}
        self._velocity = {name: array[chosen] for name, array in self._velocity.items()}
        self._begin(step)

    def load(self, state: State) -> None:
        """Take the state over."""
        self.arrays = {name: np.array(({**state["weights"], **state["running"]})[name]) for name in self.arrays}
        self._velocity = {name: np.array(state["velocity"][name]) for name in self._velocity}
        self._known = None

    def advance(self, steps: range) -> list[Stopped]:
        """One network after the other, each all of the steps."""
        self._known = None
        found = (self._advance(row, steps) for row in range(len(self.seeds)))
        return [each for each in found if each is not None]

    def look(self, step: int) -> list[Stopped]:
        """A forward pass that moves no average."""
        stopped = []
        for row, batches in enumerate(self._batches):
            batch, network = next(batches), self._of([row])
            with np.errstate(all="ignore"):
                loss = self.task.loss(network.run(batch).output, batch)
            if not np.isfinite(loss).all():
                stopped.append(self._lost(row, step, batch))
        return stopped

    def evaluate(self, pieces: Iterator[Samples], loss: Loss) -> tuple[Array, Array | None]:
        """By the module, which is faster than the network that shows what is on its way."""
        return outcome(self._inferred, pieces, loss)

    def _inferred(self, inputs: Array) -> Array:
        given = self._sent(inputs)
        outputs = []
        self.module.eval()
        with torch.inference_mode():
            for row in range(len(self.seeds)):
                self._take(row)
                outputs.append(self.module(given).cpu().numpy())
        return np.stack(outputs)

    # ------------------------------------------------------------------------------------------------- one network

    def _take(self, row: int) -> None:
        """Make the module the network at this row."""
        self.module.load_state_dict(state_of(self.arrays, row))

    def _advance(self, row: int, steps: range) -> Stopped | None:
        """Some steps of one network; where it stopped, if it did."""
        self._take(row)
        momenta = self._momenta()
        for name, tensor in momenta.items():
            tensor.copy_(torch.from_numpy(self._velocity[name][row, ...].copy()))
        self.module.train()
        lost = None
        for step in steps:
            batch = next(self._batches[row])
            self._optimizer.param_groups[0]["lr"] = self.task.recipe.rate_at(step)
            if not self._descend(batch):
                lost = step, batch
                break
        self._give_back(row, momenta)
        return None if lost is None else self._lost(row, *lost)

    def _momenta(self) -> dict[str, Tensor]:
        """The optimizer's velocities by name."""
        state = self._optimizer.state
        return {name: state[parameter]["momentum_buffer"] for name, parameter in self.module.named_parameters()}

    def _give_back(self, row: int, momenta: Mapping[str, Tensor]) -> None:
        for name, array in arrays_of(self.module.state_dict()).items():
            self.arrays[name][row] = array[0]
        for name, array in arrays_of(momenta).items():
            self._velocity[name][row] = array[0]

    def _descend(self, batch: Samples) -> bool:
        """One step; whether its loss is a number: if not, the weights stay as they were."""
        inputs, targets = self._sent(batch.inputs[0]), self._targets(batch.targets[0])
        self._optimizer.zero_grad()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.ways.autocast):
            loss = self._loss(self._run(inputs), targets)
        if not loss.isfinite().item():
            return False
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return True

    def _run(self, inputs: Tensor) -> Tensor:
        try:
            return self._forward(inputs)
        except RuntimeError as error:
            if not type(error).__module__.startswith(_COMPILERS):
                raise
            raise InputError(
                f"compile=True: PyTorch could not compile the network here ({str(error).partition(chr(10))[0]}); "
                "leave it out."
            ) from error

    def _loss(self, output: Tensor, targets: Tensor) -> Tensor:
        if isinstance(self.task.loss, CrossEntropy):
            return functional.cross_entropy(output, targets)
        return functional.mse_loss(output, targets)

    def _sent(self, inputs: Array) -> Tensor:
        return torch.tensor(inputs, dtype=getattr(torch, self.spec.dtype), device=self.device)

    def _targets(self, targets: NDArray[Any]) -> Tensor:
        return torch.tensor(targets, device=self.device)

    def _lost(self, row: int, step: int, batch: Samples) -> Stopped:
        return Stopped(self.seeds[row], step, *first_bad(self._of([row]), batch.inputs, 0))


def _optimizer(module: NetworkModule, task: Task) -> torch.optim.SGD:
    """With velocities of 0, so that a first step is like any other, and a run that goes on like one that began."""
    recipe = task.recipe
    options: dict[str, Any] = {"momentum": recipe.momentum, "weight_decay": recipe.weight_decay, "fused": True}
    optimizer = torch.optim.SGD(module.parameters(), lr=recipe.rate, **options)
    for parameter in module.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _told(device: torch.device, ways: Ways) -> str:
    """`torch, cpu`, and what else makes other numbers."""
    told = ["torch", device.type]
    told += ["channels first"] if ways.channels_last is False else []
    told += ["bfloat16 autocast"] if ways.autocast else []
    return ", ".join([*told, "compiled"] if ways.compile else told)
