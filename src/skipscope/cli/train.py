"""`skipscope train`."""

from __future__ import annotations

import filecmp
import functools
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import polars as pl

from skipscope.cli import options, outputs, printing
from skipscope.cli.options import Format
from skipscope.cli.printing import Shown
from skipscope.cli.study import keeping
from skipscope.errors import InputError, quoted, require_int

if TYPE_CHECKING:
    from skipscope.data import Images
    from skipscope.readings import Readings
    from skipscope.training import Ways

_State = tuple[Mapping[str, Any], Mapping[str, Any]]
"""The arrays and the notes of a checkpoint."""

_OF_TORCH = ("device", "channels_last", "autocast", "compile_")


def _shown(readings: Readings) -> Shown:
    from skipscope import convergence, stops

    curves = convergence.curves(readings)
    return Shown(
        table=curves,
        overview=lambda: [_overview(curves), printing.stopped(readings)],
        further=lambda: {
            "curves": curves,
            "final": convergence.final(readings),
            "paired": convergence.paired(readings),
            "stopped": stops.stops(readings),
        },
        findings=lambda: convergence.findings(readings),
    )


def _overview(curves: pl.DataFrame) -> pl.DataFrame:
    """A line a network and recorded step: medians over seeds."""
    from skipscope.convergence import TITLES

    wide = curves.pivot("quantity", index=["design", "layers", "step", "n", "cell"], values="median")
    return wide.select(
        "design",
        "layers",
        "step",
        pl.col("n").alias("seeds"),
        *[pl.col(key).alias(to) for key, to in TITLES.items() if key in wide.columns],
    )


@click.command()
@options.specs
@click.option("--width", type=int, help="Channels of the first stage, if not the paper's.")
@options.images
@click.option("--train-images", type=int, help="Train on so many of the images, the first; all if not given.")
@click.option("--test-images", type=int, help="Test on so many, likewise.")
@click.option(
    "--validation",
    type=int,
    default=0,
    show_default=True,
    help="Images of the training part to hold out; loss and error on them are told beside the others.",
)
@click.option(
    "--normalise",
    default="pixel-mean",
    show_default=True,
    help="pixel-mean (the paper's), pixel, channel-mean, channel or none.",
)
@click.option("--augment/--no-augment", default=True, show_default=True, help="Crop and mirror, as the paper does.")
@click.option("--engine", default="numpy", show_default=True, help="numpy or torch.")
@options.steps(500)
@options.batch(128, "Images a step.")
@click.option("--rate", type=float, default=0.1, show_default=True, help="The learning rate, before its drops.")
@click.option("--record", type=int, default=10, show_default=True, help="How often to measure on the way.")
@options.path("--checkpoint", help="Keep the state there; the same command goes on.")
@click.option("--every", type=int, default=100, show_default=True, help="Steps between checkpoints.")
@options.path("--save", help="Write the trained weights there (.safetensors); one file a network and seed.")
@click.option("--device", default="cpu", show_default=True, help="Of --engine torch: cpu, cuda, mps or auto.")
@click.option(
    "--channels-last/--channels-first",
    default=True,
    show_default=True,
    help="Of --engine torch: how images lie in memory.",
)
@click.option("--autocast", is_flag=True, help="Of --engine torch: steps in bfloat16 where that is safe.")
@click.option("--compile", "compile_", is_flag=True, help="Of --engine torch: compiled steps; needs a C++ compiler.")
@click.option("--seeds", type=int, default=1, show_default=True, help="How many seeds.")
@click.option("--seed", type=int, default=0, show_default=True, help="The first seed.")
@click.option("--dtype", default="float32", show_default=True, help="float32 or float64.")
@click.option(
    "--jobs", type=int, default=1, show_default=True, help="Threads; only of torch do last bits depend on them."
)
@options.saving
@options.format_
@options.quiet
def train(
    *,
    out: Path | None,
    page: Path | None,
    overwrite: bool,
    format_: Format,
    quiet: bool,
    seeds: int,
    seed: int,
    checkpoint: Path | None,
    save: Path | None,
    **asked: Any,
) -> None:
    """Train networks of the paper by its recipe: loss and error on every part, over the steps.

    Momentum 0.9, weight decay 1e-4, a tenth of the rate from half of the steps on and a hundredth from three quarters;
    from 110 layers on a warm-up at 0.01. Networks are made to fit the images. --spec may be given several times.
    """
    from skipscope import studies

    chosen = options.seed_range(seeds, seed)
    specs = asked.pop("specs") or ["cifar-20"]
    done = _done(checkpoint, specs)
    again = overwrite or done.keys() >= set(specs)  # who was stopped while readings were written goes on there too
    outputs.check(out, page, again)
    _require_apart(checkpoint, specs, out, page)
    if save is not None:
        outputs.check_file("--save", save, ".safetensors", overwrite=True)
    require_int("--steps", asked["steps"], least=1)
    ways = _ways(**{name: asked.pop(name) for name in _OF_TORCH}, engine=asked["engine"])
    images = _images(**{name: asked.pop(name) for name in _IMAGES})
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    given |= {"checkpoint": checkpoint, "save": save, "ways": ways}
    given["check"] = functools.partial(_check_saved, overwrite=overwrite, done=done)
    with keeping(checkpoint), printing.progress("training", quiet, "steps") as progress:
        readings = studies.train(specs, data=images, seeds=chosen, progress=progress, **given)
    if not overwrite:
        out, page = _unwritten(readings, out, page)
    outputs.save(readings, out, page, overwrite, "Training")
    printing.show(_shown(readings), format_, quiet)


_IMAGES = ("data", "data_folder", "train_images", "test_images", "validation", "normalise", "augment")


def _images(
    *,
    data: str,
    data_folder: Path | None,
    train_images: int | None,
    test_images: int | None,
    validation: int,
    normalise: Any,
    augment: bool,
) -> Images:
    from skipscope.data import load_images

    for option, number in (("--train-images", train_images), ("--test-images", test_images)):
        if number is not None:
            require_int(option, number, least=1)
    how: dict[str, Any] = {"validation": validation, "normalise": normalise, "augment": augment}
    return load_images(data, seed=0, folder=data_folder, train=train_images, test=test_images, **how)


def _ways(*, engine: str, device: str, channels_last: bool, autocast: bool, compile_: bool) -> Ways | None:
    """What was asked of PyTorch.

    Raises:
        InputError: something was, of the other engine.
    """
    from skipscope.training import Ways

    if engine == "torch":
        return Ways(device=device, channels_last=channels_last, autocast=autocast, compile=compile_)
    said = {
        "device": f"--device {quoted(device)}",
        "channels_last": "--channels-last" if channels_last else "--channels-first",
        "autocast": "--autocast",
        "compile_": "--compile",
    }
    for name, option in said.items():
        if options.was_given(name):
            raise InputError(f"{option} is for --engine torch, and the engine is {quoted(engine)}: leave one out.")
    return None


def _done(checkpoint: Path | None, specs: list[str]) -> dict[str, _State]:
    """The networks whose own checkpoint says that they are trained, each with what is in it.

    Raises:
        InputError: a checkpoint is damaged, or something else.
    """
    from skipscope import checkpoints
    from skipscope.studies.train import checkpoint_files

    found: dict[str, _State] = {}
    for name, place in ({} if checkpoint is None else checkpoint_files(checkpoint, specs)).items():
        if os.path.isfile(place):  # unlike Path.is_file, it takes a name that is too long
            arrays, notes = checkpoints.read(place)
            if notes["step"] == notes["run"]["recipe"]["steps"]:
                found[name] = arrays, notes
    return found


def _unwritten(readings: Readings, out: Path | None, page: Path | None) -> tuple[Path | None, Path | None]:
    """What is still to be written: a file that is there already must be the one that would be.

    Raises:
        InputError: there is another one.
    """
    if not any(path is not None and os.path.isfile(path) for path in (out, page)):
        return out, page
    with tempfile.TemporaryDirectory() as folder:
        fresh = [None if path is None else Path(folder, path.name) for path in (out, page)]
        outputs.save(readings, fresh[0], fresh[1], False, "Training")
        left = [
            None if path is None or new is None or _is_same("--out" if path is out else "--report", path, new) else path
            for path, new in zip((out, page), fresh, strict=True)
        ]
    return left[0], left[1]


def _is_same(option: str, path: Path, fresh: Path) -> bool:
    """Whether the file is there, and byte for byte as it would be written.

    Raises:
        InputError: it is there, and another one.
    """
    if not os.path.isfile(path):
        return False
    if not filecmp.cmp(path, fresh, shallow=False):
        raise InputError(f"{option} {str(path)!r} exists: give another name, or --overwrite.")
    return True


def _require_apart(checkpoint: Path | None, specs: list[str], *written: Path | None) -> None:
    """Refuse readings or a report in the place of a checkpoint, before there is one."""
    from skipscope.studies.train import checkpoint_files

    places = {} if checkpoint is None else checkpoint_files(checkpoint, specs)
    taken = {os.path.realpath(place) for place in places.values()}
    for option, path in zip(("--out", "--report"), written, strict=True):
        if path is not None and os.path.realpath(path) in taken:
            raise InputError(
                f"{option} and --checkpoint would both be the file {str(path)!r}: give one of them another name."
            )


def _check_saved(files: Mapping[tuple[str, int], Path], *, overwrite: bool, done: Mapping[str, _State]) -> None:
    """Whether weights can be written there, before there are any; what a network that is `done` left may be there.

    Raises:
        InputError: one file cannot.
    """
    for (name, seed), file in files.items():
        left = name in done and _is_left_by(done[name], seed, file)
        outputs.check_file("--save", file, ".safetensors", overwrite or left)


def _is_left_by(state: _State, seed: int, file: Path) -> bool:
    """Whether the file is what a network writes that was trained to this state."""
    from skipscope.engines import pretrained
    from skipscope.spec import Spec

    arrays, notes = state
    if not os.path.isfile(file) or seed not in notes["seeds"]:
        return False
    named = {name.partition("/")[2]: each for name, each in arrays.items() if name.startswith(("weights/", "running/"))}
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder, file.name)
        pretrained.save(fresh, Spec.from_json(notes["run"]["spec"]), named, notes["seeds"].index(seed))
        return filecmp.cmp(file, fresh, shallow=False)
