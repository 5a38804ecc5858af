"""The paper's networks, trained as the paper trains them: losses and errors over the steps.

On the NumPy engine or by PyTorch; the loop, the mini-batches and the readings are the same (see `skipscope.training`).
Networks are trained one after another, each with all its seeds, and each goes on from a checkpoint of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from skipscope.data import Images, load_images
from skipscope.data.augment import Augmentation
from skipscope.draws import require_seeds
from skipscope.engines import pretrained
from skipscope.engines.numpy_engine import NumpyNetwork, build
from skipscope.errors import InputError, choose, quoted, require_int, require_type
from skipscope.files import as_path, check_writable
from skipscope.readings import Readings
from skipscope.spec import Spec
from skipscope.studies import room
from skipscope.studies.learning import stops_of
from skipscope.studies.named import Specs, family_of, specs_of
from skipscope.training import Recipe, Trained, Ways, measured_by_default, require_fit
from skipscope.training import train as trained_by

if TYPE_CHECKING:
    from skipscope.engines.torch_engine import TorchNetwork

__all__ = ["ENGINES", "Engine", "checkpoint_files", "train"]

Engine = Literal["numpy", "torch"]
ENGINES = ("numpy", "torch")
Place = str | os.PathLike[str] | None


@dataclass(frozen=True)
class _Case:
    """One network, and how it is trained."""

    name: str
    spec: Spec
    recipe: Recipe
    factors: dict[str, Any] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        return self.recipe.batch


def train(
    specs: Specs = ("cifar-20",),
    *,
    data: str | Images = "digits",
    width: int | None = None,
    steps: int = 64_000,
    batch: int = 128,
    rate: float = 0.1,
    seeds: int | Iterable[int] = 0,
    engine: Engine = "numpy",
    ways: Ways | None = None,
    record: int = 10,
    checkpoint: Place = None,
    every: int = 100,
    save: Place = None,
    check: Callable[[Mapping[tuple[str, int], Path]], None] | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
    **fields: Any,
) -> Readings:
    """Train networks of the paper on images by its recipe for CIFAR-10.

    Args:
        specs: names of networks (`"cifar-20"`, `"cifar-56-plain"`, see `skipscope.designs.spec_named`), which are made
            to fit the images; or specs of one's own by what they are called.
        data: images, e.g. of `skipscope.data.load_images`; or the name of a set, as it is loaded with seed 0. Where
            they have a validation part, its loss and error are measured as well; nothing is chosen by them.
        width: channels of the first stage of networks given by name, if not the paper's.
        steps: of training; the recipe's drops and warm-up are scaled with them (see `skipscope.training.Recipe.cifar`).
        batch: images a step.
        rate: the learning rate.
        seeds: of the networks.
        engine: `"numpy"`, or `"torch"`, which trains with PyTorch.
        ways: what PyTorch alone offers.
        record: how often to measure on the way.
        checkpoint: a file from which the same call goes on; with several networks each has its own, whose name ends in
            the network's.
        every: steps between checkpoints.
        save: a file of safetensors for the trained weights, as `skipscope.engines.pretrained.load` reads it; with
            several networks or seeds each has its own, whose name ends in the network's and in `-seed3`. A file that is
            there is replaced.
        check: called before any training with the file of every network and seed, to refuse one that is to be left
            alone.
        jobs: threads, as for `skipscope.training.train`.
        progress: called with how many steps are done, of all networks, and how many there are.
        **fields: further fields of networks given by name, e.g. `shortcut_gain=0.5` or `dtype="float64"`.

    Returns:
        Readings of study `train`, at the site `network` at the recorded steps, with the factors `rate`, `steps`,
        `recipe` and `engine`; and `stopped` of networks whose loss stopped being a number.

    Raises:
        InputError: there is no such network, set, engine or device; they do not fit each other; a file cannot be
            written, or holds another run.
    """
    choose("engine", engine, ENGINES)
    images = _images(data)
    named = fields if width is None else {"width": width, **fields}
    cases = _cases(specs, images, steps=steps, batch=batch, rate=rate, **named)
    require_int("steps", steps, least=1)
    require_int("record", record, least=1)
    require_int("every", every, least=0)
    if check is not None and not callable(check):
        raise InputError(f"check must be a function of the files, or None; got {quoted(check)}.")
    _require_room(cases, room.count(seeds), record, len(measured_by_default(images)))
    known = require_seeds(seeds)
    build_on = _builder(engine, ways)
    places, files = _files(cases, known, checkpoint, save)
    if check is not None:
        check(files)
    found = []
    for index, case in enumerate(cases):
        trained = trained_by(
            build_on(case.spec, known),
            images,
            case.recipe,
            record=record,
            factors=case.factors | ({"engine": "numpy"} if engine == "numpy" else {}),
            checkpoint=places.get(case.name),
            every=every,
            jobs=jobs,
            ways=ways,
            progress=_told(progress, index, len(cases)),
        )
        found += [trained.readings, *stops_of(trained, case.spec, case.recipe.steps)]
        _save(trained, {seed: file for (name, seed), file in files.items() if name == case.name})
    return Readings.concat(found)


def _images(data: str | Images) -> Images:
    if isinstance(data, str):
        return load_images(data, seed=0)
    require_type("data", data, Images, "skipscope.data.load_images('digits', seed=0) is one")
    return data


def _cases(specs: Specs, images: Images, *, steps: int, batch: int, rate: float, **fields: Any) -> list[_Case]:
    """The networks that fit the images, with a recipe each.

    Raises:
        InputError: there is none, or something does not fit.
    """
    if isinstance(specs, str) or not hasattr(specs, "items"):
        channels, size, _ = images.shape
        fields = {"channels": channels, "size": size, "classes": images.classes, **fields}
    cases = []
    for name, spec in specs_of(specs, **fields).items():
        recipe = replace(Recipe.cifar(steps=steps, depth=spec.depth), batch=batch, rate=rate)
        # A rate that is approached from below is not begun above.
        recipe = replace(recipe, warmup_rate=min(recipe.warmup_rate, recipe.rate))
        require_fit(spec, images, recipe)
        factors = {
            "design": family_of(name),
            "depth": spec.depth,
            "data": _described(images),
            "rate": recipe.rate,
            "steps": recipe.steps,
            "recipe": recipe.told,
        }
        cases.append(_Case(name, spec, recipe, factors))
    return cases


def _described(images: Images) -> str:
    """The set, how many images of it are trained on and held out, and a name for all that networks are shown."""
    held = "" if images.validation is None else f" and {images.validation.size:,} held out"
    varied = ", augmented" if images.augmentation != Augmentation() else ""
    return f"{images.name}, {images.train.size:,} images{held}{varied}, {images.digest}"


def _require_room(cases: list[_Case], seeds: int, record: int, quantities: int) -> None:
    room.require_room(
        cases,
        seeds=seeds,
        jobs=1,
        numbers=lambda case: seeds * room.numbers(case.spec, case.batch),  # all are measured at once
        readings=lambda case: (record + 1) * quantities,
    )


def _builder(engine: Engine, ways: Ways | None) -> Callable[[Spec, tuple[int, ...]], NumpyNetwork | TorchNetwork]:
    """What builds a network; PyTorch is imported when it is asked for.

    Raises:
        InputError: PyTorch or the device is not there.
    """
    if engine == "numpy":
        return lambda spec, seeds: build(spec, seed=seeds)
    try:
        from skipscope.engines import torch_devices, torch_engine
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise InputError("engine='torch' needs PyTorch: pip install 'skipscope[torch]'.") from None
    if ways is not None and ways.device is not None:
        torch_devices.device_for(ways.device)
    return lambda spec, seeds: torch_engine.build(spec, seed=seeds)


def _told(progress: Callable[[int, int], None] | None, index: int, count: int) -> Callable[[int, int], None] | None:
    """The steps of one network among those of all."""
    if progress is None:
        return None
    asked = progress
    return lambda done, steps: asked(index * steps + done, count * steps)


# ------------------------------------------------------------------------------------------------------------- files


def _files(
    cases: Sequence[_Case], seeds: Sequence[int], checkpoint: Place, save: Place
) -> tuple[dict[str, Path], dict[tuple[str, int], Path]]:
    """Where every network's state goes, and every trained network's weights.

    Raises:
        InputError: a file cannot be written, has no names for such weights, or would be two things at once.
    """
    names = [case.name for case in cases]
    places = {} if checkpoint is None else checkpoint_files(as_path(checkpoint), names)
    files = {} if save is None else _weights_files(as_path(save), names, seeds)
    if files:
        for case in cases:
            pretrained.require_named(case.spec)
    taken = {os.path.realpath(place) for place in places.values()}
    for file in files.values():
        if os.path.realpath(file) in taken:
            raise InputError(
                f"save and checkpoint would both be the file {str(file)!r}: give one of them another name."
            )
    for path in (*places.values(), *files.values()):
        check_writable(path, overwrite=True)
    return places, files


def checkpoint_files(path: Path, names: Iterable[str]) -> dict[str, Path]:
    """Where the state of every network goes: to the file itself if there is one network alone."""
    known = list(dict.fromkeys(names))
    return {name: _named(path, name, len(known) > 1) for name in known}


def _weights_files(path: Path, names: Iterable[str], seeds: Sequence[int]) -> dict[tuple[str, int], Path]:
    """Where the weights of every network and seed go: to the file itself if there is one alone."""
    known = list(dict.fromkeys(names))
    return {
        (name, seed): _named(_named(path, name, len(known) > 1), f"seed{seed}", len(seeds) > 1)
        for name in known
        for seed in seeds
    }


def _named(path: Path, name: str, several: bool) -> Path:
    return path.with_name(f"{path.stem}-{name}{path.suffix}") if several and path.name else path


def _save(trained: Trained, files: dict[int, Path]) -> None:
    """The weights of every network that was trained to the end."""
    if trained.network is not None:
        for index, seed in enumerate(trained.network.seeds):
            if seed in files:
                pretrained.save(files[seed], trained.network.spec, trained.network.arrays, index)
