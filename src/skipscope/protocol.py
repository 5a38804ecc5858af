"""The narrow protocol that both engines meet, and that the probe is written against.

Shapes, in every docstring of the package:

    s  seeds (an ensemble of networks computed at once; 1 for a single network)
    b  batch (samples are rows)
    n  width, or n_in and n_out of a weight matrix
    L  depth, in blocks

Every observed array has the leading axis s: activations and their gradients (s, b, n), weights (s, n_out, n_in),
biases (s, n). A network *pushes*: during one forward and one backward it calls `observe(site, role=array, ...)` the
moment the arrays exist, and keeps none of them for the observer. Roles that belong together come in one call. A network
that goes through its batch in pieces pushes activations and their gradients once a piece, and weights once, whole.

    role                                 where                what
    activation, activation_grad          layers, blocks       what the site hands on; gradient of the loss by it
    preactivation, preactivation_grad    layers               what goes into the activation function
    weight, weight_grad                  layers               one call, in the backward pass
    bias, gamma, beta, gain (and _grad)  layers, junctions    likewise, where the network has them
    batch_mean, batch_variance           layers               what batch normalisation took from the batch, (s, n)
    shortcut, branch, total              junctions            the two terms of the addition, gains applied; their sum
    shortcut_grad, branch_grad,          junctions            gradient by the block's input: the part that came
      total_grad                                              through the shortcut, through the branch; their sum
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

from skipscope.spec import Layer, Spec

__all__ = ["ROLES", "Loss", "Network", "Observer", "Run", "Site", "SiteKind", "ignore", "sites_of", "wanted"]

ROLES = (
    *(
        f"{role}{suffix}"
        for role in (
            *("activation", "preactivation", "weight", "bias", "gamma", "beta", "gain"),
            *("shortcut", "branch", "total"),
        )
        for suffix in ("", "_grad")
    ),
    *("batch_mean", "batch_variance"),
)
"""All roles of the table above."""

SiteKind = Literal["input", "layer", "module", "block", "junction", "network"]
Array = Any  # a NumPy array or a torch tensor: both engines speak this protocol


@dataclass(frozen=True)
class Site:
    """A place where something can be measured.

    Attributes:
        site: the path that names it, e.g. `stage1.block3.layer2`; unique in a network.
        order: its place in the order of execution, from 0.
        depth: weight layers passed up to and including it: the axis that designs of different blocks share.
        kind: input, layer (a weight matrix with its activation), block (plain), junction (residual), network; of a
            model of one's own also module (any other part of it).
        name: what stands there, for people.
        activation: the activation function whose output is the site's `activation`.
        block: the block's place in the body, from 1, where the site is a whole block; else 0.
        ends: whether the site hands its activation to the first block (entry), or is the last block (exit).
        outer: whether its weight matrix is the first or the last of the network.
        tied_to: another site that shares its parameters, or "".
    """

    site: str
    order: int
    depth: int
    kind: SiteKind
    name: str
    activation: str = "linear"
    block: int = 0
    ends: Literal["", "entry", "exit"] = ""
    outer: Literal["", "first", "last"] = ""
    tied_to: str = ""


class Observer(Protocol):
    """Called as `observe(site, role=array, ...)`; must not change the arrays nor keep them past the call."""

    def __call__(self, site: str, /, **roles: Array) -> None:
        """Look at the arrays of one site."""


def wanted(observe: Observer, site: str) -> Collection[str]:
    """The roles that the observer wants of the site.

    An observer may say so beforehand by a method `wants(site)`, which gives them; one that has none wants all `ROLES`.
    What an engine would compute for the observer alone, it need not compute unwanted.
    """
    wants = getattr(observe, "wants", None)
    roles: Collection[str] = ROLES if wants is None else wants(site)
    return roles


class _Ignore:
    def wants(self, site: str) -> Collection[str]:
        return ()

    def __call__(self, site: str, /, **roles: Array) -> None:
        pass


ignore = _Ignore()
"""The observer that looks away, and wants nothing."""


class Loss(Protocol):
    """A scalar of the output, a function with its gradient beside it.

    An engine without automatic differentiation calls both, or `with_gradient(output, batch)`, which gives the pair,
    where a loss has it; PyTorch needs the first alone.
    """

    def __call__(self, output: Array, batch: Any) -> Array:
        """The loss of every network, of shape (s,), for an output of shape (s, b, n)."""

    def gradient(self, output: Array, batch: Any) -> Array:
        """Its gradient by the output, of shape (s, b, n)."""


@dataclass(frozen=True)
class Run:
    """What one forward (and backward) gave: the output (s, b, n) and the loss (s,), None without a backward."""

    output: Array
    loss: Array | None


class Network(Protocol):
    """What the probe needs of a network, whichever engine built it."""

    @property
    def seeds(self) -> Sequence[int]:
        """The seeds along the leading axis: `seeds[i]` drew the network at index i."""

    @property
    def sites(self) -> Sequence[Site]:
        """All sites in order of execution; the last is `network`, the network as a whole."""

    def run(self, batch: Any, loss: Loss | None = None, observe: Observer = ignore) -> Run:
        """One forward pass, and with a loss one backward pass, pushing every array to `observe`.

        Args:
            batch: the inputs, of shape (b, n) or (s, b, n), or a tuple whose first entry they are; handed on to the
                loss as it is. Not changed.
            loss: see `Loss`; without one there is no backward pass.
            observe: see `Observer`.
        """

    def gains(
        self, *, shortcut: float = 1.0, branch: float = 1.0, at: str | Iterable[str] | None = None
    ) -> AbstractContextManager[None]:
        """Within the context junctions are re-weighted, forward and backward: their own gains times these.

        Shortcut 0 is the plain twin, branch 0 a lesion. `at` names junctions (shell patterns allowed); None is all.
        """


@lru_cache(maxsize=256)
def sites_of(spec: Spec) -> tuple[Site, ...]:
    """The sites of the network that `spec` describes, in order of execution."""
    found: list[Site] = []
    depth = 0

    def add(site: str, kind: SiteKind, name: str, activation: str = "linear", block: int = 0) -> None:
        ends = _ends(site, block, len(spec.body))
        outer: Literal["", "first", "last"] = _OUTER.get(site, "")
        found.append(Site(site, len(found), depth, kind, name, activation, block, ends, outer))

    def layer(each: Layer) -> None:
        add(each.site, "layer", _describe(each), each.activation)

    add("input", "input", f"input of {spec.stem.features} features")
    depth += 1
    layer(spec.stem_layer)
    for number, block in enumerate(spec.body, start=1):
        for each in block.layers:
            depth += 1
            layer(each)
        if block.plain:
            add(block.site, "block", "plain block", block.activation, number)
        else:
            add(block.site, "junction", f"{block.shortcut} shortcut + branch", block.activation, number)
    if spec.pre_activation:
        stage = spec.stages[-1]
        name = "last activation" if stage.norm == "none" else f"last {stage.norm} norm and activation"
        add("final", "layer", name, stage.activation)
    depth += 1
    layer(spec.head_layer)
    add("network", "network", "the network as a whole")
    return tuple(found)


_OUTER: dict[str, Literal["first", "last"]] = {"stem": "first", "head": "last"}


def _ends(site: str, block: int, blocks: int) -> Literal["", "entry", "exit"]:
    if not blocks:
        return ""
    return "entry" if site == "stem" else "exit" if block == blocks else ""


def _describe(layer: Layer) -> str:
    affine = f"affine {layer.fan_in} to {layer.fan_out}"
    around = ([f"{layer.norm} norm"] if layer.norm != "none" else []) + (
        [layer.activation] if layer.activation != "linear" else []
    )
    return ", ".join([affine, *around] if layer.first == "affine" else [*around, affine])
