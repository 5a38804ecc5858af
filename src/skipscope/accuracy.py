"""How often a trained network is right: top-1, top-5 and confusion over a part of a data set, with intervals.

Networks are looked at in inference, a piece of the data at a time. Which class a network predicts is defined for every
output, so that engines can be held against each other image by image: the largest output wins, of equal ones that of
the lowest class, and an output with nan or inf in it predicts nothing and is wrong. `network_of` makes a network of a
file of weights, on either engine; PyTorch is imported where it is asked for. Imports the engines and the data sets.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from skipscope.data import Dataset, Images
from skipscope.engines import pretrained
from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.engines.room import Room
from skipscope.engines.spread import threads
from skipscope.errors import InputError, choose, require_int, require_type
from skipscope.intervals import wilson_bound
from skipscope.protocol import Run
from skipscope.spec import Spec

if TYPE_CHECKING:
    from skipscope.engines.torch_engine import TorchNetwork

__all__ = [
    "Accuracy",
    "Agreement",
    "Engine",
    "Inferring",
    "Share",
    "accuracies",
    "accuracy",
    "agreement",
    "network_of",
    "spec_for",
]

Array = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]
Engine = Literal["numpy", "torch"]
Progress = Callable[[int, int], None]
"""Called with how many samples are done, and how many there are."""

_NOTHING = -1  # the prediction where an output is no number


class Inferring(Protocol):
    """What both engines' networks have, and all that is asked of them here."""

    @property
    def spec(self) -> Spec:
        """What the network is."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds along the leading axis."""

    def inference(self) -> AbstractContextManager[None]:
        """Within the context batch normalisation takes its running averages."""

    def run(self, batch: Any) -> Run:
        """One forward pass."""


# ----------------------------------------------------------------------------------------------------- what is found


@dataclass(frozen=True)
class Share:
    """A share of samples, with its 95 % interval (Wilson 1927).

    The interval is about other samples of the same law, for this network as it is; not about other trainings of it.

    Attributes:
        right: how many.
        n: of how many, 1 or more.
    """

    right: int
    n: int

    @property
    def value(self) -> float:
        """The share itself."""
        return self.right / self.n

    @property
    def low(self) -> float:
        """The lower end of its interval."""
        return float(wilson_bound(self.value, self.n, -1))

    @property
    def high(self) -> float:
        """The upper end of its interval."""
        return float(wilson_bound(self.value, self.n, +1))


@dataclass(frozen=True, kw_only=True, eq=False)
class Accuracy:
    """What one network said of every sample of a part.

    Attributes:
        data: the data set's name.
        part: of it.
        seed: of the network.
        class_names: what the labels mean, in their order.
        labels: the true class of every sample, of shape (b,).
        predictions: the class of the largest output, of equal ones the lowest; -1 where an output is not finite; (b,).
        rank: how many classes are before the true one in the order of the outputs, of equal ones the lower classes; as
            many as there are classes where an output is not finite; (b,).
        margin: the largest output less the second largest, in float64; nan where an output is not finite; (b,).
    """

    data: str
    part: str
    seed: int
    class_names: tuple[str, ...]
    labels: Indices = field(repr=False)
    predictions: Indices = field(repr=False)
    rank: Indices = field(repr=False)
    margin: Array = field(repr=False)

    def __post_init__(self) -> None:
        for array in (self.labels, self.predictions, self.rank, self.margin):
            array.flags.writeable = False

    @property
    def n(self) -> int:
        """How many samples there are."""
        return len(self.labels)

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def top1(self) -> Share:
        """Samples whose prediction is right; the paper's error is 1 less this."""
        return self.top(1)

    @property
    def top5(self) -> Share | None:
        """Samples whose class is among the five largest outputs; None where there are no more than five classes."""
        return self.top(5) if self.classes > 5 else None

    def top(self, k: int) -> Share:
        """Samples whose class is among the k largest outputs; those with an output that is not finite are not.

        Raises:
            InputError: k is no whole number of at least 1, or not below the number of classes.
        """
        if require_int("k", k, least=1) >= self.classes:
            raise InputError(f"k must be below the number of classes, {self.classes}, or all are right; got {k}.")
        return Share(int((self.rank < k).sum()), self.n)

    @property
    def not_finite(self) -> int:
        """Samples of whose outputs one is nan or inf: they are counted as wrong."""
        return int((self.predictions == _NOTHING).sum())

    @cached_property
    def confusion(self) -> Indices:
        """How many samples of a class (rows) were taken for which (columns); without those that are not finite."""
        told = self.predictions != _NOTHING
        pairs = self.labels[told] * self.classes + self.predictions[told]
        table: Indices = np.bincount(pairs, minlength=self.classes**2).reshape(self.classes, self.classes)
        table.flags.writeable = False
        return table

    @cached_property
    def recall(self) -> tuple[Share | None, ...]:
        """Of the samples of every class those that are predicted right; None where the part has none of the class."""
        counts = np.bincount(self.labels, minlength=self.classes).tolist()
        right = np.diag(self.confusion).tolist()
        return tuple(Share(hits, count) if count else None for hits, count in zip(right, counts, strict=True))

    @cached_property
    def chance(self) -> float:
        """The share of the commonest class in the part: what the same answer to every sample gets right at best."""
        return float(np.bincount(self.labels).max() / self.n)

    @property
    def at_chance(self) -> bool:
        """Whether the interval of top-1 does not lie above chance: the network tells nothing that can be seen here."""
        return self.top1.low <= self.chance


@dataclass(frozen=True, eq=False)
class Agreement:
    """Whether two networks, or one on two engines, predict the same.

    Attributes:
        n: samples.
        differing: those of which they do not predict the same, of shape (b,).
        closest: the smallest margin of either, over the samples on which they differ, or, if there are none, over all;
            nan if no output is finite.
        moved: the largest difference between the margins of both: what the arithmetic does to them.
    """

    n: int
    differing: Indices
    closest: float
    moved: float


def agreement(one: Accuracy, other: Accuracy) -> Agreement:
    """How two accuracies on the same samples compare, sample by sample.

    Raises:
        InputError: they are of different samples.
    """
    if not np.array_equal(one.labels, other.labels) or one.class_names != other.class_names:
        raise InputError("agreement is of two accuracies on the same samples: give the same data and part to both.")
    differing = np.flatnonzero(one.predictions != other.predictions)
    margins = np.fmin(one.margin, other.margin)
    among = margins[differing] if len(differing) else margins
    return Agreement(
        one.n,
        differing,
        closest=float(np.fmin.reduce(among, initial=np.nan)),
        moved=float(np.fmax.reduce(np.abs(one.margin - other.margin), initial=np.nan)),
    )


# --------------------------------------------------------------------------------------------------- how it is found


def accuracy(network: Inferring, data: Dataset | Images, **asked: Any) -> Accuracy:
    """The accuracy of one network; see `accuracies`, which takes ensembles and has the arguments.

    Raises:
        InputError: it is an ensemble of several, or does not fit the data.
    """
    found = accuracies(network, data, **asked)
    if len(found) > 1:
        raise InputError(f"network is an ensemble of {len(found)}: accuracies(network, data) gives one for every seed.")
    return found[0]


def accuracies(
    network: Inferring,
    data: Dataset | Images,
    *,
    part: str = "test",
    batch: int = 128,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> tuple[Accuracy, ...]:
    """The accuracy of every network of an ensemble, in the order of its seeds, in inference.

    Args:
        network: of either engine.
        data: with classes; the images of a part are shown as they are, neither cropped nor mirrored.
        part: `"test"`, `"train"`, or, of images, `"validation"` where some were held out.
        batch: samples at once; what is computed does not depend on it but for the last bits.
        jobs: threads; one for every core if not given.
        progress: see `Progress`.

    Raises:
        InputError: it is no such network, these are no data with classes, or they do not fit each other.
    """
    _require_fit(network, data)
    pieces = data.pieces(part, size=require_int("batch", batch, least=1))  # checks the part
    total = getattr(data, part).size
    labels, told = [], []
    done = 0
    with network.inference(), Room().used(), _hands(jobs), np.errstate(all="ignore"):
        for piece in pieces:
            labels.append(np.asarray(piece.targets, np.int64))
            told.append(_told(np.asarray(network.run(piece.inputs).output), labels[-1]))
            done += len(labels[-1])
            if progress is not None:
                progress(done, total)
    predictions, rank, margin = (np.concatenate(each, axis=1) for each in zip(*told, strict=True))
    return tuple(
        Accuracy(
            data=data.name,
            part=part,
            seed=seed,
            class_names=data.class_names,
            labels=np.concatenate(labels),
            predictions=predictions[row].copy(),
            rank=rank[row].copy(),
            margin=margin[row].copy(),
        )
        for row, seed in enumerate(network.seeds)
    )


def _told(output: Array, labels: Indices) -> tuple[Indices, Indices, Array]:
    """Predictions, ranks of the true class and margins, each of shape (s, b), of outputs of shape (s, b, n)."""
    classes = output.shape[-1]
    known = np.isfinite(output).all(axis=-1)
    predictions = np.where(known, output.argmax(axis=-1), _NOTHING)  # the first of the largest
    own = np.take_along_axis(output, np.broadcast_to(labels[:, None], (*output.shape[:-1], 1)), axis=-1)
    before = np.arange(classes) < labels[:, None]
    rank = np.where(known, ((output > own) | ((output == own) & before)).sum(axis=-1), classes)
    top = np.partition(output.astype(np.float64), classes - 2, axis=-1)[..., -2:]
    return predictions, rank, np.where(known, top[..., 1] - top[..., 0], np.nan)


@contextmanager
def _hands(jobs: int | None) -> Iterator[None]:
    """So many threads in the engines, where a number is given."""
    if jobs is None:
        yield
        return
    from threadpoolctl import threadpool_limits  # not at import, which `skipscope --help` pays for

    number = require_int("jobs", jobs, least=1)
    with threads(number), threadpool_limits(limits=number):
        yield


def _require_fit(network: Inferring, data: Dataset | Images) -> None:
    spec = getattr(network, "spec", None)
    if not isinstance(spec, Spec):
        raise InputError(
            "network must be one of skipscope's engines, as skipscope.build and accuracy.network_of make one; got "
            f"{type(network).__name__}."
        )
    if not isinstance(data, Images):
        require_type("data", data, Dataset, "skipscope.data.load_images('digits', seed=0) is one")
    if data.classes is None:
        raise InputError(f"{data.name!r} is a regression and has no classes: its error is its loss.")
    if data.classes < 2:
        raise InputError(f"{data.name!r} has one class, of which nothing can be told; give data of 2 classes or more.")
    shape = data.shape if isinstance(data, Images) else (data.features,)
    if (spec.input_shape, spec.head.features) != (shape, data.classes):
        raise InputError(
            f"the network takes {_shape(spec.input_shape)} and tells {spec.head.features} classes, but {data.name!r} "
            f"has {_shape(shape)} a sample and {data.classes} classes: give the one that fits the other."
        )


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) + (" numbers" if len(shape) == 1 else "")


# ------------------------------------------------------------------------------------------------- files of weights


def spec_for(path: str | os.PathLike[str], data: Images) -> Spec:
    """What the names and shapes in a file of weights mean, for images of the size that a data set has.

    Raises:
        InputError: the file cannot be read or is of no known network, or takes other channels or classes than these.
    """
    require_type("data", data, Images, "skipscope.data.load_images('cifar10', seed=0) is one")
    spec = pretrained.spec_of(path)
    channels, size, _ = data.shape
    if (spec.stem.features, spec.head.features) != (channels, data.classes):
        raise InputError(
            f"{str(path)!r} is of a network for {_counted(spec.stem.features, 'channel')} and "
            f"{_counted(spec.head.features, 'class')}, and {data.name!r} has {_counted(channels, 'channel')} and "
            f"{_counted(data.classes, 'class')}: give the data that it was trained on."
        )
    return replace(spec, stem=replace(spec.stem, size=size))


def _counted(number: int, what: str) -> str:
    plural = "" if number == 1 else "es" if what.endswith("s") else "s"
    return f"{number} {what}{plural}"


def network_of(
    path: str | os.PathLike[str], spec: Spec, *, engine: Engine = "numpy", device: str = "cpu"
) -> NumpyNetwork | TorchNetwork:
    """The network whose weights are in a file; see `skipscope.engines.pretrained.load`.

    Args:
        path: of a file of safetensors, or one that `torch.save` wrote.
        spec: what the network is; its dtype is what is computed with.
        engine: `"numpy"` or `"torch"`.
        device: of the torch engine; see `skipscope.engines.torch_devices.device_for`.

    Raises:
        InputError: the file cannot be read or does not fit the spec, or PyTorch or the device is not there.
    """
    choose("engine", engine, get_args(Engine))
    make: Callable[..., NumpyNetwork | TorchNetwork]
    if engine == "torch":
        make = _torch_network(device)
    elif device != "cpu":
        raise InputError(f"device={device!r} is for engine='torch': NumPy computes on the cpu.")
    else:
        make = NumpyNetwork
    arrays = pretrained.load(path, spec)
    running = {name: array for name, array in arrays.items() if ".running_" in name}
    parameters = {name: array for name, array in arrays.items() if name not in running}
    return make(spec, (0,), parameters, running=running)


def _torch_network(device: str) -> Callable[..., TorchNetwork]:
    """What makes a network on PyTorch, imported no sooner than it is asked for."""
    try:
        from skipscope.engines.torch_engine import TorchNetwork
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise InputError("engine='torch' needs PyTorch: pip install 'skipscope[torch]'.") from None
    return lambda *given, **fields: TorchNetwork(*given, **fields, device=device)
