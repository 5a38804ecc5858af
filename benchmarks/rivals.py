"""The same measurement in PyTorch and in JAX, by automatic differentiation, in float64.

All are handed skipscope's draw for all ten networks of a seed, and differentiate only what the three quantities need:
the first and the last weight matrix, and the activations at both ends of the body. In PyTorch eagerly, one network at a
time or the seeds stacked (batched matrix products), and by `torch.func.vmap` over stacked seeds; in JAX by `jit` of
`vmap` over stacked seeds, all ten networks in one compiled function. The two functional ones share their code, since
`torch.func.vjp` and `jax.vjp` are called alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.networks import SPECS, Array, Drawn, chunks, drawn

torch.set_num_threads(1)

STACKED = 20  # seeds at a time: of 10, 20, 50, 100 and 200 the fastest for each of these, or within a few percent

Relu = Callable[[Any], Any]


def torch_one_by_one(seeds: Sequence[int]) -> Array:
    """Eagerly, one network at a time; the draw shared by the ten networks of a seed."""
    return np.concatenate([_eager(drawn((seed,)), stacked=False) for seed in seeds], axis=2)


def torch_stacked(seeds: Sequence[int]) -> Array:
    """Eagerly, the seeds stacked."""
    return np.concatenate([_eager(drawn(some), stacked=True) for some in chunks(seeds, STACKED)], axis=2)


def torch_vmap(seeds: Sequence[int]) -> Array:
    """`torch.func.vmap` of the measurement of one network, by `torch.func.vjp`."""
    ten = torch.func.vmap(_ten(torch.func.vjp, torch.relu, torch.stack))
    found = [ten(*_tensors(drawn(some))).numpy() for some in chunks(seeds, STACKED)]
    return np.moveaxis(np.concatenate(found), 0, 2)


class Jax:
    """`jax.jit(jax.vmap(...))` of the measurement of one network, by `jax.vjp`; raises ImportError without JAX.

    The loop over blocks is unrolled when it is compiled: `jax.lax.scan` compiles in a quarter of the time, and then
    takes half as long again. A number of seeds that is no multiple of `STACKED` compiles anew for what is left over.
    """

    def __init__(self) -> None:
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)
        self._ten = jax.jit(jax.vmap(_ten(jax.vjp, jax.nn.relu, jnp.stack)))

    def __call__(self, seeds: Sequence[int]) -> Array:
        """See `networks.Measure`."""
        found = [np.asarray(self._ten(*_arrays(drawn(some)))) for some in chunks(seeds, STACKED)]
        return np.moveaxis(np.concatenate(found), 0, 2)


# ------------------------------------------------------------------------------------------------ one network, eagerly


def _eager(given: Drawn, *, stacked: bool) -> Array:
    stem, head, body, x, cotangent = _tensors(given)
    x, cotangent = x[..., None], cotangent[..., None]  # columns: matmul then takes one network or a stack of them
    if not stacked:
        stem, head, body, x, cotangent = (each[0] for each in (stem, head, body, x, cotangent))
    found = []
    for design, blocks, layers in _shapes():
        values = _eager_one(design, stem, head, body.unbind(-3)[: blocks * layers], x, cotangent)
        found.append([np.atleast_1d(value.numpy()) for value in values])
    return np.array(found)


def _eager_one(design: str, stem: Any, head: Any, body: Sequence[Any], x: Any, cotangent: Any) -> tuple[Any, Any, Any]:
    stem, head = stem.detach().requires_grad_(), head.detach().requires_grad_()
    entry = end = torch.relu(stem @ x)
    if design == "plain":
        for weight in body:
            end = torch.relu(weight @ end)
    else:
        for first, second in zip(body[::2], body[1::2], strict=True):
            end = end + torch.relu(second @ torch.relu(first @ end))
    output = torch.relu(head @ end)
    gradients = torch.autograd.grad(output, (stem, head, entry, end), cotangent)
    with torch.no_grad():
        first, last, back_entry, back_end, entry, end = (each.norm(dim=(-2, -1)) for each in (*gradients, entry, end))
        blocks = len(body) if design == "plain" else len(body) // 2
        return first / last, (end / entry) ** (2 / blocks), (back_entry / back_end) ** (2 / blocks)


# ------------------------------------------------------------------------------------------ one network, as a function


def _ten(vjp: Any, relu: Relu, stack: Any) -> Callable[..., Any]:
    """The function of one seed's draw that gives the quantities of its ten networks, (networks, quantities)."""

    def plain(x: Any, block: Any) -> Any:
        return relu(block[0] @ x)

    def residual(x: Any, block: Any) -> Any:
        return x + relu(block[1] @ relu(block[0] @ x))

    def one(step: Callable[[Any, Any], Any], stem: Any, head: Any, blocks: Any, x: Any, cotangent: Any) -> Any:
        entry, back_stem = vjp(lambda weight: relu(weight @ x), stem)
        end, back_body = vjp(lambda x: _through(step, x, blocks), entry)
        _, back_head = vjp(lambda weight, x: relu(weight @ x), head, end)
        last, grad_end = back_head(cotangent)
        (grad_entry,) = back_body(grad_end)
        (first,) = back_stem(grad_entry)
        power = 1 / len(blocks)
        growth = (_square(end) / _square(entry)) ** power, (_square(grad_entry) / _square(grad_end)) ** power
        return stack([(_square(first) / _square(last)) ** 0.5, *growth])

    def ten(stem: Any, head: Any, body: Any, x: Any, cotangent: Any) -> Any:
        width = body.shape[-1]
        found = []
        for design, blocks, layers in _shapes():
            cut = body[: blocks * layers].reshape(blocks, layers, width, width)
            found.append(one(plain if design == "plain" else residual, stem, head, cut, x, cotangent))
        return stack(found)

    return ten


def _shapes() -> list[tuple[str, int, int]]:
    """Design, blocks, and layers a block of every network."""
    return [(name, spec.stages[0].blocks, spec.stages[0].layers) for (name, _), spec in SPECS.items()]


def _square(x: Any) -> Any:
    return (x * x).sum()


def _through(step: Callable[[Any, Any], Any], x: Any, blocks: Any) -> Any:
    for block in blocks:
        x = step(x, block)
    return x


def _arrays(given: Drawn) -> tuple[Array, ...]:
    return given.stem, given.head, given.body, given.x, given.cotangent


def _tensors(given: Drawn) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(each) for each in _arrays(given))
