"""Every residual addition is found, and nothing else: exact counts, kinds and names."""

from __future__ import annotations

import copy
import pickle
import time
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from scope.designs import DESIGNS, Calls, Dense, Highway, Wrapped, cifar_resnet, dense, design
from scope.transformed import TRANSFORMED, transformed
from scope.zoo import ResNet18, made
from skipscope import InputError
from skipscope.torch import junctions

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_counts(name: str, training: bool):
    model, batch = design(name)
    found = junctions(model.train(training), batch)
    kinds, doubtful, concatenations = DESIGNS[name][2]

    assert (found.kinds, len(found.not_understood), found.concatenations) == (kinds, doubtful, concatenations)
    assert len(set(found.names)) == len(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMED)
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_counts_in_transformers(name: str, training: bool):
    model, batch = transformed(name)
    found = junctions(model.train(training), batch)

    assert found.kinds == TRANSFORMED[name][2]
    # The recurrence of Mamba starts at a zero state, which makes its first step look like a gate.
    assert len(found.not_understood) == (2 if name == "mamba" else 0)


def test_encoder_of_pytorch_in_all_its_ways():
    for norm_first in (True, False):
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first)
        model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        for training in (True, False):
            with torch.no_grad():
                found = junctions(model.train(training), torch.randn(2, 5, 16))
            assert found.names == [f"layers.{block}{second}" for block in range(3) for second in ("", "+2")]


def test_names_and_what_is_told():
    model, batch = made("resnet18")
    found = junctions(model, batch)

    assert found.names == [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    first, changed = found[0], found[2]
    assert (first.kind, first.module, first.in_place, first.operand, first.shortcut) == (
        "identity",
        "layer1.0",
        True,
        1,
        "",
    )
    assert (changed.kind, changed.shortcut) == ("projection", "conv2d, batch_norm")
    assert (first.branch, first.weights) == ("conv1 to bn2", 2)
    assert repr(found).splitlines()[:2] == [
        "ResNet18: 8 residual additions (5 identity, 3 projection)",
        "  layer1.0  identity + conv1 to bn2, in place",
    ]


def test_names_are_the_same_for_another_batch_and_another_run():
    model, batch = made("resnet18")
    first, second = junctions(model, batch), junctions(model, torch.randn(2, 3, 16, 16))
    assert [(j.name, j.place, j.kind, j.operand) for j in first] == [
        (j.name, j.place, j.kind, j.operand) for j in second
    ]
    assert junctions(ResNet18(), batch).names == first.names


def test_the_order_of_the_arguments_says_nothing():
    for name, operand in (("x + f(x)", 0), ("f(x) + x", 1), ("out += x", 1), ("x += f(x)", 0), ("sum of a list", 1)):
        model, batch = design(name)
        assert {each.operand for each in junctions(model, batch)} == {operand}, name


def test_scales():
    scales = {
        name: junctions(*design(name))[0].scale for name in ("rezero", "layerscale", "scaled", "highway", "out += x")
    }
    assert scales == {
        "rezero": "branch by a parameter",
        "layerscale": "branch by a parameter",
        "scaled": "shortcut by a number, branch by a number",
        "highway": "shortcut by a gate, branch by a gate",
        "out += x": "",
    }


def test_densenet_says_so():
    found = junctions(*design("densenet"))
    assert found.note == (
        "0 residual additions; 5 concatenations of a tensor with what was made of it (as in DenseNet and U-Net)"
    )


def test_what_is_not_understood_has_a_reason():
    reasons = {
        name: {each.reason for each in junctions(*design(name)).not_understood}
        for name in ("hyper-connections", "hyper-connections, listed", "res2net", "linear")
    }
    for name, words in {
        "hyper-connections": "spread over several streams",
        "hyper-connections, listed": "added to several streams",
        "res2net": "one part of a tensor is added to what was made of another part",
        "linear": "both terms are linear",
    }.items():
        (reason,) = reasons[name]
        assert words in reason
    assert "not understood: 1 (2 times): one part" in repr(junctions(*design("res2net")))


def test_a_condition_is_no_shortcut():
    """The embedding of a diffusion model's time, added in every block and made of an input of the model."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.time, self.a, self.b = nn.Linear(4, 6), nn.Conv2d(6, 6, 3, 1, 1), nn.Conv2d(6, 6, 3, 1, 1)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            h = self.a(functional.silu(x)) + self.time(functional.silu(t))[:, :, None, None]
            return x + self.b(functional.silu(h))

    def forward(model: Any, x: Tensor, t: Tensor) -> Tensor:
        for block in model.blocks:
            x = block(x, t)
        return x

    model = Calls(forward, blocks=nn.ModuleList(Block() for _ in range(3)))
    found = junctions(model, ((torch.randn(2, 6, 4, 4), torch.randn(2, 4)), None))
    assert found.names == ["blocks.0", "blocks.1", "blocks.2"]
    assert {each.reason for each in found.not_understood} <= {
        "the term that would be the shortcut is broadcast, like a condition on the other"
    }


def test_a_mask_of_floats_is_no_shortcut():
    def forward(model: Any, x: Tensor, mask: Tensor) -> Tensor:
        for layer in model.layers:
            scores = layer(x) @ x.transpose(1, 2) + mask
            x = x + layer(torch.softmax(scores, -1) @ x)
        return x

    model = Calls(forward, layers=nn.ModuleList(nn.Linear(4, 4) for _ in range(3)))
    found = junctions(model, ((torch.randn(2, 5, 4), torch.randn(2, 5, 5)), None))
    assert found.kinds == {"identity": 3}
    assert not found.not_understood


def test_experts_of_which_each_takes_its_tokens():
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router = nn.Linear(6, 3)
            self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6)) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            weight, chosen = torch.softmax(self.router(x), -1).max(-1)
            total = torch.zeros_like(x)
            for index, expert in enumerate(self.experts):
                mine = (chosen == index).nonzero().flatten()
                total.index_add_(0, mine, expert(x[mine]) * weight[mine, None])
            return x + total

    found = junctions(dense(Routed(), Routed()), torch.randn(9, 4))
    assert found.kinds == {"identity": 2}


def test_a_shared_block_has_a_junction_a_call():
    block = Dense(lambda x, y, m: x + y)
    model = Calls(lambda m, x: m.block(m.block(m.block(x))), block=block)
    found = junctions(model, torch.randn(3, 6))
    assert [(each.site, each.call) for each in found] == [("block", 0), ("block", 1), ("block", 2)]
    assert found.names == ["block", "block#2", "block#3"]


def test_what_is_compiled_to_a_script_is_refused():
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        inner: Any = torch.jit.script(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)))
    with pytest.raises(InputError, match=r"model\.1\.fn is compiled to a script"):
        junctions(dense(Wrapped(inner)), torch.randn(3, 4))
    with pytest.raises(InputError, match="model is compiled to a script"):
        junctions(inner, torch.randn(3, 6))


def test_highway_of_two_gates():
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.transform, self.carry = (nn.Linear(6, 6) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            t, c = torch.sigmoid(self.transform(x)), torch.sigmoid(self.carry(x))
            return torch.tanh(self.body(x)) * t + x * c

    found = junctions(dense(Gated(), Highway()), torch.randn(3, 4))
    assert [(each.kind, each.operand) for each in found] == [("gated", 1), ("gated", 1)]


@settings(max_examples=25, deadline=None)
@given(
    blocks=st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(1, 3)), max_size=8),
    seed=st.integers(0, 2**16),
)
def test_any_chain_of_blocks(blocks: list[tuple[bool, bool, int]], seed: int):
    """Some with a shortcut, some without, written either way round, of one to three layers."""

    class Block(nn.Module):
        def __init__(self, residual: bool, first: bool, layers: int) -> None:
            super().__init__()
            parts = [part for _ in range(layers) for part in (nn.Linear(5, 5), nn.Tanh())]
            self.body, self.residual, self.first = nn.Sequential(*parts), residual, first

        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            return (x + y if self.first else y + x) if self.residual else y

    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), *(Block(*each) for each in blocks))
    found = junctions(model, torch.randn(3, 4))
    expected = [(str(i + 1), int(not first), layers) for i, (residual, first, layers) in enumerate(blocks) if residual]
    assert [(each.name, each.operand, each.weights) for each in found] == expected


def test_the_model_is_left_as_it_was():
    for name in ("resnet-18", "cifar resnet-20"):
        model, batch = design(name)
        before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
        found = junctions(model, batch)
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        assert torch.equal(state, torch.get_rng_state())
        assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
        assert all(p.grad is None for p in model.parameters())
        pickle.dumps(model)
        assert pickle.loads(pickle.dumps(found)) == found


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_nothing_behind(error: type[BaseException]):
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise error("no")

    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), Broken()))
    with pytest.raises(error):
        junctions(model, torch.randn(2, 4))
    assert not torch.overrides._get_current_function_mode_stack()
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_a_very_deep_network():
    """1,202 layers: no recursion, and no more than some hundred times the time of a forward pass."""
    model = cifar_resnet(1202, 2)
    batch = torch.randn(2, 3, 4, 4)
    started = time.perf_counter()
    found = junctions(model, batch)
    assert found.kinds == {"identity": 598, "parameter-free": 2}
    assert time.perf_counter() - started < 60


def test_checkpointed_and_compiled_models_have_the_same():
    for kept in ("language, checkpointed", "language"):
        model, batch = made(kept)
        assert len(junctions(model, batch)) == 6
    model, batch = made("resnet18")
    compiled: Any = torch.compile(model, backend="eager")
    assert junctions(compiled, batch).names == junctions(model, batch).names


def test_refusals():
    with pytest.raises(InputError, match="batch must be what the model is to see"):
        junctions(nn.Linear(2, 2), 3)
    with pytest.raises(InputError, match=r"at='layer9\.\*' names no junction of this ResNet18: there are layer1\.0, "):
        junctions(*made("resnet18")).at("layer9.*")
    with pytest.raises(InputError, match="names no junction of this Sequential: it has 0 residual additions"):
        junctions(*made("mlp")).at("0")
