"""What is measured: every quantity with what it needs, where it makes sense, and what it means.

A `Quantity` says which roles it needs (see the table of roles in protocol.py), what has to be summed about them, at
which sites it makes sense, and how the value follows (`skipscope.formulas`). Where the value is undefined (a ratio to
nothing) no reading is made, so nan and inf in a reading always mean that something overflowed. `QUANTITIES` at the foot
is all that a probe measures; `QUANTITIES | {"mine": Quantity(...)}` measures one more. `UPDATES`, what an optimizer
does to the weights, costs a copy of them and is measured where it is asked for. Imports formulas, moments and protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from skipscope import formulas
from skipscope.formulas import End, Profile, Values, View
from skipscope.moments import Field
from skipscope.protocol import Site

__all__ = ["LEARNING", "QUANTITIES", "UPDATE", "UPDATES", "Profile", "Quantity", "View"]

Roles = Mapping[str, tuple[Field, ...]]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A formula with what it needs and what it means.

    Attributes:
        formula: maps a `View` (scope `site`) or a `Profile` (scope `network`) to values of shape (s,). Mask what is
            undefined at the end: arithmetic on masked arrays also masks inf and nan, which are readings.
        symbol: as the docs and the charts write it.
        about: one sentence.
        unit: of the value.
        source: paper and equation, or "definition".
        at_init: what a He-initialised ReLU network shows.
        needs: role -> what to sum beside its square.
        where: the sites that the quantity is made at (scope `site`) or reads (scope `network`).
        pairs: roles of one call whose inner product is needed.
        scope: of one site, or of the network as a whole.
    """

    formula: Callable[[Any], Values]
    symbol: str
    about: str
    unit: str
    source: str = "definition"
    at_init: str = ""
    needs: Roles = field(default_factory=dict)
    where: Callable[[Site], bool] = lambda site: site.kind != "network"
    pairs: tuple[tuple[str, str], ...] = ()
    scope: Literal["site", "network"] = "site"


# ------------------------------------------------------------------------------------------------ where they apply


def _rectified(site: Site) -> bool:
    return site.activation == "relu"


def _junction(site: Site) -> bool:
    return site.kind == "junction"


def _outer(site: Site) -> bool:
    return site.outer != ""


def _ends(site: Site) -> bool:
    return site.ends != ""


def _layer(site: Site) -> bool:
    return site.kind == "layer"


# ------------------------------------------------------------------------------------------------ ends of intervals


def _bound(of: str, sign: int, over: str, **told: Any) -> Quantity:
    """The lower (sign -1) or upper (+1) end of the 95 % interval of a quantity."""
    which, end = ("Lower", "low") if sign < 0 else ("Upper", "high")
    about = f"{which} bound of the 95 % interval of `{of}` over {over}."
    return Quantity(symbol=f"{of.replace('_', ' ')}, {end}", about=about, **told)


def _dead_bound(sign: int) -> Quantity:
    return _bound(
        "dead",
        sign,
        "units",
        formula=formulas.dead_bound(sign),
        needs={"activation": ("units",)},
        where=_rectified,
        unit="share of units",
        source="Wilson 1927, J. Am. Stat. Assoc. 22: 209",
    )


def _growth_bound(of: str, role: str, first: End, last: End, sign: int) -> Quantity:
    return _bound(
        of,
        sign,
        "the samples of the batch",
        formula=formulas.growth_bound(role, first, last, sign),
        needs={role: ("samples",)},
        where=_ends,
        scope="network",
        unit=_GROWTH,
        source="jackknife: Efron 1982, doi:10.1137/1.9781611970319",
    )


# ---------------------------------------------------------------------------------------------------------- the list

_HE = "He et al. 2015b, arXiv:1502.01852"
_HE2016 = "He et al. 2016, arXiv:1603.05027, eq. 5"
_LAST = "only ratios over depth compare between batch sizes"
_GROWTH = "factor a block, on the squared norm"

QUANTITIES: dict[str, Quantity] = {
    "activation_rms": Quantity(
        formula=lambda view: view["activation"].rms,
        needs={"activation": ()},
        symbol="rms(a)",
        unit="RMS per element",
        about="Root mean square of what the site hands on, over batch and features.",
        source=_HE,
        at_init="constant over depth in the mean of its square for a plain He network",
    ),
    "activation_mean": Quantity(
        formula=lambda view: view["activation"].mean,
        needs={"activation": ("sum",)},
        symbol="mean(a)",
        unit="per element",
        about="Mean of what the site hands on, over batch and features.",
        at_init="rms/sqrt(pi) after a wide ReLU layer",
    ),
    "activation_variance": Quantity(
        formula=lambda view: view["activation"].variance,
        needs={"activation": ("sum",)},
        symbol="var(a)",
        unit="per element, squared",
        about="Variance of what the site hands on, over batch and features together.",
        at_init="(1 - 1/pi) rms^2 after a wide ReLU layer",
    ),
    "forward_gain": Quantity(
        formula=formulas.forward_gain,
        needs={"activation": ()},
        symbol="|a|/|x|",
        unit="dimensionless",
        about="Frobenius norm of the activation relative to that of the network's input.",
        source="Hanin & Nica 2018, arXiv:1812.05994",
        at_init="log-normal: spread grows with depth/width (law a)",
    ),
    "activation_grad_norm": Quantity(
        formula=lambda view: view["activation_grad"].norm,
        needs={"activation_grad": ()},
        symbol="|dL/da|",
        unit=f"loss per activation; {_LAST}",
        about="Frobenius norm over batch and features of the gradient of the loss by the activation.",
        source=_HE,
        at_init="constant over depth in the mean of its square for a plain He network",
    ),
    "backward_gain": Quantity(
        formula=formulas.backward_gain,
        needs={"activation_grad": ()},
        symbol="|dL/da|/|dL/dy|",
        unit="dimensionless",
        about="Norm of the gradient by the activation relative to that by the network's output.",
        source="Hanin & Nica 2018, arXiv:1812.05994",
        at_init="log-normal: spread grows with depth/width (law a)",
    ),
    "preactivation_grad_norm": Quantity(
        formula=lambda view: view["preactivation_grad"].norm,
        needs={"preactivation_grad": ()},
        where=_layer,
        symbol="|dL/dz|",
        unit=f"loss per preactivation; {_LAST}",
        about="Frobenius norm of the gradient of the loss by what goes into the activation function.",
        source=_HE,
        at_init="1/sqrt(2) of |dL/da| in the mean of its square",
    ),
    "weight_norm": Quantity(
        formula=lambda view: view["weight"].norm,
        needs={"weight": ()},
        where=_layer,
        symbol="|W|",
        unit="Frobenius norm",
        about="Norm of the weight matrix.",
        at_init="sqrt(2 n_out)",
    ),
    "weight_grad_norm": Quantity(
        formula=lambda view: view["weight_grad"].norm,
        needs={"weight_grad": ()},
        where=_layer,
        symbol="|dL/dW|",
        unit=f"loss per weight; {_LAST}",
        about="Frobenius norm of the gradient of the loss by the weight matrix; for one sample it is |dL/dz| |a_in|.",
        source="docs, What theory predicts: it mixes a backward and a forward norm",
    ),
    "grad_weight_ratio": Quantity(
        formula=lambda view: formulas.norm_ratio(view["weight_grad"], view["weight"]),
        needs={"weight_grad": (), "weight": ()},
        where=_layer,
        symbol="|dL/dW|/|W|",
        unit="loss per weight, squared",
        about="Norm of the weight gradient relative to that of the weight: times the learning rate, one step's change.",
    ),
    "inactive": Quantity(
        formula=formulas.inactive,
        needs={"activation": ("positive",)},
        where=_rectified,
        symbol="P(a = 0)",
        unit="share of outputs",
        about="Share of outputs of a ReLU that are 0, over batch and features.",
        at_init="1/2",
    ),
    "dead": Quantity(
        formula=formulas.dead,
        needs={"activation": ("units",)},
        where=_rectified,
        symbol="dead",
        unit="share of units",
        about="Share of units that were positive on none of the samples of the batch (`samples` says how many).",
        at_init="about 2^-N on N unrelated samples in the first layer, more in depth",
    ),
    "dead_low": _dead_bound(-1),
    "dead_high": _dead_bound(+1),
    "samples": Quantity(
        formula=formulas.rows,
        needs={"activation": ()},
        where=_rectified,
        symbol="N",
        unit="samples",
        about="Samples that `dead` rests on: a unit never positive on N is active on fewer than 3/N of inputs (95 %).",
        source="rule of three: Hanley & Lippman-Hand 1983, JAMA 249: 1743",
    ),
    "activation_nonfinite": Quantity(
        formula=formulas.nonfinite("activation"),
        needs={"activation": ("nonfinite",)},
        symbol="#nonfinite(a)",
        unit="entries",
        about="How many activations are nan or inf.",
        at_init="0",
    ),
    "activation_grad_nonfinite": Quantity(
        formula=formulas.nonfinite("activation_grad"),
        needs={"activation_grad": ("nonfinite",)},
        symbol="#nonfinite(dL/da)",
        unit="entries",
        about="How many entries of the gradient by the activation are nan or inf.",
        at_init="0",
    ),
    "branch_ratio": Quantity(
        formula=lambda view: formulas.norm_ratio(view["branch"], view["shortcut"]),
        needs={"shortcut": (), "branch": ()},
        where=_junction,
        symbol="|F(x)|/|x|",
        unit="dimensionless",
        about="Norm of what the branch adds relative to the shortcut, both with their gains.",
        source="He et al. 2015, arXiv:1512.03385, section 4.2 (layer responses)",
        at_init="1 in the mean of its square, for the notebook's block and for pre-activation without norm",
    ),
    "branch_cosine": Quantity(
        formula=formulas.cosine,
        needs={"shortcut": (), "branch": ()},
        where=_junction,
        pairs=(("shortcut", "branch"),),
        symbol="cos(x, F(x))",
        unit="dimensionless",
        about="Cosine between what the branch adds and the shortcut.",
        at_init="0 in the mean for a branch without a last ReLU; positive with it",
    ),
    "shortcut_share": Quantity(
        formula=formulas.share("shortcut_grad"),
        needs={"shortcut_grad": (), "branch_grad": ()},
        where=_junction,
        pairs=(("shortcut_grad", "branch_grad"),),
        symbol="<g_s, g>/|g|^2",
        unit="share",
        about="Share of the gradient by the block's input that came through the shortcut; both shares sum to one.",
        source=_HE2016,
        at_init="1/(1 + g2) for a branch of squared gain g2",
    ),
    "branch_share": Quantity(
        formula=formulas.share("branch_grad"),
        needs={"shortcut_grad": (), "branch_grad": ()},
        where=_junction,
        pairs=(("shortcut_grad", "branch_grad"),),
        symbol="<g_b, g>/|g|^2",
        unit="share",
        about="Share of the gradient by the block's input that came through the branch; both shares sum to one.",
        source=_HE2016,
        at_init="g2/(1 + g2) for a branch of squared gain g2",
    ),
    "output_norm": Quantity(
        formula=formulas.output_norm,
        needs={"activation": ()},
        where=_layer,
        scope="network",
        symbol="|y|",
        unit="Frobenius norm",
        about="Norm of the network's output over batch and features.",
    ),
    "gradient_norm": Quantity(
        formula=formulas.gradient_norm,
        needs=dict.fromkeys(formulas.PARAMETER_GRADIENTS, ()),
        scope="network",
        symbol="|dL/dtheta|",
        unit=f"loss per parameter; {_LAST}",
        about="Norm of the gradient by all parameters together.",
    ),
    "weight_grad_first_last": Quantity(
        formula=formulas.first_last,
        needs={"weight_grad": ()},
        where=_outer,
        scope="network",
        symbol="|dW_first|/|dW_last|",
        unit="dimensionless",
        about="The notebook's ratio: norm of the first weight gradient over that of the last.",
        source="the original notebook; docs, What theory predicts: it cannot see growth",
        at_init="median 1 for a plain He network with a Gaussian cotangent",
    ),
    "forward_growth": Quantity(
        formula=formulas.growth("activation", "entry", "exit"),
        needs={"activation": ()},
        where=_ends,
        scope="network",
        symbol="(|x_L|^2/|x_0|^2)^(1/L)",
        unit=_GROWTH,
        about="Growth of the signal a block, from the first block's input to the last block's output.",
        source="docs, What theory predicts",
        at_init="1 in the mean for a plain He network, 2 for pre-activation, 2.904 for the notebook's block",
    ),
    "forward_growth_low": _growth_bound("forward_growth", "activation", "entry", "exit", -1),
    "forward_growth_high": _growth_bound("forward_growth", "activation", "entry", "exit", +1),
    "backward_growth": Quantity(
        formula=formulas.growth("activation_grad", "exit", "entry"),
        needs={"activation_grad": ()},
        where=_ends,
        scope="network",
        symbol="(|g_0|^2/|g_L|^2)^(1/L)",
        unit=_GROWTH,
        about="Growth of the gradient a block, from the last block's output back to the first block's input.",
        source="docs, What theory predicts",
        at_init="1 in the mean for a plain He network; 2 to 2.9 for the notebook's block, 2 for pre-activation",
    ),
    "backward_growth_low": _growth_bound("backward_growth", "activation_grad", "exit", "entry", -1),
    "backward_growth_high": _growth_bound("backward_growth", "activation_grad", "exit", "entry", +1),
    "loss": Quantity(
        formula=formulas.fact("loss"),
        scope="network",
        symbol="L",
        unit="of the loss",
        about="The loss that the probe was given; a probe with a cotangent has none.",
    ),
    "parameters": Quantity(
        formula=formulas.fact("parameters"),
        scope="network",
        symbol="#theta",
        unit="numbers",
        about="How many numbers the network trains.",
    ),
    "multiply_adds": Quantity(
        formula=formulas.fact("multiply_adds"),
        scope="network",
        symbol="MACs",
        unit="multiply-adds a sample",
        about="Multiply-adds of one forward pass in the weight matrices (the paper's FLOPs).",
        source="He et al. 2015, arXiv:1512.03385, Table 1",
    ),
}
"""Everything that a probe measures, in the order of the docs."""

LEARNING: dict[str, Quantity] = {
    f"{part}_{what}": Quantity(
        formula=formulas.fact(f"{part}_{what}"),
        scope="network",
        symbol=f"{symbol}, {part}",
        unit=unit,
        about=f"{about} of the whole {told} part, in inference.",
    )
    for part, told in (("train", "training"), ("validation", "validation"), ("test", "test"))
    for what, symbol, unit, about in (
        ("loss", "L", "of the loss", "The loss"),
        ("error", "error", "share of samples", "The share of wrong answers"),
    )
}
"""What is measured beside them of a network that is being trained: facts that no single batch tells."""

UPDATE = "_update"
"""What is appended to the role of a weight, for what one step of an optimizer adds to it."""

UPDATES: dict[str, Quantity] = {
    "update_ratio": Quantity(
        formula=lambda view: formulas.norm_ratio(view["weight_update"], view["weight"]),
        needs={"weight_update": (), "weight": ()},
        where=_layer,
        symbol="|dW|/|W|",
        unit="dimensionless",
        about="Norm of what one step of the optimizer adds to the weight, relative to that of the weight before it.",
        source="CS231n notes, Neural Networks Part 3, ratio of weights and updates: as a rule of thumb some 1e-3",
        at_init="SGD's first step: the learning rate times `grad_weight_ratio`",
    ),
}
"""What one step of an optimizer does, seen by `skipscope.torch.Taken.updating` at the price of a copy of the weights:
to be asked for by name, `Listening(model, quantities=QUANTITIES | UPDATES)`."""
