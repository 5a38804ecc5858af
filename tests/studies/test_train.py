"""Study `train`: what it trains, the files that it leaves, and that both engines write the same readings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from skipscope import InputError, Spec, build, studies
from skipscope.data import load_images
from skipscope.engines import pretrained
from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.losses import CrossEntropy
from skipscope.training import TRAINING_QUANTITIES, Recipe, Ways, evaluate, train

DIGITS = load_images("digits", seed=0)
SMALL: dict[str, Any] = {"width": 4, "steps": 6, "batch": 16, "record": 2}


def test_it_is_training_with_the_papers_recipe_on_networks_that_fit():
    found = studies.train(["cifar-8-plain", "cifar-8"], **SMALL, seeds=(3, 5))
    spec = Spec.cifar(8, width=4, size=8, channels=1)
    recipe = Recipe(steps=6, batch=16, rate=0.1, schedule="drops", momentum=0.9, weight_decay=1e-4)
    by_hand = train(build(spec, seed=(3, 5)), DIGITS, recipe, record=2).readings

    key = ["seed", "step", "quantity", "value"]
    cells = found.cells.filter(design="cifar")
    assert found.rows.filter(cell=cells["cell"].item()).select(key).sort(key).equals(by_hand.rows.select(key).sort(key))
    told = cells.row(0, named=True)
    assert Spec.from_json(told["spec"]) == spec
    assert (told["study"], told["depth"], told["rate"], told["steps"]) == ("train", 8, 0.1, 6)
    assert (told["engine"], told["recipe"]) == ("numpy", recipe.told)
    assert told["data"] == f"digits, 1,347 images, {DIGITS.digest}"
    assert found.cells["design"].to_list() == ["cifar-plain", "cifar"]
    assert set(found.rows["quantity"]) == set(TRAINING_QUANTITIES)


def test_both_engines_write_the_same_readings():
    """In float64, to 1e-9: six steps magnify rounding by little."""
    asked: dict[str, Any] = {**SMALL, "dtype": "float64", "seeds": (3, 5)}
    numpy, torch = (studies.train(["cifar-8"], **asked, engine=engine) for engine in ("numpy", "torch"))

    key = ["seed", "step", "site", "quantity"]
    both = numpy.rows.join(torch.rows, on=key, how="full")
    assert both.height == numpy.rows.height == torch.rows.height
    np.testing.assert_allclose(both["value"], both["value_right"], rtol=1e-9)
    assert torch.cells["engine"].item() == "torch, cpu"
    same = [name for name in numpy.cells.columns if name not in ("cell", "engine")]
    assert numpy.cells.select(same).equals(torch.cells.select(same))


def test_from_110_layers_on_it_warms_up():
    found = studies.train(["cifar-110", "cifar-8"], width=1, steps=1, batch=2, record=1, data=DIGITS)
    told = dict(found.cells.select("depth", "recipe").iter_rows())
    assert "warm-up 1 at 0.01" in told[110]
    assert "warm-up 0," in told[8]


def test_the_warm_up_is_not_above_the_rate_that_it_warms_up_to():
    found = studies.train("cifar-110", width=1, steps=1, batch=2, record=1, data=DIGITS, rate=0.001)
    assert "warm-up 1 at 0.001" in found.cells["recipe"].item()


@pytest.mark.parametrize("engine", ["numpy", "torch"])
@pytest.mark.parametrize("name", ["cifar-8", "cifar-8-plain", "cifar-8-B", "cifar-8-A-both"])
def test_the_weights_it_saves_are_those_that_it_trained(name: str, engine: Any, tmp_path: Path):
    found = studies.train([name], **SMALL, seeds=(3, 5), engine=engine, save=tmp_path / "w.safetensors")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["w-seed3.safetensors", "w-seed5.safetensors"]
    for seed in (3, 5):
        file = tmp_path / f"w-seed{seed}.safetensors"
        spec = pretrained.spec_of(file)
        assert spec.to_json() == found.cells["spec"].item()
        arrays = pretrained.load(file, spec)
        running = {key: array for key, array in arrays.items() if ".running_" in key}
        weights = {key: array for key, array in arrays.items() if key not in running}
        _, error = evaluate(
            NumpyNetwork(spec, (seed,), weights, running=running), DIGITS.pieces("test"), CrossEntropy()
        )
        assert error is not None
        last = found.select(seed=seed, quantity="test_error", step=6).rows["value"].item()
        # The other engine rounds otherwise: of 450 images one may tip over.
        assert error[0] == last if engine == "numpy" else abs(error[0] - last) < 1.5 / 450


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_what_is_held_out_is_measured_and_not_trained_on(engine: Any, tmp_path: Path):
    held = load_images("digits", seed=0, validation=147)
    assert held.validation is not None
    file = tmp_path / "w.safetensors"
    found = studies.train(["cifar-8"], **SMALL, seeds=[3], data=held, engine=engine, save=file)
    assert found.cells["data"].item() == f"digits, 1,200 images and 147 held out, {held.digest}"
    assert set(found.rows["quantity"]) == {*TRAINING_QUANTITIES, "validation_loss", "validation_error"}

    last = dict(found.select(step=6).rows.select("quantity", "value").iter_rows())
    arrays = pretrained.load(file, pretrained.spec_of(file))
    running = {key: arrays.pop(key) for key in list(arrays) if ".running_" in key}
    network = NumpyNetwork(pretrained.spec_of(file), (3,), arrays, running=running)
    for part, size in (("train", 1200), ("validation", 147), ("test", 450)):
        loss, error = evaluate(network, held.pieces(part), CrossEntropy())
        assert error is not None
        assert last[f"{part}_loss"] == pytest.approx(loss[0], rel=1e-5)  # of float32
        # The other engine rounds otherwise: an image may tip over.
        assert (
            error[0] == last[f"{part}_error"]
            if engine == "numpy"
            else abs(error[0] - last[f"{part}_error"]) < 1.5 / size
        )


def test_names_in_the_file_are_those_of_public_repositories(tmp_path: Path):
    studies.train(["cifar-8-B"], **SMALL, save=tmp_path / "w.safetensors")
    names = pretrained.read(tmp_path / "w.safetensors").keys()
    assert {"conv1.weight", "bn1.running_var", "layer2.0.conv2.weight", "linear.bias"} <= names
    assert "layer2.0.shortcut.0.weight" in names


def test_every_network_goes_on_from_a_checkpoint_of_its_own(tmp_path: Path):
    asked: dict[str, Any] = {**SMALL, "seeds": (3, 5), "every": 2}
    names = ["cifar-8", "cifar-8-plain"]
    whole = studies.train(names, **asked)

    def stop(done: int, steps: int) -> None:
        assert steps == 12
        if done == 9:
            raise KeyboardInterrupt

    asked |= {"checkpoint": tmp_path / "c.st"}
    with pytest.raises(KeyboardInterrupt):
        studies.train(names, **asked, progress=stop)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["c-cifar-8-plain.st", "c-cifar-8.st"]
    told: list[int] = []
    again = studies.train(names, **asked, progress=lambda done, steps: told.append(done))

    assert again.equals(whole)
    assert told[0] > 6, "the first network was trained again"


def test_what_stops_is_in_the_readings():
    found = studies.train(["cifar-8"], **{**SMALL, "rate": 1e20}, norm="none", seeds=(3,))
    stopped = found.select(quantity="stopped").rows
    assert stopped["seed"].to_list() == [3]
    assert 0 < stopped["value"].item() <= 6


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"specs": "cifar-9"}, "depth must be 6n + 2"),
        ({"specs": []}, "specs is empty"),
        ({"specs": {"mine": Spec.dense(width=4, blocks=1)}}, "the network is dense, and digits is a set of images"),
        ({"data": "patterns"}, "data must be one of 'digits'"),
        ({"data": 3}, "data must be a Images"),
        ({"engine": "jax"}, "engine must be one of 'numpy', 'torch'; got 'jax'"),
        ({"steps": -1}, "steps must be at least 0"),
        ({"batch": 5000}, "batch=5000 is more than digits has"),
        ({"rate": -1}, "rate must be at least 0"),
        ({"record": 0}, "record must be at least 1"),
        ({"every": -1}, "every must be at least 0"),
        ({"jobs": 0}, "jobs must be at least 1"),
        ({"ways": Ways(autocast=True)}, "are PyTorch's, and this network is of the NumPy engine"),
        ({"engine": "torch", "ways": Ways(device="gpu")}, "device must be one of"),
        ({"width": 0}, "width must be at least 1"),
        ({"order": "pre-activation", "save": "w.safetensors"}, "of others no names are known"),
        ({"save": "no/such/folder/w"}, "cannot write 'no/such/folder/w'"),
        ({"checkpoint": "no/such/folder/c"}, "cannot write 'no/such/folder/c'"),
        ({"batch": 100, "width": 10**7}, "this is too large"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(asked: dict[str, Any], said: str):
    with pytest.raises(InputError) as refusal:
        studies.train(**{"specs": "cifar-8", **(SMALL if "specs" not in asked else {}), **asked})

    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_readings_are_at_the_network_alone():
    found = studies.train("cifar-8", **SMALL, seeds=2)
    assert found.rows["site"].unique().to_list() == ["network"]
    assert found.rows.filter(pl.col("step") == 0)["quantity"].is_in(["train_loss", "test_error"]).any() is False
