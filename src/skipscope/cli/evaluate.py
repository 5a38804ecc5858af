"""`skipscope evaluate`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import polars as pl
from numpy.typing import NDArray

from skipscope.cli import options, outputs, printing
from skipscope.cli.options import Format
from skipscope.errors import InputError, choose, quoted, require_number
from skipscope.words import number

if TYPE_CHECKING:
    from skipscope.accuracy import Accuracy, Agreement, Share
    from skipscope.data import Images
    from skipscope.spec import Spec

_PARTS = ("test", "train", "validation")


@dataclass(frozen=True, kw_only=True)
class _Result:
    """What was looked at, and what was found.

    Attributes:
        weights: the file.
        spec: what the network was taken for.
        implied: what the names in the file mean, if anything for such images.
        named: whether the user said the spec.
        images: the data.
        shown: how, in words.
        engines: which looked; the first is the one whose predictions are shown.
        accuracy: what that one found.
        agreement: with the other, if it was asked.
    """

    weights: Path
    spec: Spec
    implied: Spec | None
    named: bool
    images: Images
    shown: str
    engines: Sequence[str]
    accuracy: Accuracy
    agreement: Agreement | None


@click.command()
@options.path("--weights", required=True, help="The file: safetensors, or what torch.save wrote.")
@click.option("--spec", "name", help="The network, as cifar-20; what the names in the file mean if not given.")
@click.option("--width", type=int, help="Of --spec: channels of the first stage, if not the paper's.")
@options.images
@click.option("--part", default="test", show_default=True, help="test, train, or validation.")
@click.option("--validation", type=int, default=0, show_default=True, help="Images held out of the training part.")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws which, and the split; train splits with 0.")
@click.option(
    "--normalise",
    default="pixel-mean",
    show_default=True,
    help="How images were shown in training, which no file says: pixel-mean (the paper's), pixel, channel-mean, "
    "channel or none.",
)
@click.option(
    "--mean",
    callback=options.numbers(float, "0.485,0.456,0.406"),
    help="In place of --normalise: what was subtracted from each channel, of pixels from 0 to 1, as 0.485,0.456,0.406.",
)
@click.option(
    "--std",
    callback=options.numbers(float, "0.229,0.224,0.225"),
    help="With --mean: what each channel was divided by then; 1 if not given.",
)
@click.option("--engine", default="numpy", show_default=True, help="numpy or torch.")
@click.option("--device", default="cpu", show_default=True, help="Of the torch engine: cpu, cuda, mps or auto.")
@click.option("--dtype", default="float32", show_default=True, help="float32 or float64.")
@click.option("--check", is_flag=True, help="Ask the other engine too, and count where the two disagree.")
@options.batch(128, "Images at once.")
@click.option("--jobs", type=int, help="Threads; one for every core if not given.")
@options.path("--out", help="Save the confusion table there (.csv).")
@options.overwrite
@options.format_
@options.quiet
def evaluate(
    *, check: bool, out: Path | None, overwrite: bool, format_: Format, quiet: bool, engine: str, **asked: Any
) -> None:
    """How often a trained network is right, by the weights in a file: top-1, top-5 and confusion, with intervals.

    The names in the file say which of the paper's networks it is, up to what no shape tells: where option A has its
    zeros and a bottleneck its stride, and whether there are shortcuts without weights. These are taken to be as most
    files with such names have them, unless the file says its spec in words, as those of `skipscope train` do; --spec
    says otherwise, as cifar-20-A, cifar-20-plain or imagenet-50.
    """
    if out is not None:
        outputs.check_file("--out", out, ".csv", overwrite)
    choose("engine", engine, ("numpy", "torch"))
    engines = (engine, "torch" if engine == "numpy" else "numpy") if check else (engine,)
    with printing.progress("evaluate", quiet, "images") as progress:
        result = _evaluated(engines=engines, progress=progress, **asked)
    if out is not None:
        from skipscope.files import write_whole

        write_whole(out, _confusion(result.accuracy).write_csv().encode())
    _show(result, format_, quiet)


def _evaluated(
    *,
    weights: Path,
    name: str | None,
    width: int | None,
    dtype: Any,
    device: str,
    engines: Sequence[Any],
    part: str,
    batch: int,
    jobs: int | None,
    progress: Any,
    **data: Any,
) -> _Result:
    from skipscope.accuracy import accuracy, agreement, network_of

    if device != "cpu" and "torch" not in engines:
        raise InputError(f"--device {device!r} is for --engine torch: NumPy computes on the cpu.")
    images = _images(part=part, **data)
    spec, implied = _specs(weights, name, width, images)
    spec = replace(spec, dtype=dtype)
    _require_room(spec, batch)
    found = []
    for engine in engines:
        network = network_of(weights, spec, engine=engine, device=device if engine == "torch" else "cpu")
        found.append(accuracy(network, images, part=part, batch=batch, jobs=jobs, progress=progress))
    return _Result(
        weights=weights,
        spec=spec,
        implied=implied and replace(implied, dtype=dtype),
        named=name is not None,
        images=images,
        shown=_shown(data),
        engines=engines,
        accuracy=found[0],
        agreement=agreement(*found) if len(found) > 1 else None,
    )


def _images(
    *,
    part: str,
    data: str,
    data_folder: Path | None,
    seed: int,
    validation: int,
    normalise: Any,
    mean: list[float] | None,
    std: list[float] | None,
) -> Images:
    """What is shown.

    Raises:
        InputError: there are no such images, or there is no such part.
    """
    from skipscope.data import load_images

    choose("part", part, _PARTS)
    if part == "validation" and validation == 0:
        raise InputError("--part validation: nothing is held out; say how many images were, e.g. --validation 5000.")
    folder = None if data_folder is None else str(data_folder)
    if mean is None:
        if std is not None:
            given = ",".join(f"{each:g}" for each in std)
            raise InputError(f"--std {given} is for --mean: say what is subtracted first, 0 if nothing is.")
        return load_images(data, seed=seed, folder=folder, validation=validation, normalise=normalise)
    if normalise != "pixel-mean":
        raise InputError(f"--mean is in place of --normalise {quoted(normalise)}: leave one out.")
    bare = load_images(data, seed=seed, folder=folder, validation=validation, normalise="none")
    centre = _by_channel("--mean", mean, bare)
    scale = _by_channel("--std", [1.0] if std is None else std, bare)
    if not (scale > 0).all():
        raise InputError(f"--std must be above 0, for images are divided by it; got {','.join(map(str, std or []))}.")
    # Of images that are not normalised the scale is a full pixel.
    return replace(bare, centre=centre * bare.scale, scale=scale * bare.scale)


def _by_channel(option: str, values: list[float], images: Images) -> NDArray[np.float64]:
    """One number for all channels or one for each, of shape (c, h, w)."""
    numbers = np.array([require_number(option, value) for value in values])
    channels = images.shape[0]
    if len(numbers) not in (1, channels):
        told = "1 number" if channels == 1 else f"1 number or {channels}, one a channel"
        raise InputError(f"{option} must be {told}, for {images.name}; got {len(numbers)} numbers.")
    return np.broadcast_to(numbers[:, None, None], images.shape).copy()


def _shown(data: Mapping[str, Any]) -> str:
    """How images are shown, in words."""
    if data["mean"] is None:
        return str(data["normalise"])
    mean, std = (",".join(f"{each:g}" for each in data[name] or [1.0]) for name in ("mean", "std"))
    return f"mean {mean} and std {std}"


def _specs(weights: Path, name: str | None, width: int | None, images: Images) -> tuple[Spec, Spec | None]:
    """What the network is taken for, and what the names in the file mean, if anything for such images.

    Raises:
        InputError: there is no such network, or the file cannot be read, or is of none that is known.
    """
    from skipscope.accuracy import spec_for
    from skipscope.designs import spec_named

    if name is None:
        if width is not None:
            raise InputError(f"--width {width} is for --spec: without one the file says how wide the network is.")
        implied = spec_for(weights, images)
        return implied, implied
    channels, size, _ = images.shape
    fields: dict[str, Any] = {} if width is None else {"width": width}
    spec = spec_named(name, channels=channels, size=size, classes=images.classes, **fields)
    try:
        return spec, spec_for(weights, images)
    except InputError:  # whether the file fits the spec is seen when it is loaded
        return spec, None


@dataclass(frozen=True)
class _Cell:
    """What the judgement of memory is about."""

    spec: Spec
    factors: dict[str, Any]
    batch: int


def _require_room(spec: Spec, batch: int) -> None:
    """Refuse a network, or more images at once, than the memory holds.

    Raises:
        InputError: it is too large, or so many are too many.
    """
    from skipscope.studies import room

    # Not `spec.depth`, which lists the layers: there may be a billion of them.
    depth = 2 + sum(stage.blocks * stage.layers for stage in spec.stages)
    room.require_room(
        [_Cell(spec, {"depth": depth}, batch)],
        seeds=1,
        jobs=1,
        numbers=lambda cell: room.numbers(cell.spec, cell.batch),  # the torch engine holds all activations for a while
        readings=lambda cell: 0,
    )


# ---------------------------------------------------------------------------------------------------- what is shown


def _show(result: _Result, format_: Format, quiet: bool) -> None:
    if format_ == "json":
        printing.print_json(_record(result))
        return
    if format_ == "csv":
        printing.print_table(_measures(result.accuracy), "csv")
        return
    if not quiet:
        _say(*_about(result), "")
    printing.print_table(_overview(result.accuracy), "table")
    click.echo()
    printing.print_table(_by_class(result.accuracy), "table")
    if not quiet:
        for note in _notes(result):
            _say("", note)


def _say(*lines: str) -> None:
    """Lines of text, broken between words on a terminal."""
    from rich.markup import escape

    terminal = printing.console()
    for line in lines:
        terminal.print(escape(line))


def _about(result: _Result) -> list[str]:
    """What was looked at."""
    images, found = result.images, result.accuracy
    size = "x".join(map(str, images.shape))
    return [
        f"{click.format_filename(result.weights)}: {_described(result.spec)}",
        f"{images.name}, {found.part} part: {found.n:,} images of {size}, normalised by {result.shown}; "
        f"{result.engines[0]}, {result.spec.dtype}",
    ]


_SHORTCUTS = {
    "none": "no shortcuts",
    "A": "option A with the zeros after the channels",
    "A-both": "option A with zeros on both sides of the channels",
    "B": "option B",
    "C": "option C",
}
_STRIDES = {
    "bottleneck": "the stride on the first 1x1 convolution (v1)",
    "bottleneck-v1.5": "the stride on the 3x3 convolution (v1.5)",
}


def _described(spec: Spec) -> str:
    kind = "CIFAR" if spec.stem.kind == "conv3" else "ImageNet"
    return f"{kind} network of {spec.depth} layers, {spec.parameters:,} parameters, {_read(spec)}"


def _read(spec: Spec) -> str:
    """Which shortcuts, and where the stride is if that is a question."""
    stage = spec.stages[-1]
    return ", ".join(each for each in (_SHORTCUTS[stage.shortcut], _STRIDES.get(stage.kind, "")) if each)


def _overview(found: Accuracy) -> pl.DataFrame:
    rows = [
        {
            "": what,
            "right": share.right,
            "of": share.n,
            "right %": _percent(share.value),
            "95 % interval": _interval(share),
            "error %": _percent(1 - share.value),
        }
        for what, share in _tops(found)
    ]
    return pl.DataFrame(rows)


def _by_class(found: Accuracy) -> pl.DataFrame:
    """A line a class: what its images were taken for, and how many of them rightly."""
    rows = []
    for label, (name, share) in enumerate(zip(found.class_names, found.recall, strict=True)):
        row: dict[str, Any] = {"class / taken for": _named(label, name)}
        row |= {str(other): count for other, count in enumerate(found.confusion[label].tolist())}
        if found.not_finite:
            row["nothing"] = 0 if share is None else share.n - int(found.confusion[label].sum())
        row |= {"right %": "" if share is None else _percent(share.value)}
        rows.append(row | {"95 % interval": "" if share is None else _interval(share)})
    return pl.DataFrame(rows)


def _named(label: int, name: str) -> str:
    return name if name == str(label) else f"{label} {name}"


def _confusion(found: Accuracy) -> pl.DataFrame:
    """A line a true class, a column a predicted one; what has outputs that are not finite is in none."""
    columns = [_named(label, name) for label, name in enumerate(found.class_names)]
    table = pl.DataFrame(found.confusion, schema=columns)
    return table.insert_column(0, pl.Series("class", columns))


def _measures(found: Accuracy) -> pl.DataFrame:
    """A line a share: top-1, top-5, and the recall of every class."""
    recalls = zip(found.class_names, found.recall, strict=True)
    shares = _tops(found) + [(f"recall of {name}", share) for name, share in recalls if share is not None]
    return pl.DataFrame([{"measure": what, **_shared(share)} for what, share in shares])


def _tops(found: Accuracy) -> list[tuple[str, Share]]:
    return [("top-1", found.top1)] + ([] if found.top5 is None else [("top-5", found.top5)])


def _shared(share: Share) -> dict[str, Any]:
    return {"right": share.right, "n": share.n, "share": share.value, "low": share.low, "high": share.high}


def _record(result: _Result) -> dict[str, Any]:
    """Everything, for programs."""
    found, same = result.accuracy, result.agreement
    classes = zip(found.class_names, found.recall, strict=True)
    return {
        "weights": str(result.weights),
        "network": _described(result.spec),
        "spec": json.loads(result.spec.to_json()),
        "data": found.data,
        "part": found.part,
        "normalise": result.shown,
        "engine": result.engines[0],
        "dtype": result.spec.dtype,
        "top1": _shared(found.top1),
        "top5": None if found.top5 is None else _shared(found.top5),
        "chance": found.chance,
        "not_finite": found.not_finite,
        "classes": [{"name": name, "recall": None if share is None else _shared(share)} for name, share in classes],
        "confusion": found.confusion.tolist(),
        "check": None
        if same is None
        else {"disagree": same.differing.tolist(), "closest": same.closest, "moved": same.moved},
        "notes": _notes(result),
    }


# ------------------------------------------------------------------------------------------- what is to be said to it


def _notes(result: _Result) -> list[str]:
    """What the numbers do not say of themselves, one paragraph each."""
    notes = (_untold(result), _not_finite(result.accuracy), _at_chance(result), _checked(result))
    return [note for note in notes if note]


def _untold(result: _Result) -> str:
    """What the file leaves open, and how it was taken."""
    if result.named:
        if result.implied is None or result.implied == result.spec:
            return ""
        return (
            f"--spec means {_read(result.spec)}; the file, by its names or in words, {_read(result.implied)}. No shape "
            "tells which. If the accuracy is low, leave --spec out."
        )
    depth, shortcut = result.spec.depth, result.spec.stages[-1].shortcut
    if shortcut == "A-both":
        kind = "cifar" if result.spec.stem.kind == "conv3" else "imagenet"
        return (
            "No shape tells whether there are shortcuts without weights, and where their zeros are: taken as "
            f"the names mean it in most files. Otherwise --spec {kind}-{depth}-A or {kind}-{depth}-plain"
            f"{_also_width(result.spec)}."
        )
    if result.spec.stages[-1].kind in _STRIDES:
        return (
            "No shape tells where bottlenecks have their stride: taken as in torchvision. With the stride on the first "
            f"1x1 convolution it is --spec imagenet-{depth}{_also_width(result.spec)}."
        )
    return ""


def _also_width(spec: Spec) -> str:
    """The option beside `--spec` that a network not as wide as the paper's needs."""
    papers = 16 if spec.stem.kind == "conv3" else 64
    return "" if spec.width == papers else f", with --width {spec.width}"


def _not_finite(found: Accuracy) -> str:
    if not found.not_finite:
        return ""
    return f"{found.not_finite:,} of {found.n:,} images have outputs that are nan or inf: they are counted as wrong."


def _at_chance(result: _Result) -> str:
    found = result.accuracy
    if not found.at_chance:
        return ""
    return (
        f"Top-1 is not above chance ({_percent(found.chance).strip()} %, the commonest class). The first suspect is "
        f"the preprocessing: was the network trained on images normalised by {result.shown}? See --normalise and "
        "--mean. Then what no shape tells (--spec), and the order of channels and classes."
    )


def _checked(result: _Result) -> str:
    """What the other engine says."""
    same = result.agreement
    if same is None:
        return ""
    both, moved = " and ".join(result.engines), number(same.moved, 2)
    if not len(same.differing):
        return (
            f"{both} agree on all {same.n:,} images. The smallest margin between the two largest outputs is "
            f"{number(same.closest, 2)}; from engine to engine margins differ by at most {moved}."
        )
    first = ", ".join(map(str, same.differing[:5].tolist()))
    return (
        f"{both} disagree on {len(same.differing):,} of {same.n:,} images (counted from 0: {first}"
        f"{', ...' if len(same.differing) > 5 else ''}). There the smallest margin between the two largest outputs is "
        f"{number(same.closest, 2)}; from engine to engine margins differ by at most {moved}. --dtype float64 decides."
    )


def _interval(share: Share) -> str:
    return f"{_percent(share.low)} to {100 * share.high:.2f}"


def _percent(share: float) -> str:
    """To a hundredth, as the paper has errors."""
    return f"{100 * share:6.2f}"
