"""Training of convolutional networks: as PyTorch trains them, the same bits however it is carried out, and refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from skipscope import InputError, Spec, build
from skipscope.data import Augmentation, Images, load, load_images
from skipscope.losses import CrossEntropy
from skipscope.training import Recipe, evaluate, train

DIGITS = load_images("digits", seed=0)
FIELDS: dict[str, Any] = {"width": 4, "size": 8, "channels": 1, "dtype": "float64"}
SPEC = Spec.cifar(8, **FIELDS)
RECIPE = Recipe(steps=4, batch=16, rate=0.1)


def arrays_of(trained: Any) -> dict[str, Any]:
    assert trained.network is not None, trained.stopped
    return trained.network.arrays


def test_three_steps_are_those_of_torch():
    """Weights and running averages, with momentum and weight decay, to 1e-9: rounding is 1e-16, in few layers."""
    recipe = dataclasses.replace(RECIPE, steps=3, rate=0.05)
    ours = arrays_of(train(build(SPEC, seed=[4]), DIGITS, recipe, record=()))

    theirs = {name: torch.tensor(array[0]) for name, array in build(SPEC, seed=[4]).arrays.items()}
    weights = {name: nn.Parameter(array) for name, array in theirs.items() if ".running_" not in name}
    optimizer = torch.optim.SGD(weights.values(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    held = theirs | weights
    batches = DIGITS.batches([4], size=16)
    for _ in range(3):
        batch = next(batches)
        optimizer.zero_grad()
        loss = functional.cross_entropy(
            forward(held, torch.tensor(batch.inputs[0], dtype=torch.float64)), torch.tensor(batch.targets[0])
        )
        loss.backward()
        optimizer.step()

    for name, array in ours.items():
        np.testing.assert_allclose(array[0], held[name].detach().numpy(), rtol=0, atol=1e-9, err_msg=name)


def forward(held: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The residual network of 8 layers of the paper, option A, with PyTorch's batch normalisation."""

    def layer(x: torch.Tensor, site: str, stride: int = 1) -> torch.Tensor:
        x = functional.conv2d(x, held[f"{site}.weight"], stride=stride, padding=1)
        mean, variance = held[f"{site}.running_mean"], held[f"{site}.running_variance"]
        return functional.batch_norm(x, mean, variance, held[f"{site}.gamma"], held[f"{site}.beta"], training=True)

    x = layer(x, "stem").relu()
    for number in (1, 2, 3):
        stride = 1 if number == 1 else 2
        site = f"stage{number}.block1"
        branch = layer(layer(x, f"{site}.layer1", stride).relu(), f"{site}.layer2")
        more = branch.shape[1] - x.shape[1]
        x = (functional.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, more)) + branch).relu()
    return functional.linear(x.mean((2, 3)), held["head.weight"], held["head.bias"])


@pytest.mark.parametrize("fields", [{}, {"shortcut": "B", "order": "pre-activation"}, {"norm": "none"}])
def test_a_seed_is_trained_to_the_same_bits_alone_in_an_ensemble_and_on_threads(fields: dict[str, Any]):
    spec = Spec.cifar(8, **FIELDS | fields)
    together = train(build(spec, seed=[3, 1]), DIGITS, RECIPE, record=2, jobs=2)
    alone = train(build(spec, seed=[1]), DIGITS, RECIPE, record=2)

    for name, array in arrays_of(alone).items():
        np.testing.assert_array_equal(array[0], arrays_of(together)[name][1], err_msg=name)
    both = together.readings.rows.filter(together.readings.rows["seed"] == 1)
    assert both.select("step", "quantity", "value").equals(alone.readings.rows.select("step", "quantity", "value"))


def test_training_goes_on_from_a_checkpoint(tmp_path: Path):
    data = varied()
    spec = Spec.cifar(8, **FIELDS)
    whole = train(build(spec, seed=[3, 1]), data, RECIPE, record=1)
    path = tmp_path / "state"

    def stop(done: int, steps: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(build(spec, seed=[3, 1]), data, RECIPE, record=1, checkpoint=path, every=2, progress=stop)
    again = train(build(spec, seed=[3, 1]), data, RECIPE, record=1, checkpoint=path)

    for name, array in arrays_of(whole).items():
        np.testing.assert_array_equal(array, arrays_of(again)[name], err_msg=name)
    assert whole.readings.rows.equals(again.readings.rows)


def varied() -> Images:
    """A few digits whose mini-batches are cropped and mirrored."""
    train, test = ((part.inputs[:40], part.targets[:40]) for part in (DIGITS.train, DIGITS.test))
    varied = Augmentation(padding=1, mirror=True)
    return Images.from_pixels(train=train, test=test, classes=10, full=16, augmentation=varied)


def test_digits_are_learned():
    """A network of 4 channels, in 60 steps: four fifths of the images that it has not seen, by running averages."""
    spec = Spec.cifar(8, **FIELDS | {"dtype": "float32"})
    trained = train(build(spec, seed=[0]), DIGITS, Recipe(steps=60, batch=64, rate=0.1), record=1)

    assert trained.network is not None
    loss, error = evaluate(trained.network, DIGITS.pieces("test"), CrossEntropy())
    last = {row["quantity"]: row["value"] for row in trained.readings.rows.to_dicts() if row["step"] == 60}
    assert error is not None
    assert error[0] < 0.2
    assert last["test_error"] == error[0]
    assert last["test_loss"] == loss[0]


def test_pieces_are_evaluated_as_the_whole():
    spec = Spec.cifar(8, **FIELDS)
    network = train(build(spec, seed=[0, 1]), DIGITS, RECIPE, record=()).network
    assert network is not None
    whole = next(DIGITS.pieces("test", size=10_000))

    pieces, one = (evaluate(network, each, CrossEntropy()) for each in (DIGITS.pieces("test", size=100), whole))

    assert pieces[1] is not None
    np.testing.assert_array_equal(pieces[1], one[1])
    # The same images, in products of other sizes.
    np.testing.assert_allclose(pieces[0], one[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("spec", "data", "message"),
    [
        (SPEC, load("digits", seed=0), r"the network takes images, and digits is no set of images"),
        (
            Spec.dense(width=4, blocks=1, features=64, outputs=10),
            DIGITS,
            "the network is dense, and digits is a set of",
        ),
        (
            Spec.cifar(8),
            DIGITS,
            r"takes images of 3x32x32 .* 1x8x8 and 10 classes: use Spec\.cifar\(channels=1, size=8",
        ),
        (Spec.cifar(8, **FIELDS, classes=3), DIGITS, "gives 3 numbers, but digits has"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(spec: Spec, data: Any, message: str):
    with pytest.raises(InputError, match=message):
        train(build(spec, seed=0), data, RECIPE)


def test_a_single_image_is_enough_where_there_are_positions_to_compare():
    recipe = dataclasses.replace(RECIPE, batch=1)

    assert train(build(SPEC, seed=0), DIGITS, recipe, record=()).network is not None
    one = np.eye(4, dtype=np.uint8)[None], [0]
    tiny = build(Spec.cifar(8, **FIELDS | {"size": 4, "classes": 2}), seed=0)
    with pytest.raises(InputError, match="batch=1 leaves batch normalisation nothing to compare"):
        train(tiny, Images.from_pixels(train=one, test=one, classes=2), recipe)
