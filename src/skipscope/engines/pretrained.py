"""Weights that others trained: files with the names that public repositories of PyTorch give, as arrays by our names.

Two namings are known. torchvision's (`conv1`, `bn1`, `layer1.0.conv1`, `layer1.0.downsample.0`, `fc`) means shortcut
option B and the stride on the 3x3 convolution; the widespread one for CIFAR (three layers, `linear`, and `shortcut` for
projections) means option A with zeros on both sides of the channels. Neither the place of the stride nor that of the
zeros can be seen from the shapes, so the spec says them: `spec_of` gives the spec that the names mean, and `load` takes
any whose shapes fit. Safetensors are read with NumPy alone; what `torch.save` wrote needs PyTorch, which is imported
when there is such a file, and runs no code of the file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipscope import files
from skipscope.errors import InputError, require_type
from skipscope.spec import IMAGENET_BLOCKS, Layer, Spec

__all__ = ["load", "names_of", "read", "require_named", "save", "spec_of"]

Array = NDArray[Any]

_NORM = {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_variance": "running_var"}
_KEY = "skipscope spec"
_HEADS = ("fc", "linear")
_PROJECTIONS = ("downsample", "shortcut")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")


def load(path: str | os.PathLike[str], spec: Spec) -> dict[str, Array]:
    """The arrays of a checkpoint by our names, in the spec's dtype, with the leading axis s, of 1.

    They are the parameters and the running averages: `NumpyNetwork` and `TorchNetwork` are made of them.

    Args:
        path: of a file of safetensors, or one that `torch.save` wrote.
        spec: what the network is; of the paper's kind, and not of pre-activation order.

    Raises:
        InputError: the file cannot be read, or holds other arrays than such a network has.
    """
    require_named(spec)
    found = read(path)
    names = names_of(spec, found)
    shapes = _shapes_of(spec)
    _require_same(path, {names[ours]: shape for ours, shape in shapes.items()}, found)
    return {ours: np.array(found[theirs][None], spec.dtype, order="C") for ours, theirs in names.items()}


def save(path: str | os.PathLike[str], spec: Spec, arrays: Mapping[str, Array], index: int = 0) -> None:
    """Write the arrays of one network as safetensors, under the names that its kind has in public repositories.

    A CIFAR network gets the widespread names of such (`linear`, `shortcut`), one for ImageNet torchvision's. `load`
    reads it, and so does any program that knows the names. A file that is there is replaced, whole or not at all.

    Args:
        path: where the file is to be.
        spec: what the network is; as `load` takes it.
        arrays: parameters and running averages by our names, with the leading axis s, as networks have them.
        index: which of the networks along that axis.

    Raises:
        InputError: of such a network no names are known, or the file cannot be written.
    """
    from safetensors.numpy import save as encoded

    require_named(spec)
    widespread = ("linear.weight", "layer2.0.shortcut.0.weight") if spec.stem.kind == "conv3" else ()
    names = names_of(spec, widespread)
    # One entry beside the arrays: safetensors writes several in an order that differs from one run to the next.
    told = {_KEY: spec.to_json()}
    files.write_whole(path, encoded({name: np.array(arrays[ours][index]) for ours, name in names.items()}, told))


def require_named(spec: Spec) -> None:
    """Refuse a network whose arrays have no names in public repositories.

    Raises:
        InputError: it is dense, or of pre-activation order.
    """
    require_type("spec", spec, Spec, "Spec.cifar(20, shortcut='A-both') makes one")
    if not spec.images or spec.pre_activation:
        raise InputError(
            "spec must be a convolutional network that is not of pre-activation order: of others no names are known."
        )


def spec_of(path: str | os.PathLike[str]) -> Spec:
    """The spec that the names and shapes in a checkpoint mean, for images of the paper's size, in float32.

    A file that `save` wrote says its spec itself.

    Raises:
        InputError: the file cannot be read, or is not of one of the paper's networks.
    """
    found = read(path)
    told = _told(files.read_whole(files.as_path(path)))
    if told is not None:
        return told
    try:
        return _meant(found)
    except (LookupError, StopIteration, ValueError):
        raise InputError(
            f"{str(path)!r} does not look like one of the paper's networks: give the spec that it is of."
        ) from None


def _told(content: bytes) -> Spec | None:
    """What `save` wrote beside the arrays, if it was `save`."""
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return Spec.from_json(header["__metadata__"][_KEY])
    except (ValueError, LookupError, TypeError):  # InputError is a ValueError
        return None


def _meant(found: Mapping[str, Array]) -> Spec:
    counts = []
    for stage in range(1, 5):
        inner = [match for name in found if (match := re.match(rf"layer{stage}\.(\d+)\.", name))]
        counts.append(1 + max((int(match[1]) for match in inner), default=-1))
    head = next(each for each in _HEADS if f"{each}.weight" in found)
    stem = found["conv1.weight"]
    fields: dict[str, Any] = {"channels": stem.shape[1], "classes": len(found[f"{head}.weight"])}
    projected = any(f".{each}." in name for each in _PROJECTIONS for name in found)
    if counts[3] == 0:
        layers = 2 * sum(counts) + 2
        return Spec.cifar(layers, shortcut="B" if projected else "A-both", width=len(stem), **fields)
    deep = "layer1.0.conv3.weight" in found
    depth = next(
        depth for depth, blocks in IMAGENET_BLOCKS.items() if blocks == tuple(counts) and (depth >= 50) == deep
    )
    shortcut: Any = "B" if projected else "A-both"
    return Spec.imagenet(depth, shortcut=shortcut, stride="v1.5", width=len(stem), **fields)


# ------------------------------------------------------------------------------------------------------------ names


def names_of(spec: Spec, present: Sequence[str] | Mapping[str, Any] = ()) -> dict[str, str]:
    """The name that each of our arrays has in a checkpoint, in order of depth.

    Args:
        spec: of the network.
        present: names that the checkpoint has, by which its naming is known; if they do not tell, it is torchvision's.
    """
    head = "linear" if "linear.weight" in present else "fc"
    projection = "shortcut" if any(".shortcut." in name for name in present) else "downsample"
    names: dict[str, str] = {}
    for layer in _in_order(spec):
        conv, norm = _of_layer(layer.site, head, projection)
        names[f"{layer.site}.weight"] = f"{conv}.weight"
        if layer.bias:
            names[f"{layer.site}.bias"] = f"{conv}.bias"
        if layer.norm != "none":
            names |= {f"{layer.site}.{ours}": f"{norm}.{theirs}" for ours, theirs in _NORM.items()}
    return names


def _in_order(spec: Spec) -> Iterator[Layer]:
    yield spec.stem_layer
    for block in spec.body:
        yield from block.layers
        if block.projection is not None:
            yield block.projection
    yield spec.head_layer


def _of_layer(site: str, head: str, projection: str) -> tuple[str, str]:
    """What the convolution (or matrix) of a site is called, and its norm."""
    if site in ("stem", "head"):
        return ("conv1", "bn1") if site == "stem" else (head, "")
    stage, block, place = site.split(".")
    where = f"layer{stage.removeprefix('stage')}.{int(block.removeprefix('block')) - 1}"
    if place == "shortcut":
        return f"{where}.{projection}.0", f"{where}.{projection}.1"
    number = place.removeprefix("layer")
    return f"{where}.conv{number}", f"{where}.bn{number}"


def _shapes_of(spec: Spec) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in _in_order(spec):
        shapes[f"{layer.site}.weight"] = layer.weight_shape
        if layer.bias:
            shapes[f"{layer.site}.bias"] = (layer.n_out,)
        if layer.norm != "none":
            shapes |= {f"{layer.site}.{ours}": (layer.normed,) for ours in _NORM}
    return shapes


def _require_same(
    path: str | os.PathLike[str], expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Array]
) -> None:
    """Whether names and shapes are the same; the first that differs is told."""
    for name in (*expected, *sorted(found.keys() - expected.keys(), key=_by_number)):
        there = found[name].shape if name in found else "nothing"
        wanted = expected.get(name, "nothing")
        if there != wanted:
            raise InputError(
                f"{str(path)!r} does not fit the spec: at {name!r} it has {there}, and the spec has {wanted}; give the "
                "spec that the file is of."
            )


def _by_number(name: str) -> list[tuple[int, str]]:
    """What sorts `layer1.10` after `layer1.9`."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


# ------------------------------------------------------------------------------------------------------------ files


def read(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays in a file by the names in it: unwrapped, without what wrappers of modules put before the names.

    The counts of batches that PyTorch's batch normalisation keeps beside its averages are left out.

    Raises:
        InputError: there is no such file, it is damaged, or holds something else.
    """
    target = files.as_path(path)
    content = files.read_whole(target)
    # Safetensors begin with the length of a header in 8 bytes, and the header with a brace.
    arrays = _safetensors(target, content) if content[8:9] == b"{" else _saved(target)
    while arrays and (prefix := _common_prefix(arrays)):
        arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
    return {name: array for name, array in arrays.items() if not name.endswith("num_batches_tracked")}


def _common_prefix(arrays: Mapping[str, Array]) -> str:
    return next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in arrays)), "")


def _safetensors(path: os.PathLike[str], content: bytes) -> dict[str, Array]:
    from safetensors import SafetensorError, deserialize

    try:
        return {name: _decoded(name, entry) for name, entry in deserialize(content)}  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"cannot read {str(path)!r}: it is not a whole safetensors file ({error}).") from None


_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}


def _decoded(name: str, entry: Mapping[str, Any]) -> Array:
    kind, data, shape = entry["dtype"], entry["data"], entry["shape"]
    if kind == "BF16":  # the upper half of a float32
        wide = np.frombuffer(data, "<u2").astype("<u4") << 16
        return wide.view("<f4").reshape(shape)
    if kind not in _DTYPES:
        raise ValueError(f"{name} is of {kind}")
    return np.frombuffer(data, _DTYPES[kind]).reshape(shape)


def _saved(path: os.PathLike[str]) -> dict[str, Array]:
    try:
        from skipscope.engines import torch_files
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise InputError(
            f"{str(path)!r} is no safetensors file, and others need PyTorch: pip install 'skipscope[torch]'."
        ) from None
    held = torch_files.saved(path)
    for wrapper in _WRAPPERS:
        if isinstance(held, Mapping) and isinstance(held.get(wrapper), Mapping):
            held = held[wrapper]
    arrays = torch_files.arrays_in(held)
    if not arrays:
        raise InputError(f"cannot read {str(path)!r}: it holds no tensors by name; save a state_dict().")
    return arrays
