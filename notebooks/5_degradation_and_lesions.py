# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5. Degradation and lesions
#
# The paper begins with an observation (He and others 2015,
# [arXiv:1512.03385](https://arxiv.org/abs/1512.03385), Fig. 1): a plain network with
# more layers has a higher **training** error. It could copy the shallower one and do
# nothing in the rest, but training does not find that. This is called *degradation*.
# The popular story blames vanishing gradients.
#
# We let networks degrade, look at their gradients meanwhile, and then take trained
# networks apart.

# %%
import numpy as np
import polars as pl
from IPython.display import HTML

import skipscope
from skipscope import charts, data, degradation, lesions, studies
from skipscope.training import Recipe, evaluate, loss_of, train

pl.Config.set_tbl_rows(20)


def show(chart):
    """The chart as SVG, which needs no network and says in words what it shows."""
    return HTML(f'<div style="color: black">{charts.svg(chart)}</div>')


# %% [markdown]
# ## Deeper, and worse
#
# Scikit-learn's handwritten digits are real and small. `plain` and `matched` have the
# same layers and the same number of parameters; `matched` has a shortcut over every
# two. Batch normalisation, the paper's order `relu(x + F)`, eight seeds. A seed gives
# both designs the same mini-batches.
#
# **Predict:** the training error after 100 steps at 6, 14 and 26 layers, with and
# without shortcuts.

# %%
recipe = Recipe(steps=100)
readings = studies.degradation(
    depths=[6, 14, 26],
    norms=["batch"],
    rates=[0.1],
    width=24,
    recipe=recipe,
    record=4,
    seeds=range(8),
)
show(charts.error_by_depth(readings))

# %% [markdown]
# Is the deepest plain network *overfitting*? Say which two numbers would show it. They
# are both in the table: `mean` with a 95 % interval, over seeds.

# %%
ends = degradation.final(readings).filter(
    pl.col("quantity").is_in(["train_error", "test_error"])
)
ends = ends.select("design", "layers", "quantity", "n", "mean", "low", "high")
ends

# %%
at_end = {
    (row["design"], row["layers"], row["quantity"]): row for row in ends.to_dicts()
}
deep, shallow = (at_end["plain", layers, "train_error"] for layers in (26, 6))
# The training error itself: this is not overfitting.
assert deep["low"] > shallow["high"]

# %% [markdown]
# Seeds make pairs, so what matters is the difference, seed by seed. The findings judge
# it against a margin that was chosen beforehand (`threshold` says which):

# %%
found = degradation.findings(readings)
for finding in found[:3]:
    print(f"{finding.subject}: {finding.verdict}\n    {finding.statement}\n")
found[0].threshold

# %%
verdicts = {
    (finding.rule, finding.subject.split(" design")[0]): finding.verdict
    for finding in found
}
assert verdicts["degradation", "the plain"] == "degrades"
assert verdicts["shortcuts", "the matched"] == "trains better"

# %% [markdown]
# The residual network may degrade a little too, after so few steps. Read the intervals:
# the two are not alike in size.
#
# **Exercise 1.** Perhaps the deep plain network is only slow. The paper tried three
# times as many iterations and still saw degradation (footnote 3). Do the same with the
# deepest plain network. Does it reach the training error that the shallow one had after
# 100 steps?

# %% tags=["solution"] jupyter={"source_hidden": true}
patient = studies.degradation(
    depths=[26],
    designs=["plain"],
    norms=["batch"],
    rates=[0.1],
    width=24,
    recipe=Recipe(steps=300),
    record=2,
)
after = (
    degradation.final(patient)
    .filter(quantity="train_error")
    .select("layers", "n", "mean", "low", "high")
)
# "Slow" is part of the truth, and it is still far behind.
assert after["low"].item() > shallow["high"]
after

# %% [markdown]
# ## Is it vanishing gradients?
#
# The paper says that this is unlikely (section 4.1): with batch normalisation its
# gradients had healthy norms. It prints no numbers. We measured on the way: the factor
# on the gradient's norm from the last block back to the first.
#
# **Predict:** far below one would be vanishing. What is it in the plain network of 26
# layers, which learns so badly?

# %%
gradient = degradation.gradients(readings)
gradient.select("design", "layers", "n", "factor", "low", "high", "least", "most")

# %%
plain = gradient.filter(design="plain", layers=26)
# Behind 24 layers a thousandth would be vanishing, for most people. Not even a
# hundredth is seen at any step.
assert plain["least"].item() > 0.01
assert verdicts["gradient while training", "the plain"] == "healthy"
next(f.statement for f in found if f.rule == "gradient while training")

# %% [markdown]
# It degrades, and its gradients do not vanish; at the beginning they *grow* on their
# way back (`most`), which batch normalisation does to a plain ReLU network at any
# initialisation (page *What theory predicts*, law (d)). Whatever holds the plain
# network up, the size of its gradients is not it. Whether gradients at different inputs
# still agree with each other is another question (page *Gradient correlation*).
#
# **Exercise 2.** One more suspect is the learning rate: `rates=[0.1]` gave every
# network the same. Give the plain network of 14 layers the choice of two, with
# `rates=[0.03, 0.1]` and `tuning=2`. Two further seeds choose, so that the measured
# ones have no say. Which rate is chosen, and does it mend the degradation from 6
# layers?

# %% tags=["solution"] jupyter={"source_hidden": true}
tuned = studies.degradation(
    depths=[6, 14],
    designs=["plain"],
    norms=["batch"],
    rates=[0.03, 0.1],
    tuning=2,
    width=24,
    recipe=recipe,
    record=2,
)
(verdict,) = (
    finding for finding in degradation.findings(tuned) if finding.rule == "degradation"
)
assert verdict.verdict == "degrades"
print(verdict.statement)
degradation.rates(tuned).select("design", "depth", "rate", "n", "train_loss", "chosen")

# %% [markdown]
# ## Take a trained network apart
#
# A residual network of 6 blocks and its twin, trained on the digits. Then one block is
# deleted, without training again: the residual block by a branch gain of zero, the
# plain one by leaving it out. Veit and others (2016,
# [arXiv:1605.06431](https://arxiv.org/abs/1605.06431)) did that to networks of ImageNet
# size.
#
# **Predict:** the test error with one block missing, in either design. Does it matter
# which block?

# %%
cut = studies.lesion(
    depth=6, width=24, recipe=Recipe(steps=120, schedule="cosine"), draws=1
)
show(charts.lesion_blocks(cut))

# %%
for finding in lesions.findings(cut):
    print(f"{finding.rule}: {finding.verdict}\n    {finding.statement}\n")

# %%
judged = {
    (finding.rule, finding.subject.split(" design")[0]): finding.verdict
    for finding in lesions.findings(cut)
}
assert judged["one deleted block destroys it", "the twin"] == "holds"
assert judged["shortcuts soften the loss of a block", "the residual"] == "holds"

# %% [markdown]
# In the third notebook a deleted block cost an *untrained* residual network much of its
# output, every block alike. In the trained one the first block matters and most others
# hardly do. That difference is what training made; a picture of a trained network does
# not show what shortcuts do by themselves.
#
# **Exercise 3.** Do it by hand. Train four residual networks of 6 blocks with `train`,
# take the *shortcut* of one block away by `gains(shortcut=0, at=...)`, and `evaluate`
# the test error. Which costs more, a branch or a shortcut?

# %% tags=["solution"] jupyter={"source_hidden": true}
digits = data.load("digits", seed=0)
shape = {
    "width": 24,
    "features": digits.features,
    "outputs": digits.outputs,
    "order": "after-add",
    "norm": "batch",
}
start = skipscope.build(
    skipscope.design("residual", depth=6, dtype="float32", **shape), seed=range(4)
)
trained = train(start, digits, Recipe(steps=120, schedule="cosine")).network


# %% tags=["solution"] jupyter={"source_hidden": true}
def error(**gains):
    """The test error, a number a seed."""
    with trained.gains(**gains):
        return evaluate(trained, digits.test, loss_of(digits))[1]


rows = [
    {"block": block}
    | {
        part: float(np.median(error(at=f"stage1.block{block}", **{part: 0})))
        for part in ("branch", "shortcut")
    }
    for block in range(1, 7)
]
taken = pl.DataFrame(rows)
assert (taken["shortcut"] > taken["branch"]).all()
taken

# %% [markdown]
# ## What we keep
#
# - Degradation is a statement about training error, compared seed by seed, against a
#   margin chosen beforehand.
# - Here it happens while gradients do not vanish. Shortcuts help all the same: for
#   another reason.
# - Trained residual networks survive the loss of most blocks; plain ones do not survive
#   the loss of any.
# - Eight seeds, one small data set, few steps: a lesson, not a proof. The studies take
#   more seeds and steps by the same call, and `skipscope degradation --help` and
#   `skipscope lesion --help` do it from a terminal.
