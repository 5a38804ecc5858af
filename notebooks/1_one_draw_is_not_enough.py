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
# # 1. One draw is not enough
#
# A popular demonstration of residual networks draws one plain network and one residual
# network, sends one gradient back through each, and compares the first layer's gradient
# with the last layer's. Then it says which of the two keeps gradients flowing.
#
# We do the same, by hand. Then we do it again with other seeds, and see what is left of
# the conclusion.
#
# How to read: before every measurement you are asked for a **prediction**. Say it aloud
# or write it down; a surprise needs an expectation. Exercises have their solutions
# behind them.

# %%
import numpy as np
import polars as pl
from IPython.display import HTML

import skipscope
from skipscope import (
    PlainLayer,
    PlainNetwork,
    ResidualBlock,
    ResidualNetwork,
    charts,
    studies,
    trends,
)


def show(chart):
    """The chart as SVG, which needs no network and says in words what it shows."""
    return HTML(f'<div style="color: black">{charts.svg(chart)}</div>')


rng = np.random.default_rng(0)

# %% [markdown]
# ## A layer, forward and backward
#
# A plain layer is `a = relu(W x + b)`. Samples are rows. Its weights are drawn with the
# variance 2/fan-in (He and others 2015,
# [arXiv:1502.01852](https://arxiv.org/abs/1502.01852)), its biases are zero.

# %%
layer = PlainLayer(4, 3, seed=0)
x = rng.standard_normal((2, 4))
a = layer.forward(x)
a

# %% [markdown]
# Going back, we are given the gradient by `a` and want the one by `x`. Two steps: the
# ReLU lets through where it was positive, and the affine map sends back with the same
# `W`.
#
# **Predict:** where `a` is zero, what is the gradient that arrives at `W x + b`?

# %%
da = rng.standard_normal(a.shape)
dz = da * (a > 0)
by_hand = dz @ layer.W
assert np.array_equal(layer.backward(da), by_hand)
assert np.array_equal(layer.dW, dz.T @ x)
dz

# %% [markdown]
# Is that right? A finite difference does not know our derivation. We nudge all weights
# a little in one random direction and see how much `<da, a>` changes.

# %%
direction = rng.standard_normal(layer.W.shape)
step = 1e-6
up = PlainLayer(4, 3, W=layer.W + step * direction).forward(x)
down = PlainLayer(4, 3, W=layer.W - step * direction).forward(x)
measured = float((da * (up - down)).sum() / (2 * step))
derived = float((layer.dW * direction).sum())
# Between two kinks the layer is linear in W: only rounding is left, about 1e-16 / step.
assert abs(measured - derived) < 1e-8
measured, derived

# %% [markdown]
# **Exercise 1.** What is the gradient by the bias `b`? Compute it from `dz` and compare
# it with `layer.db`.

# %% tags=["solution"] jupyter={"source_hidden": true}
# b is added to every sample, so the samples' gradients add up.
assert np.allclose(layer.db, dz.sum(axis=0), rtol=0, atol=1e-14)
dz.sum(axis=0)

# %% [markdown]
# ## A block with a shortcut
#
# A residual block adds its input to what two layers make of it: `y = F(x) + x`. So a
# change of `x` changes `y` in two ways, and the gradient comes back in two ways:
#
#     dx  =  dF  +  dy
#
# **Predict:** we set all weights of `F` to zero. What are `y` and `dx`?

# %%
block = ResidualBlock(4, seed=0)
for each in block.layers:
    each.W = np.zeros_like(each.W)
dy = rng.standard_normal((2, 4))
assert np.array_equal(block.forward(x), x)
assert np.array_equal(block.backward(dy), dy)

# %% [markdown]
# The shortcut hands on signal and gradient as they are. Keep in mind what this does
# *not* say: nothing about how large the other part, `dF`, may be.
#
# ## The popular experiment
#
# 16 numbers come in, the hidden layers have 36 units, and 16 numbers go out through a
# last ReLU. One network has 28 layers, the other 28 blocks. One random input; an output
# gradient of ones.
#
# **Predict:** in which network is the first layer's gradient smaller, relative to the
# last layer's?

# %%
plain = PlainNetwork(16, 36, 28, seed=0)
residual = ResidualNetwork(16, 36, 28, seed=0)
x = rng.standard_normal((1, 16))


def ratio(network):
    """The norm of the first weight gradient over that of the last."""
    output = network.forward(x)
    network.backward(np.ones_like(output))
    norms = network.gradient_norms()
    return norms[0] / norms[-1]


ratio(plain), ratio(residual)

# %% [markdown]
# The demonstration divides one by the other and announces "N times better":

# %%
N = ratio(plain) / ratio(residual)
N

# %% [markdown]
# Look at what was divided. In the plain network the first gradient is *larger* than the
# last. Nothing vanishes here. And what are the norms themselves? The same two networks,
# under the instrument: `build` makes the same network of the same seed, `probe`
# measures it layer by layer.

# %%
readings = skipscope.Readings.concat(
    [
        skipscope.probe(
            skipscope.build(network.spec, seed=0),
            x,
            cotangent="ones",
            factors={"design": name, "depth": 28},
        )
        for name, network in (("plain", plain), ("residual", residual))
    ]
)
show(charts.flow(skipscope.summarise(readings), "weight_grad_norm"))

# %%
assert plain.gradient_norms()[0] > plain.gradient_norms()[-1]
residual.gradient_norms()[0] / plain.gradient_norms()[0]

# %% [markdown]
# The residual curve is flat, as announced, but it lies many orders of magnitude higher.
# A ratio of first to last cannot see that, because both ends rise together. The second
# notebook follows it up.
#
# **Exercise 2.** The demonstration counts a ratio as bad if it is far *above* one and
# as excellent if it is far *below*. Which network has the ratio nearer to one, if twice
# too large and twice too small count the same?

# %% tags=["solution"] jupyter={"source_hidden": true}
# |ln ratio| is the distance from one that treats both directions alike.
{
    name: float(abs(np.log(ratio(network))))
    for name, network in (("plain", plain), ("residual", residual))
}

# %% [markdown]
# ## Other seeds
#
# All of this came from seed 0. The seed has no meaning; a conclusion about *networks*
# must survive another one.
#
# **Predict:** of ten seeds, how many give an N above one?


# %%
def announced(seed):
    """N, of a pair of networks that share no weight."""
    return ratio(PlainNetwork(16, 36, 28, seed=seed)) / ratio(
        ResidualNetwork(16, 36, 28, seed=seed + 1)
    )


[round(announced(seed), 2) for seed in range(10)]

# %% [markdown]
# Now many. The study `notebook` repeats the demonstration over seeds, in two sizes: 16
# → 36 → 16 at depth 28, as above, and 16 → 16 → 16 at depth 10. There it also sends
# back a Gaussian gradient instead of ones; that will matter below.

# %%
many = studies.notebook(seeds=range(500), depths=[10])
show(charts.distribution(many.select(width=36), "weight_grad_first_last", seed=0))

# %% [markdown]
# The line marks the demonstration's one draw. (Its input is another one than above,
# drawn from the seed as well.)
#
# `contradictions` counts the draws in which N is below one: in which the same
# demonstration, run with that seed, would have announced the opposite. `low` and `high`
# are a 95 % interval of that share.

# %%
shares = trends.contradictions(many)
shares.select("width", "depth", "cotangent", "n", "N", "contradicts", "low", "high")

# %%
# More than one draw in twenty says the opposite, in every setting: that is no freak.
assert (shares["low"] > 0.05).all()
# And yet most do not, so there is an effect.
assert (shares["high"] < 0.5).all()

# %% [markdown]
# So there is something to find out, but one draw cannot tell. That is the first rule of
# the rest: **no verdict on a design from one draw.**
#
# **Exercise 3.** Find the first seed at which you would have announced the opposite.
# How many of ten people who each choose a seed of their own would?

# %% tags=["solution"] jupyter={"source_hidden": true}
opposite = next(seed for seed in range(100) if announced(seed) < 1)
expected = 10 * shares.filter(width=36)["contradicts"].item()
opposite, expected

# %% [markdown]
# ## Why does the plain network not vanish?
#
# At He's initialisation a ReLU layer halves the squared norm and its weights double it
# again. What is left is chance: of *n* units a random number *K* is open, and they
# carry a random amount. There is an exact law (Hanin and Nica 2018,
# [arXiv:1812.05994](https://arxiv.org/abs/1812.05994); the page *What theory predicts*
# has it):
#
#     |a|² / |x|²  =  (2/n) chi²(K),    K ~ Binomial(n, 1/2)
#
# independent from layer to layer. The factors multiply, so their logarithms add up.
#
# **Predict:** a sum of independent terms. What happens to its spread when there are
# more layers?

# %%
flow = studies.flow(depth=28, width=36, designs=["plain"], seeds=range(500))
summary = skipscope.summarise(flow)
show(charts.flow(summary, "forward_gain", columns=1))

# %% [markdown]
# Dashed and dotted is the law: it was not fitted to anything. Its mean square stays at
# one, at any depth, while the median falls and the band opens. **What depth does to a
# plain network at this initialisation is spread.** `z` says how far the measured mean
# of the logarithm lies from the law's, in standard errors.

# %%
last = summary.of("forward_gain").filter(pl.col("site") == "head")
# 500 draws: a |z| beyond 4 would come by chance once in 16,000 times.
assert abs(last["z"].item()) < 4
last.select("site_depth", "q05", "law_q05", "q50", "law_q50", "q95", "law_q95", "z")

# %% [markdown]
# **Exercise 4.** Test the law on one layer, without the instrument: draw 20,000 layers
# of width 16, and compare the mean of the squared norm ratio with one and its variance
# with the law's (5/n).

# %% tags=["solution"] jupyter={"source_hidden": true}
n, draws = 16, 20_000
W = rng.standard_normal((draws, n, n)) * np.sqrt(2 / n)
unit = np.ones(n) / np.sqrt(n)
gain = (np.maximum(W @ unit, 0) ** 2).sum(axis=1)
# The mean of 20,000 has a standard error of sqrt(5/16/20000) = 0.004; the variance's is
# about 3 %. Four of each.
assert abs(gain.mean() - 1) < 4 * np.sqrt(5 / n / draws)
assert abs(gain.var() / (5 / n) - 1) < 0.12
float(gain.mean()), float(gain.var()), 5 / n

# %% [markdown]
# ## Why is the first gradient larger, then?
#
# The law holds backward as well, if what is sent back knows nothing of the network. An
# output gradient of ones does: in front of it stands a ReLU, so ones point the way the
# activations point, and the gates that let the signal through let this gradient
# through.
#
# **Predict:** with a Gaussian output gradient, what is the plain network's median
# ratio?

# %%
ratios = skipscope.summarise(many.select(width=16)).of("weight_grad_first_last")
ratios.select(
    "design", "cotangent", "n", "q05", "median_low", "q50", "median_high", "q95"
)

# %%
fair = ratios.filter(design="plain", cotangent="gaussian")
# The 95 % interval of the median holds one.
assert fair["median_low"].item() < 1 < fair["median_high"].item()
ones = ratios.filter(design="plain", cotangent="ones")
assert ones["median_low"].item() > 1  # and with ones it does not

# %% [markdown]
# The plain network's ratio of well above one was the question's doing, not the
# network's.
#
# ## What we keep
#
# - Forward and backward stand next to each other, and a finite difference checks them.
# - One draw shows one network. Designs are compared over seeds, with intervals.
# - A plain network at He's initialisation does not vanish in the mean; its draws spread
#   apart.
# - The ratio of first to last gradient depends on what is sent back, and it is blind to
#   growth.
#
# **Exercise 5.** "A plain network does not vanish" is about He's initialisation.
# Measure `backward_growth`, the factor a block on the squared norm of the gradient,
# with `init="lecun"`, which draws the weights with half the variance. What do you
# expect, and what comes out? Compare it with He's seed by seed: both scale the same
# draw.

# %% tags=["solution"] jupyter={"source_hidden": true}
same = {
    "depth": 28,
    "designs": ["plain"],
    "seeds": range(200),
    "quantities": ["backward_growth"],
}
growth = {
    init: skipscope.summarise(studies.flow(init=init, **same)).of("backward_growth")
    for init in ("he", "lecun")
}
# Half the variance halves every square, and a ReLU does not care for scale: exact but
# for rounding, draw by draw.
assert np.allclose(growth["lecun"]["q50"] / growth["he"]["q50"], 1 / 2, rtol=1e-9)
pl.concat(growth.values()).select(
    pl.Series("init", list(growth)), "n", "q05", "q50", "q95"
)
