"""Which networks, data and recipes fit each other, and by which loss a data set is learned."""

from __future__ import annotations

from skipscope.data import Dataset, Images
from skipscope.errors import InputError, require_type
from skipscope.losses import CrossEntropy, MeanSquaredError
from skipscope.protocol import Loss
from skipscope.spec import Spec
from skipscope.training.recipe import Recipe

__all__ = ["loss_of", "require_data", "require_fit"]


def loss_of(data: Dataset | Images) -> Loss:
    """The loss by which a data set is learned.

    Raises:
        InputError: it is no data set.
    """
    require_data(data)
    return MeanSquaredError() if data.classes is None else CrossEntropy()


def require_data(data: object) -> None:
    """Refuse what is no data set.

    Raises:
        InputError: it is none.
    """
    if not isinstance(data, Images):
        require_type("data", data, Dataset, "skipscope.data.load('digits', seed=0) is one")


def require_fit(spec: Spec, data: Dataset | Images, recipe: Recipe) -> None:
    """Refuse a network that cannot be trained like that.

    Raises:
        InputError: it takes or gives another number of features than the data have, or the batch is too large or too
            small.
    """
    if spec.images or isinstance(data, Images):
        _require_images(spec, data)
    elif (spec.stem.features, spec.head.features) != (data.features, data.outputs):
        raise InputError(
            f"the network takes {spec.stem.features} numbers and gives {spec.head.features}, but {data.name} has "
            f"{data.features} a sample and needs {data.outputs}: use Spec.dense(features={data.features}, "
            f"outputs={data.outputs}, ...)."
        )
    if recipe.batch > data.train.size:
        raise InputError(f"batch={recipe.batch} is more than {data.name} has to train on, {data.train.size}.")
    if spec.coupled and recipe.batch * spec.body_size**2 == 1:
        raise InputError("batch=1 leaves batch normalisation nothing to compare: use 2 samples or more a step.")


def _require_images(spec: Spec, data: Dataset | Images) -> None:
    if not isinstance(data, Images):
        raise InputError(
            f"the network takes images, and {data.name} is no set of images: use skipscope.data.load_images."
        )
    if not spec.images:
        raise InputError(f"the network is dense, and {data.name} is a set of images: use Spec.cifar, or another set.")
    channels, height, width = data.shape
    if (spec.input_shape, spec.head.features) != (data.shape, data.outputs):
        own = "x".join(map(str, spec.input_shape))
        raise InputError(
            f"the network takes images of {own} and gives {spec.head.features} numbers, but {data.name} has "
            f"{channels}x{height}x{width} and {data.outputs} classes: use Spec.cifar(channels={channels}, "
            f"size={height}, classes={data.outputs}, ...)."
        )
