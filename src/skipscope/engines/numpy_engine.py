"""The NumPy engine: a `Spec` and seeds become an ensemble of networks that run forward and backward at once.

A network is a chain of parts. Each part has `forward`, which gives its output and what its backward will need, and
`backward` under it, which takes the gradient by the output and gives the gradient by the input; the derivations stand
in ops.py. Parts push the arrays to the observer as they make them and keep nothing. Only the weight arrays ever change.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from skipscope import draws
from skipscope.engines import ops
from skipscope.errors import InputError, require_number, require_type
from skipscope.protocol import Loss, Observer, Run, Site, ignore, sites_of, wanted
from skipscope.spec import Block, Layer, Spec

__all__ = ["NumpyNetwork", "build", "build_all"]

Array = NDArray[np.floating[Any]]
Kept = Any  # whatever a part's forward hands to its backward

_Derivative = Callable[[Array, Array], Array]
_ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], _Derivative, _Derivative]] = {  # forward, backward, jvp
    "relu": (ops.relu, ops.relu_backward, ops.relu_jvp),
    "tanh": (ops.tanh, ops.tanh_backward, ops.tanh_jvp),
    "linear": (ops.linear, ops.linear_backward, ops.linear_jvp),
}
_NORMS = {
    "batch": (ops.batch_norm, ops.batch_norm_backward, ops.batch_norm_jvp),
    "layer": (ops.layer_norm, ops.layer_norm_backward, ops.layer_norm_jvp),
}


class _Part(Protocol):
    def forward(self, x: Array, observe: Observer) -> tuple[Array, Kept]: ...

    def backward(self, dy: Array, kept: Kept, observe: Observer) -> Array: ...

    def jvp(self, tx: Array, kept: Kept) -> Array: ...


@dataclass(frozen=True)
class _Affine:
    """y = W x + b."""

    site: str
    weight: Array
    bias: Array | None

    def forward(self, x: Array, observe: Observer) -> tuple[Array, Kept]:
        return ops.affine(x, self.weight, self.bias), x

    def backward(self, dy: Array, kept: Kept, observe: Observer) -> Array:
        if wanted(observe, self.site, "weight", "weight_grad"):
            observe(self.site, weight=self.weight, weight_grad=ops.affine_backward_weight(dy, kept))
        if self.bias is not None and wanted(observe, self.site, "bias", "bias_grad"):
            observe(self.site, bias=self.bias, bias_grad=ops.affine_backward_bias(dy))
        return ops.affine_backward_input(dy, self.weight)

    def jvp(self, tx: Array, kept: Kept) -> Array:
        return ops.affine_jvp(tx, self.weight)


@dataclass(frozen=True)
class _Norm:
    """y = gamma (x - mean) / std + beta, over the batch or over the features."""

    site: str
    norm: str
    gamma: Array
    beta: Array

    def forward(self, x: Array, observe: Observer) -> tuple[Array, Kept]:
        return _NORMS[self.norm][0](x, self.gamma, self.beta)

    def backward(self, dy: Array, kept: Kept, observe: Observer) -> Array:
        dx, dgamma, dbeta = _NORMS[self.norm][1](dy, self.gamma, kept)
        observe(self.site, gamma=self.gamma, gamma_grad=dgamma)
        observe(self.site, beta=self.beta, beta_grad=dbeta)
        return dx

    def jvp(self, tx: Array, kept: Kept) -> Array:
        return _NORMS[self.norm][2](tx, self.gamma, kept)


@dataclass(frozen=True)
class _Activation:
    """y = relu(x), tanh(x) or x."""

    site: str
    activation: str

    def forward(self, x: Array, observe: Observer) -> tuple[Array, Kept]:
        y = _ACTIVATIONS[self.activation][0](x)
        observe(self.site, preactivation=x, activation=y)
        return y, y

    def backward(self, dy: Array, kept: Kept, observe: Observer) -> Array:
        dx = _ACTIVATIONS[self.activation][1](dy, kept)
        observe(self.site, preactivation_grad=dx, activation_grad=dy)
        return dx

    def jvp(self, tx: Array, kept: Kept) -> Array:
        return _ACTIVATIONS[self.activation][2](tx, kept)


@dataclass(frozen=True)
class _Chain:
    """Parts one after another."""

    parts: tuple[_Part, ...]

    def forward(self, x: Array, observe: Observer) -> tuple[Array, Kept]:
        kept = []
        for part in self.parts:
            x, each = part.forward(x, observe)
            kept.append(each)
        return x, kept

    def backward(self, dy: Array, kept: Kept, observe: Observer) -> Array:
        for part, each in zip(reversed(self.parts), reversed(kept), strict=True):
            dy = part.backward(dy, each, observe)
        return dy

    def jvp(self, tx: Array, kept: Kept) -> Array:
        for part, each in zip(self.parts, kept, strict=True):
            tx = part.jvp(tx, each)
        return tx


@dataclass
class _PlainBlock:
    """y = act(gain F(x))."""

    site: str
    branch: _Chain
    gain: float
    activation: str

    def forward(self, x: Array, observe: Observer) -> tuple[Array, Kept]:
        branch, kept = self.branch.forward(x, observe)
        y = _ACTIVATIONS[self.activation][0](branch if self.gain == 1 else branch * self.gain)
        observe(self.site, activation=y)
        return y, (y, kept)

    def backward(self, dy: Array, kept: Kept, observe: Observer) -> Array:
        y, kept_branch = kept
        observe(self.site, activation_grad=dy)
        dsum = _ACTIVATIONS[self.activation][1](dy, y)
        return self.branch.backward(dsum if self.gain == 1 else dsum * self.gain, kept_branch, observe)

    def jvp(self, tx: Array, kept: Kept) -> Array:
        y, kept_branch = kept
        tbranch = self.branch.jvp(tx, kept_branch)
        return _ACTIVATIONS[self.activation][2](tbranch if self.gain == 1 else tbranch * self.gain, y)


@dataclass
class _ResidualBlock:
    """y = act(gain_s x + gain_b F(x)): dx = gain_s dsum + dF(gain_b dsum), dsum the gradient by the sum.

    Where the branch has a learned scalar a, F(x) = a f(x) and da = sum(df f) over samples and features.
    """

    site: str
    branch: _Chain
    own_gains: tuple[float, float]
    learned: Array | None
    activation: str
    factors: tuple[float, float] = field(default=(1.0, 1.0))

    @property
    def gains(self) -> tuple[float, float]:
        return self.own_gains[0] * self.factors[0], self.own_gains[1] * self.factors[1]

    def forward(self, x: Array, observe: Observer) -> tuple[Array, Kept]:
        bare, kept = self.branch.forward(x, observe)
        branch = bare if self.learned is None else bare * self.learned[:, None, None]
        total, skip, term = ops.junction(x, branch, *self.gains)
        y = _ACTIVATIONS[self.activation][0](total)
        observe(self.site, shortcut=skip, branch=term, total=total)
        observe(self.site, activation=y)
        return y, (y, bare, kept)

    def backward(self, dy: Array, kept: Kept, observe: Observer) -> Array:
        y, bare, kept_branch = kept
        observe(self.site, activation_grad=dy)
        dsum = _ACTIVATIONS[self.activation][1](dy, y)
        dskip, dbranch = ops.junction_backward(dsum, *self.gains)
        if self.learned is not None:
            observe(self.site, gain=self.learned, gain_grad=(dbranch * bare).sum(axis=(-2, -1)))
            dbranch = dbranch * self.learned[:, None, None]
        through = self.branch.backward(dbranch, kept_branch, observe)
        dx = ops.junction_joined(dskip, through, *self.gains)
        observe(self.site, shortcut_grad=dskip, branch_grad=through, total_grad=dx)
        return dx

    def jvp(self, tx: Array, kept: Kept) -> Array:
        y, _, kept_branch = kept
        tbranch = self.branch.jvp(tx, kept_branch)
        if self.learned is not None:
            tbranch = tbranch * self.learned[:, None, None]
        return _ACTIVATIONS[self.activation][2](ops.junction_jvp(tx, tbranch, *self.gains), y)


class NumpyNetwork:
    """An ensemble of the networks that `spec` describes, one for every seed; a single network is an ensemble of one.

    Attributes:
        spec: what the network is.
        seeds: the seeds along the leading axis.
        sites: where it can be measured, in order of execution.
        parameters: the weight arrays by name (`stem.weight`, `stage1.block3.layer2.gamma`, `stage1.block3.gain`),
            each with the leading axis s; changing one in place changes the network.
    """

    def __init__(self, spec: Spec, seeds: tuple[int, ...], parameters: dict[str, Array]) -> None:
        self.spec = spec
        self.seeds = seeds
        self.sites: tuple[Site, ...] = sites_of(spec)
        self.parameters = parameters
        self._blocks = tuple(self._block(block) for block in spec.body)
        final = (
            self._activated("final", spec.stages[-1].norm, spec.stages[-1].activation) if spec.pre_activation else ()
        )
        self._chain = _Chain((*self._layer(spec.stem_layer), *self._blocks, *final, *self._layer(spec.head_layer)))

    def run(self, batch: Any, loss: Loss | None = None, observe: Observer = ignore) -> Run:
        """One forward pass, and with a loss one backward pass; see `skipscope.protocol.Network.run`.

        Overflow raises nothing here: an activation that became inf or nan is a measurement.

        Raises:
            InputError: the batch or the loss does not fit the network.
        """
        with np.errstate(all="ignore"):
            x = self._inputs(batch)
            observe("input", activation=x)
            output, kept = self._chain.forward(x, observe)
            if loss is None:
                return Run(output, None)
            if not callable(getattr(loss, "gradient", None)):
                raise InputError(
                    f"loss {loss!r} has no gradient(output, batch), and this engine differentiates by hand: use "
                    "skipscope.losses, or an object that is called for the loss and has such a method."
                )
            value = loss(output, batch)
            dy = np.asarray(loss.gradient(output, batch), output.dtype, order="C")
            if dy.shape != output.shape:
                raise InputError(f"loss {loss!r} has a gradient of shape {dy.shape}; the output has {output.shape}.")
            dx = self._chain.backward(dy, kept, observe)
            observe("input", activation_grad=dx)
        return Run(output, value)

    @contextmanager
    def gains(
        self, *, shortcut: float = 1.0, branch: float = 1.0, at: str | Iterable[str] | None = None
    ) -> Iterator[None]:
        """Re-weight junctions, forward and backward; see `skipscope.protocol.Network.gains`.

        Raises:
            InputError: a gain is not a finite number, or `at` names no junction.
        """
        factors = require_number("shortcut", shortcut), require_number("branch", branch)
        chosen = self._junctions(at)
        before = [block.factors for block in chosen]
        for block in chosen:
            block.factors = block.factors[0] * factors[0], block.factors[1] * factors[1]
        try:
            yield
        finally:
            for block, old in zip(chosen, before, strict=True):
                block.factors = old

    @property
    def edit(self) -> str:
        """What `gains` changes at this moment, for the record: e.g. `stage1.block2: shortcut x 0, branch x 1`."""
        edits = []
        for block in self._blocks:
            if isinstance(block, _ResidualBlock) and block.factors != (1.0, 1.0):
                shortcut, branch = (repr(factor).removesuffix(".0") for factor in block.factors)
                edits.append(f"{block.site}: shortcut x {shortcut}, branch x {branch}")
        return "; ".join(edits)

    def taped(self, batch: Any) -> tuple[Array, list[tuple[_Part, Kept]]]:
        """The output, and the parts in order, each with what a forward pass kept for its backward.

        For walks back through the network that are not its gradient, as `skipscope.engines.paths` has one.
        """
        with np.errstate(all="ignore"):
            output, kept = self._chain.forward(self._inputs(batch), ignore)
        return output, list(zip(self._chain.parts, kept, strict=True))

    def jvp(self, batch: Any, tangent: Any) -> Array:
        """How the output (s, b, n) moves when the batch moves along `tangent`, of the batch's shape: J tangent.

        The parameters are held; batch normalisation's statistics move with the batch.

        Raises:
            InputError: the batch or the tangent does not fit the network.
        """
        with np.errstate(all="ignore"):
            x = self._inputs(batch)
            tx = np.asarray(tangent, self.spec.dtype, order="C")
            if tx.shape not in (x.shape, x.shape[1:]):
                raise InputError(f"tangent must have the batch's shape, {x.shape}; got {tx.shape}.")
            _, kept = self._chain.forward(x, ignore)
            return self._chain.jvp(np.broadcast_to(tx, x.shape), kept)

    def _junctions(self, at: str | Iterable[str] | None) -> list[_ResidualBlock]:
        junctions = [block for block in self._blocks if isinstance(block, _ResidualBlock)]
        if not junctions:
            raise InputError("gains: this network is plain and has no junction; its twin() has.")
        patterns = ["*"] if at is None else [at] if isinstance(at, str) else list(at)
        chosen: dict[str, _ResidualBlock] = {}
        for pattern in patterns:
            found = {block.site: block for block in junctions if fnmatch.fnmatchcase(block.site, pattern)}
            if not found:
                raise InputError(
                    f"at={pattern!r} names no junction; they are {junctions[0].site!r} to {junctions[-1].site!r}."
                )
            chosen |= found
        return list(chosen.values())

    def _inputs(self, batch: Any) -> Array:
        given = batch[0] if isinstance(batch, tuple) and batch else batch
        try:
            if np.asarray(given).dtype.kind not in "biuf":
                raise TypeError
            x = np.asarray(given, self.spec.dtype, order="C")  # in another order the last bits would be others
        except (TypeError, ValueError):
            raise InputError(f"batch must be an array of real numbers; got {type(given).__name__}.") from None
        features = self.spec.stem.features
        if x.ndim not in (2, 3) or x.shape[-1] != features or (x.ndim == 3 and x.shape[0] not in (1, len(self.seeds))):
            raise InputError(
                f"batch must have the shape (samples, {features}), or ({len(self.seeds)}, samples, {features}) with "
                f"one batch a seed; got {x.shape}."
            )
        if x.shape[-2] == 0:
            raise InputError("batch is empty: give at least 1 sample.")
        if not np.isfinite(x).all():
            raise InputError(
                f"batch has {int((~np.isfinite(x)).sum())} entries that are nan or inf: mend the data first."
            )
        batch_norm = "batch" in {self.spec.stem.norm, *(stage.norm for stage in self.spec.stages)}
        if batch_norm and x.shape[-2] == 1:
            raise InputError(
                "batch of 1 sample: batch normalisation over one sample is 0 whatever comes in; give 2 or more."
            )
        return np.broadcast_to(x, (len(self.seeds), *x.shape[-2:]))

    # ------------------------------------------------------------------------------------------- putting it together

    def _layer(self, layer: Layer) -> tuple[_Part, ...]:
        affine = _Affine(layer.site, self.parameters[f"{layer.site}.weight"], self.parameters.get(f"{layer.site}.bias"))
        activated = self._activated(layer.site, layer.norm, layer.activation)
        return (affine, *activated) if layer.first == "affine" else (*activated, affine)

    def _activated(self, site: str, norm: str, activation: str) -> tuple[_Part, ...]:
        after = _Activation(site, activation)
        if norm == "none":
            return (after,)
        return _Norm(site, norm, self.parameters[f"{site}.gamma"], self.parameters[f"{site}.beta"]), after

    def _block(self, block: Block) -> _PlainBlock | _ResidualBlock:
        branch = _Chain(tuple(part for layer in block.layers for part in self._layer(layer)))
        if block.plain:
            return _PlainBlock(block.site, branch, block.branch_gain, block.activation)
        gains = block.shortcut_gain, block.branch_gain
        return _ResidualBlock(block.site, branch, gains, self.parameters.get(f"{block.site}.gain"), block.activation)


def build_all(specs: Sequence[Spec], *, seed: int | Iterable[int]) -> list[NumpyNetwork]:
    """The networks of several specs from the same seeds: bit for bit those of `build`, but drawn once where possible.

    A network whose weights are the beginning of a deeper one's (common random numbers: a plain network and a residual
    one of the same width, every depth of a sweep) shares that one's arrays, which therefore cannot be written to.
    """
    seeds = draws.require_seeds(seed)
    drawn: list[tuple[Spec, Mapping[str, Array]]] = []
    networks: dict[int, NumpyNetwork] = {}
    for index in sorted(range(len(specs)), key=lambda index: -specs[index].depth):
        spec = specs[index]
        weights = next((_cut(spec, deep, known) for deep, known in drawn if draws.begins(spec, deep)), None)
        if weights is None:
            weights = _frozen(draws.weights(spec, seeds))
            drawn.append((spec, weights))
        networks[index] = NumpyNetwork(spec, seeds, _parameters(spec, seeds, weights))
    return [networks[index] for index in range(len(specs))]


def _frozen(weights: Mapping[str, Array]) -> Mapping[str, Array]:
    for weight in weights.values():
        weight.flags.writeable = False
    return weights


def _cut(shallow: Spec, deep: Spec, weights: Mapping[str, Array]) -> Mapping[str, Array]:
    """The weights of `shallow`, which are the first that were drawn for `deep`."""
    pairs = zip(draws.drawing_order(shallow), draws.drawing_order(deep), strict=False)
    return {mine.site: weights[theirs.site] for mine, theirs in pairs}


def build(spec: Spec, *, seed: int | Iterable[int]) -> NumpyNetwork:
    """The network that `spec` describes, initialised from `seed`; several seeds give an ensemble of networks.

    Seed s is the same network, bit for bit, alone and in an ensemble.

    Raises:
        InputError: the seeds are not whole numbers of at least 0, or one comes twice.
    """
    require_type("spec", spec, Spec, "Spec.dense(width=36, blocks=28) makes one")
    seeds = draws.require_seeds(seed)
    return NumpyNetwork(spec, seeds, _parameters(spec, seeds, draws.weights(spec, seeds)))


def _parameters(spec: Spec, seeds: tuple[int, ...], weights: Mapping[str, Array]) -> dict[str, Array]:
    parameters: dict[str, Array] = {}
    offsets = draws.biases(spec, seeds)
    for layer in spec.layers:
        parameters[f"{layer.site}.weight"] = weights[layer.site]
        if spec.bias:
            parameters[f"{layer.site}.bias"] = offsets[layer.site]
        if layer.normed:
            parameters |= _norm_parameters(layer.site, (len(seeds), layer.normed), spec.dtype)
    if spec.pre_activation and spec.stages[-1].norm != "none":
        parameters |= _norm_parameters("final", (len(seeds), spec.body_width), spec.dtype)
    for block in spec.body:
        if block.learned_gain:
            parameters[f"{block.site}.gain"] = np.zeros(len(seeds), spec.dtype)
    return parameters


def _norm_parameters(site: str, shape: tuple[int, int], dtype: str) -> dict[str, Array]:
    return {f"{site}.gamma": np.ones(shape, dtype), f"{site}.beta": np.zeros(shape, dtype)}
