"""What probes and studies of a model refuse: one line that names the parameter, before the model is run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import skipscope
from skipscope import InputError, studies
from skipscope.torch import Listening, check_undisturbed
from skipscope.torch.steps import BY_LOSS

RUNS: list[int] = []
"""The depths of the models that were run."""


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Deep(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.body = nn.Sequential(*(Block() for _ in range(depth)), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Any:
        RUNS.append(self.depth)
        return self.body(x)


def deep(depth: int, seed: int) -> nn.Module:
    return Deep(depth)


def loss(output: Tensor, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(output, batch[1])


@pytest.fixture(autouse=True)
def no_runs() -> None:
    RUNS.clear()
    torch.manual_seed(0)


def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 6, generator=generator), torch.randint(0, 3, (5,), generator=generator)


def sweep(**asked: Any) -> Any:
    return studies.sweep(asked.pop("make_model", deep), **{"batch": pair(), "depths": [1, 2], "seeds": [0]} | asked)


WITH_LOSS: dict[str, Callable[[Any], Any]] = {
    "probe": lambda given: skipscope.probe(Deep(2), pair(), loss=given),
    "twin": lambda given: studies.twin(Deep(2), pair(), loss=given),
    "lesion": lambda given: studies.lesion(Deep(2), pair(), loss=given),
    "sweep": lambda given: sweep(loss=given),
    "check_undisturbed": lambda given: check_undisturbed(Deep(2), pair(), loss=given),
}
EXAMPLE = "e.g. lambda output, batch: torch.nn.functional.cross_entropy(output, batch[1]); got"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, f"{EXAMPLE} 3."),
        (lambda output: output.sum(), f"{EXAMPLE} <lambda>(output): too many positional arguments."),
        (lambda output, batch, more: 0, "<lambda>(output, batch, more): missing a required argument: 'more'."),
        (functools.partial(loss, batch=0), "too many positional arguments."),
        (nn.CrossEntropyLoss, "got the class CrossEntropyLoss, which makes an object"),
        (nn.TripletMarginLoss(), "missing a required argument: 'negative'."),
        (nn.Linear(3, 1), "got Linear.forward(input: torch.Tensor) -> torch.Tensor: too many positional arguments."),
    ],
)
@pytest.mark.parametrize("run", ["probe", "twin", "lesion", "sweep"])
def test_what_is_no_loss_is_refused_before_the_model_is_run(run: str, given: Any, words: str):
    with pytest.raises(InputError) as caught:
        WITH_LOSS[run](given)

    assert str(caught.value).startswith("loss must be a function of (output, batch), ")
    assert words in str(caught.value)
    assert not RUNS


@pytest.mark.parametrize("run", ["probe", "twin", "lesion"])
def test_a_loss_is_not_given_by_its_name(run: str):
    with pytest.raises(InputError, match=r"loss must be a function of .*; got 'ce'\."):
        WITH_LOSS[run]("ce")
    assert not RUNS


def test_a_sweep_looks_at_the_loss_that_is_named():
    with pytest.raises(InputError, match=r"loss must be package.module:name, .* got 'ce'"):
        sweep(loss="ce")
    with pytest.raises(InputError, match=r"loss must be a function of .*; got '/'"):
        sweep(loss="posixpath:sep")
    assert not RUNS


def test_whoever_checks_a_scope_is_told_of_a_loss_that_is_none():
    with pytest.raises(InputError, match=r"loss must be a function of .*; got 'ce'\."):
        WITH_LOSS["check_undisturbed"]("ce")


@pytest.mark.parametrize("given", ["ce", 3, skipscope.losses.CrossEntropy, lambda output: 0])
def test_nor_is_it_a_loss_of_a_network_without_pytorch(given: Any):
    network = skipscope.build(skipscope.Spec.dense(width=6, blocks=2, features=4), seed=0)

    with pytest.raises(InputError, match=r"loss must be a function of \(output, batch\), e.g. skipscope.losses.Cross"):
        skipscope.probe(network, 4, loss=given)


@pytest.mark.parametrize("run", WITH_LOSS)
@pytest.mark.parametrize("given", [skipscope.losses.CrossEntropy, skipscope.losses.CrossEntropy()])
def test_a_loss_of_those_networks_is_none_of_a_model(run: str, given: Any):
    with pytest.raises(InputError, match="is one of NumPy networks: of a module give a function of PyTorch"):
        WITH_LOSS[run](given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda output, batch: "low", "loss <lambda> gave 'low'."),
        (lambda output, batch: None, "loss <lambda> gave None."),
        (lambda output, batch: 1.5, "loss <lambda> gave 1.5."),
        (lambda output, batch: output, "loss <lambda> gave torch.float32 of shape (5, 3)."),
        (lambda output, batch: torch.complex(output, output).sum(), "gave torch.complex64 of shape ()."),
    ],
)
@pytest.mark.parametrize("run", WITH_LOSS)
def test_a_loss_that_gives_no_number_is_refused(run: str, given: Any, words: str):
    with pytest.raises(InputError) as caught:
        WITH_LOSS[run](given)

    assert str(caught.value).startswith("loss must give one real number, as a tensor that autograd follows, e.g. ")
    assert str(caught.value).endswith(words)


def wrong_within(*given: Any) -> Any:
    return loss()  # type: ignore[call-arg]


@pytest.mark.parametrize("run", WITH_LOSS)
def test_what_a_loss_raises_is_raised(run: str):
    with pytest.raises(TypeError, match=r"loss\(\) missing 2 required positional arguments") as caught:
        WITH_LOSS[run](wrong_within)

    assert caught.value.__notes__ == [BY_LOSS]
    assert caught.traceback[-1].name == "wrong_within"


@pytest.mark.parametrize("run", ["probe", "twin", "lesion", "sweep"])
@pytest.mark.parametrize("given", [loss, nn.CrossEntropyLoss(), lambda *given: loss(*given), functools.partial(loss)])
def test_whatever_can_be_called_is_a_loss(run: str, given: Any):
    assert len(WITH_LOSS[run](given).rows)


# ------------------------------------------------------------------------------------------------------------ accuracy


def right(output: Tensor, batch: Any) -> Tensor:
    found: Tensor = output.argmax(1) == batch[1]
    return found


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("top-1", "got 'top-1'."),
        (3, "got 3."),
        (lambda output: output, "got <lambda>(output): too many positional arguments."),
        (lambda output, batch, more: 0, "missing a required argument: 'more'."),
        (nn.Linear, "got the class Linear, which makes an object"),
    ],
)
def test_what_is_no_accuracy_is_refused_before_the_model_is_run(given: Any, words: str):
    with pytest.raises(InputError) as caught:
        studies.lesion(Deep(2), pair(), loss=loss, accuracy=given)

    assert str(caught.value).startswith("accuracy must be a function of (output, batch), e.g. lambda output, batch: ")
    assert words in str(caught.value)
    assert not RUNS


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda output, batch: 0.5, "got 0.5."),
        (lambda output, batch: "all", "got 'all'."),
        (lambda output, batch: None, "got None."),
        (lambda output, batch: right(output, batch).float(), "got torch.float32 of shape (5,)."),
        (lambda output, batch: right(output, batch)[:0], "got torch.bool of shape (0,)."),
    ],
)
def test_an_accuracy_that_gives_no_truth_values_is_refused(given: Any, words: str):
    with pytest.raises(InputError) as caught:
        studies.lesion(Deep(2), pair(), loss=loss, accuracy=given)

    assert str(caught.value).startswith("accuracy must give a tensor of truth values, one an answer, e.g. lambda ")
    assert str(caught.value).endswith(words)


def test_answers_are_as_many_with_a_branch_as_without():
    sizes = iter(range(1, 4))

    with pytest.raises(InputError, match=r"accuracy gives truth values of shape \(1,\) .* and \(2,\) without one"):
        studies.lesion(Deep(2), pair(), loss=loss, accuracy=lambda *given: right(*given)[: next(sizes)])


def test_what_an_accuracy_raises_is_raised():
    with pytest.raises(TypeError, match=r"loss\(\) missing 2"):
        studies.lesion(Deep(2), pair(), loss=loss, accuracy=wrong_within)


# ----------------------------------------------------------------------------------------------------------- optimizer


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("sgd", "got 'sgd'."),
        (torch.optim.SGD(nn.Linear(1, 1).parameters()), "got SGD ("),
        (lambda: 0, "got <lambda>(): too many positional arguments."),
        (lambda parameters, rate: 0, "missing a required argument: 'rate'."),
    ],
)
@pytest.mark.parametrize("steps", [0, 2])
def test_what_makes_no_optimizer_is_refused_before_the_model_is_run(given: Any, words: str, steps: int):
    with pytest.raises(InputError) as caught:
        studies.twin(Deep(2), pair(), loss=loss, steps=steps, optimizer=given)

    assert str(caught.value).startswith("optimizer must be a function of (parameters), e.g. lambda parameters: torch.")
    assert words in str(caught.value)
    assert not RUNS


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda parameters: None, "optimizer must make an optimizer of PyTorch, e.g. .* got None"),
        (lambda parameters: "sgd", "optimizer must make an optimizer of PyTorch, e.g. .* got 'sgd'"),
        (lambda parameters: torch.optim.SGD, "optimizer must make an optimizer of PyTorch, e.g. .* got <class"),
        (torch.optim.LBFGS, "optimizer makes a LBFGS, whose step needs more than gradients .*'closure'"),
    ],
)
def test_what_is_made_must_be_an_optimizer(given: Any, words: str):
    with pytest.raises(InputError, match=words):
        studies.twin(Deep(2), pair(), loss=loss, steps=2, optimizer=given)


def test_what_the_maker_of_an_optimizer_raises_is_raised():
    with pytest.raises(TypeError, match=r"loss\(\) missing 2"):
        studies.twin(Deep(2), pair(), loss=loss, steps=2, optimizer=wrong_within)


@pytest.mark.parametrize("given", [torch.optim.SGD, torch.optim.Adam, functools.partial(torch.optim.AdamW, lr=0.1)])
def test_a_class_of_optimizers_makes_one(given: Any):
    found = studies.twin(Deep(2), pair(), loss=loss, steps=2, optimizer=given)

    assert getattr(given, "func", given).__name__ in found.cells["optimizer"].drop_nulls().str.join()[0]


# ------------------------------------------------------------------------------------------------------------- factory


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"make_model": Deep(2)}, r"make_model is a model itself \(Deep\): give a function make_model\(depth, seed\)"),
        ({"make_model": lambda: Deep(2)}, r"make_model must be a function of \(depth, seed\).*<lambda>\(\): too many"),
        ({"make_model": lambda depth: Deep(2)}, r"<lambda>\(depth\): too many positional arguments"),
        ({"make_model": lambda depth, *, seed: Deep(2)}, r"<lambda>\(depth, \*, seed\): too many positional"),
        ({"make_model": lambda depth, seed, width: Deep(2)}, "missing a required argument: 'width'"),
        ({"make_model": "posixpath:sep"}, r"make_model must be a function of \(depth, seed\).* got '/'"),
        (
            {"make_model": lambda depth, seed: Deep},
            r"make_model\(depth=1, seed=0\) must make a torch.nn.Module; got <cl",
        ),
        ({"depths": -1}, "depths must be at least 1; got -1"),
        ({"depths": "ab"}, "depths must be a whole number of at least 1; got 'ab'"),
        ({"seeds": [-1]}, "seed must be at least 0; got -1"),
        ({"seeds": []}, "seeds is empty"),
        ({"batch": 3}, "batch must be what the model is to see: .* got 3"),
        ({"progress": 3}, r"progress must be a function of \(done, all\), .* got 3"),
    ],
)
def test_what_no_sweep_can_be_made_of_is_refused_before_a_model_is_run(asked: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        sweep(**asked)
    assert not RUNS


def test_what_a_factory_raises_is_raised():
    with pytest.raises(TypeError, match=r"loss\(\) missing 2"):
        sweep(make_model=wrong_within)


def test_a_lesion_is_told_before_its_model_is_run_that_progress_is_no_function():
    with pytest.raises(InputError, match=r"progress must be a function of \(done, all\), .* got 3"):
        studies.lesion(Deep(2), pair(), loss=loss, progress=3)
    assert not RUNS


# --------------------------------------------------------------------------------------------------------------- batch


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (b"abc", r"got b'abc'\."),
        (1j, r"got 1j\."),
        ({1, 2}, r"got \{1, 2\}\."),
        (np.zeros(2), r"got array\(\[0., 0.\]\)\."),
        (
            (None, pair()[1]),
            r"the inputs of \(inputs, targets\) must be a tensor, a tuple of several or .*; got None\.",
        ),
        ((np.zeros(2), pair()[1]), r"the inputs of \(inputs, targets\) .*; got array\(\[0., 0.\]\)\."),
        (["a", "b"], r"the inputs of \(inputs, targets\) must be .*; got 'a'\."),
        ({1: pair()[0]}, r"the names of keyword arguments must be texts; got 1\."),
        (
            DataLoader(TensorDataset(*pair())),
            r"is a DataLoader, which holds several: give one of them, e.g. next\(iter\(loader\)\)\.",
        ),
        (iter([pair()]), r"is a list_iterator, which holds several: give one of them"),
    ],
)
def test_what_no_model_can_see_is_refused_before_it_is_run(batch: Any, words: str):
    with pytest.raises(InputError, match=f"^batch.*{words}"):
        skipscope.probe(Deep(2), batch)
    assert not RUNS


@pytest.mark.parametrize("kind", ["ones", "one", 3])
def test_a_cotangent_of_ones_is_not_taken_for_another(kind: Any):
    with pytest.raises(InputError, match=f"cotangent={kind!r} is for networks of skipscope.build"):
        skipscope.probe(Deep(2), pair(), cotangent=kind)
    assert not RUNS


def test_what_is_told_to_be_given_in_its_place_sends_back_ones():
    found: Any = skipscope.probe(Deep(2), pair(), loss=lambda output, batch: output.sum(), sites="output")

    gradient = found.rows.filter(quantity="activation_grad_norm", site="output")["value"]
    assert gradient.to_list() == [pytest.approx(15**0.5)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": nn.Linear}, r"model must be a torch\.nn\.Module; got the class Linear"),
        ({"model": "resnet"}, r"model must be a torch\.nn\.Module; got 'resnet'"),
        ({"quantities": ["dead"]}, r"quantities must map names to Quantity"),
        ({"quantities": {"dead": 3}}, r"quantities\['dead'\] must be a Quantity; got int"),
    ],
)
def test_what_cannot_be_listened_to_is_refused_before_the_step(given: dict[str, Any], said: str):
    with pytest.raises(InputError, match=said):
        Listening(**({"model": nn.Linear(2, 2)} | given))
