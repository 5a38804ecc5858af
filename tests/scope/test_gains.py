"""Junctions turned like knobs: what comes out is what the model without its shortcuts, or its blocks, computes."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import skipscope
from scope.designs import DESIGNS, WAYS, Calls, Dense, cifar_resnet, dense, design, images, rows
from scope.zoo import BasicBlock, made
from skipscope import InputError
from skipscope.torch import Junctions, gains, junctions

pytestmark = pytest.mark.usefixtures("one_thread")


class PlainBasicBlock(BasicBlock):
    """The block of torchvision without its shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)))


def plain(model: Any) -> Any:
    """A copy whose blocks are written without shortcuts."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if type(module) is BasicBlock:
            module.__class__ = PlainBasicBlock
        elif hasattr(module, "plain"):
            module.plain = True
        elif isinstance(module, Dense):
            module.how = lambda x, y, block: y
    return twin


Step = dict[str, Any]


def step(model: Any, batch: Any, *, autocast: bool = False, seed: int = 0) -> Step:
    """Output, gradients and buffers of one step, by name."""
    torch.manual_seed(seed)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = model(**batch) if isinstance(batch, dict) else model(batch)
        loss = output.float().square().mean() if isinstance(output, Tensor) else output.loss
    if isinstance(output, Tensor) and output.dtype == torch.float64:
        loss = output.square().mean()
    loss.backward()
    found: Step = {"output": output.detach()}
    found |= {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    return found | {name: x.clone() for name, x in model.named_buffers()}


def same(a: Step, b: Step, *, but: str = "-") -> bool:
    """To the bit, but for what is named so; no gradient is a gradient of 0."""
    if a.keys() != b.keys():
        return False
    return all(_equal(a[name], b[name]) for name in a if but not in name)


def _equal(x: Any, y: Any) -> bool:
    if x is None or y is None:
        return not any(each.any() for each in (x, y) if each is not None)
    return torch.equal(x, y)


MODELS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "resnet18, in place": lambda: made("resnet18"),
    "cifar resnet-20": lambda: design("cifar resnet-20"),
    **{
        name: (lambda name=name: design(name))  # type: ignore[misc]
        for name in ("x + f(x)", "f(x) + x", "out += x", "x += f(x)", "sum of a list")
    },
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
def test_without_shortcuts_it_is_the_plain_model(name: str, autocast: bool):
    model, batch = MODELS[name]()
    twin = plain(model)
    bare = step(copy.deepcopy(model), batch, autocast=autocast)
    with gains(model, batch, shortcut=0) as turned:
        found = step(model, batch, autocast=autocast)
    assert not turned.kept
    # The statistics of a projection's normalisation are still taken, though nothing is made of them.
    assert same(found, step(twin, batch, autocast=autocast), but="downsample")
    assert not same(found, bare)


@pytest.mark.parametrize("name", ["x + f(x)", "f(x) + x", "out += x", "x += f(x)"])
def test_without_branches_the_blocks_are_gone(name: str):
    model, batch = design(name)
    removed = Calls(lambda m, x: m.last(m.first(x)), first=copy.deepcopy(model[0]), last=copy.deepcopy(model[-1]))
    with gains(model, batch, branch=0):
        found = step(model, batch)
    expected = step(removed, batch)
    assert torch.equal(found["output"], expected["output"])
    for own, other in (("0", "first"), ("4", "last")):
        assert all(torch.equal(found[f"{own}.{p}"], expected[f"{other}.{p}"]) for p in ("weight", "bias"))
    learning = {name.split(".")[0] for name, x in found.items() if x is not None and x.any()}
    assert learning == {"output", "0", "4"}  # blocks of which nothing comes learn nothing


@pytest.mark.parametrize("name", DESIGNS)
def test_gains_of_one_change_no_bit(name: str):
    model, batch = design(name)
    bare = copy.deepcopy(model)
    with gains(model, batch, shortcut=1.0, branch=1.0):
        found = step(model, batch)
    assert same(found, step(bare, batch))


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("turned", [(0, 1), (1, 0), (0, 0), (-1.5, 0.5)], ids=str)
def test_every_way_of_adding_is_turned(name: str, turned: tuple[float, float]):
    """Forward and backward, to the rounding of float64."""
    model, batch = design(f"by {name}")
    model, batch = model.double(), batch.double()
    twin = copy.deepcopy(model)
    a, b = (gain * own for gain, own in zip(turned, WAYS[name][1], strict=True))
    for module in twin.modules():
        if isinstance(module, Dense):
            module.how = lambda x, y, block: a * x + b * y
    with gains(model, batch, shortcut=turned[0], branch=turned[1]):
        found = step(model, batch)
    for key, value in step(twin, batch).items():
        if value is None or found[key] is None:
            assert _equal(value, found[key])
        else:
            torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["x + f(x)", "f(x) + x", "out += x", "x += f(x)", "torch.add"])
@settings(max_examples=10, deadline=None)
@given(shortcut=st.floats(-2, 2), branch=st.floats(-2, 2))
def test_any_gains(name: str, shortcut: float, branch: float):
    """What is computed is the weighted sum, forward and backward, to the rounding of float64."""
    model, batch = design(name)
    model, batch = model.double(), batch.double()
    twin = copy.deepcopy(model)
    alpha = 0.5 if name == "torch.add" else 1.0
    for module in twin.modules():
        if isinstance(module, Dense):
            module.how = lambda x, y, block: shortcut * x + branch * alpha * y
    with gains(model, batch, shortcut=shortcut, branch=branch):
        found = step(model, batch)
    expected = step(twin, batch)
    for key, value in found.items():
        if value is None or expected[key] is None:
            assert _equal(value, expected[key])
        else:
            torch.testing.assert_close(value, expected[key], rtol=1e-9, atol=1e-9)


def test_each_junction_by_itself():
    model, batch = design("x + f(x)")
    outputs = {}
    for name in junctions(model, batch).names:
        with gains(model, batch, branch=0, at=name) as turned:
            outputs[name] = model(batch)
        assert [each.name for each in turned.junctions] == [name]
        twin = nn.Sequential(*(layer for i, layer in enumerate(model) if str(i) != name))
        assert torch.equal(outputs[name], twin(batch))
    assert len(outputs) == 3


def test_patterns():
    model, batch = made("resnet18")
    with gains(model, batch, shortcut=0, at=["layer1.*", "layer4.1"]) as turned:
        assert [each.name for each in turned.junctions] == ["layer1.0", "layer1.1", "layer4.1"]


def test_two_additions_of_a_block():
    model, batch = made("language")
    model.eval()
    block = model.h[1]
    with gains(model, batch, branch=0, at="h.1+2"):
        found = model(**batch).logits

    def forward(x: Tensor) -> Tensor:
        h = block.ln1(x)
        return x + block.attention(h, h, h, need_weights=False)[0]

    block.forward = forward
    assert torch.equal(found, model(**batch).logits)


def test_gains_of_contexts_inside_each_other_multiply():
    model, batch = design("x + f(x)")
    with gains(model, batch, branch=0.5):
        with gains(model, batch, branch=0.5, at="2"):
            inner = model(batch)
        outer = model(batch)
    with gains(model, batch, branch=0.5, at=["1", "3"]), gains(model, batch, branch=0.25, at="2"):
        assert torch.equal(inner, model(batch))
    with gains(model, batch, branch=0.5):
        assert torch.equal(outer, model(batch))


def test_other_batches_of_the_same_model():
    model, batch = design("cifar resnet-20")
    twin = plain(model)
    with gains(model, batch, shortcut=0):
        for shape in ((2, 3, 16, 16), (7, 3, 8, 8), (2, 3, 12, 20)):
            torch.manual_seed(0)
            x = torch.randn(shape)
            assert same(step(model, x), step(twin, x))


def test_junctions_that_were_found_before_can_be_given():
    model, batch = design("x + f(x)")
    found = junctions(model, batch)
    for junction in found:
        with gains(model, found, shortcut=0, at=junction.name):
            zeroed = model(batch)
        with gains(model, batch, shortcut=0, at=junction.name):
            assert torch.equal(zeroed, model(batch))


def loaded(model: Any) -> Any:
    """The model, saved and loaded."""
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def made_anew(model: Any) -> Any:
    """Another of the same make, with these weights."""
    other, _ = made("resnet18")
    other.load_state_dict(model.state_dict())
    return other


def with_a_compiled_part(model: Any) -> Any:
    model = copy.deepcopy(model)
    model.layer1 = torch.compile(model.layer1, backend="eager")
    return model


@pytest.mark.parametrize(
    "alike",
    [copy.deepcopy, loaded, made_anew, with_a_compiled_part, lambda model: torch.compile(model, backend="eager")],
    ids=["copied", "loaded", "made anew", "compiled in part", "compiled"],
)
def test_junctions_of_a_model_that_is_built_and_written_alike_can_be_given(alike: Callable[[Any], Any]):
    model, batch = made("resnet18")
    other, twin = alike(model.eval()).eval(), plain(model)
    for found in (junctions(model, batch), pickle.loads(pickle.dumps(junctions(model, batch)))):
        with gains(other, found, shortcut=0):
            assert torch.equal(other(batch), twin(batch))


def longer() -> Any:
    """Has three junctions named as those of `design("x + f(x)")`, and more."""
    return dense(*(Dense(lambda x, y, block: x + y) for _ in range(5)))


def shorter() -> Any:
    return dense(Dense(lambda x, y, block: x + y))


def written_anew() -> Any:
    """Modules and classes of the same names, in other code."""

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(6, 12), nn.Linear(12, 6)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(torch.relu(self.up(x)))

    Dense.__qualname__ = "Dense"
    return dense(*(Dense() for _ in range(3)))


@pytest.mark.parametrize("other", [longer, shorter, written_anew, lambda: copy.deepcopy(design("x + f(x)")[0])[:3]])
@pytest.mark.parametrize("turned", [{"shortcut": 0}, {"branch": 0, "at": "1"}, {}], ids=str)
def test_junctions_of_another_model_are_refused(other: Callable[[], Any], turned: dict[str, Any]):
    model, batch = design("x + f(x)")
    found = junctions(other(), batch)
    with (
        pytest.raises(InputError, match=r"^batch: these junctions were found on another model, a Sequential, [^\n]*$"),
        gains(model, found, **turned),
    ):
        pass
    with pytest.raises(InputError, match=r"^batch: these junctions"), gains(model, batch), gains(model, found):
        pass
    assert all(not m._forward_hooks for m in model.modules())


def test_junctions_found_before_a_part_was_exchanged_are_refused():
    model, batch = design("x + f(x)")
    found = junctions(model, batch)
    model[2] = nn.Linear(6, 6)
    with pytest.raises(InputError, match="or before the modules or the code of this Sequential were changed"):
        gains(model, found, shortcut=0).__enter__()


def test_junctions_that_somebody_put_together_are_taken_as_they_are():
    model, batch = design("x + f(x)")
    chosen = Junctions("Sequential", junctions(model, batch).found[:2])
    with gains(model, chosen, branch=0) as turned:
        assert [each.name for each in turned.junctions] == ["1", "2"]


def test_training_steps_with_an_optimizer():
    model, batch = made("resnet18")
    twin = plain(model)
    for each, context in ((model, gains(model, batch, shortcut=0)), (twin, None)):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.05, momentum=0.9)
        torch.manual_seed(3)
        data = torch.randn(4, 6, 3, 8, 8)

        def train(each: Any = each, optimizer: Any = optimizer, data: Tensor = data) -> None:
            for x in data:
                optimizer.zero_grad()
                each(x).square().mean().backward()
                optimizer.step()

        if context is None:
            train()
        else:
            with context:
                train()
    trained = {name for name, p in twin.named_parameters() if "downsample" not in name}
    parameters = dict(model.named_parameters())
    assert all(torch.equal(parameters[name], p) for name, p in twin.named_parameters() if name in trained)


def test_inference_and_no_grad():
    model, batch = made("resnet18")
    twin = plain(model.eval())
    for context in (torch.no_grad, torch.inference_mode):
        with context(), gains(model, batch, shortcut=0):
            assert torch.equal(model(batch), twin(batch))


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_checkpoints_compute_again(reentrant: bool):
    model, batch = design("x + f(x)")
    batch.requires_grad_()

    def forward(model: Any, x: Tensor) -> Tensor:
        for layer in model.layers:
            x = checkpoint(layer, x, use_reentrant=reentrant)
        return x

    kept = Calls(forward, layers=nn.ModuleList(model))
    with gains(model, batch, shortcut=0.5, branch=2):
        expected = {f"layers.{name}" if name != "output" else name: x for name, x in step(model, batch).items()}
    with gains(kept, batch, shortcut=0.5, branch=2) as turned:
        assert [each.name for each in turned.junctions] == ["layers.1", "layers.2", "layers.3"]
        assert same(step(kept, batch), expected)


def test_a_compiled_model_is_run_as_written():
    model, batch = design("x + f(x)")
    compiled: Any = torch.compile(model, backend="eager")
    with gains(compiled, batch, shortcut=0):
        assert torch.equal(compiled(batch), plain(model)(batch))


def test_a_shortcut_that_cannot_be_removed_is_named_and_kept():
    model, batch = design("global context")
    with (
        pytest.warns(UserWarning, match="shortcut=0 leaves the shortcut at 1: the branch there is broadcast"),
        gains(model, batch, shortcut=0) as turned,
    ):
        found = model(batch)
    assert turned.kept == ("1",)
    assert torch.equal(found, model(batch))
    with gains(model, batch, shortcut=0.5) as turned:
        assert not turned.kept
        assert not torch.equal(found, model(batch))


def test_branches_side_by_side_keep_each_other():
    """x + a(x) + b(x) without its shortcut is a(x) + b(x), in whichever order it is written."""
    first, batch = design("parallel, shortcut first")
    last, _ = design("parallel, shortcut last")
    last.load_state_dict(first.state_dict())
    with gains(first, batch, shortcut=0), gains(last, batch, shortcut=0):
        torch.testing.assert_close(first(batch), last(batch))
    assert [each.continues for each in junctions(first, batch)] == ["", "1", "", "2"]


def test_projections_and_gates():
    model, batch = design("highway")
    twin = copy.deepcopy(model)
    for layer in twin[1:4]:
        layer.forward = lambda x, layer=layer: torch.sigmoid(layer.gate(x)) * torch.relu(layer.body(x))
    with gains(model, batch, shortcut=0):
        assert torch.equal(model(batch), twin(batch))
    model, batch = design("resnet-50")
    twin = copy.deepcopy(model)
    for layer in twin.modules():
        if hasattr(layer, "projection"):
            layer.forward = lambda x, layer=layer: layer.relu(layer.body(x))
    with gains(model, batch, shortcut=0):
        found = step(model, batch)
    assert torch.equal(found["output"], step(twin, batch)["output"])


def test_a_probe_inside_measures_the_twin():
    model, batch = design("x + f(x)")
    with gains(model, batch, shortcut=0):
        inside = skipscope.probe(model, batch, sites="*")
    expected = skipscope.probe(plain(model), batch, sites="*")
    rows = inside.rows.filter(~pl.col("quantity").is_in(["shortcut_share", "branch_share"]))  # the plain one has none
    assert rows.drop("cell").equals(expected.rows.drop("cell"))


def test_nothing_is_left_behind():
    model, batch = made("resnet18")
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    state, pickled = copy.deepcopy(model.state_dict()), pickle.dumps(model)
    with gains(model, batch, shortcut=0):
        inside = pickle.loads(pickle.dumps(model))
        copied = copy.deepcopy(model)
        assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    for name, module in model.named_modules():
        assert vars(module).keys() == before[name].keys()
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._forward_hooks_always_called
    assert pickle.dumps(model) == pickled
    expected = model.eval()(batch)
    assert torch.equal(inside.eval()(batch), expected)
    assert torch.equal(copied.eval()(batch), expected)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_exceptions_leave_nothing_behind(error: type[BaseException]):
    model, batch = design("x + f(x)")
    expected = model(batch)

    def fails(x: Tensor, y: Tensor, block: Any) -> Tensor:
        raise error("no")

    found = junctions(model, batch)
    how, model[2].how = model[2].how, fails
    x = torch.randn(5, 4)
    alive = weakref.ref(x)
    with pytest.raises(error), gains(model, found, shortcut=0):
        model(x)
    model[2].how = how
    assert not torch.overrides._get_current_function_mode_stack()
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert torch.equal(model(batch), expected)
    del x
    gc.collect()
    assert alive() is None


def test_an_exception_that_is_caught_inside_leaves_the_context_working():
    model, batch = design("x + f(x)")
    twin = plain(model)
    with gains(model, batch, shortcut=0):
        with pytest.raises(RuntimeError):
            model(torch.randn(5, 9))
        assert torch.equal(model(batch), twin(batch))


def test_refusals():
    model, batch = made("resnet18")
    for told, match in (
        ({"at": "layer9"}, r"^at='layer9' names no junction of this ResNet18: there are layer1\.0, layer1\.1, [^\n]*$"),
        ({"at": []}, r"^at=\[\] names no junction: give names or shell patterns, or None for all junctions\.$"),
        ({"shortcut": float("nan")}, "^shortcut must be a finite number; got nan.$"),
        ({"branch": "0"}, "^branch must be a number; got '0'.$"),
        (
            {"at": junctions(model, batch)[1]},
            r"^at takes names, no junctions: give the junction's name, 'layer1\.1'\.$",
        ),
        ({"at": junctions(model, batch)[1:3]}, r"^at takes names, no junctions: give the junction's name, 'layer1\.1'"),
    ):
        with pytest.raises(InputError, match=match), gains(model, batch, **told):
            pass
    assert all(not m._forward_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (Dense, r"^model must be a torch\.nn\.Module; got the class Dense: give one that it makes\.$"),
        (None, r"^model must be a torch\.nn\.Module; got None\.$"),
        ([nn.Linear(2, 2)], r"^model must be a torch\.nn\.Module; got \[Linear"),
        (torch.zeros(1), r"^model must be a torch\.nn\.Module; got tensor"),
    ],
    ids=["a class", "None", "a list", "a tensor"],
)
def test_what_is_no_model_is_refused(model: Any, match: str):
    with pytest.raises(InputError, match=match):
        junctions(model, torch.zeros(1, 2))
    residual, rows = design("x + f(x)")
    for batch in (torch.zeros(1, 2), junctions(residual, rows)):
        with pytest.raises(InputError, match=match), gains(model, batch):
            pass


def test_junctions_are_no_batch():
    model, batch = design("x + f(x)")
    found = junctions(model, batch)
    match = "^batch must be what the model is to see; got junctions: only gains take them in its place, and all that "
    for part in (found[0], found.found, list(found)):
        with pytest.raises(InputError, match=match), gains(model, part, shortcut=0):
            pass
    with pytest.raises(InputError, match=match):
        junctions(model, found)


def test_a_context_inside_another_refuses_what_the_outer_would():
    model, batch = design("x + f(x)")
    with gains(model, batch, shortcut=0), pytest.raises(InputError, match=r"^batch must be what the model is to see"):
        gains(model, None).__enter__()


def test_what_is_not_understood_is_refused_by_name():
    half = dense(Dense(lambda x, y, m: x - y), Dense(lambda x, y, m: x + y))
    why = "is not understood: one term is subtracted from the other, so"
    with (
        pytest.raises(InputError, match=rf"^at='1': the addition at 1 of this Sequential {why} it cannot be "),
        gains(half, torch.randn(5, 4), at="1", shortcut=0),
    ):
        pass
    with gains(half, torch.randn(5, 4), shortcut=0) as turned:
        assert [each.name for each in turned.junctions] == ["2"]

    none = dense(Dense(lambda x, y, m: x - y))
    with (
        pytest.raises(InputError, match=f"^the addition at 1 of this Sequential {why} none of its additions can be "),
        gains(none, torch.randn(5, 4), shortcut=0),
    ):
        pass


@pytest.mark.slow
def test_language_models_of_transformers():
    from scope.transformed import transformed

    for name in ("gpt-2", "bert", "vit", "t5"):
        model, batch = transformed(name)
        model.eval()
        with torch.no_grad():
            bare = model(**batch)[0]
            with gains(model, batch):
                assert torch.equal(model(**batch)[0], bare)
            with gains(model, batch, shortcut=0):
                assert not torch.equal(model(**batch)[0], bare)
            assert torch.equal(model(**batch)[0], bare)


def test_design_batches_fit_what_they_are_for():
    assert images().shape == (4, 3, 8, 8)
    assert rows().shape == (5, 4)
    assert len(junctions(dense(), rows())) == 0
    assert len(junctions(cifar_resnet(8), images())) == 3
