"""Training: stochastic gradient descent with momentum, of ensembles of networks, on either engine.

The mini-batch of a step is a function of seed and step alone (see `skipscope.data`), and no number of one network
depends on another: seed s is trained to the same weights, bit for bit, alone, in an ensemble, and when it goes on from
a checkpoint. A convolutional network learns a set of images. One loop (run.py) counts the steps, measures, writes
checkpoints and tells what stopped; how the weights come down is the engine's affair, behind one small protocol.

Update, as PyTorch has it: v <- m v + g + w d, then w <- w - r v, with momentum m, weight decay d (on every parameter)
and rate r. Batch normalisation's running averages move by a tenth a step, likewise.

    run.py             train: steps, readings, checkpoints, stops
    numpy_descent.py   by hand, whole ensembles at once
    torch_descent.py   by PyTorch, one network after another; imported when it is given one
    descent.py         what either must offer
    evaluation.py      loss and error over all samples
    fit.py             which networks, data and recipes fit each other
    recipe.py          Recipe, CIFAR_RECIPE
    ways.py            Ways: what PyTorch alone offers
"""

from __future__ import annotations

from skipscope.training.descent import Stopped
from skipscope.training.evaluation import evaluate
from skipscope.training.fit import loss_of, require_fit
from skipscope.training.recipe import CIFAR_RECIPE, Recipe
from skipscope.training.run import TRAINING_QUANTITIES, Progress, Trained, measured_by_default, train
from skipscope.training.ways import Ways

__all__ = [
    "CIFAR_RECIPE",
    "TRAINING_QUANTITIES",
    "Progress",
    "Recipe",
    "Stopped",
    "Trained",
    "Ways",
    "evaluate",
    "loss_of",
    "measured_by_default",
    "require_fit",
    "train",
]
