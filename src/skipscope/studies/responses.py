"""Study `responses`: how strongly every layer of a trained network responds, as in Fig. 7 of the paper.

He et al. 2015 (arXiv:1512.03385, Fig. 7) show the standard deviation of every 3x3 layer's output, after batch
normalisation and before what follows it, a ReLU or the addition. In a residual network it is what the branches add.

What the response of a layer is, and its law, `skipscope.studies.layer_response` says. It is had in three ways, the
factor `mode`:

- `"training"`: of one mini-batch, which normalises itself, with its law as the quantity `response_law`;
- `"inference"`: of the same mini-batch, normalised by the running averages;
- `"parameters"`: sqrt(mean_c gamma_c^2 + var_c beta_c), of gamma and beta alone: a checkpoint without any data. Where
  nothing normalises a response there is no such reading.

Networks are read from files of weights, or trained here over seeds. At initialisation gamma is 1 and beta 0, so that
every response is 1 but for eps: Fig. 7 is about trained networks. What the readings say is in `skipscope.responses`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipscope import data as datasets
from skipscope.data import IMAGES, Augmentation, Images
from skipscope.engines import pretrained
from skipscope.engines.numpy_engine import NumpyNetwork, build
from skipscope.engines.spread import one_thread
from skipscope.errors import InputError, as_list, choose, quoted, require_int, require_type
from skipscope.files import as_path
from skipscope.losses import CrossEntropy
from skipscope.probe import Measured, Plan, Recording
from skipscope.protocol import Network, Run
from skipscope.quantities import LEARNING
from skipscope.readings import Readings
from skipscope.spec import Spec
from skipscope.studies.gather import gather, kept, planned
from skipscope.studies.layer_response import measured_responses, parameter_responses, places
from skipscope.studies.learning import STOPPED
from skipscope.studies.named import Specs, specs_of
from skipscope.studies.room import numbers
from skipscope.training import Recipe, Trained, require_fit, train

__all__ = [
    "RESPONSES_DEMO",
    "RESPONSES_QUANTITIES",
    "RESPONSES_RECIPE",
    "RESPONSES_SPECS",
    "responses",
]

Array = NDArray[np.floating[Any]]
Weights = str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | Mapping[str, str | os.PathLike[str]]
"""Files of weights, or such files by what their networks are to be called."""

RESPONSES_SPECS = ("cifar-20", "cifar-20-plain", "cifar-56", "cifar-56-plain")
"""The networks that are trained where nothing else is asked for."""

RESPONSES_RECIPE = Recipe(steps=200, batch=64, rate=0.1, schedule="cosine", warmup=20)
"""How they are trained then: enough for the digits."""

RESPONSES_DEMO: dict[str, Any] = {
    "specs": ("cifar-8", "cifar-8-plain", "cifar-14", "cifar-14-plain"),
    "width": 4,
    "recipe": replace(RESPONSES_RECIPE, steps=30, warmup=3, batch=32),
}
"""Arguments of `responses` that show what it does in a few seconds."""

RESPONSES_QUANTITIES = ("response_std", "response_law", "test_loss", "test_error")
"""What is measured; see the module. The last two are of networks that are trained here, see `LEARNING`."""

_LEARNT = ("test_loss", "test_error")  # enough to tell whether anything was, and the training part may be large
_DATA_SEED = 0  # one mini-batch for all networks, and one split of the digits


# ----------------------------------------------------------------------------------------------------------- the study


def responses(
    *,
    weights: Weights | None = None,
    specs: Specs | None = None,
    data: str | None = None,
    data_folder: str | os.PathLike[str] | None = None,
    batch: int = 128,
    width: int | None = None,
    recipe: Recipe = RESPONSES_RECIPE,
    seeds: int | Iterable[int] = range(5),
    folder: str | os.PathLike[str] | None = None,
    chunk: int | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
    **fields: Any,
) -> Readings:
    """Measure how strongly every layer responds: of files of weights, or of networks that are trained for it.

    Args:
        weights: files whose networks to look at (see `skipscope.engines.pretrained`), each called as its file is, or as
            a mapping says; without data by gamma and beta alone.
        specs: what the networks are, e.g. `["cifar-20", "cifar-20-plain"]`. With weights one for every file, or one for
            all; if not given, what a file's names and shapes mean. Without weights what is trained; if not given,
            `RESPONSES_SPECS`.
        data: a set of images in `skipscope.data.IMAGES`; without weights, if not given, the digits.
        data_folder: where its files are; see `skipscope.data.load_images`.
        batch: images of the one mini-batch on which responses are measured: of the training part, drawn by the seed 0,
            as they are (neither cropped nor mirrored), the same for all networks.
        width: channels of the first stage, of networks given by name; if not given, what the file has, or the paper's.
        recipe: how networks are trained; `Recipe(steps=0)` leaves them as they are initialised.
        seeds: of the networks that are trained; every spec sees the same.
        folder: keeps what is measured of them, so that the same call goes on where it was stopped; see
            `skipscope.runs`.
        chunk, jobs, progress: see `skipscope.studies.gather.gather`.
        **fields: further fields of `Spec.cifar` or `Spec.imagenet`, for networks given by name; `dtype` also for those
            whose file says what they are.

    Returns:
        Readings with the factors `source` (weights, trained or initial), `mode` (see the module, and `learning` for the
        errors of networks that were trained here), and of these `steps` and `rate`.

    Raises:
        InputError: files and specs do not fit each other, or the data; a network has no batch normalisation and there
            are no data; or the folder holds something else.
    """
    size = require_int("batch", batch, least=1)
    if data is not None:
        choose("data", data, IMAGES)
    if width is not None:
        fields["width"] = width
    if weights is not None:
        images = None if data is None else _loaded(data, _folder(data_folder))
        found = [_of_file(*each, images, size) for each in _files(weights, specs, images, fields)]
        return Readings.concat([measured.readings() for each in found for measured in each])
    cases = _cases(specs, "digits" if data is None else data, data_folder, size, recipe, fields)
    how: dict[str, Any] = {"numbers": _numbers, "readings": _readings, "chunk": chunk, "jobs": jobs}
    with kept(folder, lambda: {"measured": planned(cases, seeds, described=_described, **how)}) as work:
        return work.finished(gather(_measured, cases, seeds, progress=progress, work=work, **how))


@cache
def _loaded(name: str, folder: str | None) -> Images:
    return datasets.load_images(name, seed=_DATA_SEED, folder=folder)


def _folder(folder: str | os.PathLike[str] | None) -> str | None:
    return None if folder is None else str(as_path(folder))


def _shown(images: Images, batch: int) -> Array:
    """The mini-batch on which responses are measured: of images as they are, neither cropped nor mirrored."""
    return next(replace(images, augmentation=Augmentation()).batches(_DATA_SEED, size=batch)).inputs


def _require_images(name: str, spec: Spec) -> Spec:
    if not spec.images:
        raise InputError(f"specs: {name!r} is dense; responses are those of convolutional networks, as Spec.cifar.")
    return spec


# ---------------------------------------------------------------------------------------------------- files of weights


def _files(
    weights: Weights, specs: Specs | None, images: Images | None, fields: Mapping[str, Any]
) -> list[tuple[str, Path, Spec]]:
    """What every network is called, its file and its spec."""
    found = weights if isinstance(weights, Mapping) else {_label(each): each for each in as_list(weights)}
    if not isinstance(weights, Mapping) and len(found) < len(as_list(weights)):
        raise InputError("weights: two files would be called alike; give a mapping of names to files.")
    if not found:
        raise InputError("weights is empty: give at least one file.")
    paths = {str(name): as_path(path) for name, path in found.items()}
    known = _known(list(paths.values()), specs, images, fields)
    return [(name, path, _require_images(name, spec)) for (name, path), spec in zip(paths.items(), known, strict=True)]


def _label(path: object) -> str:
    return as_path(path).stem  # type: ignore[arg-type]  # which says what it takes


def _known(
    paths: Sequence[Path], specs: Specs | None, images: Images | None, fields: Mapping[str, Any]
) -> Sequence[Spec]:
    if specs is None:
        for field in fields:
            if field != "dtype":
                raise InputError(f"{field} is for networks given by name, and the files say what they are: name specs.")
        return [_sized(replace(pretrained.spec_of(path), **fields), images) for path in paths]
    if isinstance(specs, Mapping):
        found = list(specs_of(specs, **fields).values())
        _require_as_many(found, paths)
        return found * len(paths) if len(found) == 1 else found
    # Of which one may come twice: two files may be of one network.
    names = as_list(specs)
    if not names:
        return list(specs_of(names).values())  # which says that there is none
    _require_as_many(names, paths)
    several = names * len(paths) if len(names) == 1 else names
    return [
        next(iter(specs_of(name, **{**_shape(path, images), **fields}).values()))
        for name, path in zip(several, paths, strict=True)
    ]


def _require_as_many(found: Sequence[object], paths: Sequence[Path]) -> None:
    if len(found) not in (1, len(paths)):
        raise InputError(f"specs must be one for all {len(paths)} files of weights, or one for each; got {len(found)}.")


def _shape(path: Path, images: Images | None) -> dict[str, Any]:
    """What no name of a network says: the file does, but for the images' size, which no weight depends on."""
    size = {} if images is None else {"size": images.shape[1]}
    try:
        spec = pretrained.spec_of(path)
    except InputError:  # whether it fits the network is seen when it is loaded
        return size
    return {"channels": spec.stem.features, "classes": spec.head.features, "width": spec.width, **size}


def _sized(spec: Spec, images: Images | None) -> Spec:
    """The same for images of this size, which no weight depends on."""
    return spec if images is None else replace(spec, stem=replace(spec.stem, size=images.shape[1]))


def _of_file(label: str, path: Path, spec: Spec, images: Images | None, batch: int) -> list[Measured]:
    arrays = pretrained.load(path, spec)
    running = {name: array for name, array in arrays.items() if name.rpartition(".")[2].startswith("running_")}
    parameters = {name: array for name, array in arrays.items() if name not in running}
    if images is None and not parameter_responses(spec, parameters):
        raise InputError(
            f"{str(path)!r} is of a network without batch normalisation, whose responses gamma and beta do not tell: "
            "give data on which they can be measured."
        )
    if images is not None:
        _require_shape(label, spec, images)
    network = NumpyNetwork(spec, (0,), parameters, running=running)
    told = {"study": "responses", "design": label, "depth": spec.depth, "source": "weights"}
    return _looked_at(network, images, batch, told)


def _require_shape(label: str, spec: Spec, images: Images) -> None:
    if spec.input_shape != images.shape:
        shapes = (" x ".join(map(str, shape)) for shape in (spec.input_shape, images.shape))
        raise InputError(f"{label!r} takes images of {next(shapes)}, and {images.name!r} has {next(shapes)}.")


# ------------------------------------------------------------------------------------------------- networks of our own


@dataclass(frozen=True)
class _Case:
    """One kind of network, and how it is trained; `factors` are the study's columns in the table of cells."""

    spec: Spec
    data: str
    data_folder: str | None
    recipe: Recipe
    factors: Mapping[str, Any]
    batch: int

    @property
    def images(self) -> Images:
        return _loaded(self.data, self.data_folder)


def _cases(
    specs: Specs | None,
    data: str,
    data_folder: str | os.PathLike[str] | None,
    batch: int,
    recipe: Recipe,
    fields: Mapping[str, Any],
) -> list[_Case]:
    require_type("recipe", recipe, Recipe, "Recipe(steps=200) is one")
    where = _folder(data_folder)
    images = _loaded(data, where)
    shape = {"channels": images.shape[0], "size": images.shape[1], "classes": images.classes}
    given = RESPONSES_SPECS if specs is None else specs
    found = specs_of(given, **fields) if isinstance(given, Mapping) else specs_of(given, **{**shape, **fields})
    cases = []
    for name, spec in found.items():
        require_fit(_require_images(name, spec), images, recipe)
        _require_batch(images, batch)
        told: dict[str, Any] = {"study": "responses", "design": name, "depth": spec.depth}
        told |= {"source": "trained" if recipe.steps else "initial"}
        told |= {"steps": recipe.steps, "rate": recipe.rate}
        cases.append(_Case(spec, data, where, recipe, told, batch))
    return cases


def _measured(case: _Case, seeds: tuple[int, ...]) -> Readings:
    """The readings of a case over some seeds (a top-level function, so that it can be sent)."""
    network, images = build(case.spec, seed=seeds), case.images
    if not case.recipe.steps:
        return Readings.concat([each.readings() for each in _looked_at(network, images, case.batch, case.factors)])
    trained = train(
        network,
        images,
        case.recipe,
        record=(0, case.recipe.steps),  # so that there is a cell even where nothing comes of it
        quantities={name: LEARNING[name] for name in _LEARNT},
        factors={**case.factors, "data": images.name, "cotangent": "", "mode": "learning"},
    )
    looked = [] if trained.network is None else _looked_at(trained.network, images, case.batch, case.factors)
    return Readings.concat([trained.readings, *(each.readings() for each in [*_stops(trained, case), *looked])])


def _stops(trained: Trained, case: _Case) -> Iterator[Measured]:
    """Where the networks stopped that did; see `skipscope.stops`."""
    (cell,) = trained.readings.cells.iter_rows(named=True)
    known = {site.site: site for site in build(case.spec, seed=0).sites} if trained.stopped else {}
    for stop in trained.stopped:
        values = {(stop.site, STOPPED): np.array([float(stop.step)])}
        yield Measured(cell, [known[stop.site]], (stop.seed,), values, step=case.recipe.steps)


def _numbers(case: _Case) -> int:
    """Weights of a network, and activations of a mini-batch."""
    return numbers(case.spec, max(case.recipe.batch, case.batch))


def _readings(case: _Case) -> int:
    """How many readings a network gives, at most: two of training, one of each other mode, the errors, the stop."""
    return 4 * len(places(case.spec)) + 2 * len(_LEARNT) + 1


def _described(case: _Case) -> dict[str, Any]:
    """A case as JSON: whatever would change a number."""
    told = {"spec": case.spec.to_json(), "recipe": asdict(case.recipe), "factors": dict(case.factors)}
    shown = {"batch": case.batch, "shown": "as they are"}
    return {**told, "data": {"name": case.data, "digest": case.images.digest}, **shown}


# ------------------------------------------------------------------------------------------------------ in every mode


def _looked_at(network: NumpyNetwork, images: Images | None, batch: int, factors: Mapping[str, Any]) -> list[Measured]:
    """What is measured of networks in every mode that there is."""
    step = int(factors.get("steps", 0))
    known = {**factors, "cotangent": "", "data": "" if images is None else images.name}
    alone = {
        (site, "response_std"): value for site, value in parameter_responses(network.spec, network.parameters).items()
    }
    found = [_told(network, alone, step, {**known, "mode": "parameters", "batch": 0})] if alone else []
    if images is None:
        return found
    shown = _shown(images, _require_batch(images, batch))
    known["batch"] = len(shown)
    with one_thread():
        measured, laws = measured_responses(network, shown)
        values = {(site, "response_std"): value for site, value in measured.items()}
        values |= {(site, "response_law"): value for site, value in laws.items()}
        found.append(_told(network, values, step, {**known, "mode": "training"}))
        # Without a normalisation both modes are one; and networks that nobody trained have no averages.
        if network.running and factors["source"] != "initial":
            with network.inference():
                measured, _ = measured_responses(network, shown)
                values = {(site, "response_std"): value for site, value in measured.items()}
                found.append(_told(network, values, step, {**known, "mode": "inference"}))
    return found


def _require_batch(images: Images, batch: int) -> int:
    if batch > images.train.size:
        raise InputError(f"batch={quoted(batch)} is more than {images.name!r} has to train on, {images.train.size}.")
    return batch


def _told(network: Network, values: Mapping[tuple[str, str], Any], step: int, factors: Mapping[str, Any]) -> Measured:
    """A row of the table of cells, with these values at the sites that have a response."""
    spec: Spec = network.spec  # type: ignore[attr-defined]  # of no protocol; whoever gets here has one
    recording = Recording(network, Plan(network.sites, quantities={}, patterns=[each.site for each in places(spec)]))
    measured = recording.measured(Run(None, None), None, CrossEntropy(), factors=factors)
    return replace(measured, values=values, step=step)
