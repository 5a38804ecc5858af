"""Measure everything and write RESULTS.md: `python -m benchmarks.run`, or `... run depth` to print sections alone."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import depth, images, imports, memory, paper_torch, scope, sweeps, training
from skipscope.errors import InputError, choose

RESULTS = Path(__file__).with_name("RESULTS.md")
PACKAGES = ("skipscope", "numpy", "polars", "scipy", "joblib", "torch", "jax")
SECTIONS = {
    "imports": imports.section,
    "sweep": sweeps.section,
    "cores": sweeps.cores,
    "memory": memory.section,
    "depth": depth.section,
    "training": training.section,
    "images": images.section,
    "paper": paper_torch.section,
    "scope": scope.section,
}


def machine() -> str:
    """What the figures were measured on."""
    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    return f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, {versions}."


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def main() -> None:
    """Measure the sections that are named, or all, and then write the file."""
    start = time.perf_counter()
    if named := sys.argv[1:]:
        try:
            chosen = [SECTIONS[choose("section", name, SECTIONS)] for name in named]
        except InputError as error:
            print(error, file=sys.stderr)
            sys.exit(2)
        print(*(section() for section in chosen), sep="\n\n")
        return
    written = [section() for section in SECTIONS.values()]
    head = (
        f"# Speed and memory\n\nWritten by `make bench` in {time.perf_counter() - start:.0f} s on {machine()} Figures "
        "are ratios within this run, of times taken in turn, n times; shown are the median, the smallest and the "
        "largest, and the bound is held against the median."
    )
    text = "\n\n".join([head, *written]) + "\n"
    RESULTS.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
