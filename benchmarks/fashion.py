"""The paper's Fig. 6, reduced: plain and residual networks of two depths learn Fashion-MNIST, over several seeds.

    python -m benchmarks.fashion FOLDER

trains them, two processes of one thread each, keeps the state in FOLDER (the same command goes on), and writes what
came out to benchmarks/fashion-mnist: the readings, the curves, and README.md with the findings as readings say them.
The images are the files of Debian's package dataset-fashion-mnist, or of the folder that SKIPSCOPE_DATA names.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.run import machine
from benchmarks.timing import table
from skipscope import Readings, charts, convergence, data, studies
from skipscope.words import number

KEPT = Path(__file__).with_name("fashion-mnist")
SHARES = (("cifar-20", "cifar-44-plain"), ("cifar-20-plain", "cifar-44"))  # of the two processes, alike in work
ORDER = ("cifar-20-plain", "cifar-44-plain", "cifar-20", "cifar-44")
IMAGES = {"train": 8000, "test": 2000}
WIDTH, SEEDS = 8, 3
HOW: dict[str, Any] = {"width": WIDTH, "steps": 1000, "batch": 64, "record": 10, "every": 50, "dtype": "float32"}


def trained(folder: Path, specs: tuple[str, ...]) -> Readings:
    """The readings of some of the networks; what is in the folder is not trained again."""
    torch.set_num_threads(1)
    images = data.load_images("fashion-mnist", seed=0, **IMAGES)
    parts = [
        studies.train([name], data=images, seeds=range(SEEDS), engine="torch", checkpoint=folder / f"net-{name}", **HOW)
        for name in specs
    ]
    return Readings.concat(parts)


def main() -> None:
    """Train, and write what came out."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with ProcessPoolExecutor(len(SHARES), mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(trained, [folder] * len(SHARES), SHARES))
    seconds = _kept_seconds(folder, time.perf_counter() - start)
    readings = Readings.concat(parts)
    KEPT.mkdir(exist_ok=True)
    readings.save(KEPT / "readings.parquet", overwrite=True)
    charts.training_curves(readings).save(KEPT / "curves.svg")
    (KEPT / "README.md").write_text(_page(readings, seconds), encoding="utf-8")


def _kept_seconds(folder: Path, more: float) -> float:
    """Those of all runs that went on from each other."""
    file = folder / "seconds"
    seconds = more + (float(file.read_text()) if file.exists() else 0)
    file.write_text(f"{seconds:.0f}\n")
    return seconds


def _page(readings: Readings, seconds: float) -> str:
    final = convergence.final(readings).filter(quantity="train_error")
    test = convergence.final(readings).filter(quantity="test_error")
    rows = []
    for name in ORDER:
        design, layers = ("cifar-plain" if name.endswith("plain") else "cifar"), int(name.split("-")[1])
        cells = [frame.filter(design=design, layers=layers) for frame in (final, test)]
        rows.append([name, *(_percent(cell) for cell in cells)])
    found = [
        f"- **{each.subject}: {each.rule}: {each.verdict}.** {each.statement}"
        for each in convergence.findings(readings)
    ]
    head = (
        "# Plain and residual networks on Fashion-MNIST\n\n"
        f"Written by `python -m benchmarks.fashion` after {seconds / 60:.0f} minutes of training on {machine()}\n\n"
        f"The paper's networks for CIFAR-10 with {WIDTH} channels in the first stage in place of 16, on the first "
        f"{IMAGES['train']:,} training and {IMAGES['test']:,} test images of 28x28, {SEEDS} seeds, {HOW['steps']:,} "
        f"steps of {HOW['batch']} by the paper's recipe (rate 0.1, a tenth at half and a hundredth at three quarters "
        "of the steps; 64,000 steps of 128 in the paper), float32, on the torch engine. Errors are of whole parts, in "
        "inference: the median over seeds, the least and the most."
    )
    curves = "![Training and test error over the steps, by network](curves.svg)"
    tables = table(["network", "training error", "test error"], rows)
    return "\n\n".join([head, tables, curves, "## Findings", "\n".join(found)]) + "\n"


def _percent(cell: Any) -> str:
    middle, least, most = (number(100 * float(cell[name][0])) for name in ("median", "least", "most"))
    return f"{middle} % ({least} to {most})"


if __name__ == "__main__":
    main()
