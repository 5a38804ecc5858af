"""Study `sweep`: what it measures, and that nothing a folder goes through changes a byte of what it ends with."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from skipscope import InputError, build, design, probe, runs, studies
from skipscope.readings import Readings
from skipscope.studies import ensemble

SMALL: dict[str, Any] = {"depths": [3, 5], "width": 8, "features": 4, "seeds": range(100), "chunk": 25}
PARTS = 4  # of one chunk each, of all four networks, which share their draw


def sweep(**changed: Any) -> Readings:
    return studies.sweep(**SMALL | changed)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of the readings of `SMALL`, measured without a folder."""
    path = tmp_path_factory.mktemp("whole") / "readings.parquet"
    sweep().save(path)
    return path.read_bytes()


def parts(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.glob("part-*"))


# ----------------------------------------------------------------------------------------------------- what it measures


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_a_network_is_measured_as_by_a_probe(name: str):
    found = sweep(seeds=[3, 7], order="after-add").select(design=name, depth=5).rows.sort("seed", "site", "quantity")
    network = build(design(name, depth=5, width=8, features=4, output="relu", order="after-add"), seed=[3, 7])
    probed = probe(network, 1).rows.join(found, on=["seed", "site", "quantity"], how="semi")

    assert set(found.select("site", "quantity").unique().iter_rows()) == {
        ("network", "forward_growth"),
        ("network", "backward_growth"),
        ("network", "weight_grad_first_last"),
        ("network", "parameters"),
        ("head", "forward_gain"),
        ("input", "backward_gain"),
    }
    assert found["value"].equals(probed.sort("seed", "site", "quantity")["value"])


def test_the_cells_say_which_they_are():
    cells = sweep(designs=["residual", "twin"], cotangent="ones", batch=2, seeds=[1]).cells.sort("depth", "design")

    assert cells.select("study", "design", "depth", "width", "cotangent", "batch").rows() == [
        ("sweep", name, depth, 8, "ones", 2) for depth in (3, 5) for name in ("residual", "twin")
    ]


def test_a_depth_does_not_change_the_others():
    assert sweep(depths=[3, 5, 9]).select(depth=[3, 5]).equals(sweep())


def test_what_is_given_twice_is_measured_once():
    assert sweep(depths=[3, 5, 3], designs=["plain", "plain"]).equals(sweep(designs="plain"))
    assert sweep(depths=3, designs="plain", seeds=[0]).cells.height == 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"depths": []}, "depths is empty"),
        ({"depths": [0]}, "depths must be at least 1; got 0"),
        ({"depths": [2.5]}, "depths must be a whole number of at least 1; got 2.5"),
        ({"depths": "5"}, "depths must be a whole number of at least 1; got '5'"),
        ({"depths": [5], "designs": ["matched"]}, "depth must be even for the matched design"),
        ({"designs": []}, "designs is empty"),
        ({"designs": ["resnet"]}, "design must be one of 'plain'"),
        ({"seeds": []}, "seeds is empty"),
        ({"jobs": 0}, "jobs must be at least 1; got 0"),
        ({"jobs": -2}, "jobs must be at least 1; got -2"),
        ({"chunk": 0}, "chunk must be at least 1; got 0"),
        ({"sites": True}, "sites=True needs a folder"),
        ({"sites": 1}, "sites must be True or False; got 1"),
        ({"wdth": 3}, "field must be one of"),
    ],
)
def test_what_makes_no_sense_is_refused(changed: dict[str, Any], said: str):
    with pytest.raises(InputError) as refusal:
        sweep(**changed)

    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_many_depths_of_many_seeds_are_no_request_for_much_memory(monkeypatch: pytest.MonkeyPatch):
    nothing = Readings.concat([])
    monkeypatch.setattr(ensemble, "_run_in", lambda *_, **__: nothing)

    # 1e5 networks with 6 numbers each at 3 places are 0.5 GB by the reckoning; all their sites would be 30 times that.
    assert studies.sweep(depths=range(5, 205, 4), seeds=range(1000), folder="never made") is nothing


# ---------------------------------------------------------------------------------------------------------- in a folder


def test_a_folder_ends_with_the_same_file(tmp_path: Path, whole: bytes):
    assert sweep(folder=tmp_path / "run").equals(sweep())
    assert (tmp_path / "run" / "readings.parquet").read_bytes() == whole
    assert len(parts(tmp_path / "run")) == PARTS


def test_the_seeds_of_a_part_are_in_the_plan(tmp_path: Path):
    sweep(folder=tmp_path)
    tasks = json.loads((tmp_path / "plan.json").read_text())["tasks"]

    assert [task["seeds"] for task in tasks] == ["0-24", "25-49", "50-74", "75-99"]
    assert [sorted(task["cells"]) for task in tasks] == [[0, 1, 2, 3]] * PARTS


def test_only_what_is_missing_is_measured(tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch):
    sweep(folder=tmp_path)
    damaged = tmp_path / "part-000001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (tmp_path / "part-000003.parquet").unlink()
    (tmp_path / "readings.parquet").write_bytes(b"damaged too")
    measured: list[int] = []
    told: list[tuple[int, int]] = []
    measure_part = ensemble.measure_part

    def counted(part: int, *others: Any) -> Any:
        measured.append(part)
        return measure_part(part, *others)

    monkeypatch.setattr(ensemble, "measure_part", counted)
    sweep(folder=tmp_path, progress=lambda *counts: told.append(counts))

    assert measured == [1, 3]
    assert (tmp_path / "readings.parquet").read_bytes() == whole
    # A part is 25 seeds of four networks; the progress counts what was there.
    assert told == [(200, 400), (300, 400), (400, 400)]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_what_was_measured_before_a_stop_is_kept(
    tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
):
    measure_part = ensemble.measure_part

    def stopping(part: int, *others: Any) -> Any:
        if part == 2:
            raise stop("enough")
        return measure_part(part, *others)

    with monkeypatch.context() as patched:
        patched.setattr(ensemble, "measure_part", stopping)
        with pytest.raises(stop) as stopped:
            sweep(folder=tmp_path)

    assert parts(tmp_path) == [f"part-{part:06d}.parquet" for part in range(2)]
    assert not (tmp_path / "readings.parquet").exists()
    if stop is KeyboardInterrupt:
        assert stopped.value.__notes__ == [f"2 of 4 parts are in {str(tmp_path)!r}; the same call goes on."]
    sweep(folder=tmp_path)
    assert (tmp_path / "readings.parquet").read_bytes() == whole


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seeds": range(101)}, 'seeds is "0-99" there and "0-100" here'),
        ({"width": 9}, "cells[0].spec.stages[0].width is 8 there and 9 here"),
        ({"cotangent": "ones"}, 'cells[0].cotangent is "gaussian" there and "ones" here'),
        ({"depths": [3]}, "the number of cells is 4 there and 2 here"),
        ({"chunk": 3}, "the number of tasks is 4 there and 17 here"),
        ({"sites": True}, "the number of cells[0].quantities is 6 there and 13 here"),
    ],
)
def test_another_sweep_is_refused_in_the_folder(tmp_path: Path, changed: dict[str, Any], said: str):
    sweep(folder=tmp_path)

    with pytest.raises(InputError) as refusal:
        sweep(folder=tmp_path, **changed)

    assert said in str(refusal.value)


# ---------------------------------------------------------------------------------------------------------------- sites


def test_sites_are_in_the_parts_and_not_in_what_is_returned(tmp_path: Path, whole: bytes):
    found = sweep(folder=tmp_path, sites=True)

    assert found.equals(sweep())
    assert (tmp_path / "readings.parquet").read_bytes() == whole
    rows = runs.scan(tmp_path).filter(pl.col("seed") == 7).collect()
    probed = probe(build(design("residual", depth=5, width=8, features=4, output="relu"), seed=7), 1)
    there = rows.filter(pl.col("cell").str.starts_with("residual-5"))
    pairs = there.join(probed.rows, on=["site", "quantity"], suffix="_probed")
    assert set(there["quantity"]) == {*studies.SITE_QUANTITIES, *studies.SWEEP_QUANTITIES}
    assert there["site"].n_unique() == probed.sites.height
    assert len(pairs) == len(there)
    assert pairs["value"].equals(pairs["value_probed"], check_names=False)


def test_parts_with_sites_are_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(ensemble, "_PART_ROWS", 2000)
    sweep(folder=tmp_path, sites=True, chunk=2)

    sizes = [Readings.load(tmp_path / name).rows.height for name in parts(tmp_path)]
    assert max(sizes) <= 2000
    assert 100 / len(sizes) < 2 * 3  # seeds a part: by the number of chunks alone it would be 3 chunks of 2


def test_where_nothing_is_defined_the_sites_say_so(tmp_path: Path):
    shape: dict[str, Any] = {"depths": [3], "designs": "plain", "width": 1, "seeds": range(2), "folder": tmp_path}
    with_sites = studies.sweep(**shape, sites=True)
    dead = [seed for seed in range(2) if with_sites.select(seed=seed).rows.height < len(studies.SWEEP_QUANTITIES)]
    assert dead, "these seeds are chosen for a network that is dead"

    assert with_sites.equals(studies.sweep(**shape | {"folder": None}))


# --------------------------------------------------------------------------------------------------------- many workers


@pytest.mark.slow
def test_neither_workers_nor_their_number_change_a_byte(tmp_path: Path, whole: bytes):
    for jobs in (1, 2, 3):
        sweep(folder=tmp_path / str(jobs), jobs=jobs)

    for jobs in (2, 3):
        for name in (*parts(tmp_path / "1"), "plan.json", "readings.parquet"):
            assert (tmp_path / str(jobs) / name).read_bytes() == (tmp_path / "1" / name).read_bytes(), name
    assert sweep(jobs=2).equals(sweep())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # what a cluster warns of (ports, clocks, late heartbeats) is not the point
def test_a_dask_cluster_gives_the_same_bytes(tmp_path: Path, whole: bytes):
    distributed = pytest.importorskip("distributed")
    import joblib

    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
        joblib.parallel_config(backend="dask"),
    ):
        sweep(folder=tmp_path, jobs=-1)
        alone = sweep(jobs=-1)
        worked = client.run(lambda: "skipscope.studies.ensemble" in sys.modules)

    assert list(worked.values()) == [True, True]
    assert (tmp_path / "readings.parquet").read_bytes() == whole
    assert alone.equals(sweep())


def test_a_backend_without_generators_is_given_lists(tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch):
    import joblib

    given: list[int] = []

    class Lists:
        """As `joblib.Parallel` is with a backend such as Ray's."""

        def __init__(self, n_jobs: int, return_as: str = "list", **options: object) -> None:
            if return_as != "list":
                raise ValueError(f"Backend does not support return_as={return_as}")

        def __enter__(self) -> Lists:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def __call__(self, calls: list[Any]) -> list[Any]:
            given.append(len(calls))
            return [function(*arguments, **named) for function, arguments, named in calls]

    monkeypatch.setattr(joblib, "Parallel", Lists)
    monkeypatch.setattr(joblib, "effective_n_jobs", lambda jobs: jobs)
    sweep(folder=tmp_path, jobs=1 + 1, chunk=1)

    assert given == [4, 4, 4, 4, 1]
    assert (tmp_path / "readings.parquet").read_bytes() == whole
    assert len(parts(tmp_path)) == 17


# ------------------------------------------------------------------------------------------------------------- killed

LONG: dict[str, Any] = {"depths": [3, 6, 9], "width": 24, "features": 8, "chunk": 1}
SEEDS, LONG_PARTS = 480, 30  # 2 seconds on one core

PROGRAM = """
import json, sys
from skipscope import studies
print("ready", flush=True)
studies.sweep(**json.loads(sys.argv[1]), seeds=range(int(sys.argv[2])), folder=sys.argv[3], jobs=int(sys.argv[4]))
"""


@contextlib.contextmanager
def measuring(folder: Path, jobs: int = 1) -> Iterator[subprocess.Popen[str]]:
    """A process that measures in `folder`, from the moment at which it begins."""
    arguments = [json.dumps(LONG), str(SEEDS), str(folder), str(jobs)]
    with subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()
            # Comes to an end when the last worker, which shares it, has ended. What is in it does not matter: a worker
            # that was being started when its parent was killed complains there.
            process.stdout.read()


def whole_parts(folder: Path) -> int:
    """How many parts there are, each of which loads: what is there is whole."""
    return sum(Readings.load(folder / name).rows.height > 0 for name in parts(folder))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_any_moment_it_goes_on_and_ends_with_the_same_bytes(tmp_path: Path):
    studies.sweep(**LONG, seeds=range(SEEDS)).save(tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    chance = random.Random(20151210)
    folder, kept = tmp_path / "run", [0]
    with measuring(tmp_path / "timed") as process:
        started = time.monotonic()
        assert process.wait() == 0
    length = time.monotonic() - started

    for kill in range(20):
        jobs = 1 + kill % 2
        with measuring(folder, jobs) as process:
            # Up to half of the whole length, so that most of the moments are before the end.
            time.sleep(chance.uniform(0.0, 0.5 * length))
            process.send_signal(signal.SIGKILL)
            code = process.wait()
        kept.append(whole_parts(folder) if folder.exists() else 0)
        assert kept[-1] >= kept[-2], "a kill lost a part that was there"
        if code == 0 or kept[-1] == LONG_PARTS:  # it ended before the signal, or nearly
            with measuring(folder) as process:
                assert process.wait() == 0
            assert (folder / "readings.parquet").read_bytes() == whole
            shutil.rmtree(folder)
            kept.append(0)
    with measuring(folder) as process:
        assert process.wait() == 0

    assert (folder / "readings.parquet").read_bytes() == whole
    assert sorted(each.name for each in folder.iterdir() if each.name[:5] != "part-") == [
        ".lock",
        "plan.json",
        "readings.parquet",
    ]
    assert any(0 < count < LONG_PARTS for count in kept), "no kill came in the middle of the work"


@pytest.mark.slow
def test_a_second_process_is_refused_and_the_first_unharmed(tmp_path: Path):
    folder = tmp_path / "run"
    with measuring(folder) as first:
        while not parts(folder):
            time.sleep(0.01)
        with pytest.raises(InputError, match="is in use: another process measures in it"):
            studies.sweep(**LONG, seeds=range(SEEDS), folder=folder)
        assert first.wait() == 0
    studies.sweep(**LONG, seeds=range(SEEDS)).save(tmp_path / "whole.parquet")

    assert (folder / "readings.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
