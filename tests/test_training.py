"""Training against PyTorch in float64, bit-equality of seeds and of resumed runs, and what stops a run."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional

from skipscope import InputError, Spec, build, checkpoints, data, training
from skipscope.data import Dataset
from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.losses import CrossEntropy, MeanSquaredError
from skipscope.quantities import QUANTITIES
from skipscope.studies.learning import Trial, learn
from skipscope.training import CIFAR_RECIPE, Recipe, Trained, Ways, evaluate, loss_of, numpy_descent, run, train
from skipscope.training.evaluation import EVALUATED

Array = NDArray[Any]
TEACHER = data.teacher(seed=3, features=5, outputs=2, width=6, train=70, test=40)
PATTERNS = data.patterns(seed=1, train=60, test=30)
QUICK = Recipe(steps=12, batch=8, rate=0.05, warmup=3, schedule="cosine")


def spec_of(dataset: Dataset = TEACHER, **fields: Any) -> Spec:
    """A small network that fits the data."""
    shape: dict[str, Any] = {"width": 6, "blocks": 2, "features": dataset.features, "outputs": dataset.outputs}
    return Spec.dense(**shape | fields)


# --------------------------------------------------------------------------------------------------- against PyTorch


class Torch(torch.nn.Module):
    """The network of a seed, from its spec and its arrays, by PyTorch's own layers and automatic differentiation."""

    def __init__(self, network: NumpyNetwork, row: int) -> None:
        super().__init__()
        self.spec = network.spec
        self.named = {name: torch.nn.Parameter(torch.tensor(a[row])) for name, a in network.parameters.items()}
        self.averages = {name: torch.tensor(array[row]) for name, array in network.running.items()}
        self.everything = torch.nn.ParameterList(self.named.values())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self._layer(self.spec.stem_layer, x)
        for block in self.spec.body:
            branch = x
            for layer in block.layers:
                branch = self._layer(layer, branch)
            gain = self.named.get(f"{block.site}.gain", block.branch_gain)
            joined = gain * branch if block.plain else block.shortcut_gain * x + gain * branch
            x = _activated(block.activation, joined)
        if self.spec.pre_activation:
            x = self._normed("final", self.spec.stages[-1].norm, x)
            x = _activated(self.spec.stages[-1].activation, x)
        return self._layer(self.spec.head_layer, x)

    def _layer(self, layer: Any, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.named[f"{layer.site}.weight"], self.named.get(f"{layer.site}.bias")
        if layer.first == "affine":
            x = functional.linear(x, weight, bias)
        x = _activated(layer.activation, self._normed(layer.site, layer.norm, x))
        return x if layer.first == "affine" else functional.linear(x, weight, bias)

    def _normed(self, site: str, norm: str, x: torch.Tensor) -> torch.Tensor:
        if norm == "none":
            return x
        gamma, beta = self.named[f"{site}.gamma"], self.named[f"{site}.beta"]
        if norm == "layer":
            return functional.layer_norm(x, x.shape[-1:], gamma, beta)
        mean, variance = (self.averages[f"{site}.running_{what}"] for what in ("mean", "variance"))
        return functional.batch_norm(x, mean, variance, gamma, beta, training=self.training)


def _activated(name: str, x: torch.Tensor) -> torch.Tensor:
    return {"relu": torch.relu, "tanh": torch.tanh, "linear": lambda same: same}[name](x)


def torch_loss(output: torch.Tensor, targets: Array) -> torch.Tensor:
    whole = np.issubdtype(targets.dtype, np.integer)
    return (functional.cross_entropy if whole else functional.mse_loss)(output, torch.tensor(targets))


def trained_by_torch(network: NumpyNetwork, row: int, dataset: Dataset, recipe: Recipe) -> tuple[Torch, list[Array]]:
    """The trained module of one seed, and its optimizer's velocities."""
    module = Torch(network, row)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    order = data.batches(network.seeds[row], samples=dataset.train.size, size=recipe.batch)
    for step in range(recipe.steps):
        chosen = next(order)
        optimizer.param_groups[0]["lr"] = recipe.rate_at(step)
        optimizer.zero_grad()
        torch_loss(module(torch.tensor(dataset.train.inputs[chosen])), dataset.train.targets[chosen]).backward()
        optimizer.step()
    return module, [optimizer.state[each]["momentum_buffer"].numpy() for each in module.parameters()]


KINDS: dict[str, dict[str, Any]] = {
    "plain": {"shortcut": "none"},
    "residual": {},
    "plain, batch norm": {"shortcut": "none", "norm": "batch"},
    "after the addition, batch norm": {"order": "after-add", "norm": "batch"},
    "pre-activation, batch norm": {"order": "pre-activation", "norm": "batch"},
    "pre-activation, layer norm": {"order": "pre-activation", "norm": "layer"},
    "bias": {"bias": True, "init": "torch", "branch_gain": 0.5},
    "zero-initialised gain": {"branch_gain": "zero", "bias": True, "init": "torch"},
    "tanh": {"activation": "tanh", "branch_gain": "1/sqrt(L)"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("dataset", "schedule"), [(TEACHER, "drops"), (PATTERNS, "cosine")], ids=["teacher", "patterns"]
)
def test_ten_steps_are_those_of_torch(kind: str, schedule: Any, dataset: Dataset, tmp_path: Path):
    recipe = Recipe(steps=10, batch=16, rate=0.02, momentum=0.9, weight_decay=0.01, schedule=schedule, warmup=2)
    network = build(spec_of(dataset, **KINDS[kind]), seed=(4, 9))
    trained = train(network, dataset, recipe, checkpoint=tmp_path / "end")
    arrays, _ = checkpoints.read(tmp_path / "end")

    assert trained.network is not None
    for row in range(2):
        module, velocity = trained_by_torch(network, row, dataset, recipe)
        for index, (name, weights) in enumerate(trained.network.parameters.items()):
            close(weights[row], module.named[name].detach().numpy(), name)
            close(arrays[f"velocity/{name}"][row], velocity[index], f"velocity of {name}")
        for name, average in trained.network.running.items():
            close(average[row], module.averages[name].numpy(), name)
        with trained.network.inference(), torch.no_grad():
            inferred = trained.network.run(dataset.test.inputs).output[row]
            close(inferred, module.eval()(torch.tensor(dataset.test.inputs)).numpy(), "inference")
        last = trained.readings.select(step=10, seed=network.seeds[row], quantity="test_loss").rows["value"]
        close(last[0], torch_loss(torch.tensor(inferred), dataset.test.targets).numpy(), "test loss")


def close(value: Any, expected: Any, what: str) -> None:
    assert np.shape(value) == np.shape(expected)
    assert np.linalg.norm(value - expected) <= 1e-10 * max(float(np.linalg.norm(expected)), 1e-3), what


def test_the_network_it_starts_from_is_left_alone():
    network = build(spec_of(norm="batch"), seed=(0, 1))
    before = {name: array.copy() for name, array in network.arrays.items()}
    trained = train(network, TEACHER, QUICK)

    assert all(np.array_equal(before[name], array) for name, array in network.arrays.items())
    assert trained.network is not None
    assert not any(np.array_equal(before[name], array) for name, array in trained.network.arrays.items())
    assert trained.network.gradients == {}


# ------------------------------------------------------------------------------------------------------- the recipe


@given(
    steps=st.integers(1, 300),
    warmup=st.integers(0, 50),
    rate=st.floats(0, 10),
    schedule=st.sampled_from(["constant", "drops", "cosine"]),
)
def test_the_rate_in_closed_form(steps: int, warmup: int, rate: float, schedule: Any):
    recipe = Recipe(steps=steps, rate=rate, warmup=warmup, schedule=schedule)
    for step in range(steps):
        after = {
            "constant": 1.0,
            "drops": 1.0 if step < steps / 2 else 0.1 if step < 0.75 * steps else 0.01,
            "cosine": math.cos(math.pi * step / (2 * steps)) ** 2,
        }[schedule]
        expected = rate * ((step + 1) / warmup if step < warmup else after)
        assert recipe.rate_at(step) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("steps", [64_000, 1_000, 100])
@pytest.mark.parametrize("depth", [20, 56, 110, 1202])
def test_the_papers_recipe(depth: int, steps: int):
    """Section 4.2, and its warm-up from 110 layers on, which in two public reproductions never ended."""
    recipe = Recipe.cifar(steps=steps, depth=depth)
    rates = [recipe.rate_at(step) for step in range(steps)]
    warm = {64_000: 400, 1_000: 6, 100: 1}[steps] if depth >= 110 else 0

    assert (recipe.batch, recipe.momentum, recipe.weight_decay) == (128, 0.9, 1e-4)
    runs = [(rate, len(list(same))) for rate, same in itertools.groupby(np.round(rates, 12).tolist())]
    expected = [(0.01, warm), (0.1, steps // 2 - warm), (0.01, steps // 4), (0.001, steps // 4)]
    assert runs == [each for each in expected if each[1]]
    assert Recipe.cifar() == CIFAR_RECIPE
    with pytest.raises(dataclasses.FrozenInstanceError):
        CIFAR_RECIPE.steps = 3  # type: ignore[misc]


def test_a_recipe_tells_all_that_tables_have_no_column_for():
    assert CIFAR_RECIPE.told == "drops rate, warm-up 0, momentum 0.9, weight decay 0.0001"
    warm = Recipe.cifar(steps=6400, depth=110)
    assert warm.told == "drops rate, warm-up 40 at 0.01, momentum 0.9, weight decay 0.0001"


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("steps", -1, "steps must be at least 0; got -1"),
        ("steps", 2.5, "steps must be a whole number of at least 0; got 2.5"),
        ("steps", True, "steps must be a whole number of at least 0; got True"),
        ("batch", 0, "batch must be at least 1; got 0"),
        ("warmup", -3, "warmup must be at least 0; got -3"),
        ("rate", math.nan, "rate must be a finite number; got nan"),
        ("rate", math.inf, "rate must be a finite number; got inf"),
        ("rate", "0.1", "rate must be a number; got '0.1'"),
        ("rate", -0.1, "rate must be at least 0; got -0.1"),
        ("momentum", 1, "momentum must be at least 0 and below 1; got 1.0"),
        ("momentum", -0.5, "momentum must be at least 0 and below 1; got -0.5"),
        ("momentum", math.nan, "momentum must be a finite number; got nan"),
        ("weight_decay", -1e-4, "weight_decay must be at least 0; got -0.0001"),
        ("warmup_rate", -0.01, "warmup_rate must be at least 0; got -0.01"),
        ("warmup_rate", math.inf, "warmup_rate must be a finite number; got inf"),
        ("warmup_rate", 0.01, "warmup_rate=0.01 is that of no step: give warmup, the steps, as well."),
        ("schedule", "cosin", "schedule must be one of 'constant', 'drops', 'cosine'; got 'cosin'."),
        ("schedule", None, "schedule must be one of 'constant', 'drops', 'cosine'; got None"),
    ],
)
def test_a_recipe_names_what_is_wrong_with_it(field: str, value: Any, said: str):
    with pytest.raises(InputError) as refusal:
        Recipe(**dict[str, Any]({"steps": 10, field: value}))

    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@given(
    field=st.sampled_from(["steps", "batch", "warmup", "rate", "momentum", "weight_decay", "schedule", "warmup_rate"]),
    value=st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers())
    ),
)
def test_a_recipe_is_valid_or_refused_in_one_line(field: str, value: Any):
    given: dict[str, Any] = {"steps": 10, field: value}
    try:
        recipe = Recipe(**given)
    except InputError as error:
        said = str(error)
    else:
        said = field
        assert getattr(recipe, field) == value
        assert math.isfinite(recipe.rate_at(0))
    assert said.startswith(field)
    assert "\n" not in said


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"network": "net"}, "network must be"),
        ({"data": "digits"}, "data must be"),
        ({"recipe": {"steps": 3}}, "recipe must be"),
        ({"network": build(Spec.dense(width=4, blocks=1), seed=0)}, "the network takes 4 numbers and gives 4, but"),
        ({"recipe": Recipe(steps=1, batch=71)}, "batch=71 is more than teacher has to train on, 70"),
        (
            {"network": build(spec_of(norm="batch"), seed=0), "recipe": Recipe(steps=1, batch=1)},
            "batch=1 leaves batch normalisation nothing to compare",
        ),
        ({"record": 0}, "record must be at least 1; got 0"),
        ({"record": [13]}, "record=13 is after the last step: the recipe has 12 steps"),
        ({"record": [-1]}, "record must be at least 0; got -1"),
        ({"every": -1}, "every must be at least 0; got -1"),
        ({"sites": "stage9*"}, "stage9"),
        ({"ways": {"autocast": True}}, "ways must be a Ways"),
        ({"ways": Ways(autocast=True)}, "are PyTorch's, and this network is of the NumPy engine: leave them out, or"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any], said: str):
    arguments: dict[str, Any] = {"network": build(spec_of(), seed=0), "data": TEACHER, "recipe": QUICK} | changed
    with pytest.raises(InputError) as refusal:
        train(**arguments)

    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


# ------------------------------------------------------------------------------------------------------ measurement


def test_it_is_measured_after_the_steps_that_were_asked_for():
    network = build(spec_of(), seed=(2, 5))
    steps = lambda record, recipe=QUICK: sorted(  # noqa: E731
        train(network, TEACHER, recipe, record=record).readings.rows["step"].unique()
    )

    assert steps(3) == [0, 4, 8, 12]
    assert steps([7, 0, 7]) == [0, 7]
    assert steps(100) == list(range(13))
    assert steps([]) == []
    assert steps(10, Recipe(steps=0, batch=8)) == [0]


def test_a_reading_is_that_of_the_network_at_its_step():
    network = build(spec_of(PATTERNS, blocks=3), seed=(2, 5))
    found = train(network, PATTERNS, QUICK, record=[5]).readings
    half = train(network, PATTERNS, dataclasses.replace(QUICK, schedule="constant"), record=[5])
    five = Recipe(steps=5, batch=8, rate=0.05, warmup=3)
    assert half.readings.rows["value"].equals(train(network, PATTERNS, five, record=[5]).readings.rows["value"])

    short = train(network, PATTERNS, five, record=[5], quantities={"gradient_norm": QUANTITIES["gradient_norm"]})
    assert short.network is not None
    batch = PATTERNS.train.take(np.arange(8))
    squares = np.zeros(2)

    def observe(site: str, /, **roles: Array) -> None:
        for role, array in roles.items():
            if role in ("weight_grad", "bias_grad", "gamma_grad", "beta_grad", "gain_grad"):
                squares[:] += (array.reshape(2, -1) ** 2).sum(axis=1)

    short.network.run(batch, CrossEntropy(), observe)
    np.testing.assert_allclose(short.readings.rows["value"], np.sqrt(squares), rtol=1e-12)
    assert set(found.rows["quantity"]) == set(training.TRAINING_QUANTITIES)


def test_evaluate_is_the_loss_over_all_samples_at_once():
    for dataset, loss in ((PATTERNS, CrossEntropy()), (TEACHER, MeanSquaredError())):
        network = build(spec_of(dataset, norm="batch"), seed=(2, 5, 8))
        for array in network.running.values():
            array += 0.3
        many = data.Samples(*(np.concatenate([each] * 30) for each in dataset.train))  # more than are taken at once
        assert many.size > 3 * EVALUATED
        value, error = evaluate(network, many, loss)
        with network.inference():
            output = network.run(dataset.train.inputs).output
        np.testing.assert_allclose(value, loss(output, dataset.train), rtol=1e-12)
        assert loss_of(dataset) == loss
        if dataset.classes is None:
            assert error is None
        else:
            assert error is not None
            np.testing.assert_allclose(error, (output.argmax(axis=-1) != dataset.train.targets).mean(axis=-1))


def test_an_output_that_is_no_number_is_wrong():
    network = build(spec_of(PATTERNS), seed=(2, 5))
    network.parameters["head.weight"][1] = np.nan
    value, error = evaluate(network, PATTERNS.test, CrossEntropy())

    assert error is not None
    assert np.isnan(value[1])
    assert error[1] == 1
    assert np.isfinite(value[0])
    assert error[0] < 1


def test_batch_norm_that_has_seen_no_batch_has_no_losses():
    readings = train(build(spec_of(PATTERNS, norm="batch"), seed=0), PATTERNS, QUICK, record=2).readings.rows
    at = {step: set(readings.filter(pl.col("step") == step)["quantity"]) for step in (0, 6, 12)}

    assert at[6] == at[12] == set(training.TRAINING_QUANTITIES)
    assert at[6] - at[0] == {"train_loss", "train_error", "test_loss", "test_error"}
    assert "train_loss" in train(build(spec_of(), seed=0), TEACHER, QUICK, record=[0]).readings.rows["quantity"]


def test_progress_counts_steps_to_the_end(tmp_path: Path):
    told: list[tuple[int, int]] = []
    recipe = Recipe(steps=100, batch=8, rate=0.01)
    train(build(spec_of(), seed=0), TEACHER, recipe, record=4, progress=lambda *counts: told.append(counts))

    assert [total for _, total in told] == [100] * len(told)
    assert [done for done, _ in told] == sorted({25, 50, 75, 100})


# -------------------------------------------------------------------------------------------- alone and among others


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_is_trained_alike_alone_and_among_others(kind: str, dtype: str, monkeypatch: pytest.MonkeyPatch):
    spec = spec_of(PATTERNS, dtype=dtype, **KINDS[kind])
    together = train(build(spec, seed=range(7)), PATTERNS, QUICK, record=3)
    monkeypatch.setattr(numpy_descent, "_NEAR", 0)  # every network a group of its own
    monkeypatch.setattr(numpy_descent, "_PIECE", 100)
    monkeypatch.setattr(run, "_STRETCH", 1)
    for row in (0, 3, 6):
        alone = train(build(spec, seed=row), PATTERNS, QUICK, record=3)
        same(alone, together, {row: row})
    apart = train(build(spec, seed=range(7)), PATTERNS, QUICK, record=3)
    same(apart, together, {row: row for row in range(7)})


@pytest.mark.parametrize("kind", KINDS)
def test_threads_change_no_bit(kind: str, monkeypatch: pytest.MonkeyPatch):
    spec = spec_of(PATTERNS, dtype="float32", **KINDS[kind])
    whole = train(build(spec, seed=range(7)), PATTERNS, QUICK, record=3)
    monkeypatch.setattr(numpy_descent, "_NEAR", 0)
    monkeypatch.setattr(numpy_descent, "_WORTH", 1)  # threads from the first network on
    for jobs in (2, 3, 7):
        same(
            train(build(spec, seed=range(7)), PATTERNS, QUICK, record=3, jobs=jobs),
            whole,
            {row: row for row in range(7)},
        )


@pytest.mark.parametrize(
    ("networks", "jobs", "shared"),
    [(1, 2, (4, 1)), (32, 1, (4, 1)), (32, 2, (16, 2)), (40, 2, (16, 2)), (17, 2, (9, 2))],
)
def test_threads_are_taken_where_each_has_much_to_compute(networks: int, jobs: int, shared: tuple[int, int]):
    spec = Spec.dense(width=64, blocks=20, dtype="float32")
    assert numpy_descent._shared_out(spec, 64, networks, jobs) == shared


def same(some: Trained, all_: Trained, seeds: dict[int, int]) -> None:
    """That the networks and readings of the seeds are the same, bit for bit."""
    assert some.network is not None
    assert all_.network is not None
    for seed in seeds:
        mine, theirs = some.network.seeds.index(seed), all_.network.seeds.index(seed)
        for name, array in some.network.arrays.items():
            assert array[mine].tobytes() == all_.network.arrays[name][theirs].tobytes(), name
        assert some.readings.select(seed=seed).equals(all_.readings.select(seed=seed))


def test_neither_chunk_nor_jobs_change_a_bit():
    trials = [
        Trial(spec_of(PATTERNS, norm="batch", shortcut=shortcut), "patterns", QUICK, {"design": design}, record=2)
        for shortcut, design in (("none", "plain"), ("identity", "residual"))
    ]
    whole = learn(trials, range(5))

    for chunk, jobs in ((1, 1), (2, 1), (5, 1), (2, 2)):
        assert learn(trials, range(5), chunk=chunk, jobs=jobs).equals(whole), (chunk, jobs)


# ------------------------------------------------------------------------------------------------------- what stops it


def lost(trained: Trained) -> list[tuple[int, int, str, str]]:
    return [(each.seed, each.step, each.site, each.role) for each in trained.stopped]


def test_an_overflow_in_a_layer_stops_that_network_alone():
    spec = spec_of(blocks=4, dtype="float32")
    network = build(spec, seed=range(4))
    gentle = dataclasses.replace(QUICK, rate=0.001)
    whole = train(network, TEACHER, gentle, record=3)
    assert whole.stopped == ()
    network.parameters["stage1.block2.layer1.weight"][2] *= 1e30
    network.parameters["stage1.block2.layer2.weight"][2] *= 1e30  # 1e30 alone is within float32, 1e60 is not
    trained = train(network, TEACHER, gentle, record=3)

    assert lost(trained) == [(2, 0, "stage1.block2.layer2", "preactivation")]
    assert str(trained.stopped[0]) == "seed 2 after 0 steps: preactivation of stage1.block2.layer2 is not finite"
    assert trained.network is not None
    assert trained.network.seeds == (0, 1, 3)
    assert trained.readings.select(seed=2).rows["step"].unique().to_list() == [0]
    same(trained, whole, {row: row for row in (0, 1, 3)})


def test_weights_that_a_step_has_spoiled_are_named():
    network = build(spec_of(dtype="float32"), seed=range(3))
    network.parameters["stage1.block1.layer2.weight"][1, 3, 2] = np.inf
    network.parameters["head.weight"][1] = np.nan
    assert lost(train(network, TEACHER, QUICK)) == [(1, 0, "stage1.block1.layer2", "weight")]


def test_the_step_is_the_one_at_which_the_loss_was_lost():
    network = build(spec_of(blocks=6, width=12, dtype="float32", bias=True, init="torch"), seed=range(6))
    recipe = Recipe(steps=80, batch=8, rate=1.0)
    trained = train(network, TEACHER, recipe, record=1)
    assert trained.stopped, "the rate is chosen for networks that diverge"

    for each in trained.stopped:
        assert 0 < each.step <= 80
        # Up to the step before, the loss of every mini-batch was a number: a run that ends there loses none.
        before = dataclasses.replace(recipe, steps=each.step - 1)
        ended = train(build(network.spec, seed=each.seed), TEACHER, before, record=[])
        assert ended.stopped == ()
        after = dataclasses.replace(recipe, steps=each.step)
        again = train(build(network.spec, seed=each.seed), TEACHER, after, record=[])
        assert again.stopped == (each,)
        assert again.network is None


def test_a_loss_beyond_the_range_is_said_to_be_lost_at_the_end():
    network = build(spec_of(dtype="float32"), seed=(0, 1))
    network.parameters["head.weight"][0] *= 1e25  # the output is a number, its square is none
    assert lost(train(network, TEACHER, QUICK)) == [(0, 0, "network", "loss")]


def test_the_others_go_on_where_networks_stop_at_different_steps(monkeypatch: pytest.MonkeyPatch):
    spec = spec_of(blocks=6, width=12, dtype="float32", bias=True, init="torch")
    recipe = Recipe(steps=80, batch=8, rate=0.2)
    trained = train(build(spec, seed=range(16)), TEACHER, recipe, record=2)
    steps = [each.step for each in trained.stopped]
    assert len(set(steps)) > 1, "the rate is chosen for networks that diverge at different steps"
    assert steps == sorted(steps)
    assert trained.network is not None, "and for some that do not"
    monkeypatch.setattr(numpy_descent, "_NEAR", 0)
    apart = train(build(spec, seed=range(16)), TEACHER, recipe, record=2)

    assert apart.stopped == trained.stopped
    assert apart.readings.equals(trained.readings)
    same(apart, trained, {seed: seed for seed in trained.network.seeds})


# -------------------------------------------------------------------------------------------------- killed and resumed


class KilledError(Exception):
    """In place of a signal."""


RESUMED: dict[str, Any] = {"record": 5, "every": 3}


@pytest.mark.parametrize("kind", ["residual", "after the addition, batch norm", "zero-initialised gain"])
def test_it_goes_on_from_any_step(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    spec = spec_of(PATTERNS, dtype="float32", **KINDS[kind])
    recipe = dataclasses.replace(QUICK, steps=20)
    whole = train(build(spec, seed=range(3)), PATTERNS, recipe, **RESUMED, checkpoint=tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    saves = 0
    save = run._Run.save

    def saved(of: Any, path: Any) -> None:
        nonlocal saves
        save(of, path)
        saves += 1
        if saves == kill:
            raise KilledError

    monkeypatch.setattr(run._Run, "save", saved)
    for kill in range(1, 8):
        saves, path = 0, tmp_path / f"killed {kill}"
        with pytest.raises(KilledError):
            train(build(spec, seed=range(3)), PATTERNS, recipe, **RESUMED, checkpoint=path)
        resumed = train(build(spec, seed=range(3)), PATTERNS, recipe, **RESUMED, checkpoint=path)
        same(resumed, whole, {seed: seed for seed in range(3)})
        assert resumed.readings.equals(whole.readings)
        assert path.read_bytes() == content


def test_a_finished_run_is_not_done_again(tmp_path: Path):
    network = build(spec_of(dtype="float32"), seed=range(3))
    whole = train(network, TEACHER, QUICK, checkpoint=tmp_path / "end")
    content = (tmp_path / "end").read_bytes()
    told: list[int] = []
    again = train(network, TEACHER, QUICK, checkpoint=tmp_path / "end", progress=lambda done, total: told.append(done))

    assert told == []
    assert again.readings.equals(whole.readings)
    same(again, whole, {seed: seed for seed in range(3)})
    assert (tmp_path / "end").read_bytes() == content


@pytest.mark.parametrize("spoiled", [(1,), (0, 1, 2)], ids=["one", "all"])
def test_networks_that_stopped_stay_so(spoiled: tuple[int, ...], tmp_path: Path):
    network = build(spec_of(dtype="float32"), seed=range(3))
    network.parameters["head.weight"][list(spoiled)] = np.nan
    first = train(network, TEACHER, QUICK, checkpoint=tmp_path / "end")
    again = train(network, TEACHER, QUICK, checkpoint=tmp_path / "end")

    assert [each.seed for each in first.stopped] == list(spoiled)
    assert again.stopped == first.stopped
    assert again.readings.equals(first.readings)
    assert (first.network is None) == (again.network is None) == (len(spoiled) == 3)


@pytest.mark.parametrize(
    ("changed", "differs"),
    [
        ({"network": build(spec_of(blocks=3), seed=range(3))}, "spec differs"),
        ({"network": build(spec_of(), seed=range(1, 4))}, "weights differ"),
        ({"data": data.teacher(seed=4, features=5, outputs=2, width=6, train=70, test=40)}, "data differs"),
        ({"recipe": dataclasses.replace(QUICK, rate=0.04)}, "recipe differs"),
        ({"record": 9}, "steps recorded differ"),
        ({"quantities": {"loss": QUANTITIES["loss"]}}, "quantities differ"),
        ({"sites": None}, "sites differ"),
        ({"factors": {"design": "mine"}}, "factors differ"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_the_checkpoint_of_another_run_is_refused(changed: dict[str, Any], differs: str, tmp_path: Path):
    path = tmp_path / "run"
    arguments: dict[str, Any] = {
        "network": build(spec_of(), seed=range(3)),
        "data": TEACHER,
        "recipe": QUICK,
        "checkpoint": path,
    }
    train(**arguments)
    content = path.read_bytes()
    with pytest.raises(InputError) as refusal:
        train(**arguments | changed)

    assert str(refusal.value) == (
        f"checkpoint {str(path)!r} is of another run, its {differs}: give another name, or delete it."
    )
    assert path.read_bytes() == content


PROGRAM = """
import sys
from skipscope import Spec, build, data
from skipscope.training import Recipe, train
patterns = data.patterns(seed=1, train=60, test=30)
spec = Spec.dense(width=24, blocks=6, features=64, outputs=3, norm="batch", dtype="float32")
print("ready", flush=True)
train(build(spec, seed=range(6)), patterns, Recipe(steps=400, batch=16), record=8, checkpoint=sys.argv[1], every=7)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_any_moment_it_goes_on_and_ends_with_the_same_bytes(tmp_path: Path):
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / "whole")], check=True, stdout=subprocess.DEVNULL)
    length = time.monotonic() - started
    whole = (tmp_path / "whole").read_bytes()
    chance = random.Random(20151210)
    path, reached = tmp_path / "run", []

    for _ in range(20):
        with subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0, 0.3 * length))
            process.send_signal(signal.SIGKILL)
            code = process.wait()
        step = checkpoints.read(path)[1]["step"] if path.exists() else 0
        reached.append(step)
        if code == 0 or step == 400:
            subprocess.run([sys.executable, "-c", PROGRAM, str(path)], check=True, stdout=subprocess.DEVNULL)
            assert path.read_bytes() == whole
            path.unlink()
    subprocess.run([sys.executable, "-c", PROGRAM, str(path)], check=True, stdout=subprocess.DEVNULL)

    assert path.read_bytes() == whole
    assert sum(0 < step < 400 for step in reached) >= 3, "no kill came in the middle of the work"
