"""Study `responses`: that what is measured is the layer's response, and what gamma and beta alone say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from skipscope import InputError, Readings, Spec, build
from skipscope.data import Augmentation, load_images
from skipscope.engines import pretrained
from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.engines.torch_engine import TorchNetwork
from skipscope.studies import responses
from skipscope.studies.layer_response import law, measured_responses, parameter_responses, places
from skipscope.studies.responses import _shown
from skipscope.training import Recipe

SMALL: dict[str, Any] = {"width": 4, "size": 8, "dtype": "float64"}
NETWORKS = {
    "A": Spec.cifar(14, **SMALL),
    "plain": Spec.cifar(14, shortcut="none", **SMALL),
    "C": Spec.cifar(8, shortcut="C", **SMALL),
    "gains": Spec.cifar(8, branch_gain=0.5, **SMALL),
    "before-add": Spec.cifar(8, order="before-add", **SMALL),
    "pre-activation": Spec.cifar(8, shortcut="B", order="pre-activation", **SMALL),
    "plain, pre-activation": Spec.cifar(8, shortcut="none", order="pre-activation", **SMALL),
    "ImageNet, 18, plain": Spec.imagenet(18, shortcut="none", width=4, size=32, classes=3, dtype="float64"),
    "ImageNet, 50": Spec.imagenet(50, width=4, size=32, classes=3, dtype="float64"),
}
RECIPE = Recipe(steps=4, batch=16, rate=0.05)
TRAINED: dict[str, Any] = {"specs": ["cifar-8", "cifar-8-plain"], "width": 2, "recipe": RECIPE, "batch": 24}


def moved(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """With gamma and beta, and the averages, as training might have moved them: away from 1, 0 and each other."""
    rng = np.random.default_rng(5)
    found = {}
    for name, array in arrays.items():
        kind = name.rpartition(".")[2]
        drawn = rng.standard_normal(array.shape)
        known = {"gamma": 0.7 + 0.6 * drawn, "beta": 0.8 * drawn, "running_mean": 0.3 * drawn}
        known["running_variance"] = np.exp(0.4 * drawn)
        found[name] = known.get(kind, array).astype(array.dtype)
    return found


def network_of(spec: Spec, kind: Any = NumpyNetwork, seeds: tuple[int, ...] = (0, 1)) -> Any:
    drawn = build(spec, seed=seeds)
    return kind(spec, seeds, moved(drawn.parameters), running=moved(drawn.running))


def images_for(spec: Spec, samples: int = 6) -> Any:
    return np.random.default_rng(1).standard_normal((samples, *spec.input_shape))


# ------------------------------------------------------------------------------------------------- what a response is


@pytest.mark.parametrize("kind", [NumpyNetwork, TorchNetwork])
@pytest.mark.parametrize("name", NETWORKS)
def test_in_training_mode_the_law_is_exact_for_every_layer(name: str, kind: Any):
    spec = NETWORKS[name]
    measured, laws = measured_responses(network_of(spec, kind), images_for(spec))

    assert list(measured) == [place.site for place in places(spec)]
    assert list(laws) == [place.site for place in places(spec) if place.norm]
    for site, expected in laws.items():
        assert measured[site].shape == (2,)
        # Rounding of float64 is 1e-16; the issue asks for 1e-5.
        np.testing.assert_allclose(measured[site], expected, rtol=1e-9, err_msg=site)


def test_in_float32_it_holds_to_what_the_issue_asks_for():
    spec = Spec.cifar(20, width=8, size=16)
    measured, laws = measured_responses(network_of(spec), images_for(spec, 16))

    for site, expected in laws.items():
        np.testing.assert_allclose(measured[site], expected, rtol=1e-5, err_msg=site)


def test_every_layer_of_the_papers_order_has_a_response_of_its_own():
    for name in ("A", "plain", "C", "before-add", "ImageNet, 50"):
        spec = NETWORKS[name]
        layers = {layer.site for layer in (*spec.layers, *spec.projections)} - {"head"}
        assert {place.site for place in places(spec)} == layers
        assert all(place.norm == place.seen == place.site for place in places(spec))


def test_in_pre_activation_order_the_next_normalisation_is_the_one_that_follows():
    found = {place.site: place for place in places(NETWORKS["pre-activation"])}
    assert found["stem"].norm == ""  # the stream, which the first shortcut takes as it is
    assert found["stage1.block1.layer1"].norm == "stage1.block1.layer2"
    last = found["stage1.block1.layer2"]
    assert (last.seen, last.role, last.norm) == ("stage1.block1", "branch", "")
    assert found["stage2.block1.shortcut"].norm == ""

    plain = {place.site: place.norm for place in places(NETWORKS["plain, pre-activation"])}
    assert plain["stem"] == "stage1.block1.layer1"
    assert plain["stage1.block1.layer2"] == "stage2.block1.layer1"
    assert plain["stage3.block1.layer2"] == "final"


# ------------------------------------------------------------------------------------------------------------- the law


def test_the_law_is_that_of_a_mixture_of_channels():
    rng = np.random.default_rng(0)
    gamma, beta, variance = rng.standard_normal((3, 5)), rng.standard_normal((3, 5)), rng.random((3, 5))
    x = rng.standard_normal((3, 5, 400))
    x = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)  # exactly 0 and 1
    y = gamma[..., None] * x + beta[..., None]
    np.testing.assert_allclose(law(gamma, beta), y.std((1, 2)), rtol=1e-12)

    shrunk = np.sqrt(variance / (variance + 1e-5))[..., None] * gamma[..., None] * x + beta[..., None]
    np.testing.assert_allclose(law(gamma, beta, variance), shrunk.std((1, 2)), rtol=1e-12)


def test_eps_is_in_the_law_where_the_batch_hardly_varies():
    spec = NETWORKS["plain"]
    network = network_of(spec)
    network.parameters["stem.weight"][...] *= 1e-3  # a variance of about eps
    measured, laws = measured_responses(network, images_for(spec))

    alone = parameter_responses(spec, network.parameters)["stem"]
    np.testing.assert_allclose(measured["stem"], laws["stem"], rtol=1e-9)
    assert (measured["stem"] < 0.98 * alone).all()


# ------------------------------------------------------------------------------------------------- trained networks


@pytest.fixture(scope="module")
def readings() -> Readings:
    return responses(**TRAINED, seeds=(3, 5))


def of(readings: Readings, quantity: str = "response_std", **told: Any) -> dict[tuple[int, str], float]:
    rows = readings.rows.filter(quantity=quantity).join(readings.cells.filter(**told), on="cell", how="semi")
    return {(seed, site): value for seed, site, value in rows.select("seed", "site", "value").iter_rows()}


def test_a_trained_network_is_measured_in_every_mode(readings: Readings):
    assert set(readings.cells["mode"]) == {"learning", "parameters", "training", "inference"}
    assert set(readings.cells["source"]) == {"trained"}
    assert set(readings.rows["step"]) == {RECIPE.steps}
    sites = {(seed, place.site) for seed in (3, 5) for place in places(Spec.cifar(8))}
    for design in ("cifar-8", "cifar-8-plain"):
        found = {mode: of(readings, design=design, mode=mode) for mode in ("parameters", "training", "inference")}
        assert all(values.keys() == sites for values in found.values())
        laws = of(readings, "response_law", design=design, mode="training")
        for key, value in found["training"].items():
            assert value == pytest.approx(laws[key], rel=1e-5)
            assert value == pytest.approx(found["parameters"][key], rel=1e-3)  # but for eps
            assert value != pytest.approx(found["inference"][key], rel=1e-3)  # averages of four steps lag behind
        assert of(readings, "test_error", design=design).keys() == {(3, "network"), (5, "network")}


def test_the_cells_say_which_images_and_which_statistics(readings: Readings):
    cells = {(cell["design"], cell["mode"]): cell for cell in readings.cells.to_dicts()}
    assert cells["cifar-8", "parameters"]["batch"] == 0
    assert cells["cifar-8", "training"]["batch"] == 24
    assert cells["cifar-8", "training"]["edit"] == ""
    assert cells["cifar-8", "inference"]["edit"] == "batch norm: running averages"


def test_as_initialised_every_normalised_response_is_one():
    told = {**TRAINED, "specs": ["cifar-8", "cifar-20-plain"], "recipe": Recipe(steps=0)}
    found = responses(**told, seeds=2)

    assert set(found.cells["mode"]) == {"parameters", "training"}  # nobody has averages yet
    assert set(of(found, mode="parameters").values()) == {1.0}
    assert all(0.99 < value <= 1 + 1e-9 for value in of(found, mode="training").values())


def test_no_number_depends_on_chunks_workers_or_where_it_was_stopped(readings: Readings, tmp_path: Path):
    paths = [tmp_path / f"{name}.parquet" for name in ("whole", "cut", "kept", "again")]
    kept: dict[str, Any] = {"folder": tmp_path / "work"}
    readings.save(paths[0])
    responses(**TRAINED, seeds=(3, 5), chunk=1).save(paths[1])
    responses(**TRAINED, seeds=(3, 5), **kept).with_meta(readings.meta).save(paths[2])
    responses(**TRAINED, seeds=(3, 5), **kept).with_meta(readings.meta).save(paths[3])
    assert len({path.read_bytes() for path in paths}) == 1


def test_a_network_that_stops_says_where_and_has_no_response():
    told = {**TRAINED, "specs": "cifar-8-plain", "norm": "none", "recipe": Recipe(steps=12, batch=16, rate=1e12)}
    found = responses(**told, seeds=1)
    assert (found.rows["quantity"] == "stopped").sum() == 1
    assert not of(found)


# ---------------------------------------------------------------------------------------------------- files of weights


COLOUR = Spec.cifar(8, shortcut="A-both", **SMALL)


def written(path: Path, spec: Spec) -> Path:
    """Weights by the names that public repositories give."""
    drawn = build(spec, seed=0)
    arrays = moved(drawn.arrays)
    save_file({theirs: arrays[ours][0] for ours, theirs in pretrained.names_of(spec, ["linear.weight"]).items()}, path)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network of colour images."""
    return written(tmp_path_factory.mktemp("weights") / "mine.safetensors", COLOUR)


def test_gamma_and_beta_of_a_file_tell_without_data(file: Path):
    found = responses(weights=file)

    assert found.cells.select("design", "source", "mode", "data", "batch").rows() == [
        ("mine", "weights", "parameters", "", 0)
    ]
    state = load_file(file)
    gamma, beta = state["layer2.0.bn2.weight"], state["layer2.0.bn2.bias"]
    expected = np.sqrt((gamma**2).mean() + beta.var())
    assert of(found)[0, "stage2.block1.layer2"] == pytest.approx(expected, rel=1e-6)  # kept in float32
    assert len(of(found)) == len(places(Spec.cifar(8)))


def test_with_data_a_file_is_measured_beside_it(tmp_path: Path):
    path = written(tmp_path / "grey.safetensors", replace(COLOUR, stem=replace(COLOUR.stem, features=1)))
    found = responses(weights={"mine": path}, data="digits", batch=32, dtype="float64")

    assert found.cells["mode"].to_list() == ["parameters", "training", "inference"]
    assert Spec.from_json(found.cells["spec"][0]).input_shape == (1, 8, 8)
    laws, measured = of(found, "response_law"), of(found, mode="training")
    assert laws.keys() == measured.keys()
    assert all(measured[key] == pytest.approx(value, rel=1e-9) for key, value in laws.items())
    told: dict[str, Any] = {"data": "digits", "batch": 32, "dtype": "float64", "width": 4, "channels": 1}
    named = responses(weights=path, specs="cifar-8-A-both", **told)
    assert of(named, mode="inference") == of(found, mode="inference")


def test_several_files_have_a_spec_each_or_one_for_all(file: Path):
    two = responses(weights={"a": file, "b": file}, specs="cifar-8-plain", width=4)
    assert two.cells["design"].to_list() == ["a", "b"]
    assert all(Spec.from_json(text).stages[0].plain for text in two.cells["spec"])
    each = responses(weights={"a": file, "b": file}, specs=["cifar-8-plain", "cifar-8-A-both"], width=4)
    assert [Spec.from_json(text).stages[0].shortcut for text in each.cells["spec"]] == ["none", "A-both"]


def test_a_file_says_what_a_name_does_not(tmp_path: Path):
    grey = Spec.cifar(8, width=4, size=8, channels=1, classes=3)
    path = written(tmp_path / "grey.safetensors", grey)
    found = responses(weights={"a": path, "b": path}, specs=["cifar-8", "cifar-8-plain"])
    for text, shortcut in zip(found.cells["spec"], ("A", "none"), strict=True):
        spec = Spec.from_json(text)
        assert (spec.input_shape[0], spec.head.features, spec.width) == (1, 3, 4)
        assert spec.stages[0].shortcut == shortcut


def test_images_are_measured_as_they_are():
    plain = load_images("digits", seed=0)
    varied = replace(plain, augmentation=Augmentation(padding=2, mirror=True))
    shown = _shown(varied, 24)
    np.testing.assert_array_equal(shown, _shown(plain, 24))
    assert not np.array_equal(shown, next(varied.batches(0, size=24)).inputs)


def test_without_normalisation_only_data_tell(tmp_path: Path):
    bare = Spec.cifar(8, shortcut="none", norm="none", channels=1, **SMALL)
    path = written(tmp_path / "bare.safetensors", bare)
    with pytest.raises(InputError, match="without batch normalisation"):
        responses(weights=path, specs={"bare": bare})
    found = responses(weights=path, specs={"bare": bare}, data="digits", batch=16)
    assert found.cells["mode"].to_list() == ["training"]
    assert set(found.rows["quantity"]) == {"response_std"}


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"data": "digits"}, "takes images of 3 x 8 x 8, and 'digits' has 1 x 8 x 8"),
        ({"specs": ["cifar-8", "cifar-8", "cifar-8"], "width": 4}, "specs must be one for all 1 files"),
        ({"width": 4}, "width is for networks given by name"),
        ({"specs": "cifar-20-A-both", "width": 4}, "does not fit the spec"),
        ({"specs": {"a": Spec.dense(width=4, blocks=1)}}, "'mine' is dense"),
        ({"specs": "cifar-8", "width": 4, "order": "pre-activation"}, "not of pre-activation order"),
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"batch": 0}, "batch must be at least 1"),
    ],
    ids=str,
)
def test_what_does_not_fit_a_file_is_said(file: Path, told: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        responses(weights=file, **told)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"weights": []}, "weights is empty"),
        ({"weights": "nowhere.safetensors"}, "no such file"),
        ({"weights": ["a/x.pt", "b/x.pt"]}, "two files would be called alike"),
        ({"data": "mnist"}, "data must be one of"),
        ({"specs": {"a": Spec.dense(width=4, blocks=1)}}, "'a' is dense"),
        ({"specs": []}, "specs is empty"),
        ({"specs": "cifar-8", "batch": 100_000}, "batch=100000 is more than 'digits' has"),
        ({"specs": "cifar-8", "recipe": 5}, "recipe must be a Recipe"),
        ({"specs": "cifar-8", "data_folder": "nowhere", "data": "cifar10"}, "nowhere"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_said(told: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        responses(**{"recipe": Recipe(steps=1, batch=8), **told})
