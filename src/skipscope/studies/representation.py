"""Study `representation`: what every depth of a network knows of the classes, trained and untrained.

A network is trained; then all samples go through it in inference, and at every site, from the input to the output, two
questions are asked of the activations:

- **Can a linear classifier read the classes there?** It is fitted on the training part's activations and asked for the
  classes of the test part (Alain and Bengio 2016, arXiv:1610.01644).
- **In how many directions do they spread?** The variances of the principal components of the training part.

The same is asked of the network before its first step, for what a depth knows says nothing of what it has learned until
one knows what random weights do.

*The classifier* is linear discriminant analysis, scikit-learn's by least squares: classes are Gaussians of one
covariance. It has a closed form, so that there is no rate, no stopping and no failure to converge that could differ
between depths, it takes milliseconds, and of two Gaussians its accuracy is known (a test asks for it). Features are
standardised on the training part (one that never varies stays 0), and their covariance is `1 - SHRINKAGE` of the
measured one and `SHRINKAGE` of a multiple of the identity of the same trace, which bounds its condition number by
n/SHRINKAGE at n features, however many of them are dead or alike. Against logistic regression (penalty C = 1) it was
0.01 lower in the mean at sites of trained networks (0.05 at most), and 0.02 at those of untrained ones (0.07 at most;
depth 8, digits and patterns).

*Untrained batch normalisation* has running averages of 0 and 1, which are no averages of anything. An untrained network
with batch normalisation is therefore looked at with the averages of the training part, all of it one batch.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipscope import data as datasets
from skipscope.data import Dataset
from skipscope.designs import DESIGNS, design
from skipscope.engines.numpy_engine import NumpyNetwork, build
from skipscope.engines.spread import one_thread
from skipscope.errors import InputError, require_int, require_type
from skipscope.protocol import Site
from skipscope.quantities import Quantity
from skipscope.readings import Readings
from skipscope.spec import Spec
from skipscope.studies.learning import Trial, learn_in
from skipscope.studies.named import listed
from skipscope.studies.tabulated import tabulated
from skipscope.training import Recipe, Trained

__all__ = [
    "REPRESENTATION_DEMO",
    "REPRESENTATION_QUANTITIES",
    "REPRESENTATION_RECIPE",
    "SHRINKAGE",
    "Seen",
    "linear_accuracies",
    "look",
    "principal",
    "representation",
    "untrained",
    "walk",
]

Array = NDArray[np.float64]

REPRESENTATION_RECIPE = Recipe(steps=300)
"""How the networks are trained unless the caller says."""

REPRESENTATION_DEMO: dict[str, Any] = {"depth": 5, "recipe": Recipe(steps=150), "seeds": range(6)}
"""Arguments of `representation` for an answer in some seconds."""

SHRINKAGE = 0.01
"""How much of the classifier's covariance is a multiple of the identity."""


# --------------------------------------------------------------------------------------------------- quantities


@dataclass(frozen=True)
class Seen:
    """What the quantities of this study are formulas on, of every network: what its activations at a site came to.

    Attributes:
        accuracies: of the linear classifier, on the training part and on the test part.
        shares: see `principal`.
    """

    accuracies: tuple[float, float]
    shares: Array

    @property
    def finite(self) -> bool:
        """Whether all activations were numbers."""
        return not math.isnan(self.accuracies[0])


def linear_accuracies(
    train: Array, test: Array, classes: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> tuple[float, float]:
    """Share of the training part, and of the test part, whose class a linear classifier tells right; see the module.

    Args:
        train: activations that it is fitted on, of shape (b, n).
        test: others, of shape (b, n).
        classes: of the two parts, of shape (b,) each.

    Returns:
        Nan where an activation is no number.
    """
    if not (np.isfinite(train).all() and np.isfinite(test).all()):
        return math.nan, math.nan
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # a second to import

    parts = _standardised(train, test)
    classifier = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE).fit(parts[0], classes[0])
    first, second = (
        float((classifier.predict(part) == known).mean()) for part, known in zip(parts, classes, strict=True)
    )
    return first, second


def principal(activations: Array) -> tuple[Array, Array]:
    """Principal components of activations (b, n), centred: shares of the variance (n,) and directions (n, n) as rows.

    The largest share comes first; the largest entry of every direction is positive. Shares are nan where an activation
    is no number, or nothing varies.
    """
    n = activations.shape[-1]
    scale = np.abs(activations).max()
    if scale == 0 or not np.isfinite(scale):
        return np.full(n, np.nan), np.eye(n)
    scaled = activations / scale  # squares must not overflow
    centred = scaled - scaled.mean(axis=0)
    variances, columns = np.linalg.eigh(centred.T @ centred)
    falling, rows = np.maximum(variances[::-1], 0.0), columns.T[::-1]
    total = falling.sum()
    signs = np.sign(rows[np.arange(n), np.abs(rows).argmax(axis=1)])
    return falling / total if total > 0 else np.full(n, np.nan), rows * signs[:, None]


def _standardised(train: Array, test: Array) -> tuple[Array, Array]:
    """Both parts in the training part's standard deviations from its mean; a feature that never varies is 0."""
    scale = np.abs(train).max(axis=0)
    scale = np.where(scale == 0, 1.0, scale)  # squares must not overflow, nor what is small become nothing
    train, test = train / scale, test / scale
    centre, spread = train.mean(axis=0), train.std(axis=0)
    spread = np.where((train.min(axis=0) < train.max(axis=0)) & (spread > 0), spread, np.inf)
    return (train - centre) / spread, (test - centre) / spread


def _accuracy(part: int) -> Callable[[Sequence[Seen]], Any]:
    return lambda found: np.array([seen.accuracies[part] for seen in found])


def _share(which: int) -> Callable[[Sequence[Seen]], Any]:
    return lambda found: _where_varied(found, lambda shares: shares[which] if which < len(shares) else 0.0)


def _participation(found: Sequence[Seen]) -> Any:
    return _where_varied(found, lambda shares: 1 / (shares * shares).sum())


def _where_varied(found: Sequence[Seen], formula: Callable[[Array], float]) -> Any:
    """Undefined where nothing varies, as there is nothing to share; nan where an activation was no number."""
    values = np.array([formula(seen.shares) for seen in found])
    return np.ma.masked_array(values, mask=[np.isnan(v) and seen.finite for v, seen in zip(values, found, strict=True)])


_PROBES = "Alain & Bengio 2016, arXiv:1610.01644"
_PRINCIPAL = "principal components of the training part's activations, centred and not standardised"

REPRESENTATION_QUANTITIES: dict[str, Quantity] = {
    "linear_accuracy": Quantity(
        formula=_accuracy(1),
        symbol="acc(a)",
        unit="share of test samples",
        about="Share of the test part whose class a linear classifier, fitted on the site's activations, tells right.",
        source=_PROBES,
        at_init="falls with depth on data that are linearly separable to begin with",
    ),
    "linear_accuracy_train": Quantity(
        formula=_accuracy(0),
        symbol="acc(a), train",
        unit="share of training samples",
        about="The same on the training part, on which the classifier was fitted: far above, it has too few samples.",
        source=_PROBES,
    ),
    "component_share_1": Quantity(
        formula=_share(0),
        symbol="l_1/sum l",
        unit="share of variance",
        about=f"Share of the variance on the first of the {_PRINCIPAL}.",
        source="Pearson 1901, doi:10.1080/14786440109462720",
        at_init="grows with depth as a ReLU network aligns its inputs",
    ),
    "component_share_2": Quantity(
        formula=_share(1),
        symbol="l_2/sum l",
        unit="share of variance",
        about="Share of the variance on the second.",
        source="Pearson 1901, doi:10.1080/14786440109462720",
    ),
    "effective_dimension": Quantity(
        formula=_participation,
        symbol="(sum l)^2/sum l^2",
        unit="directions",
        about=f"Participation ratio of the variances l of the {_PRINCIPAL}: n where n are alike, 1 where one is all.",
        source="Gao et al. 2017, doi:10.1101/214262",
        at_init="falls with depth",
    ),
}
"""What the study measures at every site, in the order of the docs; the formulas are on the `Seen` of every network,
in place of a `View`."""

_CURVES = ("train_loss", "train_error", "test_loss", "test_error")


# --------------------------------------------------------------------------------------------------- the study


def representation(
    *,
    data: str = "digits",
    designs: Iterable[str] = ("twin", "residual"),
    depth: int = 8,
    width: int = 32,
    seeds: int | Iterable[int] = range(8),
    recipe: Recipe = REPRESENTATION_RECIPE,
    data_seed: int = 0,
    order: str = "after-add",
    norm: str = "batch",
    folder: str | os.PathLike[str] | None = None,
    chunk: int | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
    **fields: Any,
) -> Readings:
    """Train networks, and ask at every depth what a linear classifier can read there; of untrained ones likewise.

    The readings are of three cells a design, which the column `state` tells apart: `untrained` and `trained`, with the
    quantities `REPRESENTATION_QUANTITIES` at the input, the first layer, every block and the output layer; and `in
    training`, with losses and errors on the way. A network whose loss was no longer finite has no trained readings.

    Args:
        data: the data set, one of `skipscope.data.DATASETS` that has classes.
        designs: names in `skipscope.designs.DESIGNS`; `twin` is the plain network of the residual one's parameters.
        depth: d, see `DESIGNS`: blocks of a residual network and of its twin.
        width: units of the hidden layers.
        seeds: the seeds; every design sees the same.
        recipe: how they are trained.
        data_seed: of the data set: one split for all seeds.
        order: of a block, see `skipscope.spec`; the paper's unless given, as the norm.
        norm: of all layers.
        folder: keeps what is measured, so that the same call goes on where it was stopped; see `skipscope.runs`.
        chunk, jobs, progress: see `skipscope.studies.gather.gather`.
        **fields: further fields of `Spec.dense`.

    Raises:
        InputError: the data set has no classes, or a design, a depth or a field makes no sense, or the folder holds
            something else.
    """
    require_type("recipe", recipe, Recipe, "Recipe(steps=300) is one")
    known = datasets.load(data, seed=require_int("data_seed", data_seed, least=0))
    if known.classes is None:
        raise InputError(f"data {data!r} has no classes, but numbers to predict: use 'digits' or 'patterns'.")
    trials = []
    for name in listed("designs", designs, DESIGNS):
        given = {"features": known.features, "outputs": known.outputs, "order": order, "norm": norm, **fields}
        spec = design(name, depth=depth, width=width, **given)
        factors = {
            "study": "representation",
            "design": name,
            "depth": depth,
            "state": "in training",
            "chance": _chance(known),
            "data_seed": data_seed,
            **dataclasses.asdict(recipe),
        }
        told: dict[str, Any] = {"data_seed": data_seed, "quantities": _CURVES, "after": (look,)}
        # Both states, at the input, the first layer, every block and what follows them.
        more = 2 * len(REPRESENTATION_QUANTITIES) * (len(spec.body) + 4)
        trials.append(Trial(spec, data, recipe, factors, more=more, **told))
    return learn_in(folder, trials, seeds, chunk=chunk, jobs=jobs, progress=progress)


def look(trial: Trial, data: Dataset, trained: Trained) -> Readings:
    """The readings of the trained networks, and of what they were before (top-level, so that it can be sent)."""
    alive = () if trained.network is None else trained.network.seeds
    seeds = tuple(sorted([*alive, *(stopped.seed for stopped in trained.stopped)]))
    states = {"untrained": untrained(trial.spec, seeds, data), "trained": trained.network}
    return Readings.concat(
        [_measured(network, data, trial, state) for state, network in states.items() if network is not None]
    )


def _measured(network: NumpyNetwork, data: Dataset, trial: Trial, state: str) -> Readings:
    """The readings of networks in one state."""
    found: dict[str, list[Seen]] = {}
    classes = data.train.targets, data.test.targets

    def keep(site: str, train: Array, test: Array) -> None:
        found.setdefault(site, []).append(Seen(linear_accuracies(train, test, classes), principal(train)[0]))

    with one_thread(), np.errstate(all="ignore"):
        for single in _singles(network):
            walk(single, data, keep)
    factors = {**trial.factors, "data": data.name, "cotangent": "", "state": state}
    with network.inference():
        return tabulated(network, data.train.inputs, REPRESENTATION_QUANTITIES, found, factors=factors)


def walk(network: NumpyNetwork, data: Dataset, look_at: Callable[[str, Array, Array], None]) -> None:
    """Show one network all samples, in inference, and hand on what it makes of them, site by site.

    Args:
        network: of one seed.
        data: what it is shown.
        look_at: called with the site, and the activations of the training and of the test part, of shape (b, n) each.
    """
    samples = np.concatenate([data.train.inputs, data.test.inputs])  # in inference no sample minds another
    wanted = {site.site for site in network.sites if _asked(site)}

    class Observer:
        def wants(self, site: str) -> Collection[str]:
            return ("activation",) if site in wanted else ()

        def __call__(self, site: str, /, **roles: Any) -> None:
            if site in wanted and "activation" in roles:
                activations = np.asarray(roles["activation"][0], np.float64)
                look_at(site, activations[: data.train.size], activations[data.train.size :])

    with network.inference():
        network.run(samples, observe=Observer())


def _asked(site: Site) -> bool:
    """The input, whole blocks, and the layers that are in no block."""
    return site.kind in ("input", "block", "junction") or site.site in ("stem", "final", "head")


def _singles(network: NumpyNetwork) -> Iterator[NumpyNetwork]:
    """The networks of an ensemble one by one: all samples of all networks at once would be much to hold."""
    for row, seed in enumerate(network.seeds):
        own = {name: array[row : row + 1] for name, array in network.parameters.items()}
        single = NumpyNetwork(network.spec, (seed,), own)
        for name, array in network.running.items():
            single.running[name][...] = array[row : row + 1]
        yield single


def untrained(spec: Spec, seeds: tuple[int, ...], data: Dataset) -> NumpyNetwork:
    """The networks of a spec before their first step; batch normalisation's averages are those of the training part."""
    network = build(spec, seed=seeds)
    if network.running:
        _Averages(network, data.train.size).take(data.train.inputs)
    return network


class _Averages:
    """The observer that sets batch normalisation's running averages to what one batch has."""

    def __init__(self, network: NumpyNetwork, samples: int) -> None:
        self.network = network
        # Of b samples, the variance with b - 1 below, as in training.
        self.scales = {"batch_mean": 1.0, "batch_variance": samples / (samples - 1)}

    def take(self, inputs: Array) -> None:
        for row, single in enumerate(_singles(self.network)):
            self.row = row
            single.run(inputs, observe=self)

    def wants(self, site: str) -> Collection[str]:
        return tuple(self.scales) if f"{site}.running_mean" in self.network.running else ()

    def __call__(self, site: str, /, **roles: Any) -> None:
        for role, scale in self.scales.items():
            if role in roles:
                self.network.running[f"{site}.{role.replace('batch', 'running')}"][self.row] = roles[role][0] * scale


def _chance(data: Dataset) -> float:
    """The share of the test part that is of the training part's most frequent class."""
    return float((data.test.targets == np.bincount(data.train.targets).argmax()).mean())
