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
# # 2. What depth does
#
# The popular demonstration ends with a sweep: networks of 5 to 40 layers, one draw of
# each, one ratio of each. We do the sweep over many draws and ask three questions that
# the ratio cannot answer. By how much a block do signal and gradient grow? How far do
# draws spread? And what would hold both still?

# %%
import math

import numpy as np
import polars as pl
from IPython.display import HTML

import skipscope
from skipscope import charts, studies, trends


def show(chart):
    """The chart as SVG, which needs no network and says in words what it shows."""
    return HTML(f'<div style="color: black">{charts.svg(chart)}</div>')


# %% [markdown]
# ## The sweep
#
# `plain` of depth *d* has *d* weight layers, `residual` has *d* blocks of two. Every
# depth of a seed shares its draw: the shallow network is the beginning of the deep one.
# So a trend over depth is a trend of networks, not of draws.
#
# **Predict:** how does the gradient that reaches the input depend on depth, in either
# design? Growing, shrinking, flat?

# %%
sweep = studies.sweep(
    depths=[5, 10, 20, 40], designs=["plain", "residual"], seeds=range(300)
)
summary = skipscope.summarise(sweep)
show(charts.scaling(summary, "backward_gain", columns=2))

# %% [markdown]
# A straight line on a logarithmic axis is a constant factor a block. `rates` fits it,
# seed by seed: `rate` is the mean slope of the logarithm of the square, what a
# *typical* draw does; `mean_rate` is what the *mean square* does.

# %%
gains = trends.rates(sweep).filter(
    pl.col("quantity").is_in(["forward_gain", "backward_gain"])
)
factor = pl.col(
    "rate", "rate_low", "rate_high", "mean_rate", "law_rate"
).exp()  # a block, on the square
gains.select("design", "quantity", factor, "z")

# %% [markdown]
# ## The plain network: two answers
#
# Its typical draw shrinks a little with every layer, and its mean square does not. Both
# are true of the same numbers: the logarithm is spread out, and a few large draws carry
# the mean.
#
# The law of the first notebook says how wide the spread must be after *d* layers. Its
# logarithm has a variance of about 5/n a layer: **predict** the ratio between the 95 %
# and the 5 % quantile of the squared gain at depth 40 and width 36.

# %%
depth, width = 40, 36
sd = math.sqrt(5 / width * depth)
asymptotic = math.exp(2 * 1.645 * sd)
plain = summary.of("forward_gain").filter(design="plain", depth=depth, site="head")
measured = (plain["q95"].item() / plain["q05"].item()) ** 2
exact = (plain["law_q95"].item() / plain["law_q05"].item()) ** 2
measured, exact, asymptotic

# %%
# A 5 % quantile of 300 normal numbers has a standard error of sqrt(0.05 * 0.95 / 300) /
# 0.103 = 0.12 standard deviations; two of them, 3.3 apart, make 5 % of this logarithm.
# Three of those.
assert abs(math.log(measured) / math.log(exact) - 1) < 0.16

# %% [markdown]
# Where then does "gradients vanish in deep plain networks" come from? From other
# initialisations, and from saturating activations. An instrument must show vanishing
# where there is some:

# %%
vanishing = studies.sweep(
    depths=[5, 10, 20, 40], designs=["plain"], seeds=range(100), init="lecun"
)
for finding in (*trends.findings(vanishing), *trends.findings(sweep)):
    if finding.rule == "trend of the gradient":
        print(f"{finding.subject}: {finding.verdict}")

# %% [markdown]
# **Exercise 1.** PyTorch's `nn.Linear` draws its weights with a variance of 1/(3
# fan-in) (`init="torch"`). What is the factor a layer on the square? Predict it from "a
# ReLU keeps half", then measure it.

# %% tags=["solution"] jupyter={"source_hidden": true}
torch = studies.sweep(
    depths=[5, 10, 20, 40], designs=["plain"], seeds=range(100), init="torch"
)
found = trends.rates(torch).filter(quantity="backward_gain")
low, mean, high = np.exp(
    found.select("mean_rate_low", "mean_rate", "mean_rate_high").row(0)
).tolist()
# A third of the weights' square, of which the ReLU keeps half: 1/6. The interval is a
# 95 % one, fixed by its seeds.
assert low < 1 / 6 < high
low, mean, high

# %% [markdown]
# ## The residual network explodes
#
# Its line goes up, and the band is narrow: every draw does it. Why? The notebook's
# block adds `relu(...)`, which is never negative. So the branch does not only add to
# the square, it also points in the same direction as what is there already.
#
# If the branch had no preferred direction, squares would add: `1 + 1`. **Predict:**
# does the preferred direction make the factor a block larger or smaller than two?

# %%
residual = gains.filter(design="residual", quantity="forward_gain")
per_block = math.exp(residual["mean_rate"].item())
assert per_block > 2
per_block

# %% [markdown]
# The law: with `q` the mean square of the signal and `m` its mean, at large width,
#
#     q' = 2 q + 2 m sqrt(q/π),    m' = m + sqrt(q/π)
#
# Run it for some blocks, and look at the factor it settles at.

# %%
# What a ReLU layer hands to the first block, in units of its RMS.
q, m = 1.0, 1 / math.sqrt(math.pi)
factors = []
for _ in range(20):
    after = 2 * q + 2 * m * math.sqrt(q / math.pi)
    m += math.sqrt(q / math.pi)
    factors.append(after / q)
    q = after
[round(each, 3) for each in factors[:6]], round(factors[-1], 4)

# %%
# The measurement is at width 36, where the law has a bias of a few per cent a block
# (page "What theory predicts").
assert abs(per_block / factors[-1] - 1) < 0.04

# %% [markdown]
# ## What the ratio cannot see
#
# The demonstration's measure was the first weight gradient over the last. A weight
# gradient is a product: what arrives from behind times what came from the front. At the
# first layer the one is huge, at the last layer the other.
#
# **Predict:** how does that ratio depend on depth, in the network that grows by so
# much?

# %%
show(charts.scaling(summary, "weight_grad_first_last", columns=2))

# %%
deep = summary.table.filter(design="residual", depth=40)
of_ratio = deep.filter(quantity="weight_grad_first_last")["q50"].item()
of_signal = deep.filter(quantity="forward_gain", site="head")["q50"].item()
assert 0.05 < of_ratio < 1
assert of_signal > 1e8
of_ratio, of_signal

# %% [markdown]
# **Exercise 2.** Half precision ends at 65504. At which block does the signal of this
# network pass it? Work it out from `per_block`, for an input of RMS one, then look:
# which block is the first with anything not finite when the network is deep enough in
# `float32`, whose largest number is about 3.4e38?

# %% tags=["solution"] jupyter={"source_hidden": true}
half = 2 * math.log(65504) / math.log(per_block)
single = 2 * math.log(3.4e38) / math.log(per_block)
flow = studies.flow(
    depth=200,
    designs=["residual"],
    seeds=range(20),
    dtype="float32",
    quantities=["activation_nonfinite"],
)
broken = (
    skipscope.summarise(flow)
    .of("activation_nonfinite")
    .filter(pl.col("q50") > 0, pl.col("block") > 0)
)
first = broken["block"].min()
# The largest of 36 elements overflows before the RMS does, and draws differ: a tenth is
# allowed.
assert abs(first / single - 1) < 0.1
half, single, first

# %% [markdown]
# ## Holding it still: gains
#
# A junction has two gains: `out = s * shortcut + a * branch`. Make `a` smaller in
# deeper networks. If squares add, a branch gain of 1/sqrt(L) gives `(1 + 1/L)^L`, which
# stays below *e*.
#
# **Predict:** does 1/sqrt(L) hold the notebook's block still? Remember that its branch
# has a preferred direction.


# %%
def growth_of(order, gain):
    """The median factor on the signal over the whole network, by number of blocks."""
    readings = studies.sweep(
        depths=[10, 40, 160],
        designs=["residual"],
        seeds=range(30),
        order=order,
        branch_gain=gain,
    )
    ends = skipscope.summarise(readings).of("forward_gain").filter(site="head")
    by_depth = ends.sort("depth").select("depth", "q50").rows()
    growth = {f"L = {depth}": median for depth, median in by_depth}
    return {"order": order, "gain": str(gain)} | growth


# %%
rows = [
    growth_of(order, gain)
    for order in ("before-add", "pre-activation")
    for gain in (1.0, "1/sqrt(L)", "1/L")
]
gained = pl.DataFrame(rows)
gained

# %%
swing = {
    (row["order"], row["gain"]): row["L = 160"] / row["L = 10"]
    for row in gained.to_dicts()
}
assert swing["before-add", "1/sqrt(L)"] > 10  # still growing
# Bounded: a median of 30 draws, each within a factor of about two.
assert 0.5 < swing["before-add", "1/L"] < 2
assert 0.5 < swing["pre-activation", "1/sqrt(L)"] < 2

# %% [markdown]
# In pre-activation order (`x + W2 relu(W1 relu(x))`, He and others 2016,
# [arXiv:1603.05027](https://arxiv.org/abs/1603.05027)) the branch ends with weights,
# not with a ReLU. It has no preferred direction, and 1/sqrt(L) is enough. In the
# notebook's block the branches of all blocks agree in their direction: they add up in
# the norm and not in its square, and only 1/L bounds it.
#
# **Exercise 3.** So with 1/sqrt(L) the notebook's block still grows, like `exp(c
# sqrt(L))`. Estimate *c* on the square from the two deepest networks, and compare with
# `2/sqrt(π)`, which the law gives for large L.

# %% tags=["solution"] jupyter={"source_hidden": true}
row = gained.filter(order="before-add", gain="1/sqrt(L)").row(0, named=True)
c = 2 * math.log(row["L = 160"] / row["L = 40"]) / (math.sqrt(160) - math.sqrt(40))
# Width 36 instead of infinite, medians of 30 draws, depths that are not yet large: a
# tenth is the best to hope for.
assert abs(c / (2 / math.sqrt(math.pi)) - 1) < 0.1
c, 2 / math.sqrt(math.pi)

# %% [markdown]
# ## What we keep
#
# - Depth spreads plain networks out; it does not make them vanish, unless the
#   initialisation does.
# - Unnormalised residual networks at gain one grow exponentially, forward and backward,
#   in every draw.
# - The ratio of first to last weight gradient sees neither.
# - What holds a residual network still is a branch that is small beside the shortcut.
#   That is what normalisation inside the branch does, too, and what a shortcut alone
#   does not.
#
# **Exercise 4.** How many draws of `N`, the demonstration's comparison, contradict it
# at each depth? Draw `charts.contradictions`, and read off whether more depth makes one
# draw more convincing.

# %% tags=["solution"] jupyter={"source_hidden": true}
show(charts.contradictions(sweep, columns=1))
