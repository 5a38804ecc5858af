"""Training studies: in a folder they end with the same bytes however they went; where a network stopped is told."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from skipscope import InputError, Spec, runs, studies
from skipscope.readings import Readings
from skipscope.studies import learning
from skipscope.studies.learning import STOPPED, Trial, learn
from skipscope.studies.lesion import Lesions
from skipscope.training import Recipe, require_fit

SHORT: dict[str, Any] = {"recipe": Recipe(steps=12, batch=16), "data": "patterns", "width": 8, "seeds": range(3)}
STUDIES: dict[str, tuple[Callable[..., Readings], dict[str, Any]]] = {
    "degradation": (
        studies.degradation,
        {**SHORT, "depths": (3, 4), "designs": "plain", "rates": (0.1, 0.01), "tuning": 2, "record": 2},
    ),
    "representation": (studies.representation, {**SHORT, "depth": 2}),
    "lesion": (studies.lesion, {**SHORT, "depth": 2, "draws": 2}),
    "identity": (
        studies.identity,
        {"scales": (1.0, 0.1), "depths": 4, "width": 32, "steps": 8, "rates": (0.1, 0.01), "seeds": range(3)},
    ),
}
CHUNK = 2  # two chunks of each trial

each_study = pytest.mark.parametrize("name", STUDIES)


def run(name: str, **told: Any) -> Readings:
    study, arguments = STUDIES[name]
    return study(**{**arguments, "chunk": CHUNK, **told})


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a study that came to its end, which no test changes."""

    @cache
    def folder(name: str) -> Path:
        found = tmp_path_factory.mktemp(name) / "run"
        run(name, folder=found)
        return found

    return folder


def parts(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.glob("part-*"))


def saved(readings: Readings, path: Path) -> bytes:
    readings.save(path)
    return path.read_bytes()


# ---------------------------------------------------------------------------------------------------------- in a folder


@each_study
def test_a_folder_ends_with_the_same_file(name: str, tmp_path: Path):
    whole = saved(run(name), tmp_path / "whole.parquet")

    kept = run(name, folder=tmp_path / "run")

    assert saved(kept, tmp_path / "kept.parquet") == whole
    assert (tmp_path / "run" / "readings.parquet").read_bytes() == whole
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    rounds = [each for each in plan.values() if isinstance(each, dict) and "tasks" in each]
    assert len(parts(tmp_path / "run")) == plan["parts"] == sum(len(each["tasks"]) for each in rounds)


@each_study
def test_only_what_is_missing_is_measured(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "run"
    run(name, folder=folder)
    whole = (folder / "readings.parquet").read_bytes()
    there = parts(folder)
    lost = [there[-3], there[-1]]  # both of a round of training, the last one
    (folder / lost[0]).unlink()
    (folder / lost[1]).write_bytes((folder / lost[1]).read_bytes()[:-1])
    (folder / "readings.parquet").unlink()
    before = {part: (folder / part).stat().st_mtime_ns for part in there if part not in lost}
    trained: list[tuple[int, ...]] = []
    learned = learning._learn

    def counted(trial: Trial, seeds: tuple[int, ...]) -> Readings:
        trained.append(seeds)
        return learned(trial, seeds)

    monkeypatch.setattr(learning, "_learn", counted)
    told: list[tuple[int, int]] = []
    run(name, folder=folder, progress=lambda *counts: told.append(counts))

    assert trained == [(2,), (2,)]
    assert (folder / "readings.parquet").read_bytes() == whole
    assert {part: (folder / part).stat().st_mtime_ns for part in before} == before
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_what_was_trained_before_a_stop_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
):
    """In the second round, whose trials follow from the first."""
    whole = saved(run("degradation"), tmp_path / "whole.parquet")
    learned = learning._learn

    def stopping(trial: Trial, seeds: tuple[int, ...]) -> Readings:
        if not trial.factors["tuning"] and seeds == (2,):
            raise stop("enough")
        return learned(trial, seeds)

    with monkeypatch.context() as patched:
        patched.setattr(learning, "_learn", stopping)
        with pytest.raises(stop) as stopped:
            run("degradation", folder=tmp_path / "run")

    there = parts(tmp_path / "run")
    assert there == [f"part-{part:06d}.parquet" for part in range(8 // 2 * 2 + 1)]  # 8 networks tuned, 4 chunks, one
    assert not (tmp_path / "run" / "readings.parquet").exists()
    if stop is KeyboardInterrupt:
        (note,) = stopped.value.__notes__
        assert note == f"{len(there)} of 16 parts are in {str(tmp_path / 'run')!r}; the same call goes on."
    run("degradation", folder=tmp_path / "run")
    assert (tmp_path / "run" / "readings.parquet").read_bytes() == whole


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("degradation", {"seeds": range(4)}, 'tuning.seeds is "3-4" there and "4-5" here'),
        ("degradation", {"seeds": range(1, 3)}, 'measured.seeds is "0-2" there and "1-2" here'),
        ("degradation", {"rates": (0.1, 0.02)}, "rates[1] is 0.01 there and 0.02 here"),
        ("degradation", {"tuning": 3}, 'tuning.seeds is "3-4" there and "3-5" here'),
        ("degradation", {"rates": 0.1}, "the number of rates is 2 there and 1 here"),
        ("degradation", {"data_seed": 1}, "tuning.cells[0].data.seed is 0 there and 1 here"),
        ("representation", {"recipe": Recipe(steps=12, batch=16, momentum=0)}, "recipe.momentum is 0.9 there and 0"),
        ("representation", {"order": "before-add"}, "stages[0].order is"),
        ("representation", {"chunk": 1}, "the number of measured.tasks is 4 there and 6 here"),
        ("lesion", {"draws": 3}, "measured.cells[0].after[0].draws is 2 there and 3 here"),
        ("lesion", {"deleted": 1}, "the number of measured.cells[0].after[0].deleted is 2 there and 1 here"),
        ("identity", {"scales": (1.0, 0.2)}, "block.cells[1].factors.scale is 0.1 there and 0.2 here"),
        ("identity", {"steps": 9}, "stacks.cells[0].recipe.steps is 8 there and 9 here"),
    ],
)
def test_another_training_is_refused_in_the_folder(
    name: str, changed: dict[str, Any], said: str, ended: Callable[[str], Path]
):
    folder = ended(name)
    before = {each.name: each.read_bytes() for each in folder.iterdir()}

    with pytest.raises(InputError) as refusal:
        run(name, folder=folder, **changed)

    assert said in str(refusal.value)
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == before


def test_a_folder_of_another_study_is_refused(ended: Callable[[str], Path]):
    with pytest.raises(InputError, match=r"holds another run: measured.cells\[0\]"):
        run("representation", folder=ended("lesion"))


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("degradation", {"recipe": Recipe(steps=12, batch=10_000)}),
        ("representation", {"norm": "batch", "recipe": Recipe(steps=12, batch=1)}),
        ("lesion", {"jobs": 0}),
        ("lesion", {"chunk": 0}),
        ("lesion", {"seeds": []}),
        ("identity", {"jobs": -2}),
        ("identity", {"batch": 10**6}),
    ],
)
def test_what_is_refused_leaves_no_folder(name: str, changed: dict[str, Any], tmp_path: Path):
    with pytest.raises(InputError):
        run(name, folder=tmp_path / "run", **changed)

    assert list(tmp_path.iterdir()) == []


def test_work_that_is_refused_before_its_first_part_leaves_nothing(tmp_path: Path):
    with pytest.raises(InputError, match="no"), runs.opened(tmp_path / "run", {"a": 1}, parts=1):
        raise InputError("no")
    assert list(tmp_path.iterdir()) == []

    with runs.opened(tmp_path / "run", {"a": 1}, parts=2) as work:
        work.save(0, run("lesion", seeds=[0]))
    with pytest.raises(InputError, match="later"), runs.opened(tmp_path / "run", {"a": 1}, parts=2):
        raise InputError("later")
    assert sorted(each.name for each in (tmp_path / "run").iterdir()) == [".lock", "part-000000.parquet", "plan.json"]


@pytest.mark.slow
@each_study
def test_neither_workers_nor_their_number_change_a_byte(name: str, tmp_path: Path):
    for jobs in (1, 2, 3):
        run(name, folder=tmp_path / str(jobs), jobs=jobs)

    files = sorted(each.name for each in (tmp_path / "1").iterdir())
    for jobs in (2, 3):
        assert sorted(each.name for each in (tmp_path / str(jobs)).iterdir()) == files
        for file in files:
            assert (tmp_path / str(jobs) / file).read_bytes() == (tmp_path / "1" / file).read_bytes(), file


# -------------------------------------------------------------------------------------------------------------- killed

LONG: dict[str, Any] = {"depths": [4, 8], "width": 16, "rates": [0.1, 0.01], "tuning": 2, "record": 4, "chunk": 2}
SEEDS, LONG_PARTS = 6, 40  # a part a tenth of a second or so: 8 networks at 2 rates, and 8 by three chunks

PROGRAM = """
import json, sys
from skipscope import studies
from skipscope.training import Recipe
told = json.loads(sys.argv[1]) | {"folder": sys.argv[2], "jobs": int(sys.argv[3])}
print("ready", flush=True)
studies.degradation(**told, recipe=Recipe(steps=60, batch=32))
"""


@contextlib.contextmanager
def training(folder: Path, jobs: int = 1) -> Iterator[subprocess.Popen[str]]:
    """A process that trains in `folder`, from the moment at which it begins."""
    arguments = [json.dumps({**LONG, "seeds": list(range(SEEDS))}), str(folder), str(jobs)]
    with subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()
            process.stdout.read()  # comes to an end when the last worker, which shares it, has ended


def whole_parts(folder: Path) -> int:
    """How many parts there are, each of which loads: what is there is whole."""
    return sum(Readings.load(folder / name).rows.height > 0 for name in parts(folder))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_any_moment_it_goes_on_and_ends_with_the_same_bytes(tmp_path: Path):
    alone = studies.degradation(**LONG, seeds=range(SEEDS), recipe=Recipe(steps=60, batch=32))
    whole = saved(alone, tmp_path / "whole.parquet")
    chance = random.Random(20151210)
    folder, kept, middles = tmp_path / "run", 0, 0
    with training(tmp_path / "timed") as process:
        started = time.monotonic()
        assert process.wait() == 0
    length = time.monotonic() - started
    assert whole_parts(tmp_path / "timed") == LONG_PARTS

    for kill in range(20):
        with training(folder, jobs=1 + kill % 2) as process:
            # What was done is kept, so that most of the moments are before the end of what is left.
            time.sleep(chance.uniform(0.0, 0.8 * length))
            process.send_signal(signal.SIGKILL)
            code = process.wait()
        now = whole_parts(folder) if folder.exists() else 0
        assert now >= kept, "a kill lost a part that was there"
        middles += 0 < now < LONG_PARTS
        kept = now
        if code == 0 or kept == LONG_PARTS:  # it ended before the signal, or nearly
            with training(folder) as process:
                assert process.wait() == 0
            assert (folder / "readings.parquet").read_bytes() == whole
            shutil.rmtree(folder)
            kept = 0
    with training(folder) as process:
        assert process.wait() == 0

    assert (folder / "readings.parquet").read_bytes() == whole
    assert {each.name for each in folder.iterdir()} == {".lock", "plan.json", "readings.parquet", *parts(folder)}
    assert middles >= 3, "no kill came in the middle of the work"


# ------------------------------------------------------------------------------------------------------- how much it is


def test_what_is_looked_at_afterwards_counts_where_room_is_judged():
    """What is reckoned is at least what there is, and not much more."""
    for name in ("representation", "lesion", "degradation"):
        reckoned: list[int] = []
        gathered = getattr(learning, "gather")  # noqa: B009  (what the module imports, not what it exports)

        def spied(*given: Any, gathered: Any = gathered, reckoned: list[int] = reckoned, **told: Any) -> Readings:
            reckoned.append(len(told.get("seeds", given[2])) * sum(map(told["readings"], given[1])))
            return gathered(*given, **told)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(learning, "gather", spied)
            found = len(run(name))
        assert found <= sum(reckoned) <= 2 * found, name


def test_readings_that_cannot_be_held_are_refused_before_the_work():
    """A lesion for every draw: few numbers a network, and more readings than any memory holds."""
    with pytest.raises(InputError, match="this is too large"):
        run("lesion", draws=10**12)


def test_readings_of_lesions_are_reckoned():
    assert Lesions(deleted=(1, 2), swapped=(1,), draws=4).most(5) == 3 + 5 + 2 * 5 + 4 * (2 * 2 + 3)


# ------------------------------------------------------------------------------------------------ networks that stopped


LOSING: dict[str, Any] = {
    "data": "patterns", "width": 8, "depths": (4, 24), "designs": ("plain", "matched"), "norms": "none", "rates": 3.0,
    "record": 2, "seeds": range(6), "dtype": "float32", "recipe": Recipe(steps=20, batch=16),
}  # fmt: skip


@pytest.fixture(scope="module")
def stopped() -> Readings:
    """Deep networks at a rate that some survive."""
    return studies.degradation(**LOSING)


def test_where_a_network_stopped_is_a_reading(stopped: Readings):
    from skipscope import data
    from skipscope.engines.numpy_engine import build
    from skipscope.training import train

    expected = set()
    survived = 0
    for cell in stopped.cells.iter_rows(named=True):
        spec = Spec.from_json(cell["spec"])
        trained = train(build(spec, seed=range(6)), data.load("patterns", seed=0), Recipe(steps=20, batch=16, rate=3.0))
        expected |= {(cell["cell"], each.seed, each.site, float(each.step)) for each in trained.stopped}
        survived += 6 - len(trained.stopped)

    rows = stopped.rows.filter(quantity=STOPPED)
    assert set(rows.select("cell", "seed", "site", "value").rows()) == expected
    assert len(expected) >= 3
    assert survived >= 3  # of which there is no row
    assert set(rows["step"]) == {20}  # it is what is known at the end
    places = stopped.sites.select("cell", "site", "status").rows()
    assert all((cell, site, "measured") in places for cell, _, site, _ in expected)


def test_who_did_not_stop_has_no_row(stopped: Readings):
    assert STOPPED not in set(run("degradation").rows["quantity"])
    last = stopped.rows.filter(quantity="train_loss", step=20).select("cell", "seed").rows()
    gone = stopped.rows.filter(quantity=STOPPED).select("cell", "seed").rows()
    assert set(last).isdisjoint(gone)
    assert len(last) + len(gone) == 4 * 6


def test_where_a_network_stopped_comes_back_from_a_folder(stopped: Readings, tmp_path: Path):
    for _ in range(2):
        assert studies.degradation(**LOSING, folder=tmp_path, chunk=2).equals(stopped)


# ------------------------------------------------------------------------------------------------------------- refusals


def test_a_network_that_does_not_fit_is_refused_by_name():
    from skipscope import data

    patterns = data.load("patterns", seed=0)
    spec = Spec.dense(width=8, blocks=1, features=64, outputs=3)
    require_fit(spec, patterns, Recipe(steps=1))
    for wrong, recipe, said in (
        (Spec.dense(width=8, blocks=1, features=63, outputs=3), Recipe(steps=1), "takes 63 numbers and gives 3"),
        (Spec.dense(width=8, blocks=1, features=64, outputs=2), Recipe(steps=1), "takes 64 numbers and gives 2"),
        (spec, Recipe(steps=1, batch=10**6), "batch=1000000 is more than patterns has"),
    ):
        with pytest.raises(InputError, match=said):
            require_fit(wrong, patterns, recipe)


def test_a_trial_may_record_chosen_steps():
    spec = Spec.dense(width=8, blocks=1, features=64, outputs=3)
    trial = Trial(spec, "patterns", Recipe(steps=6, batch=8), {"design": "mine"}, record=(0, 4))
    assert set(learn([trial], range(2)).rows["step"]) == {0, 4}
