"""Top-1, top-5 and confusion: against scikit-learn and plain PyTorch, on both engines, and what is nobody's answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy.stats import binomtest
from sklearn import metrics
from torch import nn

from engines.plain_resnets import Cifar, ImageNet, sites_by_name
from skipscope import InputError, Spec, build, data
from skipscope.accuracy import Accuracy, Engine, Share, accuracies, accuracy, agreement, network_of, spec_for
from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.protocol import Run
from skipscope.training import Recipe, train

WIDTH = 4
SPEC = Spec.cifar(20, shortcut="A-both", width=WIDTH, size=8, channels=1)
ENGINES: tuple[Engine, ...] = ("numpy", "torch")


@pytest.fixture(scope="module")
def digits() -> data.Images:
    return data.load_images("digits", seed=0)


@pytest.fixture(scope="module")
def trained(digits: data.Images) -> NumpyNetwork:
    """ResNet-20 after so few steps that it is right often, and wrong often enough."""
    found = train(build(SPEC, seed=0), digits, Recipe(steps=40, batch=64), record=[], quantities={}).network
    assert found is not None
    return found


def plain(network: NumpyNetwork) -> nn.Module:
    """The same network as a repository of PyTorch has it."""
    model = Cifar(20, "A-both", width=WIDTH)
    model.conv1 = nn.Conv2d(1, WIDTH, kernel_size=3, padding=1, bias=False)
    with torch.no_grad():
        state = model.state_dict()
        for theirs, ours in sites_by_name(model).items():
            state[theirs].copy_(torch.from_numpy(network.arrays[ours][0]))
    return model.eval()


def said(model: nn.Module, digits: data.Images) -> NDArray[Any]:
    """Its outputs for the test part, the paper's preprocessing written out."""
    mean = digits.train.inputs.astype(np.float64).mean(axis=0)
    shown = (digits.test.inputs - mean) / 16
    with torch.no_grad():
        return model(torch.from_numpy(shown.astype(np.float32))).numpy()


def written(model: nn.Module, path: Path, *, torchvisions: bool, prefix: str = "", wrapper: str = "") -> Path:
    state = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    if torchvisions:
        state = {name.replace("linear.", "fc."): tensor for name, tensor in state.items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({wrapper: state, "best_prec1": 91.7} if wrapper else state, path)
    return path


class Told:
    """A network that gives what it is told to give, in the order of the samples."""

    def __init__(self, output: Any, spec: Spec) -> None:
        self.output, self.spec = np.asarray(output, np.float64), spec
        self.seeds = tuple(range(len(self.output)))
        self.done = 0

    @contextmanager
    def inference(self) -> Iterator[None]:
        yield

    def run(self, batch: Any) -> Run:
        start, self.done = self.done, self.done + len(batch)
        return Run(self.output[:, start : self.done], None)


def images_of(labels: list[int], *, classes: int = 10) -> data.Images:
    pixels = np.random.default_rng(0).integers(256, size=(len(labels), 3, 8, 8), dtype=np.uint8)
    return data.Images.from_pixels(train=(pixels, labels), test=(pixels, labels), classes=classes)


def told(output: Any, labels: list[int], **asked: Any) -> Accuracy:
    """What is found of one network with these outputs, of shape (b, n)."""
    images = images_of(labels, classes=len(output[0]))
    return accuracy(Told([output], Spec.cifar(8, size=8, classes=len(output[0]))), images, **asked)


# ------------------------------------------------------------------------------------------- files, on both engines


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ("a.safetensors", {"torchvisions": False}),
        ("b.safetensors", {"torchvisions": True, "prefix": "module."}),
        ("c.th", {"torchvisions": False, "prefix": "module.", "wrapper": "state_dict"}),
        ("d.pth", {"torchvisions": True}),
    ],
)
def test_both_engines_say_of_every_image_what_plain_pytorch_says(
    trained: NumpyNetwork, digits: data.Images, tmp_path: Path, file: str, fields: dict[str, Any]
):
    model = plain(trained)
    path = written(model, tmp_path / file, **fields)
    spec = spec_for(path, digits)
    assert spec == SPEC
    expected = said(model, digits)

    numpy, torchs = (accuracy(network_of(path, spec, engine=engine), digits) for engine in ENGINES)

    for found in (numpy, torchs):
        assert np.array_equal(found.predictions, expected.argmax(axis=1))
        assert np.array_equal(found.labels, digits.test.targets)
    both = agreement(numpy, torchs)
    assert len(both.differing) == 0
    assert both.closest == min(numpy.margin.min(), torchs.margin.min())
    # Float32 has 24 bits, and outputs of about 10 pass 20 layers: a hundred roundings are 1e-4. In truth about 1e-5.
    assert both.moved < 1e-4 < both.closest


def test_all_numbers_are_scikit_learns(trained: NumpyNetwork, digits: data.Images):
    output = said(plain(trained), digits)
    labels, predicted = digits.test.targets, output.argmax(axis=1)

    found = accuracy(trained, digits)

    right = metrics.accuracy_score(labels, predicted)
    assert 0.5 < right < 0.99, "the network should be neither untrained nor perfect, or this shows little"
    assert found.top1.value == right
    assert found.top5 is not None
    for k, share in ((5, found.top5), (2, found.top(2)), (9, found.top(9))):
        assert share.value == metrics.top_k_accuracy_score(labels, output, k=k)
    assert np.array_equal(found.confusion, metrics.confusion_matrix(labels, predicted))
    recall = metrics.recall_score(labels, predicted, average=None)
    assert [share.value for share in found.recall if share is not None] == pytest.approx(recall, rel=1e-15)
    ranked = np.sort(output.astype(np.float64), axis=1)
    # Of another order of the sums, in float32.
    np.testing.assert_allclose(found.margin, ranked[:, -1] - ranked[:, -2], atol=1e-4)
    assert (found.data, found.part, found.seed, found.n, found.not_finite) == ("digits", "test", 0, 450, 0)
    assert not found.at_chance


@pytest.mark.parametrize("engine", ENGINES)
def test_torchvisions_resnet_18(engine: Engine, tmp_path: Path):
    """Of random weights, in float64, where no margin is within the rounding."""
    torch.manual_seed(0)
    model = ImageNet((2, 2, 2, 2), deep=False, width=8, classes=10).double()
    save_file(model.state_dict(), tmp_path / "resnet18.safetensors")
    images = images_of([label % 10 for label in range(40)])
    spec = replace(spec_for(tmp_path / "resnet18.safetensors", images), dtype="float64")
    assert spec == Spec.imagenet(18, shortcut="B", stride="v1.5", width=8, size=8, classes=10, dtype="float64")
    shown = np.concatenate([piece.inputs for piece in images.pieces("test")])
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(shown).double()).numpy()

    found = accuracy(network_of(tmp_path / "resnet18.safetensors", spec, engine=engine), images, batch=7)

    assert np.array_equal(found.predictions, expected.argmax(axis=1))
    assert found.at_chance


@pytest.mark.parametrize("engine", ENGINES)
def test_equal_outputs_are_the_lowest_class_on_both_engines(
    engine: Engine, trained: NumpyNetwork, digits: data.Images, tmp_path: Path
):
    model: Any = plain(trained)
    with torch.no_grad():
        model.linear.weight.zero_()
        model.linear.bias.copy_(torch.tensor([0, 0, 0, 1, 0, 0, 0, 1, 0, 0], dtype=torch.float32))
    path = written(model, tmp_path / "tied.safetensors", torchvisions=False)

    found = accuracy(network_of(path, SPEC, engine=engine), digits)

    assert set(found.predictions.tolist()) == {3}
    assert set(found.rank[found.labels == 7].tolist()) == {1}
    assert set(found.rank[found.labels == 2].tolist()) == {4}  # after 3, 7, 0 and 1
    assert (found.margin == 0).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_outputs_that_are_no_numbers_are_wrong(
    engine: Engine, trained: NumpyNetwork, digits: data.Images, tmp_path: Path
):
    model: Any = plain(trained)
    with torch.no_grad():
        model.linear.bias[4] = torch.nan
    path = written(model, tmp_path / "nan.safetensors", torchvisions=False)

    found = accuracy(network_of(path, SPEC, engine=engine), digits)

    assert found.not_finite == found.n == 450
    assert found.top1.right == 0
    assert found.top(9).right == 0
    assert found.confusion.sum() == 0
    assert found.at_chance
    assert np.isnan(agreement(found, found).closest)


# ---------------------------------------------------------------------------------------------------- what is what


def test_ranks_ties_and_infinities():
    output = [
        [1.0, 3.0, 2.0],  # in order 1, 2, 0
        [5.0, 5.0, 5.0],  # all the same: 0, 1, 2
        [2.0, 7.0, 7.0],
        [np.inf, 0.0, 0.0],
        [0.0, np.nan, 9.0],
        [-np.inf, 4.0, 1.0],
    ]
    found = told(output, [2, 2, 2, 0, 2, 1])

    assert found.predictions.tolist() == [1, 0, 1, -1, -1, -1]
    assert found.rank.tolist() == [1, 2, 1, 3, 3, 3]
    np.testing.assert_array_equal(found.margin, [1, 0, 0, np.nan, np.nan, np.nan])
    assert found.confusion.tolist() == [[0, 0, 0], [0, 0, 0], [1, 2, 0]]
    assert found.top1 == Share(0, 6)
    assert found.top(2) == Share(2, 6)
    assert found.top5 is None
    assert found.not_finite == 3
    assert found.recall == (Share(0, 1), Share(0, 1), Share(0, 4))


def test_a_class_without_samples_has_no_recall():
    found = told(np.eye(3)[[0, 2]], [0, 2])
    assert found.recall == (Share(1, 1), None, Share(1, 1))
    assert found.confusion.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (431, 450), (9173, 10_000), (10_000, 10_000), (0, 17)])
def test_intervals_are_wilsons(right: int, n: int):
    expected = binomtest(right, n).proportion_ci(method="wilson")
    found = Share(right, n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(
    ("right", "at_chance"),
    [
        (10, True),
        (0, True),  # below chance is not above
        (30, False),
    ],
)
def test_chance_is_the_commonest_class(right: int, at_chance: bool):
    labels = [0] * 20 + [1 + number % 9 for number in range(80)]
    guesses = [label if place < right else (label + 1) % 10 for place, label in enumerate(labels)]
    found = told(np.eye(10)[guesses], labels)

    assert found.chance == 0.2
    assert found.top1.right == right
    # 30 of 100: 0.219 to 0.396; the chance of one class in ten would let 10 and 0 through.
    assert found.at_chance is at_chance


def test_disagreement_is_told_with_the_smallest_margin_there():
    one = told([[3.0, 1.0, 0.0], [2.0, 1.5, 0.0], [0.0, 0.1, 0.0]], [0, 0, 1])
    other = told([[3.0, 1.0, 0.0], [1.5, 1.75, 0.0], [0.0, 0.1, 0.0]], [0, 0, 1])

    both = agreement(one, other)

    assert (both.n, both.differing.tolist(), both.closest, both.moved) == (3, [1], 0.25, 0.25)
    assert agreement(one, one).closest == 0.1
    with pytest.raises(InputError, match="of two accuracies on the same samples"):
        agreement(one, told([[3.0, 1.0, 0.0]], [0]))


def test_neither_batch_nor_threads_change_a_prediction(trained: NumpyNetwork, digits: data.Images):
    whole = accuracy(trained, digits, batch=450)
    seen: list[tuple[int, int]] = []
    pieces = accuracy(trained, digits, batch=200, jobs=1, progress=lambda done, total: seen.append((done, total)))

    assert np.array_equal(whole.predictions, pieces.predictions)
    assert np.array_equal(whole.rank, pieces.rank)
    assert seen == [(200, 450), (400, 450), (450, 450)]


def test_the_network_is_left_as_it_was(trained: NumpyNetwork, digits: data.Images):
    before = {name: array.copy() for name, array in trained.arrays.items()}
    accuracy(trained, digits)
    assert all(np.array_equal(array, before[name]) for name, array in trained.arrays.items())
    assert trained.edit == ""


def test_an_ensemble_has_one_accuracy_a_seed():
    patterns = data.load("patterns", seed=0)
    spec = Spec.dense(width=16, blocks=2, features=64, outputs=3)
    both = accuracies(build(spec, seed=[3, 5]), patterns, part="train")
    alone = [accuracy(build(spec, seed=seed), patterns, part="train") for seed in (3, 5)]

    assert [each.seed for each in both] == [3, 5]
    assert [each.n for each in both] == [600, 600]
    for together, single in zip(both, alone, strict=True):
        assert np.array_equal(together.predictions, single.predictions)
    assert not np.array_equal(both[0].predictions, both[1].predictions)
    with pytest.raises(InputError, match=r"network is an ensemble of 2: accuracies\(network, data\)"):
        accuracy(build(spec, seed=[3, 5]), patterns)


def test_what_was_found_cannot_be_changed(trained: NumpyNetwork, digits: data.Images):
    found = accuracy(trained, digits)
    for array in (found.labels, found.predictions, found.rank, found.margin, found.confusion):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


# ------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("network", "images", "fields", "message"),
    [
        ("not one", "digits", {}, "network must be one of skipscope's engines.*got str"),
        (SPEC, "digits", {}, "network must be one of skipscope's engines.*got Spec"),
        (build(SPEC, seed=0), [1, 2], {}, "data must be a Dataset"),
        (build(SPEC, seed=0), "digits", {"part": "tset"}, "part must be one of"),
        (build(SPEC, seed=0), "digits", {"part": "validation"}, "has no validation part"),
        (build(SPEC, seed=0), "digits", {"batch": 0}, "batch must be at least 1; got 0"),
        (build(SPEC, seed=0), "digits", {"jobs": 0}, "jobs must be at least 1; got 0"),
        (
            build(Spec.cifar(8, size=8, channels=3), seed=0),
            "digits",
            {},
            "the network takes 3x8x8 and tells 10 classes, but 'digits' has 1x8x8 a sample and 10 classes",
        ),
        (build(Spec.cifar(8, size=8, channels=1, classes=9), seed=0), "digits", {}, "tells 9 classes"),
        (build(Spec.dense(width=4, blocks=1, features=16, outputs=1), seed=0), "teacher", {}, "is a regression"),
    ],
)
def test_what_cannot_be_answered(network: Any, images: Any, fields: dict[str, Any], message: str):
    kinds: dict[Any, Any] = {"digits": data.load_images, "teacher": data.load}
    shown = kinds[images](images, seed=0) if isinstance(images, str) else images
    with pytest.raises(InputError, match=message):
        accuracy(network, shown, **fields)


def test_files_that_are_of_other_images(trained: NumpyNetwork, digits: data.Images, tmp_path: Path):
    path = written(plain(trained), tmp_path / "digits.safetensors", torchvisions=False)
    with pytest.raises(InputError, match="for 1 channel and 10 classes, and 'mine' has 3 channels and 5 classes"):
        spec_for(path, images_of([0, 1, 2, 3, 4], classes=5))
    with pytest.raises(InputError, match="engine must be one of 'numpy', 'torch'"):
        network_of(path, SPEC, engine="jax")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="device='cuda' is for engine='torch'"):
        network_of(path, SPEC, device="cuda")
    with pytest.raises(InputError, match="k must be below the number of classes, 10"):
        accuracy(trained, digits).top(10)


def test_numpy_and_safetensors_need_no_pytorch(trained: NumpyNetwork, tmp_path: Path):
    path = written(plain(trained), tmp_path / "digits.safetensors", torchvisions=False)
    use = (
        "from skipscope import accuracy as a, data; d = data.load_images('digits', seed=0); "
        f"p = {str(path)!r}; print(a.accuracy(a.network_of(p, a.spec_for(p, d)), d).n)"
    )
    code = f"import sys; {use}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "450\nFalse\n"
