"""The paper's networks on PyTorch compute what the networks of public repositories compute, to 1e-9 in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from engines.plain_resnets import Cifar, ImageNet, sites_by_name
from skipscope import InputError, Spec, draws, testing
from skipscope.engines import torch_engine
from skipscope.engines.torch_devices import device_for
from skipscope.engines.torch_module import NetworkModule, arrays_of, module_of, state_of
from skipscope.losses import Cotangent, CrossEntropy
from skipscope.spec import Shortcut

Model = Callable[[], nn.Module]
NARROW: dict[str, Any] = {"width": 8, "classes": 7}

OPTIONS: tuple[Shortcut, ...] = ("none", "A", "A-both", "B", "C")

NETWORKS: dict[str, tuple[Spec, Model, int]] = {
    f"cifar-20 {option}": (
        Spec.cifar(20, shortcut=option, size=8, dtype="float64"),
        lambda option=option: Cifar(20, option),  # type: ignore[misc]
        8,
    )
    for option in OPTIONS
}
NETWORKS |= {
    "cifar-32": (Spec.cifar(32, size=9, dtype="float64"), lambda: Cifar(32, "A"), 9),
    "cifar-20 pre-activation": (
        Spec.cifar(20, order="pre-activation", size=8, dtype="float64", **NARROW),
        lambda: Cifar(20, "A", preact=True, **NARROW),
        8,
    ),
    "cifar-20 pre-activation B": (
        Spec.cifar(20, order="pre-activation", shortcut="B", size=8, dtype="float64", **NARROW),
        lambda: Cifar(20, "B", preact=True, **NARROW),
        8,
    ),
    "imagenet-18 A": (
        Spec.imagenet(18, size=32, dtype="float64", **NARROW),
        lambda: ImageNet((2, 2, 2, 2), "A", deep=False, **NARROW),
        32,
    ),
    "imagenet-18 B": (
        Spec.imagenet(18, shortcut="B", size=45, dtype="float64", **NARROW),
        lambda: ImageNet((2, 2, 2, 2), "B", deep=False, **NARROW),
        45,
    ),
    "imagenet-50 v1": (
        Spec.imagenet(50, size=64, dtype="float64", **NARROW),
        lambda: ImageNet((3, 4, 6, 3), "B", deep=True, early=True, **NARROW),
        64,
    ),
    "imagenet-50 v1.5": (
        Spec.imagenet(50, stride="v1.5", size=64, dtype="float64", **NARROW),
        lambda: ImageNet((3, 4, 6, 3), "B", deep=True, **NARROW),
        64,
    ),
}


def given(model: nn.Module, arrays: dict[str, Any]) -> nn.Module:
    """The model in float64, with the weights of ours."""
    model.double()
    state = model.state_dict()
    with torch.no_grad():
        for name, ours in sites_by_name(model).items():
            assert state[name].shape == arrays[ours].shape[1:], name
            state[name].copy_(torch.from_numpy(arrays[ours][0]))
    return model


def stirred(arrays: dict[str, Any], seed: int) -> dict[str, Any]:
    """Arrays moved away from where they start, as training leaves them: no gamma is 1, no average 0."""
    rng = np.random.default_rng(seed)
    moved = {}
    for name, array in arrays.items():
        factor = 1 + 0.2 * rng.standard_normal(array.shape)
        moved[name] = array * np.abs(factor) + (0 if name.endswith(("weight", "variance", "gamma")) else 0.1 * factor)
    return moved


def images(size: int, samples: int = 5, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((samples, 3, size, size))


def close(mine: Any, theirs: Any, what: str) -> None:
    """To 1e-9 of the largest entry: rounding is 1e-16, and some 50 layers multiply it by 1e3 to 1e5.

    And to 1e-13, for what is 0 but for rounding, such as the gradient by gamma of a norm that another norm follows.
    """
    mine, theirs = (np.asarray(each.detach() if isinstance(each, torch.Tensor) else each) for each in (mine, theirs))
    assert mine.shape == theirs.shape, what
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-9 * float(np.abs(theirs).max()) + 1e-13, err_msg=what)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks as small as these gain nothing by a second thread, and lose where other tests run beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[Spec, nn.Module, dict[str, Any], Any]:
    """A spec, the same network as repositories have it, the arrays of both, and images."""
    spec, model, size = NETWORKS[request.param]
    arrays = stirred(torch_engine.build(spec, seed=2).arrays, seed=1)
    return spec, given(model(), arrays), arrays, images(size)


def of_engine(spec: Spec, arrays: dict[str, Any]) -> torch_engine.TorchNetwork:
    running = {name: array for name, array in arrays.items() if ".running_" in name}
    parameters = {name: array for name, array in arrays.items() if name not in running}
    return torch_engine.TorchNetwork(spec, (2,), parameters, running=running)


def of_module(spec: Spec, arrays: dict[str, Any]) -> NetworkModule:
    module = module_of(spec, seed=0)
    module.load_state_dict(state_of(arrays))
    return module


def test_parameters_are_those_of_the_spec_and_of_the_model(network: Any):
    spec, model, _, _ = network
    ours = sum(each.numel() for each in module_of(spec, seed=0).parameters())

    assert ours == spec.parameters == sum(each.numel() for each in model.parameters())
    assert ours == sum(each.size for each in torch_engine.build(spec, seed=0).parameters.values())


def test_outputs_and_gradients(network: Any):
    spec, model, arrays, x = network
    engine, module = of_engine(spec, arrays), of_module(spec, arrays)
    classes = spec.head.features
    v = np.random.default_rng(5).standard_normal((1, 5, classes))
    ours, theirs, fast = sites_by_name(model), torch.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    expected, trained = model(theirs), module(fast)
    (expected * torch.from_numpy(v[0])).sum().backward()
    (trained * torch.from_numpy(v[0])).sum().backward()
    gradients: dict[str, Any] = {}

    def observe(site: str, /, **roles: Any) -> None:
        gradients.update({f"{site}.{role}": array for role, array in roles.items() if role.endswith("_grad")})

    run = engine.run(x, Cotangent(v), observe)

    close(run.output[0], expected, "output of the engine")
    close(trained, expected, "output of the module")
    close(gradients["input.activation_grad"][0], theirs.grad, "gradient by the input, engine")
    close(fast.grad, theirs.grad, "gradient by the input, module")
    for name, parameter in model.named_parameters():
        close(gradients[f"{ours[name]}_grad"][0], parameter.grad, f"{name}, engine")
        close(module.get_parameter(ours[name]).grad, parameter.grad, f"{name}, module")


def test_inference(network: Any):
    spec, model, arrays, x = network
    engine, module = of_engine(spec, arrays), of_module(spec, arrays).eval()
    model.eval()
    expected = model(torch.from_numpy(x))
    with engine.inference():
        assert engine.edit == "batch norm: running averages"
        close(engine.run(x).output[0], expected, "engine")
    close(engine.module.eval()(torch.from_numpy(x))[0], expected, "ensemble")
    close(module(torch.from_numpy(x)), expected, "module")
    before = dict(module.named_buffers())
    for name, ours in sites_by_name(model).items():
        if "running" in name:
            assert torch.equal(before[ours], model.state_dict()[name]), "evaluation moved a running average"


@pytest.mark.parametrize("name", ["cifar-20 A", "cifar-20 pre-activation B", "imagenet-18 B"])
def test_training_steps_from_the_same_state(name: str):
    """Weights and running averages after each of three steps, the states being handed over, as rounding grows."""
    spec, model, size = NETWORKS[name]
    ensemble = torch_engine.build(spec, seed=2)
    plain, fast = given(model(), ensemble.arrays), of_module(spec, ensemble.arrays)
    modules = (plain, fast, ensemble.module)
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4) for each in modules]
    ours = sites_by_name(plain)
    for step in range(3):
        x = torch.from_numpy(images(size, seed=step))
        labels = torch.tensor([0, 1, 2, 3, step])
        for module, optimizer in zip(modules, optimizers, strict=True):
            optimizer.zero_grad()
            output = module(x)[0] if module is ensemble.module else module(x)
            nn.functional.cross_entropy(output, labels).backward()
            optimizer.step()
        state = plain.state_dict()
        for theirs, mine in ours.items():
            close(fast.state_dict()[mine], state[theirs], f"{theirs} after step {step}")
            close(ensemble.arrays[mine][0], state[theirs], f"{theirs} after step {step}, ensemble")
        fast.load_state_dict(state_of({ours[key]: state[key].numpy()[None] for key in ours}))
        with torch.no_grad():
            for key, array in ensemble.module.state_dict().items():
                array.copy_(fast.state_dict()[key][None])


def test_ten_free_running_steps_at_the_papers_rate():
    """Of ResNet-20; over ten steps rounding of 1e-16 grows by some 1e3."""
    spec = Spec.cifar(20, size=8, dtype="float64")
    plain, fast = given(Cifar(20, "A"), torch_engine.build(spec, seed=2).arrays), module_of(spec, seed=2)
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4) for each in (plain, fast)]
    for step in range(10):
        x, labels = torch.from_numpy(images(8, samples=16, seed=step)), torch.arange(16) % 10
        for module, optimizer in zip((plain, fast), optimizers, strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x), labels).backward()
            optimizer.step()
    for theirs, mine in sites_by_name(plain).items():
        close(fast.state_dict()[mine], plain.state_dict()[theirs], theirs)


# ------------------------------------------------------------------------------------------- the engine's own checks

FIELDS: dict[str, dict[str, Any]] = {
    "A": {},
    "A-both, pre-activation": {"shortcut": "A-both", "order": "pre-activation"},
    "B, before-add": {"shortcut": "B", "order": "before-add"},
    "C, gains": {"shortcut": "C", "shortcut_gain": 0.5, "branch_gain": "1/sqrt(L)"},
    "no norm, learned gain": {"norm": "none", "branch_gain": "zero"},
    "plain, no norm": {"norm": "none", "shortcut": "none"},
    "zero gamma": {"branch_gain": "zero-gamma"},
    "torch": {"init": "torch"},
}
SMALL = {name: Spec.cifar(8, width=4, size=8, classes=3, dtype="float64", **each) for name, each in FIELDS.items()}
SMALL["pooled stem, bottlenecks"] = Spec.imagenet(50, width=2, size=32, classes=3, dtype="float64")


@pytest.mark.parametrize("name", SMALL)
def test_every_role_is_pushed_in_its_shape(name: str):
    spec = SMALL[name]
    network = torch_engine.build(spec, seed=(3, 1))
    x = draws.normals((3, 1), "input", (4, *spec.input_shape))
    v = draws.normals((3, 1), "cotangent", (4, 3))
    testing.check_pushes(network, x, Cotangent(v))


@pytest.mark.parametrize("name", SMALL)
def test_the_module_computes_what_the_engine_computes(name: str):
    spec = SMALL[name]
    arrays = stirred(torch_engine.build(spec, seed=2).arrays, seed=1)
    x = images(spec.stem.size)
    for channels_last in (True, False):
        module = module_of(spec, seed=0, channels_last=channels_last)
        module.load_state_dict(state_of(arrays))
        v = np.ones((1, 5, 3))
        pushed: dict[str, Any] = {}

        def observe(site: str, /, pushed: dict[str, Any] = pushed, **roles: Any) -> None:
            pushed |= {f"{site}.{role}": array for role, array in roles.items()}

        run = of_engine(spec, arrays).run(x, Cotangent(v), observe)
        output = module(torch.from_numpy(x))
        output.sum().backward()
        close(output, run.output[0], "output")
        for key, parameter in module.named_parameters():
            close(parameter.grad, pushed[f"{key}_grad"][0], key)


def test_a_dense_module():
    several: tuple[dict[str, Any], ...] = (
        {"norm": "layer"},
        {"norm": "batch", "order": "pre-activation"},
        {"branch_gain": "zero", "bias": True},
    )
    for fields in several:
        spec = Spec.dense(width=6, blocks=3, features=4, outputs=3, **fields)
        x = np.random.default_rng(0).standard_normal((8, 4))
        close(
            module_of(spec, seed=7)(torch.from_numpy(x)), torch_engine.build(spec, seed=7).run(x).output[0], str(fields)
        )


def test_the_same_bits_alone_and_in_an_ensemble():
    spec = Spec.cifar(8, width=4, size=8)
    x = draws.normals((3, 1), "input", (4, *spec.input_shape))
    together = torch_engine.build(spec, seed=(3, 1)).run(x).output
    for index, seed in enumerate((3, 1)):
        assert torch_engine.build(spec, seed=seed).run(x[index]).output.tobytes() == together[index].tobytes()


def test_no_shortcut_gain_is_the_plain_twin():
    spec = Spec.cifar(8, width=4, size=8, dtype="float64")
    x = images(8)
    network, twin = torch_engine.build(spec, seed=3), torch_engine.build(spec.twin(), seed=3)
    with network.gains(shortcut=0):
        assert network.edit.startswith("stage1.block1: shortcut x 0, branch x 1")
        assert np.array_equal(network.run(x).output, twin.run(x).output)
    assert not np.array_equal(network.run(x).output, twin.run(x).output)


def test_the_gradient_through_the_shortcut_is_by_the_blocks_input():
    spec = Spec.cifar(8, width=4, size=8, dtype="float64")
    seen: dict[str, Any] = {}

    def observe(site: str, /, **roles: Any) -> None:
        seen.update({f"{site}.{role}": array for role, array in roles.items()})

    torch_engine.build(spec, seed=3).run((images(8), np.array([0, 1, 2, 0, 1])), CrossEntropy(), observe)
    assert seen["stage2.block1.shortcut"].shape == (1, 5, 8, 4, 4)
    assert seen["stage2.block1.shortcut_grad"].shape == (1, 5, 4, 8, 8)
    assert not seen["stage2.block1.shortcut"][:, :, 4:].any()  # the zeros of option A, after the others
    assert not seen["stage2.block1.shortcut_grad"][..., 1::2, :].any()
    np.testing.assert_array_equal(
        seen["stage2.block1.total_grad"], seen["stage2.block1.shortcut_grad"] + seen["stage2.block1.branch_grad"]
    )


def test_what_a_batch_must_be():
    network = torch_engine.build(Spec.cifar(8, width=4, size=8), seed=3)
    with pytest.raises(InputError, match=r"batch must have the shape \(samples, 3, 8, 8\).*got \(5, 3, 16, 16\)"):
        network.run(images(16))
    network.run(images(8, samples=1))  # 2 x 2 positions suffice
    with pytest.raises(InputError, match="batch of 1 sample"):
        torch_engine.build(Spec.cifar(8, width=4, size=4), seed=3).run(images(4, samples=1))


# --------------------------------------------------------------------------------------------- the module as a module


def test_states_go_both_ways():
    spec = Spec.cifar(8, width=4)
    network = torch_engine.build(spec, seed=(4, 9))
    module = module_of(spec, seed=9)

    assert list(module.state_dict()) == sorted(module.state_dict(), key=list(module.state_dict()).index)
    there = arrays_of(nn.DataParallel(module).state_dict())
    assert there.keys() == network.arrays.keys()
    for name, array in network.arrays.items():
        assert np.array_equal(there[name], array[1:]), name
        assert there[name].flags.c_contiguous
    other = module_of(spec, seed=0)
    other.load_state_dict(state_of(network.arrays, 1))
    assert all(torch.equal(array, module.state_dict()[name]) for name, array in other.state_dict().items())


def test_images_lie_with_their_channels_last():
    module = module_of(Spec.cifar(8, width=4, size=8), seed=0)
    layouts = []
    module.get_submodule("stage1").register_forward_hook(lambda module, inputs, output: layouts.append(output))
    module(torch.from_numpy(images(8)).float())
    assert layouts[0].is_contiguous(memory_format=torch.channels_last)


def test_automatic_mixed_precision():
    """bfloat16 keeps 8 bits: the output differs by some percent, and what is trained stays in float32."""
    spec = Spec.cifar(20, size=16)
    module, x = module_of(spec, seed=0), torch.from_numpy(images(16)).float()
    exact = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = module(x)
    assert rough.dtype == torch.bfloat16
    assert 0 < float((rough - exact).detach().norm() / exact.detach().norm()) < 0.1
    rough.float().sum().backward()
    assert all(each.grad is not None and each.grad.dtype == torch.float32 for each in module.parameters())


def test_it_is_compiled_in_one_graph():
    torch.compiler.reset()
    module, x = module_of(Spec.cifar(8, width=4, size=8, dtype="float64"), seed=0), torch.from_numpy(images(8))
    compiled: Any = torch.compile(module, backend="aot_eager", fullgraph=True)
    close(compiled(x), module_of(module.spec, seed=0)(x), "compiled")
    assert arrays_of(compiled.state_dict()).keys() == arrays_of(module.state_dict()).keys()


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("cuda", "float32", "device='cuda': PyTorch finds no such device here; use device='cpu' or 'auto'"),
        ("mps", "float32", "device='mps': PyTorch finds no such device here"),
        ("gpu", "float32", "device must be one of 'auto', 'cpu', 'cuda', 'mps'; got 'gpu'"),
        ("cpu:x", "float32", "device must be one of .*, or 'cuda:1'; got 'cpu:x'"),
    ],
)
def test_a_device_that_is_not_there(name: str, dtype: str, message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=message):
        device_for(name, dtype=dtype)
    with pytest.raises(InputError, match=message):
        module_of(Spec.cifar(8), seed=0, device=name)


def test_the_fastest_device_that_is_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert [device_for("auto", dtype=dtype).type for dtype in ("float32", "float64")] == ["mps", "cpu"]
    with pytest.raises(InputError, match="device='mps' has no float64"):
        device_for("mps", dtype="float64")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_for().type == "cuda"
    assert device_for("cuda:1").index == 1
    with pytest.raises(InputError, match="'cuda:2'"):
        device_for("cuda:2")


def test_several_seeds_are_no_module():
    with pytest.raises(InputError, match="seed must be one"):
        module_of(Spec.cifar(8), seed=[1, 2])  # type: ignore[arg-type]
