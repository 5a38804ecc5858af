"""Responses as study `responses` measures them, against hooks on plain models of PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from engines.plain_resnets import Cifar, ImageNet, sites_by_name
from skipscope import Spec
from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.studies.layer_response import measured_responses

SMALL: dict[str, Any] = {"width": 4, "size": 8, "dtype": "float64"}


def images_for(spec: Spec, samples: int = 6) -> Any:
    return np.random.default_rng(1).standard_normal((samples, *spec.input_shape))


def responses_of(model: nn.Module, x: Any, *, convolutions: bool = False) -> dict[str, float]:
    """Standard deviations of what the modules of a plain PyTorch model give, by our sites."""
    kind: Any = nn.Conv2d if convolutions else nn.BatchNorm2d
    ours = {name.removesuffix(".weight"): site.rpartition(".")[0] for name, site in sites_by_name(model).items()}
    found: dict[str, float] = {}

    def listen(site: str) -> Any:
        return lambda _, __, y: found.update({site: float(y.std(correction=0))})

    hooks = [
        module.register_forward_hook(listen(ours[name]))
        for name, module in model.named_modules()
        if isinstance(module, kind)
    ]
    with torch.no_grad():
        model(torch.from_numpy(x))
    for hook in hooks:
        hook.remove()
    return found


def arrays_of(model: nn.Module, spec: Spec) -> dict[str, Any]:
    state = model.state_dict()
    return {ours: state[theirs].numpy()[None] for theirs, ours in sites_by_name(model).items()}


def varied(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    model.double()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor * 0.5 + 0.3 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64))
    return model


def network_like(model: nn.Module, spec: Spec) -> NumpyNetwork:
    arrays = arrays_of(model, spec)
    running = {name: array.copy() for name, array in arrays.items() if ".running_" in name}
    return NumpyNetwork(spec, (0,), {n: a.copy() for n, a in arrays.items() if n not in running}, running=running)


@pytest.mark.parametrize("mode", ["training", "inference"])
@pytest.mark.parametrize(
    ("model", "spec"),
    [
        (lambda: Cifar(14, "A-both", width=4), Spec.cifar(14, shortcut="A-both", **SMALL)),
        (lambda: Cifar(14, "none", width=4), Spec.cifar(14, shortcut="none", **SMALL)),
        (
            lambda: ImageNet((3, 4, 6, 3), deep=True, width=4, classes=3),
            Spec.imagenet(50, stride="v1.5", width=4, size=32, classes=3, dtype="float64"),
        ),
    ],
    ids=["cifar", "plain", "imagenet-50"],
)
def test_it_is_what_the_normalisation_of_a_plain_pytorch_model_gives(model: Any, spec: Spec, mode: str):
    other, x = varied(model()), images_for(spec)
    network = network_like(other, spec)  # before the forward pass moves the averages
    if mode == "training":
        measured, _ = measured_responses(network, x)
    else:
        with network.inference():
            measured, laws = measured_responses(network, x)
        assert laws == {}
    expected = responses_of(other.train(mode == "training"), x)

    assert measured.keys() == expected.keys()
    for site, value in expected.items():
        np.testing.assert_allclose(measured[site], [value], rtol=1e-9, err_msg=site)


def test_what_is_added_in_pre_activation_order_is_the_bare_convolution():
    spec = Spec.cifar(8, shortcut="A-both", order="pre-activation", **SMALL)
    other, x = varied(Cifar(8, "A-both", width=4, preact=True)), images_for(spec)
    network = network_like(other, spec)
    measured, _ = measured_responses(network, x)
    expected = responses_of(other.train(), x, convolutions=True)

    for site in ("stem", "stage1.block1.layer2", "stage2.block1.layer2", "stage3.block1.layer2"):
        np.testing.assert_allclose(measured[site], [expected[site]], rtol=1e-9, err_msg=site)
