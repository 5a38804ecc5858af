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
# # 4. Identity, and what training finds
#
# Two more parts of the popular story. "With shortcuts the identity is easy to learn:
# its weights need only be zero." And a section "learned representations", in which
# nothing is trained. They are about *training*, so we have to train.

# %%
import numpy as np
import polars as pl
from IPython.display import HTML

import skipscope
from skipscope import ResidualBlock, charts, data, separability
from skipscope.studies.pictures import pictures
from skipscope.studies.representation import representation
from skipscope.training import Recipe, train


def show(chart):
    """The chart as SVG, which needs no network and says in words what it shows."""
    return HTML(f'<div style="color: black">{charts.svg(chart)}</div>')


pl.Config.set_tbl_rows(20)
rng = np.random.default_rng(0)

# %% [markdown]
# ## A block that is almost nothing
#
# The demonstration takes a residual block, multiplies all its weights by 0.001, and
# shows that its output is its input.
#
# **Predict:** the branch has two layers. By how much does it shrink?

# %%
block = ResidualBlock(36, seed=0)
x = rng.standard_normal((1, 36))
full = block.F(x)
for layer in block.layers:
    layer.W = layer.W * 0.001
shrunk = float(np.linalg.norm(block.F(x)) / np.linalg.norm(full))
# 0.001 twice, and rounding.
assert np.isclose(shrunk, 1e-6, rtol=1e-9)
shrunk, float(np.abs(block.forward(x) - x).max())

# %% [markdown]
# The output *is* almost the input. But this holds for whatever weights there were: `F(c
# W) = c² F(W)`, because a ReLU does not care for scale and there are two layers. We
# *set* the weights. Nobody has learned anything.
#
# **Exercise 1.** Check the law of degree two over five scales, for a branch with other
# weights.

# %% tags=["solution"] jupyter={"source_hidden": true}
other = ResidualBlock(36, seed=1)
weights = [layer.W for layer in other.layers]
reference = np.linalg.norm(other.F(x))
for scale in (0.01, 0.1, 0.5, 2.0, 10.0):
    for layer, W in zip(other.layers, weights, strict=True):
        layer.W = scale * W
    assert np.isclose(np.linalg.norm(other.F(x)) / reference, scale**2, rtol=1e-9)

# %% [markdown]
# ## Does training find the identity?
#
# So let it learn. The task is x → x, for 16 Gaussian numbers. The last layer is linear,
# and the width is twice 16, so that a plain network can represent the identity as well:
# x = relu(x) − relu(−x). Whoever always answers 0 has an error of one.
#
# **Predict:** plain against residual, 2 blocks against 8. Who comes nearer in 300
# steps?

# %%
identity = data.load("identity", seed=0)


def learned(design, blocks, recipe, **fields):
    """Eight trained networks; a seed has the same draw and order in every design."""
    shape = {"features": identity.features, "outputs": identity.outputs}
    order = {"order": "pre-activation", "dtype": "float32"}
    spec = skipscope.design(design, depth=blocks, width=32, **shape, **order, **fields)
    start = skipscope.build(spec, seed=range(8))
    factors = {"design": design, "depth": blocks}
    return train(start, identity, recipe, record=4, factors=factors)


# %%
recipe = Recipe(steps=300, rate=0.02)
# Without the gain the residual one explodes (notebook 2).
fields = {"twin": {}, "residual": {"branch_gain": "1/L"}}
finders = {
    (design, blocks): learned(design, blocks, recipe, **fields[design])
    for design in ("twin", "residual")
    for blocks in (2, 8)
}


# %%
def at_end(trained, quantity):
    """The quantiles over seeds at the last step."""
    rows = skipscope.summarise(trained.readings).of(quantity)
    return rows.filter(pl.col("step") == pl.col("step").max()).select(
        "design", "depth", "n", "q05", "q50", "q95"
    )


ends = pl.concat(at_end(trained, "test_loss") for trained in finders.values())
ends

# %%
error = {(row["design"], row["depth"]): row for row in ends.to_dicts()}
for blocks in (2, 8):  # the two bands do not even touch
    assert error["residual", blocks]["q95"] < error["twin", blocks]["q05"]

# %% [markdown]
# `twin` is the residual network without its shortcuts: same parameters, same draw. It
# learns less of the identity, and less the deeper it is. That much of the claim is
# true. But *how* does the residual network do it? If it found "F = 0", its branches
# would have shrunk.
#
# **Predict:** the norm of the branch over that of the shortcut, before and after
# training?


# %%
def branches(network):
    """The median over seeds and blocks of |branch| / |shortcut|."""
    asked = {"branch_ratio": skipscope.QUANTITIES["branch_ratio"]}
    return (
        skipscope.probe(network, identity.test.inputs[:64], quantities=asked)
        .rows["value"]
        .median()
    )


after = finders["residual", 8].network
before = skipscope.build(after.spec, seed=after.seeds)
branches(before), branches(after)

# %%
# It found *an* answer, and not the one with F = 0.
assert branches(after) > branches(before) / 2

# %% [markdown]
# **Exercise 2.** The comparison has a weak point: both designs got one learning rate,
# and it may suit one of them better. Train the twin of 8 blocks at several rates, and
# see whether the conclusion survives its best one.

# %% tags=["solution"] jupyter={"source_hidden": true}
tried = {
    rate: at_end(learned("twin", 8, Recipe(steps=300, rate=rate)), "test_loss")
    for rate in (0.01, 0.03)
}
best = min(found["q50"].item() for found in tried.values())
# The residual networks had one rate only, and are still ahead.
assert best > error["residual", 8]["q95"]
{rate: found["q50"].item() for rate, found in tried.items()}

# %% [markdown]
# ## Something to see
#
# The popular demonstration generates three kinds of pictures: horizontal lines,
# vertical ones, diagonals, with noise. It calls the section "learned representations",
# and trains nothing. We let the study `representation` train: eight seeds of a residual
# network of 4 blocks and of its twin. Then a *linear* classifier is asked, at every
# depth, what it can read there.

# %%
readings = representation(data="patterns", depth=4, recipe=Recipe(steps=100))
(pictured,) = pictures(readings)
show(charts.samples(pictured))

# %% [markdown]
# **Predict** four curves of its accuracy over depth: untrained and trained, with and
# without shortcuts. Where do they start, and where do they end?

# %%
show(charts.separability_by_depth(readings))

# %% [markdown]
# A linear classifier hardly tells the pictures themselves apart. But look at the
# *untrained* networks: their first layer already makes it much easier. Random features
# do that, and it is not learned. What comes after it is lost again, in the twin faster
# than with shortcuts.
#
# So a picture of "what the network has learned" needs the untrained network beside it.

# %%
at_depth = separability.depth_data(readings)
mean = {
    (row["design"], row["state"], row["site"]): row["mean"]
    for row in at_depth.to_dicts()
}
assert mean["twin", "untrained", "stem"] > mean["twin", "untrained", "input"] + 0.2
assert (
    mean["twin", "untrained", "stage1.block4"]
    < mean["residual", "untrained", "stage1.block4"]
)
at_depth.filter(pl.col("site").is_in(["input", "stem", "stage1.block4"])).select(
    "design", "state", "site", "mean", "low", "high"
)

# %% [markdown]
# The findings put it in words, each with the interval and the margin that it rests on.
# "Cannot tell" is one of the answers.

# %%
for finding in separability.findings(readings):
    print(f"{finding.subject}: {finding.rule}: {finding.verdict}")
    print(f"    {finding.statement}\n")

# %% [markdown]
# **Exercise 3.** Do trained networks get clearer with every block, as "hierarchical
# features" suggests? Compare the first layer with the last block, in the trained
# networks. Which finding answers that?

# %% tags=["solution"] jupyter={"source_hidden": true}
# For these pictures one trained layer is almost enough: there is little left for depth
# to do.
assert mean["residual", "trained", "stem"] > 0.95
[
    (f.subject, f.verdict)
    for f in separability.findings(readings)
    if f.rule.endswith("from the first layer")
]

# %% [markdown]
# ## What we keep
#
# - Scaling weights down shows arithmetic. Training shows what training finds, and that
#   was not "F = 0".
# - Residual networks came nearer to the identity than their twins, at the same number
#   of parameters.
# - What a network has *learned* is what it shows beyond the untrained network of the
#   same draw.
