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
# # 3. Shortcuts and paths
#
# "The + I makes sure that gradients always flow." "A residual network is an ensemble in
# which the short paths carry the gradient." Both sentences are about the addition at
# the end of a block. Here we take that addition apart.

# %%
import math

import numpy as np
import polars as pl
from IPython.display import HTML

import skipscope
from skipscope import charts, paths, studies
from skipscope.engines.jacobian import jacobian


def show(chart):
    """The chart as SVG, which needs no network and says in words what it shows."""
    return HTML(f'<div style="color: black">{charts.svg(chart)}</div>')


# %% [markdown]
# ## Where the + I comes from
#
# A block computes `y = x + F(x)`. Its Jacobian, how much every output changes with
# every input, is therefore
#
#     dy/dx  =  I + dF/dx
#
# We can take the shortcut away and measure both sides. `gains(shortcut=0)` leaves the
# branch alone.

# %%
spec = skipscope.Spec.dense(width=36, blocks=16, features=16)
network = skipscope.build(spec, seed=0)
x = np.random.default_rng(0).standard_normal((1, 16))
whole = jacobian(network, x, at="stage1.block1")[0]
with network.gains(shortcut=0, at="stage1.block1"):
    branch = jacobian(network, x, at="stage1.block1")[0]
# One addition to every number of the diagonal: rounding, and nothing else.
assert np.allclose(whole, np.eye(36) + branch, rtol=0, atol=1e-14)

# %% [markdown]
# So there is an identity in it. **Predict:** how large is the rest? The norm of
# `dF/dx`, relative to that of `I`: far below one, about one, far above one?

# %%
size = float(np.linalg.norm(branch) / np.linalg.norm(np.eye(36)))
size

# %%
# Over 200 draws: a block hands half of the gradient's square to the branch if squares
# add, |dF/dx|² = |I|² in the mean.
ensemble = skipscope.build(spec, seed=range(200))
with ensemble.gains(shortcut=0, at="stage1.block1"):
    branches = jacobian(ensemble, x, at="stage1.block1")
squares = (branches**2).sum(axis=(1, 2)) / 36
error = squares.std() / math.sqrt(200)
assert abs(squares.mean() - 1) < 4 * error
float(squares.mean()), float(error)

# %% [markdown]
# As large as the identity. The identity term does keep a gradient from vanishing; the
# other term is what makes it explode.
#
# ## Which way did it come?
#
# At every junction the gradient splits: a part came through the shortcut, a part
# through the branch. Vectors add up and norms do not, so the share of a part is `<part,
# whole> / |whole|²`. Shares sum to one.
#
# **Predict:** what share comes through the shortcut, at gain one?

# %%
highway = studies.highway(
    depth=16,
    width=64,
    orders=["pre-activation"],
    gains=[1.0, "1/sqrt(L)"],
    seeds=range(100),
)
show(charts.shares(highway))

# %%
shares = paths.shares_data(highway)
parts = highway.rows.filter(
    pl.col("quantity").is_in(["shortcut_share", "branch_share"])
)
total = parts.group_by("cell", "site", "seed").agg(pl.col("value").sum())["value"]
assert np.allclose(total, 1, rtol=0, atol=1e-9)
shares.group_by("gain", "part", maintain_order=True).agg(
    pl.col("q50").mean(), pl.col("law").mean()
)

# %% [markdown]
# **Exercise 1.** Why does the law say what it says? Let `s` and `a` be the gains. A
# branch multiplies the square of an unrelated gradient by `g2`, here `a²` (two layers
# at He's initialisation, two ReLUs). Write down the share of the branch and compare it
# with the `law` column.

# %% tags=["solution"] jupyter={"source_hidden": true}
for gain, a in (("1.0, 1.0", 1.0), ("1.0, 1/sqrt(L)", 1 / math.sqrt(16))):
    law = shares.filter(gain=gain, part="branch")["law"]
    assert np.allclose(law, a**2 / (1 + a**2))
    print(gain, a**2 / (1 + a**2))

# %% [markdown]
# ## How many branches?
#
# A gradient that goes back through 16 junctions has a choice at every one of them. That
# makes 2¹⁶ paths, and a path's length is the number of branches it takes. If every
# junction gives the branch the probability *p*, and junctions choose independently,
# lengths are binomial (Veit and others 2016,
# [arXiv:1605.06431](https://arxiv.org/abs/1605.06431)).
#
# Nothing is sampled here: one backward pass carries a gradient for every length.
#
# **Predict:** at gain one, do short paths carry the gradient?

# %%
show(charts.path_lengths(highway))

# %%
columns = ["gain", "estimate", "mean", "low", "high", "law_mean"]
misfit = paths.misfit_data(highway)
misfit.select(columns)

# %%
pooled = {row["gain"]: row for row in misfit.filter(estimate="pooled").to_dicts()}
# Half of 16 junctions; the interval above is narrower.
assert abs(pooled["1.0, 1.0"]["mean"] - 8) < 1
assert pooled["1.0, 1/sqrt(L)"]["mean"] < 1.2  # about one branch in all

# %% [markdown]
# At gain one a typical path takes half of all branches. Short paths dominate only where
# the branch is scaled down. It is not the shortcut that makes paths short; it is a
# small branch.
#
# What do the findings say? They come from the same table and name their threshold.

# %%
for finding in paths.judge(highway):
    print(f"{finding.rule}: {finding.verdict}\n    {finding.statement}\n")
by_energy = {
    finding.verdict for finding in paths.judge(highway) if "energy" in finding.rule
}
assert by_energy == {"law holds"}

# %% [markdown]
# Where a typical draw is off and all draws together are not, that is no contradiction.
# In one network of finite width the paths interfere: they point neither in the same
# direction nor at right angles. The law speaks of all draws together.
#
# **Exercise 2.** The notebook's block (`order="before-add"`) has a branch with a
# preferred direction. Measure its mean path length at the gain 1/sqrt(L). The binomial
# law, were its conditions met, would say less than one branch.

# %% tags=["solution"] jupyter={"source_hidden": true}
before = studies.highway(
    depth=16, width=64, orders=["before-add"], gains=["1/sqrt(L)"], seeds=range(100)
)
found = paths.misfit_data(before).filter(estimate="pooled")
# The branches agree in their direction, and add up in the norm: more of the gradient
# takes them than the law says.
assert found["low"].item() > found["law_mean"].item()
found.select(columns)

# %% [markdown]
# ## Take a block away
#
# A branch gain of zero deletes a block and leaves its shortcut: a *lesion*. The deleted
# network and the whole one share everything else, so we compare seed by seed.
#
# **Predict:** by which factor does the output shrink, and does it matter which block is
# deleted?


# %%
def lesion(block):
    """The factor on the output's norm without one block, and its interval."""
    with ensemble.gains(branch=0, at=f"stage1.block{block}"):
        cut = skipscope.probe(ensemble, batch=1, quantities=asked, sites="network")
    row = (
        skipscope.compare(uncut, cut).select("ratio", "ratio_low", "ratio_high").row(0)
    )
    return (block, *row)


asked = {"output_norm": skipscope.QUANTITIES["output_norm"]}
uncut = skipscope.probe(ensemble, batch=1, quantities=asked, sites="network")
lesions = pl.DataFrame(
    [lesion(block) for block in (1, 4, 8, 12, 16)],
    schema=["block", "ratio", "low", "high"],
    orient="row",
)
lesions

# %%
# Every block costs about 1/sqrt(2.9), the growth of one block, wherever it is.
assert lesions["high"].max() < 0.7
assert lesions["ratio"].max() / lesions["ratio"].min() < 1.3

# %% [markdown]
# At initialisation every block is worth as much as every other, and none is free. What
# trained networks do with their blocks is another question; it needs training.
#
# **Exercise 3.** Take *all shortcuts* of the 16 blocks away instead of one branch:
# `gains(shortcut=0)` is the plain twin. What happens to the output, relative to that of
# the residual network?

# %% tags=["solution"] jupyter={"source_hidden": true}
with ensemble.gains(shortcut=0):
    twin = skipscope.probe(ensemble, batch=1, quantities=asked, sites="network")
row = skipscope.compare(uncut, twin)
# The plain twin keeps the norm, but for its spread; the residual network multiplies it
# by sqrt(2.9) a block.
assert row["ratio"].item() < 1e-3
row.select("pairs", "median_a", "median_b", "ratio", "ratio_low", "ratio_high")

# %% [markdown]
# ## What does come through
#
# Norms are one number. The singular values of the body's Jacobian say how much *every*
# direction is stretched. In a plain ReLU network a direction that all open units ignore
# is lost, layer after layer.
#
# **Predict:** of 36 directions that enter the body, how many reach its end in a plain
# network of 16 layers, and how many in a residual network of 16 blocks?

# %%
spectra = studies.jacobian(
    depths=[4, 16],
    width=36,
    designs=["plain", "residual", "residual, 1/L"],
    parts=["body"],
    blocks=False,
    seeds=range(20),
)
summary = skipscope.summarise(spectra)
ranks = (
    summary.of("jacobian_rank")
    .sort("design", "depth")
    .select("design", "depth", "n", "q05", "q50", "q95")
)
ranks

# %%
show(charts.spectrum(summary))

# %%
rank = {(row["design"], row["depth"]): row["q50"] for row in ranks.to_dicts()}
assert rank["residual", 16] == rank["residual, 1/L", 16] == 36
assert rank["plain", 16] < rank["plain", 4] < 36
stretch = summary.of("jacobian_condition").filter(depth=16).select("design", "q50")
stretch

# %% [markdown]
# Shortcuts keep every direction alive: that is true, and it is what "flow" should mean.
# But alive is not the same as unchanged: at gain one some directions are stretched
# enormously more than others (`jacobian_condition`, above). With a branch of 1/L the
# network stays near an isometry.
#
# ## What we keep
#
# - `dy/dx = I + dF/dx` is exact. At gain one both terms are of the same size.
# - Path lengths are what the branch's gain makes them; short paths dominate only under
#   small branches.
# - Shortcuts keep the rank. Gains (or normalisation) keep the scale.
#
# **Exercise 4.** How near to the identity is the whole body? Read
# `jacobian_minus_identity_spectral`. Below one, a body is certainly invertible (Hardt
# and Ma 2016, [arXiv:1611.04231](https://arxiv.org/abs/1611.04231)). For which networks
# does that criterion speak, and what do those have to do for which it does not?

# %% tags=["solution"] jupyter={"source_hidden": true}
distance = summary.of("jacobian_minus_identity_spectral").sort("design", "depth")
far = {(row["design"], row["depth"]): row["median_low"] for row in distance.to_dicts()}
near = {
    (row["design"], row["depth"]): row["median_high"] for row in distance.to_dicts()
}
assert near["residual, 1/L", 16] < 1 < far["residual, 1/L", 4]
# Only the deep network of small branches is near enough. The others may still be
# invertible: the table of ranks says so of both depths. The criterion is sufficient,
# not necessary.
assert far["residual", 16] > 1
assert rank["residual", 16] == 36
distance.select("design", "depth", "n", "median_low", "q50", "median_high")
