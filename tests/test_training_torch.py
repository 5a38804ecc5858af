"""Training on the torch engine: the numbers of the NumPy engine, the same bits when resumed, and PyTorch's own ways."""

from __future__ import annotations

import dataclasses
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skipscope import InputError, Spec, build, checkpoints, data
from skipscope.data import Augmentation, Images, load_images
from skipscope.engines import torch_engine
from skipscope.engines.torch_engine import TorchNetwork
from skipscope.losses import CrossEntropy
from skipscope.training import Recipe, Trained, Ways, evaluate, run, train

TEACHER = data.teacher(seed=3, features=5, outputs=2, width=6, train=70, test=40)
PATTERNS = data.patterns(seed=1, train=60, test=30)
DIGITS = load_images("digits", seed=0)
IMAGES: dict[str, Any] = {"width": 4, "size": 8, "channels": 1}
QUICK = Recipe(steps=12, batch=8, rate=0.05, warmup=3, schedule="cosine")
FEW = Images.from_pixels(
    train=(DIGITS.train.inputs[:60], DIGITS.train.targets[:60]),
    test=(DIGITS.test.inputs[:40], DIGITS.test.targets[:40]),
    classes=10,
    full=16,
    augmentation=Augmentation(padding=1, mirror=True),
)
"""A few digits whose mini-batches are cropped and mirrored."""


def dense(**fields: Any) -> Spec:
    shape: dict[str, Any] = {"width": 6, "blocks": 2, "features": PATTERNS.features, "outputs": PATTERNS.outputs}
    return Spec.dense(**shape | fields)


CASES: dict[str, tuple[Spec, Any]] = {
    "plain": (dense(shortcut="none"), PATTERNS),
    "after the addition, batch norm": (dense(order="after-add", norm="batch"), PATTERNS),
    "pre-activation, layer norm": (dense(order="pre-activation", norm="layer"), PATTERNS),
    "numbers, bias": (dense(features=5, outputs=2, bias=True, init="torch", branch_gain=0.5), TEACHER),
    "zero-initialised gain, tanh": (dense(branch_gain="zero", bias=True, init="torch", activation="tanh"), PATTERNS),
    "images": (Spec.cifar(8, **IMAGES, dtype="float64"), FEW),
    "images, plain": (Spec.cifar(8, **IMAGES, dtype="float64", shortcut="none"), FEW),
    "images, pre-activation, B": (
        Spec.cifar(8, **IMAGES, dtype="float64", shortcut="B", order="pre-activation"),
        FEW,
    ),
    "images, no norm": (Spec.cifar(8, **IMAGES, dtype="float64", norm="none"), FEW),
}


def float32(spec: Spec) -> Spec:
    return dataclasses.replace(spec, dtype="float32")


# ------------------------------------------------------------------------------------------------------ both engines


@pytest.mark.parametrize("case", CASES)
def test_both_engines_train_alike(case: str, tmp_path: Path):
    """Weights, velocities, averages and readings after twelve free steps in float64, to 1e-9 of each array's norm.

    Rounding is 1e-16, and these few gentle steps magnify it by less than a thousand.
    """
    spec, dataset = CASES[case]
    recipe = dataclasses.replace(QUICK, weight_decay=0.01)
    ours = train(build(spec, seed=(4, 9)), dataset, recipe, record=3, checkpoint=tmp_path / "ours")
    network = torch_engine.build(spec, seed=(4, 9))
    theirs = train(network, dataset, recipe, record=3, checkpoint=tmp_path / "theirs")

    assert isinstance(theirs.network, TorchNetwork)
    mine, other = (checkpoints.read(tmp_path / name)[0] for name in ("ours", "theirs"))
    assert mine.keys() == other.keys()
    for name, array in mine.items():
        if not name.startswith("history/"):
            assert off(other[name], array) < 1e-9, name
    key = ["seed", "step", "site", "quantity"]
    both = ours.readings.rows.join(theirs.readings.rows, on=key, how="full")
    assert both.height == ours.readings.rows.height == theirs.readings.rows.height
    np.testing.assert_allclose(both["value"], both["value_right"], rtol=1e-9, atol=1e-12)
    assert theirs.readings.cells["engine"].to_list() == ["torch, cpu"]
    assert "engine" not in ours.readings.cells.columns


def off(some: Any, others: Any) -> float:
    """The difference in units of the norm; arrays that are 0 on both engines are alike."""
    assert np.shape(some) == np.shape(others)
    return float(np.linalg.norm(some - others) / max(float(np.linalg.norm(others)), 1e-3))


def test_ten_steps_of_resnet20_at_a_rate_of_a_tenth():
    """The paper's network and rate, real digits: every array to 1e-9 of its norm, each engine running free."""
    spec = Spec.cifar(20, size=8, channels=1, dtype="float64")
    recipe = Recipe(steps=10, batch=16, rate=0.1)
    ours = train(build(spec, seed=3), DIGITS, recipe, record=())
    theirs = train(torch_engine.build(spec, seed=3), DIGITS, recipe, record=())

    assert ours.network is not None
    assert theirs.network is not None
    began = build(spec, seed=3).arrays
    for name, array in ours.network.arrays.items():
        assert off(theirs.network.arrays[name], array) < 1e-9, name
        assert off(began[name], array) > 1e-3, f"{name} was not trained"


def test_the_network_it_starts_from_is_left_alone():
    network = torch_engine.build(CASES["images"][0], seed=(0, 1))
    before = {name: array.copy() for name, array in network.arrays.items()}
    trained = train(network, FEW, QUICK)

    assert trained.network is not None
    for name, array in network.arrays.items():
        np.testing.assert_array_equal(before[name], array)
        assert not np.array_equal(array, trained.network.arrays[name])


def test_evaluation_of_the_trained_network_is_that_of_the_last_reading():
    """Up to rounding in float64: the fast module and the network that shows what is on its way."""
    trained = train(torch_engine.build(CASES["images"][0], seed=(0, 1)), FEW, QUICK, record=[12])

    loss, error = evaluate(trained.network, FEW.pieces("test"), CrossEntropy())
    rows = trained.readings.select(quantity="test_loss").rows.sort("seed")
    np.testing.assert_allclose(rows["value"], loss, rtol=1e-12)
    assert error is not None
    np.testing.assert_array_equal(trained.readings.select(quantity="test_error").rows.sort("seed")["value"], error)


# ------------------------------------------------------------------------------------------------------ the same bits


def same(some: Trained, others: Trained, seed: int) -> None:
    mine, theirs = some.network.seeds.index(seed), others.network.seeds.index(seed)
    for name, array in some.network.arrays.items():
        assert array[mine].tobytes() == others.network.arrays[name][theirs].tobytes(), name
    assert some.readings.select(seed=seed).equals(others.readings.select(seed=seed))


@pytest.mark.parametrize("case", CASES)
def test_a_seed_is_trained_alike_alone_and_among_others(case: str, monkeypatch: pytest.MonkeyPatch):
    spec, dataset = CASES[case]
    together = train(torch_engine.build(float32(spec), seed=(2, 5, 1)), dataset, QUICK, record=2)
    monkeypatch.setattr(run, "_STRETCH", 1)
    alone = train(torch_engine.build(float32(spec), seed=5), dataset, QUICK, record=2)

    same(alone, together, 5)


class KilledError(Exception):
    """In place of a signal."""


@pytest.mark.parametrize("case", ["zero-initialised gain, tanh", "images"])
def test_it_goes_on_from_any_step(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    spec, dataset = CASES[case]
    how: dict[str, Any] = {"record": 4, "every": 3}

    def trained(path: Path) -> Trained:
        return train(torch_engine.build(float32(spec), seed=(3, 8)), dataset, QUICK, **how, checkpoint=path)

    whole = trained(tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    saves, save = 0, run._Run.save

    def saved(of: Any, path: Any) -> None:
        nonlocal saves
        save(of, path)
        saves += 1
        if saves == kill:
            raise KilledError

    monkeypatch.setattr(run._Run, "save", saved)
    for kill in range(1, 5):
        saves, path = 0, tmp_path / f"killed {kill}"
        with pytest.raises(KilledError):
            trained(path)
        resumed = trained(path)
        for seed in (3, 8):
            same(resumed, whole, seed)
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("changed", "differs"),
    [
        ({"network": build(CASES["plain"][0], seed=3)}, "engine is 'torch', and here it is 'numpy'"),
        ({"jobs": 2}, "number of threads differs"),
        ({"ways": Ways(channels_last=True)}, "way of PyTorch differs"),
        ({"recipe": dataclasses.replace(QUICK, rate=0.04)}, "recipe differs"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_the_checkpoint_of_another_run_is_refused(changed: dict[str, Any], differs: str, tmp_path: Path):
    path = tmp_path / "run"
    network = torch_engine.build(CASES["plain"][0], seed=3)
    arguments: dict[str, Any] = {"network": network, "data": PATTERNS, "recipe": QUICK, "checkpoint": path}
    train(**arguments)
    with pytest.raises(InputError, match=f"is of another run, its {differs}: give another name, or delete it"):
        train(**arguments | changed)


def test_a_checkpoint_of_the_numpy_engine_is_refused(tmp_path: Path):
    spec = CASES["plain"][0]
    train(build(spec, seed=3), PATTERNS, QUICK, checkpoint=tmp_path / "run")
    with pytest.raises(InputError, match="its engine is 'numpy', and here it is 'torch'"):
        train(torch_engine.build(spec, seed=3), PATTERNS, QUICK, checkpoint=tmp_path / "run")


PROGRAM = """
import sys
from skipscope import Spec
from skipscope.data import load_images
from skipscope.engines import torch_engine
from skipscope.training import Recipe, train
digits = load_images("digits", seed=0)
network = torch_engine.build(Spec.cifar(8, width=4, size=8, channels=1), seed=(1, 2))
recipe = Recipe(steps=300, batch=16, schedule="drops")
train(network, digits, recipe, record=6, checkpoint=sys.argv[1], every=7)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_any_moment_it_goes_on_and_ends_with_the_same_bytes(tmp_path: Path):
    def process(path: Path) -> Any:
        return subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)], stdout=subprocess.DEVNULL)

    with process(tmp_path / "whole") as whole:
        assert whole.wait() == 0
    chance = random.Random(20151210)
    path, reached = tmp_path / "run", []
    for _ in range(4):
        before = path.stat().st_mtime_ns if path.exists() else None
        with process(path) as killed:
            while killed.poll() is None and (not path.exists() or path.stat().st_mtime_ns == before):
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.1))  # from here on at any moment
            killed.send_signal(signal.SIGKILL)
        reached.append(checkpoints.read(path)[1]["step"] if path.exists() else 0)
    with process(path) as last:
        assert last.wait() == 0

    assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    assert sum(0 < step < 300 for step in reached) >= 2, "no kill came in the middle of the work"


# -------------------------------------------------------------------------------------------------------- what stops


def test_a_loss_that_is_lost_stops_that_network_alone():
    spec = dense(blocks=4, dtype="float32", features=5, outputs=2)
    gentle = dataclasses.replace(QUICK, rate=0.001)
    whole = train(torch_engine.build(spec, seed=range(3)), TEACHER, gentle, record=3)
    network = torch_engine.build(spec, seed=range(3))
    for layer in ("layer1", "layer2"):  # 1e30 alone is within float32, 1e60 is not
        network.parameters[f"stage1.block2.{layer}.weight"][1] *= 1e30
    trained = train(network, TEACHER, gentle, record=3)

    assert [str(each) for each in trained.stopped] == [
        "seed 1 after 0 steps: preactivation of stage1.block2.layer2 is not finite"
    ]
    assert trained.network.seeds == (0, 2)
    for seed in (0, 2):
        same(trained, whole, seed)


def test_networks_stop_where_those_of_the_other_engine_do():
    """In float64, where rounding does not decide when a loss overflows; some diverge at once, some not at all."""
    spec = dense(blocks=6, width=12, features=5, outputs=2, bias=True, init="torch")
    recipe = Recipe(steps=80, batch=8, rate=0.5)
    ours, theirs = (
        train(make(spec, seed=range(8)), TEACHER, recipe, record=()) for make in (build, torch_engine.build)
    )

    assert ours.stopped, "the rate is chosen for networks that diverge"
    assert theirs.stopped == ours.stopped


def test_what_the_last_step_spoils_is_seen_at_the_end():
    spec = dense(dtype="float32", features=5, outputs=2)
    recipe = Recipe(steps=1, batch=8, rate=1e38)
    trained = train(torch_engine.build(spec, seed=0), TEACHER, recipe, record=[0])

    assert trained.network is None
    assert [(each.seed, each.step) for each in trained.stopped] == [(0, 1)]


# -------------------------------------------------------------------------------------------------- PyTorch's own ways

SPEC = Spec.cifar(8, **IMAGES)
LEARNING = Recipe(steps=40, batch=32, rate=0.1)


def learned(ways: Ways | None = None, **more: Any) -> Trained:
    return train(torch_engine.build(SPEC, seed=0), DIGITS, LEARNING, record=[40], ways=ways, **more)


def told(trained: Trained) -> dict[str, float]:
    return dict(trained.readings.rows.select("quantity", "value").iter_rows())


@pytest.mark.parametrize(
    ("ways", "engine"),
    [
        (Ways(device="cpu"), "torch, cpu"),
        (Ways(device="auto", channels_last=True), None),
        (Ways(channels_last=False), "torch, cpu, channels first"),
        (Ways(autocast=True), "torch, cpu, bfloat16 autocast"),
        pytest.param(Ways(compile=True), "torch, cpu, compiled", marks=pytest.mark.slow),
        pytest.param(
            Ways(compile=True, autocast=True), "torch, cpu, bfloat16 autocast, compiled", marks=pytest.mark.slow
        ),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("default")  # of the compiler's own libraries
def test_digits_are_learned_in_every_way_and_the_readings_say_in_which(ways: Ways, engine: str | None):
    """After 40 steps well below the 90 % of guessing; 0.35 is twice what this seed reaches in plain float32."""
    trained = learned(ways)

    assert told(trained)["test_error"] < 0.35
    found = trained.readings.cells["engine"].item()
    assert found == engine if engine is not None else found.startswith("torch, ")


def test_autocast_computes_in_bfloat16_and_the_layout_in_another_order():
    """Of a loss that has come down: bfloat16 has 8 bits, which training magnifies; another order only rounds."""
    plain, first, half = (
        learned(ways, sites="network") for ways in (None, Ways(channels_last=False), Ways(autocast=True))
    )
    loss = told(plain)["train_loss"]

    assert told(learned())["train_loss"] == loss
    assert abs(told(first)["train_loss"] / loss - 1) < 0.1
    assert abs(told(half)["train_loss"] - loss) > 1e-4


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_compiled_run_goes_on_to_the_same_bits(tmp_path: Path):
    whole = learned(Ways(compile=True))

    def stop(done: int, steps: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    kept: dict[str, Any] = {"checkpoint": tmp_path / "run", "every": 20}
    with pytest.raises(KeyboardInterrupt):
        learned(Ways(compile=True), **kept, progress=stop)
    same(learned(Ways(compile=True), **kept), whole, 0)


def test_a_compiler_that_is_not_there_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch):
    def backend(graph: Any, inputs: Any) -> Any:
        raise OSError("no C++ compiler here\nand more lines")

    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: compiled(module, backend=backend))
    with pytest.raises(InputError, match=r"compile=True: PyTorch could not compile the network here \(.*leave it out"):
        learned(Ways(compile=True))
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ways": Ways(device="gpu")}, "device must be one of"),
        ({"ways": Ways(autocast=True), "network": torch_engine.build(CASES["images"][0], seed=0)}, "autocast is for"),
        ({"network": torch_engine.build(dense(), seed=0)}, "the network is dense, and digits is a set of images"),
        ({"recipe": Recipe(steps=1, batch=100_000)}, "batch=100000 is more than"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any], said: str):
    arguments: dict[str, Any] = {"network": torch_engine.build(SPEC, seed=0), "data": DIGITS, "recipe": LEARNING}
    with pytest.raises(InputError) as refusal:
        train(**arguments | changed)

    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("device", 3), ("channels_last", "yes"), ("autocast", None), ("autocast", 1), ("compile", "True")],
)
def test_ways_name_what_is_wrong_with_them(field: str, value: Any):
    with pytest.raises(InputError, match=f"^{field} must be "):
        Ways(**dict[str, Any]({field: value}))


def test_the_threads_of_pytorch_are_as_before():
    before = torch.get_num_threads()
    train(torch_engine.build(SPEC, seed=0), FEW, Recipe(steps=1, batch=8), record=(), jobs=before + 1)
    assert torch.get_num_threads() == before


def test_training_by_hand_does_not_look_for_torch():
    code = (
        "import sys, skipscope\n"
        "from skipscope import data, training\n"
        "patterns = data.patterns(seed=1, train=60, test=30)\n"
        "spec = skipscope.Spec.dense(width=4, blocks=1, features=64, outputs=3)\n"
        "training.train(skipscope.build(spec, seed=0), patterns, training.Recipe(steps=2, batch=8))\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
