"""Checkpoints that people have: written here from plain models of PyTorch, read under our names."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engines.plain_resnets import Cifar, ImageNet, sites_by_name
from skipscope import InputError, Spec
from skipscope.engines import pretrained
from skipscope.engines.torch_engine import TorchNetwork
from skipscope.engines.torch_module import module_of, state_of
from skipscope.spec import StridePlace

NARROW: dict[str, Any] = {"width": 4, "classes": 5}
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def trained(model: nn.Module) -> nn.Module:
    """In float64, with random numbers for everything that training would have moved."""
    generator = torch.Generator().manual_seed(0)
    model.double()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(tensor * 0.5 + 0.3 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64))
            assert not torch.isnan(tensor).any(), name
    return model


def imagenet(depth: int, **fields: Any) -> nn.Module:
    return trained(ImageNet(BLOCKS[depth], deep=depth >= 50, **(NARROW | fields)))


def cifar(depth: int = 20, option: str = "A-both") -> nn.Module:
    return trained(Cifar(depth, option, **NARROW))


def spec_of(**fields: Any) -> Spec:
    chosen: dict[str, Any] = {"shortcut": "A-both", "size": 8, "dtype": "float64"} | NARROW | fields
    return Spec.cifar(20, **chosen)


def written(model: nn.Module, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    return path


def require_same_outputs(model: nn.Module, spec: Spec, arrays: dict[str, Any]) -> None:
    """In inference, to 1e-9 of the largest."""
    x = np.random.default_rng(1).standard_normal((3, *spec.input_shape))
    expected = model.eval()(torch.from_numpy(x)).detach().numpy()
    running = {name: array for name, array in arrays.items() if ".running_" in name}
    parameters = {name: array for name, array in arrays.items() if name not in running}
    network = TorchNetwork(spec, (0,), parameters, running=running)
    module = module_of(spec, seed=0)
    module.load_state_dict(state_of(arrays))
    with network.inference():
        found = network.run(x).output[0]
    tolerance = 1e-9 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(module.eval()(torch.from_numpy(x)).detach(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("depth", BLOCKS)
def test_torchvisions_names(depth: int, suffix: str, tmp_path: Path):
    model = imagenet(depth)
    path = written(model, tmp_path / f"resnet{suffix}")
    spec = Spec.imagenet(depth, shortcut="B", stride="v1.5", size=32, dtype="float64", **NARROW)

    arrays = pretrained.load(path, spec)

    assert {theirs: ours for ours, theirs in pretrained.names_of(spec, pretrained.read(path)).items()} == sites_by_name(
        model
    )
    assert pretrained.spec_of(path) == Spec.imagenet(depth, shortcut="B", stride="v1.5", **NARROW)
    if depth in (18, 50):
        require_same_outputs(model, spec, arrays)


@pytest.mark.parametrize("suffix", [".safetensors", ".th"])
@pytest.mark.parametrize("option", ["A-both", "B"])
def test_the_names_of_cifar(option: Any, suffix: str, tmp_path: Path):
    model = cifar(option=option)
    path = written(model, tmp_path / f"cifar{suffix}")
    spec = spec_of(shortcut=option)

    require_same_outputs(model, spec, pretrained.load(path, spec))
    assert pretrained.spec_of(path) == Spec.cifar(20, shortcut=option, **NARROW)


def test_where_the_zeros_go_is_part_of_the_spec(tmp_path: Path):
    """A file whose author put them after the others has the same shapes, and needs the other spec."""
    model = cifar(option="A")
    path = written(model, tmp_path / "cifar.th")
    require_same_outputs(model, spec_of(shortcut="A"), pretrained.load(path, spec_of(shortcut="A")))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        require_same_outputs(model, spec_of(), pretrained.load(path, spec_of()))


def test_where_the_stride_is_is_part_of_the_spec(tmp_path: Path):
    model = imagenet(50, early=True)
    path = written(model, tmp_path / "caffe.pth")
    places: tuple[StridePlace, ...] = ("v1", "v1.5")
    specs = [Spec.imagenet(50, shortcut="B", stride=place, size=64, dtype="float64", **NARROW) for place in places]
    require_same_outputs(model, specs[0], pretrained.load(path, specs[0]))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        require_same_outputs(model, specs[1], pretrained.load(path, specs[1]))


@pytest.mark.parametrize("wrapper", ["state_dict", "net", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrapped_and_prefixed(wrapper: str, prefix: str, tmp_path: Path):
    model = cifar()
    state = OrderedDict((f"{prefix}{name}", tensor) for name, tensor in model.state_dict().items())
    torch.save({wrapper: state, "best_prec1": 91.7, "epoch": 200}, tmp_path / "wrapped.th")

    arrays = pretrained.load(tmp_path / "wrapped.th", spec_of())

    for theirs, ours in sites_by_name(model).items():
        assert np.array_equal(arrays[ours][0], model.state_dict()[theirs].numpy())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_bfloat16(suffix: str, tmp_path: Path):
    model = cifar().bfloat16()
    arrays = pretrained.load(written(model, tmp_path / f"half{suffix}"), spec_of(dtype="float32"))

    for theirs, ours in sites_by_name(model).items():
        assert arrays[ours].dtype == np.float32
        assert np.array_equal(arrays[ours][0], model.state_dict()[theirs].float().numpy())


def test_the_arrays_are_the_networks_own(tmp_path: Path):
    """What is made of them can be trained: they can be written to, and are in one piece."""
    arrays = pretrained.load(written(cifar(), tmp_path / "cifar.safetensors"), spec_of())
    assert all(array.flags.writeable and array.flags.c_contiguous for array in arrays.values())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (spec_of(classes=10), r"at 'linear.weight' it has \(5, 16\), and the spec has \(10, 16\)"),
        (spec_of(width=8), r"at 'conv1.weight' it has \(4, 3, 3, 3\), and the spec has \(8, 3, 3, 3\)"),
        (spec_of(shortcut="B"), r"at 'layer2.0.downsample.0.weight' it has nothing, and the spec has \(8, 4, 1, 1\)"),
        (spec_of(norm="none"), r"at 'bn1.bias' it has \(4,\), and the spec has nothing"),
        (
            Spec.cifar(14, shortcut="A-both", **NARROW),
            r"at 'layer1.2.bn1.bias' it has \(4,\), and the spec has nothing",
        ),
        (
            Spec.imagenet(18, **NARROW),
            r"at 'conv1.weight' it has \(4, 3, 3, 3\), and the spec has \(4, 3, 7, 7\)",
        ),
        (spec_of(order="pre-activation"), "spec must be a convolutional network that is not of pre-activation order"),
        (Spec.dense(width=4, blocks=2), "spec must be a convolutional network"),
    ],
)
def test_a_spec_that_the_file_is_not_of(spec: Spec, message: str, tmp_path: Path):
    path = written(cifar(), tmp_path / "cifar.safetensors")
    with pytest.raises(InputError, match=message) as raised:
        pretrained.load(path, spec)
    assert "\n" not in str(raised.value)


class Opaque:
    """What no file of weights needs."""


def test_a_pickle_that_would_run_code(tmp_path: Path):
    torch.save({"state_dict": cifar().state_dict(), "model": Opaque()}, tmp_path / "whole.pth")
    with pytest.raises(InputError, match=r"it holds \S*Opaque, and more than tensors is not loaded") as raised:
        pretrained.read(tmp_path / "whole.pth")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"neither a whole safetensors file nor one that torch.save wrote\.$"),
        (b"not a checkpoint at all", r"neither a whole safetensors file nor one that torch.save wrote\.$"),
        (b"\xff" * 64, r"neither a whole safetensors file nor one that torch.save wrote\.$"),
        (b"PK\x03\x04 broken", r"neither a whole safetensors file nor one that torch.save wrote\.$"),
        (b"\x80\x02broken", r"neither a whole safetensors file nor one that torch.save wrote\.$"),
        (b"hello\n", r"neither a whole safetensors file nor one that torch.save wrote\.$"),
        (pickle.dumps({"when": 1.5}), r"cannot read '.*weights': "),
        (pickle.dumps({"when": Opaque()}), r"cannot read '.*weights': "),
        (b"\xff\x00\x00\x00\x00\x00\x00\x00{broken", "not a whole safetensors file"),
    ],
)
def test_files_that_are_something_else(content: bytes, message: str, tmp_path: Path):
    (tmp_path / "weights").write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        pretrained.read(tmp_path / "weights")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (torch.Tensor.to_sparse, "float64 (sparse_coo)"),
        (lambda x: x.to("meta"), "float64 (on no device)"),
        (lambda x: x.to(torch.complex128), "complex128 (strided)"),
        (lambda x: x.to(torch.int8), "int8 (strided)"),
        (lambda x: x.to(torch.float8_e4m3fn), "float8_e4m3fn (strided)"),
        (lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8), "qint8 (strided)"),
    ],
    ids=["sparse", "meta", "complex", "int8", "float8", "quantised"],
)
@pytest.mark.filterwarnings("ignore:.*torch.quantize_per_tensor:UserWarning")
def test_weights_that_are_no_dense_floats_are_refused(change: Any, kind: str, tmp_path: Path):
    state = cifar().state_dict()
    state["conv1.weight"] = change(state["conv1.weight"])
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(InputError, match=re.escape(f"weights: 'conv1.weight' is a tensor of {kind}; it must be")):
        pretrained.load(tmp_path / "odd.pt", spec_of())


def test_files_that_are_not_there_or_hold_no_names(tmp_path: Path):
    with pytest.raises(InputError, match="cannot read"):
        pretrained.read(tmp_path / "nothing.pth")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(InputError, match="it holds no tensors by name"):
        pretrained.read(tmp_path / "list.pth")
    torch.save({"conv1.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="does not look like one of the paper's networks"):
        pretrained.spec_of(tmp_path / "other.pth")


def test_safetensors_are_read_without_pytorch(tmp_path: Path):
    path = written(cifar(), tmp_path / "cifar.safetensors")
    use = f"from skipscope.engines import pretrained; pretrained.spec_of({str(path)!r})"
    code = f"import sys; {use}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "False\n"
