"""The NumPy engine: a `Spec` and seeds become an ensemble of networks that run forward and backward at once.

A network is a chain of parts (see parts.py, and parts_images.py for convolutional ones), which push the arrays to the
observer as they make them and keep nothing. Only the weight arrays ever change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipscope import draws
from skipscope.engines import parts, parts_images
from skipscope.engines.common import Junctions, inputs_of, parameters_of, running_of
from skipscope.engines.parts import Chain, Kept, Norm, Part, PlainBlock, ResidualBlock
from skipscope.engines.room import Room
from skipscope.engines.spread import one_thread
from skipscope.errors import InputError, choose, quoted, require_type
from skipscope.protocol import Loss, Observer, Run, Site, ignore, sites_of, wanted
from skipscope.spec import Spec

__all__ = ["NumpyNetwork", "build", "build_all", "sent_back"]

Array = NDArray[np.floating[Any]]


class NumpyNetwork:
    """An ensemble of the networks that `spec` describes, one for every seed; a single network is an ensemble of one.

    Attributes:
        spec: what the network is.
        seeds: the seeds along the leading axis.
        sites: where it can be measured, in order of execution.
        parameters: the weight arrays by name (`stem.weight`, `stage1.block3.layer2.gamma`, `stage1.block3.gain`),
            each with the leading axis s; changing one in place changes the network.
        running: the running averages of batch normalisation by name (`stem.running_mean`, `stem.running_variance`,
            (s, n), of convolutions (s, c)): 0 and 1 until somebody trains the network; see `inference`.
        gradients: arrays by the parameters' names into which every backward pass writes; none, but while the network
            is trained.
    """

    def __init__(
        self,
        spec: Spec,
        seeds: tuple[int, ...],
        parameters: dict[str, Array],
        *,
        running: dict[str, Array] | None = None,
        gradients: Mapping[str, Array] | None = None,
    ) -> None:
        self.spec = spec
        self.seeds = seeds
        self.sites: tuple[Site, ...] = sites_of(spec)
        self.parameters = parameters
        self.running = running_of(spec, len(seeds)) if running is None else running
        self.gradients = {} if gradients is None else gradients
        self._fixed = False
        self._arranged = ""

    @property
    def arrays(self) -> dict[str, Array]:
        """The parameters and the running averages."""
        return {**self.parameters, **self.running}

    @property
    def _known(self) -> dict[str, Array]:
        """All arrays that the parts are made of."""
        return self.arrays | {f"{name}_grad": array for name, array in self.gradients.items()}

    @cached_property
    def _blocks(self) -> tuple[PlainBlock | ResidualBlock, ...]:
        body_of = parts_images.body_of if self.spec.images else parts.body_of
        return body_of(self.spec, self._known)

    @cached_property
    def _chain(self) -> Chain:
        return self._around(self._blocks)

    def _around(self, blocks: Iterable[Part]) -> Chain:
        """The network with these blocks for its body."""
        of = parts_images if self.spec.images else parts
        return Chain((*of.stem_of(self.spec, self._known).parts, *blocks, *of.tail_of(self.spec, self._known).parts))

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Overflow warns of nothing; and where work on images is spread over threads, BLAS adds none of its own.

        A network that is trained will run many times, and keeps the memory of its images.
        """
        room = self._room.used() if self.gradients else nullcontext()
        with np.errstate(all="ignore"), one_thread() if self.spec.images else nullcontext(), room:
            yield

    @cached_property
    def _room(self) -> Room:
        return Room()

    def run(self, batch: Any, loss: Loss | None = None, observe: Observer = ignore) -> Run:
        """One forward pass, and with a loss one backward pass; see `skipscope.protocol.Network.run`.

        Overflow raises nothing here: an activation that became inf or nan is a measurement.

        Raises:
            InputError: the batch or the loss does not fit the network.
        """
        with self._computing():
            x = self.inputs(batch)
            observe("input", activation=x)
            if loss is None:
                for part in self._chain.parts:  # nothing goes back, and so nothing is kept
                    x, _ = part.forward(x, observe)
                return Run(x, None)
            output, kept = self._chain.forward(x, observe)
            value, dy = sent_back(loss, output, batch)
            dx = self._chain.backward(dy, kept, observe)
            if "activation_grad" in wanted(observe, "input"):  # else a convolution leaves it out
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
        try:
            with self._junctions.times(shortcut=shortcut, branch=branch, at=at):
                self._weigh()
                yield
        finally:
            self._weigh()

    def _weigh(self) -> None:
        """Tell the blocks what their gains are now."""
        gains = self._junctions.gains
        for block in self._blocks:
            if isinstance(block, ResidualBlock):
                block.gains = gains[block.site]

    @cached_property
    def _junctions(self) -> Junctions:
        return Junctions(self.spec)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Within the context batch normalisation takes its running averages in place of the batch's statistics."""
        before = self._fixed
        self._fix(True)
        try:
            yield
        finally:
            self._fix(before)

    def _fix(self, fixed: bool) -> None:
        self._fixed = fixed
        for norm in _norms(self._chain):
            norm.fixed = fixed

    @property
    def edit(self) -> str:
        """What `gains`, `rearranged` and `inference` change now, e.g. `stage1.block2: shortcut x 0, branch x 1`."""
        junctions = self.__dict__.get("_junctions")  # what was not yet made was not edited
        edits = [junctions.edit] if junctions is not None and junctions.edit else []
        edits += [self._arranged] if self._arranged else []
        if self._fixed and self.running:
            edits.append("batch norm: running averages")
        return "; ".join(edits)

    @property
    def junction_gains(self) -> dict[str, tuple[float, float]]:
        """Of the shortcut and the branch of every junction, as they are at this moment."""
        return self._junctions.gains

    def taped(self, batch: Any) -> tuple[Array, list[tuple[Part, Kept]]]:
        """The output, and the parts in order, each with what a forward pass kept for its backward.

        For walks back through the network that are not its gradient, as `skipscope.engines.paths` has one.
        """
        with self._computing():
            output, kept = self._chain.forward(self.inputs(batch), ignore)
        return output, list(zip(self._chain.parts, kept, strict=True))

    def jvp(self, batch: Any, tangent: Any) -> Array:
        """How the output (s, b, n) moves when the batch moves along `tangent`, of the batch's shape: J tangent.

        The parameters are held; batch normalisation's statistics move with the batch.

        Raises:
            InputError: the batch or the tangent does not fit the network.
        """
        with self._computing():
            x = self.inputs(batch)
            tx = np.asarray(tangent, self.spec.dtype, order="C")
            if tx.shape not in (x.shape, x.shape[1:]):
                raise InputError(f"tangent must have the batch's shape, {x.shape}; got {tx.shape}.")
            _, kept = self._chain.forward(x, ignore)
            return self._chain.jvp(np.broadcast_to(tx, x.shape), kept)

    def inputs(self, batch: Any) -> Array:
        """The inputs of a batch as the network takes them: (s, b, n), or images (s, b, c, h, w), in its dtype.

        Raises:
            InputError: they do not fit the network.
        """
        return inputs_of(self.spec, len(self.seeds), batch, fixed=self._fixed)

    @contextmanager
    def rearranged(self, order: Iterable[str]) -> Iterator[None]:
        """Within the context the blocks run in another order, or some of them not at all: the stream goes past them.

        Args:
            order: the sites of the blocks that run, each at most once; e.g. `["stage1.block1", "stage1.block3"]` leaves
                out the rest. Of a context within another the inner one holds.

        Raises:
            InputError: a name is no block's or comes twice, or a block would get other than the features it takes.
        """
        chosen = _arranged([block.site for block in self._blocks], list(order))
        _require_widths(self.spec, chosen)
        blocks = {block.site: block for block in self._blocks}
        before = self._chain, self._arranged
        self._chain = self._around(blocks[site] for site in chosen)
        self._arranged = _arrangement(list(blocks), chosen)
        self._fix(self._fixed)
        try:
            yield
        finally:
            self._chain, self._arranged = before
            self._fix(self._fixed)


def _arranged(known: Sequence[str], order: Sequence[str]) -> list[str]:
    for place, site in enumerate(order):
        choose("block", site, known)
        if site in order[:place]:
            raise InputError(f"order: {site!r} comes twice; a block runs once, or not at all.")
    return list(order)


def _require_widths(spec: Spec, order: Sequence[str]) -> None:
    """Whether every block in this order, and what follows the last, gets as many features as it takes."""
    taken = {block.site: ((block.n_in, block.size), (block.width, block.size_out)) for block in spec.body}
    stream = spec.stem.width, spec.stem_size
    end = spec.body_width, spec.body_size
    for site, (comes, goes) in [(site, taken[site]) for site in order] + [("head", (end, end))]:
        if comes[0] != stream[0]:
            raise InputError(
                f"order: {site!r} takes {comes[0]} features, and {stream[0]} would come in; keep what lies between."
            )
        if comes[1] != stream[1] and site != "head":  # which takes the mean over images of any size
            raise InputError(
                f"order: {site!r} takes images of {comes[1]}x{comes[1]}, and {stream[1]}x{stream[1]} would come in; "
                "keep what lies between."
            )
        stream = goes


def _arrangement(known: Sequence[str], order: Sequence[str]) -> str:
    """What was done to the blocks, in words; nothing where they run as they are."""
    kept = [site for site in known if site in order]
    done = []
    if left := [site for site in known if site not in order]:
        done.append(f"left out: {', '.join(left)}")
    if list(order) != kept:
        done.append(f"order: {', '.join(order)}")
    return "; ".join(done)


def _norms(chain: Chain) -> Iterator[Norm]:
    for part in chain.parts:
        if isinstance(part, Norm):
            yield part
        elif isinstance(part, PlainBlock | ResidualBlock):
            yield from _norms(part.branch)
            if isinstance(part, parts_images.ResidualImages):
                yield from _norms(part.shortcut)


def sent_back(loss: Loss, output: Array, batch: Any) -> tuple[Array, Array]:
    """The loss (s,) of an output (s, b, n), and its gradient by the output, which goes back through the network.

    Raises:
        InputError: the loss has no gradient beside it, or one of another shape.
    """
    if not callable(getattr(loss, "gradient", None)):
        raise InputError(
            f"loss {quoted(loss)} has no gradient(output, batch), and this engine differentiates by hand: use "
            "skipscope.losses, or an object that is called for the loss and has such a method."
        )
    together = getattr(loss, "with_gradient", None)
    value, gradient = (
        (loss(output, batch), loss.gradient(output, batch)) if together is None else together(output, batch)
    )
    dy = np.asarray(gradient, output.dtype, order="C")
    if dy.shape != output.shape:
        raise InputError(f"loss {quoted(loss)} has a gradient of shape {dy.shape}; the output has {output.shape}.")
    return value, dy


def build_all(
    specs: Sequence[Spec],
    *,
    seed: int | Iterable[int],
    empty: Callable[[tuple[int, int]], NDArray[np.float64]] = np.empty,
) -> list[NumpyNetwork]:
    """The networks of several specs from the same seeds: bit for bit those of `build`, but drawn once where possible.

    A network whose weights are the beginning of a deeper one's (common random numbers: a plain network and a residual
    one of the same width, every depth of a sweep) shares that one's arrays, which therefore cannot be written to.
    `empty` is as for `skipscope.draws.weights`.
    """
    seeds = draws.require_seeds(seed)
    drawn: list[tuple[Spec, Mapping[str, Array]]] = []
    networks: dict[int, NumpyNetwork] = {}
    for index in sorted(range(len(specs)), key=lambda index: -specs[index].depth):
        spec = specs[index]
        weights = next((_cut(spec, deep, known) for deep, known in drawn if draws.begins(spec, deep)), None)
        if weights is None:
            weights = _frozen(_laid_out(draws.weights(spec, seeds, empty=empty)))
            drawn.append((spec, weights))
        networks[index] = NumpyNetwork(spec, seeds, parameters_of(spec, seeds, weights))
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
    return NumpyNetwork(spec, seeds, parameters_of(spec, seeds, _laid_out(draws.weights(spec, seeds))))


def _laid_out(weights: Mapping[str, Array]) -> dict[str, Array]:
    """The same weights; those of convolutions with their channels last in memory, as images have them."""
    return {
        site: weight if weight.ndim == 3 else weight.transpose(0, 1, 3, 4, 2).copy().transpose(0, 1, 4, 2, 3)
        for site, weight in weights.items()
    }
