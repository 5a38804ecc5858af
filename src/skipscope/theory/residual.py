"""Laws (b1) and (c): residual networks whose branch is 0 in the mean given what comes in.

Such a branch ends in a bare weight matrix. Then x and F(x) are orthogonal in the mean, the squares add, and a block
multiplies the mean square by gain_s^2 + g2, with g2 = gain_b^2 E ||F(x)||^2/||x||^2, forward and backward (squares.py
has the reasons). For x + W2 relu(W1 x) with He on both layers that is 1 + 2 = 3, not 2: for 2, Var W2 = 1/n. With
a branch gain of 1/sqrt(L) it is (1 + g2/L)^L -> e^g2 in all, with 1/L it tends to 1. A branch that is silent at
initialisation (a learned scalar that starts at 0) adds nothing: the factor is exactly 1, and no gradient enters it.

*Exactly*, at any width, where the branch's size depends on ||x|| alone: linear activations, or silent branches.

*Pre-activation order*, x + W2 relu(W1 relu(x)), is another recursion. The first ReLU looks at x itself, and keeps
half of it if x has no preferred sign: a bare stem gives it none, and at infinite width no block does. So

    q' = (gain_s^2 + g2) q,   g2 = gain_b^2 (1/2)(n v_1)(1/2)(n v_2) ...   (1 with He, whatever the number of layers)

At finite width the branch is larger where relu(x) is, so that positive parts grow a little faster: relative to the
above, E ||x||^2 gains about 0.4/n a block.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from skipscope.spec import Spec, Stage
from skipscope.theory import law, squares
from skipscope.theory.law import Law, Setting

__all__ = ["RESIDUAL"]

# ---------------------------------------------------------------------------------------------------- what it predicts


def _forward(setting: Setting) -> pl.DataFrame:
    spec = setting.spec
    silent = _silent_sites(spec)

    def share(site: str, activation: str) -> float:
        return 1.0 if site in silent else squares.rectifier(site, activation)

    return law.table_of_means("forward_gain", squares.forward(spec, share))


def _backward(setting: Setting) -> pl.DataFrame:
    spec = setting.spec
    silent = _silent_sites(spec)
    # The gates behind silent branches are all those of the stem: the first that the gradient meets halves it, and with
    # that has counted the dead stems too.
    passed = {"stem", *silent[:-1]} if silent else set()
    alive = {site: value for site, value in squares.living(spec).items() if site not in passed}

    def share(site: str, activation: str) -> float:
        return 1.0 if site in passed else squares.rectifier(site, activation)

    return law.table_of_means("backward_gain", squares.backward(spec, share, alive))


def _silent_sites(spec: Spec) -> list[str]:
    """The junctions whose ReLU changes nothing: what comes in is the stem's, and the branch adds nothing."""
    if any(_adds(spec, stage) or stage.order != "after-add" or stage.activation != "relu" for stage in spec.stages):
        return []
    return [block.site for block in spec.body]


# ----------------------------------------------------------------------------------------------------- when it holds


def _refuse_exact(setting: Setting) -> Iterator[str]:
    yield from _objections(setting)
    spec = setting.spec
    for where, stage in law.stages(spec):
        if _residual(spec, stage) and _adds(spec, stage) and stage.activation == "relu":
            yield (
                f"The branch in {where} has ReLUs and is of {stage.order} order: the exact law needs a branch that is "
                "0 in the mean, of a size that depends on the norm of its input alone (linear, or silent at "
                "initialisation)."
            )


def _refuse_pre_activation(setting: Setting) -> Iterator[str]:
    yield from _objections(setting)
    yield from law.narrow(setting)
    spec = setting.spec
    for where, stage in law.stages(spec):
        active = _residual(spec, stage) and _adds(spec, stage) and stage.activation == "relu"
        if active and stage.order != "pre-activation":
            yield f"The order in {where} is {stage.order}: the law is about pre-activation order."


def _refuse_exact_backward(setting: Setting) -> Iterator[str]:
    yield from _refuse_exact(setting)
    yield from law.coherent(setting)


def _refuse_pre_activation_backward(setting: Setting) -> Iterator[str]:
    yield from _refuse_pre_activation(setting)
    yield from law.coherent(setting)


def _objections(setting: Setting) -> Iterator[str]:
    spec = setting.spec
    yield from law.norms(setting)
    yield from law.curved(setting)
    yield from law.biases(setting)
    yield from law.nothing_passes(setting)
    yield from law.one_sided(setting)
    if not any(_residual(spec, stage) for stage in spec.stages):
        yield "There are no shortcuts: the law is about residual networks."
    silent = [_residual(spec, stage) and not _adds(spec, stage) and _rectifies(stage) for stage in spec.stages]
    if any(silent) and not (all(silent) and _passes_positive(spec)):
        yield (
            "A branch is silent and has a ReLU after the addition: the law needs all stages to be so, a stem with a "
            "ReLU and shortcut gains above 0, so that those ReLUs change nothing."
        )


def _passes_positive(spec: Spec) -> bool:
    return spec.stem.activation == "relu" and all(law.gains_of(spec, stage)[0] > 0.0 for stage in spec.stages)


def _rectifies(stage: Stage) -> bool:
    return stage.order == "after-add" and stage.activation == "relu"


def _residual(spec: Spec, stage: Stage) -> bool:
    return law.gains_of(spec, stage)[0] != 0.0


def _adds(spec: Spec, stage: Stage) -> bool:
    """Whether the branch adds anything at initialisation."""
    return law.gains_of(spec, stage)[1] != 0.0


_WITHIN = "a block multiplies E of the square by gain_s^2 + g2, g2 the branch's own factor: n v a matrix, 1/2 a ReLU."


def _drift(setting: Setting) -> str:
    blocks, width = len(setting.spec.body), setting.spec.body_width
    return (
        f"At finite width the mean square is above this by about 0.4/n a block, {0.4 * blocks / width:.1%} here "
        "(measured at n = 16 and 36 with gains of 1; less with smaller branch gains)."
    )


RESIDUAL: tuple[Law, ...] = (
    Law(
        name="(b1) residual network with zero-mean branches, forward",
        quantity="forward_gain",
        kind="exact in mean",
        residual=True,
        statement=f"E ||a_l||^2/||x||^2: {_WITHIN}",
        source="exact: derived in skipscope.theory.residual; silent branches: arXiv:2002.10444, arXiv:2003.04887",
        refuse=_refuse_exact,
        predict=_forward,
    ),
    Law(
        name="(b1) residual network with zero-mean branches, backward",
        quantity="backward_gain",
        kind="exact in mean",
        residual=True,
        statement=f"E ||g_l||^2/||cotangent||^2: {_WITHIN}",
        source="exact: derived in skipscope.theory.residual; silent branches: arXiv:2002.10444, arXiv:2003.04887",
        refuse=_refuse_exact_backward,
        predict=_backward,
    ),
    Law(
        name="(b1) residual network of pre-activation order, forward",
        quantity="forward_gain",
        kind="asymptotic in width",
        residual=True,
        statement=f"E ||a_l||^2/||x||^2: {_WITHIN}",
        source="derived in skipscope.theory.residual; the order: He et al. 2016, arXiv:1603.05027",
        refuse=_refuse_pre_activation,
        predict=_forward,
        bias=_drift,
    ),
    Law(
        name="(b1) residual network of pre-activation order, backward",
        quantity="backward_gain",
        kind="asymptotic in width",
        residual=True,
        statement=f"E ||g_l||^2/||cotangent||^2: {_WITHIN}",
        source="derived in skipscope.theory.residual; the order: He et al. 2016, arXiv:1603.05027",
        refuse=_refuse_pre_activation_backward,
        predict=_backward,
        bias=_drift,
    ),
)
"""Law (b1), and (c) for its branches."""
