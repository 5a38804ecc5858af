"""Whether the instrument disturbs: a step with the scope and one without, compared bit for bit, on any model.

Both run on a deep copy, so that the model itself is not touched.
"""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skipscope.probe import probe
from skipscope.torch.keeping import random_state, restore_random_state
from skipscope.torch.listening import tensors_of
from skipscope.torch.scope import listening
from skipscope.torch.steps import arguments, sent_back

__all__ = ["check_undisturbed"]

Loss = Callable[[Any, Any], Any]


def check_undisturbed(model: nn.Module, batch: Any, *, loss: Loss | None = None, seed: int = 0) -> None:
    """Check that a step under `listening`, and the step after a `probe`, are bit for bit a step without.

    Compared are the output, the loss, the gradients, parameters and optimizer state after a step of SGD with momentum,
    buffers, the states of the random generators, `state_dict`, the attributes of every module (hooks among them), and
    that the model can be copied and pickled as before.

    Args:
        model: any module; it is copied, and not changed itself.
        batch: as for `skipscope.probe`.
        loss: likewise.
        seed: of the random generators at the beginning of each step, and of the cotangent.

    Raises:
        AssertionError: something differs; the message names it.
    """
    with _generators_kept(model):
        bare, heard, probed = (copy.deepcopy(model) for _ in range(3))
        expected = _step(bare, batch, loss, seed, listened=False)
        _compare(expected, _step(heard, batch, loss, seed, listened=True), "under listening")
        _probe_leaves(probed, batch, loss, seed)
        _compare(expected, _step(probed, batch, loss, seed, listened=False), "after a probe")


@contextmanager
def _generators_kept(model: nn.Module) -> Iterator[None]:
    state = random_state(model)
    try:
        yield
    finally:
        restore_random_state(state)


def _step(model: nn.Module, batch: Any, loss: Loss | None, seed: int, *, listened: bool) -> dict[str, Any]:
    """Everything that a step of training makes, by name."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    args, kwargs = arguments(batch)
    with listening(model) if listened else nullcontext() as scope:
        output = model(*args, **kwargs)
        sent, _ = sent_back(output, batch, loss, (seed,))
        if sent is not None and sent.value.requires_grad:
            torch.autograd.backward(sent.value, sent.weight)
        if scope is not None:
            scope.readings()
    found: dict[str, Any] = {f"output{path}": x.detach().clone() for path, x in tensors_of(output, every=True)}
    if sent is not None:
        found["loss"] = sent.value.detach().clone()
    found |= {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    if trained:
        optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9)
        optimizer.step()
        states = optimizer.state_dict()["state"]
        found |= {f"optimizer state {i}.{name}": x for i, own in states.items() for name, x in own.items()}
    return found | _state(model)


def _state(model: nn.Module) -> dict[str, Any]:
    """What a model is between steps."""
    found: dict[str, Any] = {f"state_dict {name}": x for name, x in model.state_dict().items() if isinstance(x, Tensor)}
    found |= {f"buffer {name}": x for name, x in model.named_buffers()}
    for name, module in model.named_modules():
        found[f"attributes of {name or 'the model'}"] = sorted(vars(module))
        found[f"hooks of {name or 'the model'}"] = [len(x) for key, x in vars(module).items() if key.endswith("_hooks")]
    state = random_state(model)
    found["state of torch's generator"] = state["torch"]
    found |= {f"state of generator cuda:{index}": x for index, x in state["cuda"].items()}
    found["state of Python's generator"] = state["python"]
    found["state of NumPy's generator"] = str(state["numpy"])
    found["pickle"] = _pickles(model)
    copy.deepcopy(model)
    return found


def _pickles(model: nn.Module) -> bool:
    try:
        torch.save(model, io.BytesIO())
    except Exception:  # of any kind: the question is whether it can be
        return False
    return True


def _probe_leaves(model: nn.Module, batch: Any, loss: Loss | None, seed: int) -> None:
    """A probe leaves the model as it was, gradients included."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = None
    torch.manual_seed(seed)
    before = {name: x.clone() if isinstance(x, Tensor) else x for name, x in _state(model).items()}
    probe(model, batch, loss=loss, seed=seed)
    _compare(before, _state(model), "after a probe, before the step")
    left = [name for name, p in model.named_parameters() if p.grad is not None]
    if left:
        raise AssertionError(f"after a probe {left[0]} has a gradient, and had none.")


def _compare(expected: dict[str, Any], found: dict[str, Any], when: str) -> None:
    if expected.keys() != found.keys():
        raise AssertionError(f"{when}: {sorted(expected.keys() ^ found.keys())[0]} is on one side alone.")
    for name, value in expected.items():
        if not _same(value, found[name]):
            raise AssertionError(f"{when}: {name} is not what it is without.")


def _same(a: Any, b: Any) -> bool:
    """To the bit; nan is nan."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return a is None and b is None if a is None or b is None else bool(a == b)
    if a.layout != torch.strided:
        a, b = a.coalesce().to_dense(), b.coalesce().to_dense()
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    a, b = a.detach().cpu().contiguous(), b.detach().cpu().contiguous()
    return a.reshape(-1).view(torch.uint8).equal(b.reshape(-1).view(torch.uint8)) if a.numel() else True
