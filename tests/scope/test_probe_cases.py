"""The ways in which probes of PyTorch models break, one a test, named by the row of the list that they come from.

Rows on residual additions (12 to 14) are tested at length in test_junctions.py. Rows on training runs (27, 28, 30) and
on several processes (31, 32) belong to watching: of the latter it is tested here that a single probe leaves the run
alone, or refuses.
"""

from __future__ import annotations

import copy
import gc
import io
import pickle
import warnings
import weakref
from collections import Counter, namedtuple
from contextlib import nullcontext
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import skipscope
from scope import designs
from scope.zoo import ZOO, Residual, ResNet18, looked_at, made, mlp
from skipscope import QUANTITIES, InputError, Readings
from skipscope.torch import Listening, check_undisturbed, gains, junctions, listening


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(20151210)


def table(readings: Readings, quantity: str) -> dict[Any, float]:
    """site (with its call, where it is not the first) -> value."""
    rows = readings.rows.filter(pl.col("quantity") == quantity)
    return {
        (row["site"], row["call"]) if row["call"] else row["site"]: row["value"] for row in rows.iter_rows(named=True)
    }


def status(readings: Readings) -> dict[str, str]:
    return dict(readings.sites.select("site", "status").iter_rows())


def norm(x: Tensor) -> float:
    return float(x.detach().double().norm())


def rms(x: Tensor) -> float:
    return norm(x) / x.numel() ** 0.5


def cross_entropy(output: Tensor, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(output, batch[1])


def labelled(samples: int = 6, features: int = 4, classes: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(samples, features), torch.randint(0, classes, (samples,))


class Calls(nn.Module):
    """Its `fn` is its forward; what it holds is given by name."""

    def __init__(self, fn: Any, **held: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        for name, each in held.items():
            self.add_module(name, each)

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(self, *args, **kwargs)


# ------------------------------------------------------------------------------------------- in place, and call by call


def test_01_inplace_relu():
    model: Any = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
    check_undisturbed(model, labelled(), loss=cross_entropy)


def test_02_inplace_addition():
    model, batch = made("resnet18")
    check_undisturbed(model, batch)
    assert {"layer1.0", "layer4.1", "fc"} <= set(
        table(skipscope.probe(model, batch, sites="*"), "activation_grad_norm")
    )


@pytest.mark.parametrize("name", ["1", "1.a", "2", "3"])
def test_01_and_02_full_backward_hooks_of_the_users_own_change_no_reading(name: str):
    """The shares of the gradient at junctions are among them, whose input is then a view that such a hook makes."""
    model, x = nn.Sequential(nn.Linear(4, 8), Residual(8), Residual(8), nn.Linear(8, 3)), torch.randn(6, 4)
    expected = skipscope.probe(model, x)
    model.get_submodule(name).register_full_backward_hook(looked_at)

    assert skipscope.probe(model, x).rows.equals(expected.rows)
    assert set(table(expected, "shortcut_share")) == {"1", "2"}


def test_03_what_is_changed_in_place_later_is_measured_before():
    model: Any = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True))
    x = torch.randn(6, 4)
    found = table(skipscope.probe(model, x), "activation_rms")

    assert found["0"] == pytest.approx(rms(model[0](x)), rel=1e-6)
    assert found["1"] == pytest.approx(rms(model(x)), rel=1e-6)


def test_04_a_module_called_several_times_has_as_many_rows():
    layer = nn.Linear(4, 4)
    x = torch.randn(6, 4)
    readings = skipscope.probe(Calls(lambda m, x: m.layer(m.layer(m.layer(x))), layer=layer), x)
    forward, backward = table(readings, "activation_rms"), table(readings, "activation_grad_norm")

    values, y = [], x
    for _ in range(3):
        y = layer(y)
        y.retain_grad()
        values.append(y)
    torch.autograd.backward(y, torch.from_numpy(skipscope.draws.normals((0,), "cotangent", (6, 4))[0]).float())
    for call, value in enumerate(values):
        key = ("layer", call) if call else "layer"
        assert forward[key] == pytest.approx(rms(value), rel=1e-6)
        assert value.grad is not None
        assert backward[key] == pytest.approx(norm(value.grad), rel=1e-5)
    assert ("layer", 3) not in forward


def test_05_one_activation_for_all_blocks_is_named_by_place():
    shared = nn.ReLU()
    model: Any = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), shared) for _ in range(3)))
    found = table(skipscope.probe(model, torch.randn(6, 4), sites="*"), "inactive")

    assert set(found) == {"0.1", "1.1", "2.1"}


def test_05_places_in_one_list_are_told_apart():
    shared = nn.ReLU()
    model: Any = nn.Sequential(nn.Linear(4, 4), shared, nn.Linear(4, 4), shared)

    assert set(table(skipscope.probe(model, torch.randn(6, 4)), "inactive")) == {"1", "3"}


def test_06_tied_weights_have_one_row():
    model, batch = made("language")
    readings = skipscope.probe(model, batch)
    tied = dict(readings.sites.select("site", "tied_to").iter_rows())

    assert tied["lm_head"] == "wte"
    assert "wte" in table(readings, "weight_grad_norm")
    assert "lm_head" not in table(readings, "weight_grad_norm")
    gradients = torch.autograd.grad(model.eval()(**batch).loss, list(model.parameters()), allow_unused=True)
    expected = norm(torch.cat([g.flatten() for g in gradients]))
    found = table(skipscope.probe(model, batch), "gradient_norm")["network"]
    assert found == pytest.approx(expected, rel=1e-5)


# ------------------------------------------------------------------------------------------------------------ outputs


def test_07_nested_tuples_have_a_path_each():
    model, batch = made("recurrent")
    readings = skipscope.probe(model, batch)

    assert {"lstm[0]", "lstm[1][0]", "lstm[1][1]"} <= set(table(readings, "activation_rms"))
    assert "lstm[0]" in table(readings, "activation_grad_norm")


def test_08_dicts_and_lists_have_gradients():
    model, batch = made("odd outputs")
    found = table(skipscope.probe(model, batch, sites="*"), "activation_grad_norm")

    assert {"mapped", "listed[0]", "output.answer"} <= set(found)


def test_09_the_type_and_identity_of_outputs_stay():
    made_outputs: list[Any] = []
    kind = namedtuple("kind", ["a", "b"])

    def forward(model: Any, x: Tensor) -> Any:
        made_outputs.append(kind(model.fc(x), None))
        return made_outputs[-1]

    model: Any = Calls(forward, fc=nn.Linear(4, 4))
    with listening(model):
        output = model(torch.randn(6, 4))
    assert output is made_outputs[-1]
    language, batch = made("language")
    with listening(language) as scope:
        answer = language(**batch)
        answer.loss.backward()
        found = table(scope.readings(), "activation_grad_norm")
    assert type(answer).__name__ == "Answer"
    assert "output.logits" in found


def test_10_no_tensor_is_a_status():
    model, batch = made("odd outputs")
    readings = skipscope.probe(model, batch, sites="*")

    assert status(readings)["flag"] == "undefined"
    assert readings.rows.filter(pl.col("site") == "flag").is_empty()


def test_11_a_tensor_is_one_row():
    found = skipscope.probe(nn.Linear(4, 4), torch.randn(6, 4)).rows

    assert found.filter(pl.col("site") == "output", pl.col("quantity") == "activation_rms").height == 1


# ------------------------------------------------------------------------------------------------------- no gradient


def junction_sites(model: nn.Module, batch: Any) -> dict[str, str]:
    """name -> kind of the shortcut, after what readings of the model call junctions turned out to be the same."""
    found = junctions(model, batch)
    sites = skipscope.probe(model, batch, seed=0).sites
    assert set(sites.filter(kind="junction")["site"]) == {each.site for each in found}
    return {each.name: each.kind for each in found}


def test_12_an_addition_that_no_module_makes_is_found_and_measured():
    model, batch = designs.design("x + f(x)")
    assert junction_sites(model, batch) == dict.fromkeys(["1", "2", "3"], "identity")
    ratios = table(skipscope.probe(model, batch, seed=0), "branch_ratio")
    with torch.no_grad():
        x = model[0](batch)
        assert ratios["1"] == pytest.approx(norm(model[1](x) - x) / norm(x), rel=1e-5)


@pytest.mark.parametrize("norm_first", [True, False], ids=["pre-norm", "post-norm"])
def test_13_two_additions_a_block(norm_first: bool):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, norm_first=norm_first, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    expected = ["layers.0", "layers.0+2", "layers.1", "layers.1+2"]
    assert junction_sites(model, torch.randn(2, 3, 8)) == dict.fromkeys(expected, "identity")


def test_13_scaled_and_gated_branches_and_concatenations():
    def scaled(x: Tensor, y: Tensor, block: Any) -> Tensor:
        return x + 0.5 * y

    def gated(x: Tensor, y: Tensor, block: Any) -> Tensor:
        return x + torch.sigmoid(x) * y

    styles = designs.dense(designs.Dense(scaled), designs.Dense(gated))
    assert junction_sites(styles, designs.rows()) == {"1": "identity", "2": "identity"}
    assert junction_sites(designs.densenet(), designs.images()) == {}


def test_14_the_shortcut_of_a_projection_is_what_the_projection_gives():
    model, batch = ResNet18(), designs.images()
    kinds = junction_sites(model, batch)
    assert Counter(kinds.values()) == {"identity": 5, "projection": 3}
    passed = {each.name: each.shortcut for each in junctions(model, batch) if each.kind == "projection"}
    assert set(passed.values()) == {"conv2d, batch_norm"}
    ratios = table(skipscope.probe(model, batch, seed=0), "branch_ratio")
    assert all(ratios[name] > 0 for name in passed)


def test_15_frozen_parameters_have_no_gradient_reading():
    model = mlp()
    for parameter in model[0].parameters():
        parameter.requires_grad = False
    readings = skipscope.probe(model, labelled(), loss=cross_entropy)

    assert status(readings)["0"] == "frozen"
    assert "0" not in table(readings, "weight_grad_norm")
    assert "2" in table(readings, "weight_grad_norm")


def test_15_a_model_that_is_all_frozen():
    readings = skipscope.probe(mlp().requires_grad_(False), torch.randn(6, 4))

    assert "no gradients: nothing" in readings.meta["notes"]
    assert "activation_grad_norm" not in set(readings.rows["quantity"])


def test_16_the_first_layer_has_its_gradient_though_no_input_requires_one():
    model, (x, y) = mlp(), labelled()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = table(skipscope.probe(model, (x, y), loss=cross_entropy, sites="*"), "activation_grad_norm")
    first = model[0](x)
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model[1:](first), y), first)

    assert found["0"] == pytest.approx(norm(gradient), rel=1e-5)
    assert "input" not in found


def test_16_an_input_that_requires_a_gradient_has_it_and_keeps_no_hook():
    model, x = mlp(), torch.randn(6, 4, requires_grad=True)

    assert "input" in table(skipscope.probe(model, x), "activation_grad_norm")
    assert x.grad is None
    assert not x._backward_hooks


def test_17_weight_gradients_are_those_after_backward():
    model, batch = mlp(), labelled()
    found = table(skipscope.probe(model, batch, loss=cross_entropy), "weight_grad_norm")
    cross_entropy(model(batch[0]), batch).backward()

    for index in (0, 2, 4, 6, 8, 10):
        assert found[str(index)] == pytest.approx(norm(model[index].weight.grad), rel=1e-5)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_are_refused(layout: torch.layout):
    x = torch.nested.nested_tensor([torch.randn(2, 4), torch.randn(3, 4)], layout=layout)
    with pytest.raises(InputError, match=r"^batch has a nested tensor as its input\[0\], [^\n]*: pad them to one\.$"):
        skipscope.probe(mlp(), x)


def test_17_the_ratio_of_the_first_and_the_last_comes_by_itself():
    model, batch, name = mlp(), labelled(), "weight_grad_first_last"
    alone = skipscope.probe(model, batch, loss=cross_entropy, quantities={name: QUANTITIES[name]})
    norms = table(skipscope.probe(model, batch, loss=cross_entropy), "weight_grad_norm")

    assert table(alone, name) == {"network": pytest.approx(norms["0"] / norms["10"], rel=1e-6)}


def test_what_makes_a_weight_is_no_site():
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 2))
    readings = skipscope.probe(model, torch.randn(5, 4), sites="*")

    assert set(table(readings, "activation_rms")) == {"input", "0", "1", "2", "output"}
    assert "0.parametrizations.weight.original" in table(readings, "weight_grad_norm")


def test_18_an_unused_layer_is_a_finding():
    model, batch = made("odd outputs")
    readings = skipscope.probe(model, batch)
    (finding,) = [each for each in skipscope.diagnose(readings) if each.rule == "unreached"]

    assert (status(readings)["unused"], status(readings)["cut"]) == ("not executed", "no gradient")
    assert set(finding.evidence["site"]) == {"unused", "cut"}
    assert not {"unused", "cut"} & set(table(readings, "weight_grad_norm"))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_19_without_autograd_there_are_forward_readings_and_a_note(context: Any):
    model, batch = made("resnet18")
    with context():
        readings = skipscope.probe(model, batch, sites="*")
        with pytest.raises(InputError, match="autograd is off"):
            skipscope.probe(model, batch, loss=cross_entropy)

    assert "autograd is off" in readings.meta["notes"]
    assert "fc" in table(readings, "activation_rms")
    assert not any("grad" in name for name in readings.rows["quantity"].unique())


def test_19_eval_has_gradients():
    model, batch = made("resnet18")
    readings = skipscope.probe(model.eval(), batch, sites="*")

    assert "fc" in table(readings, "activation_grad_norm")
    assert readings.cells["edit"].to_list() == ["inference"]


def test_20_forward_in_place_of_a_call_is_an_error():
    model = nn.Linear(4, 4)
    with listening(model) as scope:
        model.forward(torch.randn(6, 4)).sum().backward()
        with pytest.raises(InputError, match="0 modules were seen"):
            scope.readings()


def test_21_a_part_that_is_not_called_is_listed():
    model, batch = made("language")
    readings = skipscope.probe(model, batch)

    assert status(readings)["h.0.attention.out_proj"] == "not executed"
    # Its weight is used all the same, by the function that attention is.
    assert "h.0.attention.out_proj" in table(readings, "weight_grad_norm")
    assert all(finding.rule != "unreached" for finding in skipscope.diagnose(readings))


def test_21_what_is_frozen_is_not_waited_for():
    """Attention uses the weight of its last layer without calling it."""
    model: Any = nn.Sequential(nn.Linear(4, 8), nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), nn.Linear(8, 2))
    model[1].requires_grad_(False)
    readings = skipscope.probe(model, torch.randn(5, 7, 4))

    assert status(readings)["1.self_attn.out_proj"] == "frozen"
    assert all(finding.rule != "unreached" for finding in skipscope.diagnose(readings))


def test_22_the_fused_path_of_inference_is_reported():
    model, batch = made("encoder")
    with torch.no_grad():
        readings = skipscope.probe(model.eval(), batch, sites="*")

    assert "nn.TransformerEncoderLayer took its ordinary path" in readings.meta["notes"]
    assert "layers.0.linear1" in table(readings, "activation_rms")


# ------------------------------------------------------------------------------------------------------- compiled


@pytest.fixture
def compiled_mlp() -> Any:
    """Compiled without a compiler of C++, and run once."""
    torch.compiler.reset()
    plain = mlp()
    model = torch.compile(plain, backend="aot_eager")
    model(torch.randn(6, 4)).sum().backward()
    plain.zero_grad()
    yield plain, model
    torch.compiler.reset()


def test_23_a_compiled_model_is_measured_eagerly_and_it_is_said(compiled_mlp: Any):
    plain, model = compiled_mlp
    batch = labelled()
    expected = skipscope.probe(plain, batch, loss=cross_entropy).rows.drop("cell")
    readings = skipscope.probe(model, batch, loss=cross_entropy)

    assert readings.rows.drop("cell").equals(expected)
    assert readings.meta["notes"] == "the model is compiled; it was measured as it is written, run eagerly"


def test_23_so_is_a_part(compiled_mlp: Any):
    _, inner = compiled_mlp
    model: Any = nn.Sequential(inner, nn.Linear(3, 2))
    readings = skipscope.probe(model, torch.randn(6, 4), sites="*")

    assert "run eagerly" in readings.meta["notes"]
    assert {"0.0", "0.10", "1"} <= set(table(readings, "activation_grad_norm"))


def test_24_hooks_after_the_first_compiled_call_see_what_they_see_without(compiled_mlp: Any):
    plain, model = compiled_mlp
    x = torch.randn(6, 4)

    def heard(model: Any) -> Readings:
        plain.zero_grad()
        with listening(model) as scope:
            model(x).sum().backward()
            return scope.readings()

    readings = heard(model)
    assert readings.rows.equals(heard(plain).rows)
    assert "run eagerly" in readings.meta["notes"]


def test_24_no_step_compiles_the_hooks(compiled_mlp: Any):
    """Neither the step that is heard in full, nor one with few hooks; between them the compiled model runs."""
    _, model = compiled_mlp
    scope, x = Listening(model), torch.randn(6, 4)
    torch._dynamo.utils.counters.clear()
    for step in range(4):
        with scope.on() if step % 2 == 0 else nullcontext():
            model(x).sum().backward()
    assert len(scope.take().readings().rows) > 0
    assert not torch._dynamo.utils.counters["graph_break"]
    assert torch._dynamo.utils.counters["stats"].get("unique_graphs", 0) == 0


# ---------------------------------------------------------------------------------------------------- checkpointing


@pytest.mark.parametrize("kind", ["reentrant", "non-reentrant"])
def test_25_and_26_checkpoints_change_nothing(kind: str):
    """Not doubled, not missing, and the same numbers; dropout is drawn again in the same way."""
    plain, batch = made("language")
    checkpointed = copy.deepcopy(plain)
    checkpointed.checkpointed = kind
    expected = skipscope.probe(plain, batch).rows.drop("cell")
    found = skipscope.probe(checkpointed, batch).rows.drop("cell")
    if kind == "reentrant":  # autograd does not follow the parts of a gradient inside of these
        expected = expected.filter(~pl.col("quantity").is_in(["shortcut_share", "branch_share"]))

    assert found.drop("value").equals(expected.drop("value"))
    np.testing.assert_allclose(found["value"], expected["value"], rtol=1e-6)
    assert all(parameter.grad is None for parameter in checkpointed.parameters())


def test_25_reentrant_checkpoints_with_hooks_that_act_are_refused():
    model, batch = made("language")
    model.checkpointed = "reentrant"
    model.ln.weight.register_post_accumulate_grad_hook(lambda parameter: None)

    with pytest.raises(InputError, match="use_reentrant=False"):
        skipscope.probe(model, batch)


# --------------------------------------------------------------------------------------------------- in a training run


def test_27_gradients_that_are_being_accumulated_stay():
    model, batch = mlp(), labelled()
    cross_entropy(model(batch[0]), batch).backward()
    before = [parameter.grad.clone() for parameter in model.parameters()]
    skipscope.probe(model, labelled(), loss=cross_entropy)

    assert all(torch.equal(p.grad, b) for p, b in zip(model.parameters(), before, strict=True))


def test_27_micro_batches_of_several_sizes_before_their_backward_passes():
    """Each pass has the samples that it had, whichever was run last: the readings are those of one after another."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), Residual(8), Residual(8), nn.Linear(8, 3))
    parts = torch.randn(30, 4), torch.randn(12, 4)
    scope = Listening(model)
    tables = []
    for together in (False, True):
        with scope.on():
            losses = []
            for x in parts:
                losses.append(model(x).square().sum())
                if not together:
                    losses.pop().backward()
            for loss in losses:
                loss.backward()
            tables.append(scope.readings().rows.sort("site", "call", "quantity"))
        model.zero_grad()
    apart, both = tables
    assert both.select("site", "call", "quantity").equals(apart.select("site", "call", "quantity"))
    assert {"backward_growth_low", "backward_growth_high", "branch_share"} <= set(both["quantity"])
    assert both["value"].to_numpy() == pytest.approx(apart["value"].to_numpy(), rel=1e-6)


def test_27_micro_batches_under_listening_add_up():
    model, (x, y) = mlp(), labelled(12)
    with listening(model) as scope:
        for part in (slice(0, 6), slice(6, 12)):
            (nn.functional.cross_entropy(model(x[part]), y[part]) / 2).backward()
        halves = scope.readings()
    model.zero_grad()
    whole = skipscope.probe(model, (x, y), loss=cross_entropy)

    assert halves.cells["batch"].to_list() == whole.cells["batch"].to_list() == [12]
    assert halves.meta["notes"] == "2 passes (micro-batches) are added up"
    for quantity in ("activation_rms", "activation_grad_norm", "weight_grad_norm", "dead"):
        a, b = table(halves, quantity), table(whole, quantity)
        assert a.keys() == b.keys()
        np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_29_half_precision_is_summed_in_more(dtype: torch.dtype):
    """The squares of 60,000 entries of 300 are 5.4e9: beyond the range of float16, and no sum of bfloat16."""
    x = torch.full((6, 10_000), 300.0, dtype=dtype)
    found = table(skipscope.probe(Calls(lambda m, x: m.id(x * 1), id=nn.Dropout(0.0)), x), "forward_gain")
    sizes = table(skipscope.probe(Calls(lambda m, x: m.id(x * 1), id=nn.Dropout(0.0)), x), "activation_rms")

    assert sizes["id"] == pytest.approx(300.0, rel=1e-6)
    assert found["id"] == pytest.approx(1.0, rel=1e-6)


def test_29_autocast():
    model, batch = mlp(), labelled()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        readings = skipscope.probe(model, batch, loss=cross_entropy)
    exact = skipscope.probe(model, batch, loss=cross_entropy)

    a, b = table(readings, "activation_rms"), table(exact, "activation_rms")
    assert a.keys() == b.keys()
    assert a != b
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=0.05)  # bfloat16 has 8 bits


# ---------------------------------------------------------------------------------------------- spread over devices


def test_31_and_33_replicas_are_refused():
    with pytest.raises(InputError, match=r"model is a DataParallel.*model\.module"):
        skipscope.probe(nn.DataParallel(mlp()), torch.randn(6, 4))


@pytest.mark.parametrize("kind", ["DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"])
def test_32_shards_are_refused(kind: str):
    wrapper = type(kind, (nn.Module,), {})()  # to make a real one takes a group of processes
    wrapper.module = mlp()

    with pytest.raises(InputError, match=f"model.0 is a {kind}"):
        skipscope.probe(nn.Sequential(wrapper), torch.randn(6, 4))


# ------------------------------------------------------------------------------------------ parameters of every kind


def test_34_parametrizations_have_rows_of_their_own():
    model: Any = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 3))
    batch = labelled()
    found = table(skipscope.probe(model, batch, loss=cross_entropy), "weight_grad_norm")
    cross_entropy(model(batch[0]), batch).backward()

    for name in ("original0", "original1"):
        gradient = getattr(model[0].parametrizations.weight, name).grad
        assert found[f"0.parametrizations.weight.{name}"] == pytest.approx(norm(gradient), rel=1e-5)


def test_35_lazy_modules_are_counted_after_their_first_forward():
    model: Any = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))
    readings = skipscope.probe(model, labelled(), loss=cross_entropy)

    assert {"0", "2"} <= set(table(readings, "weight_grad_norm"))
    assert table(readings, "parameters")["network"] == 4 * 8 + 8 + 8 * 3 + 3


def test_35_and_47_one_lazy_module_does_not_let_the_others_move():
    model: Any = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.LazyLinear(3))
    mean, state = model[1].running_mean.clone(), torch.get_rng_state()
    skipscope.probe(model, torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))

    assert torch.equal(model[1].running_mean, mean)
    assert int(model[1].num_batches_tracked) == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert model[3].weight.shape == (3, 8)


def test_35_lazy_buffers_stay_as_the_first_forward_made_them():
    model: Any = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d())
    skipscope.probe(model, torch.randn(6, 3, 8, 8))

    assert model[1].running_mean.shape == (4,)


@pytest.mark.parametrize("make", [torch.jit.script, lambda model: nn.Sequential(torch.jit.script(model))])
def test_scripts_are_refused(make: Any):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch would have torch.export in its place
        model, batch = make(mlp()), labelled()

    for use in (skipscope.probe, lambda model, x: Listening(model), skipscope.studies.lesion):
        with pytest.raises(InputError, match=r"model.* is compiled to a script \(TorchScript\)"):
            use(model, batch[0])


def test_36_transforms_are_refused_within_and_work_after():
    model, x = mlp(), torch.randn(6, 4)
    parameters: dict[str, Any] = dict(model.named_parameters())

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        return torch.func.functional_call(model, parameters, (sample,)).sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0))
    expected = per_sample(parameters, x)
    with listening(model), pytest.raises(InputError, match=r"torch\.func"):
        per_sample(parameters, x)
    skipscope.probe(model, x)
    found = per_sample(parameters, x)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_37_double_backward():
    model, x = mlp(), torch.randn(6, 4, requires_grad=True)

    def penalty(output: Tensor, batch: Any) -> Tensor:
        (gradient,) = torch.autograd.grad(output.sum(), batch, create_graph=True)
        return output.square().mean() + gradient.square().sum()

    readings = skipscope.probe(model, x, loss=penalty)
    assert x.grad is None
    assert all(parameter.grad is None for parameter in model.parameters())
    gradients = torch.autograd.grad(penalty(model(x), x), list(model.parameters()), allow_unused=True)
    found = table(readings, "weight_grad_norm")
    assert found["0"] == pytest.approx(norm(gradients[0]), rel=1e-5)


def test_38_sparse_gradients():
    model, batch = made("sparse embedding")
    found = table(skipscope.probe(model, batch), "weight_grad_norm")
    dense = copy.deepcopy(model)
    dense[0].sparse = False

    assert found == pytest.approx(table(skipscope.probe(dense, batch), "weight_grad_norm"), rel=1e-5)
    check_undisturbed(model, batch)


def test_39_complex_numbers_count_by_their_modulus():
    model: Any = nn.Sequential(nn.Linear(4, 3, dtype=torch.complex64))
    x = torch.randn(6, 4, dtype=torch.complex64)
    readings = skipscope.probe(Calls(lambda m, x: m.inner(x).abs(), inner=model), x)
    sizes, weights = table(readings, "activation_rms"), table(readings, "weight_norm")

    assert sizes["inner.0"] == pytest.approx(rms(model(x).abs()), rel=1e-6)
    assert weights["inner.0"] == pytest.approx(norm(torch.view_as_real(model[0].weight)), rel=1e-6)
    assert "inner.0" not in table(readings, "activation_mean")


class LowRank(nn.Module):
    """A weight of whole numbers, as quantised layers have, with a trained correction of low rank."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randint(-8, 8, (4, 4), dtype=torch.int8), requires_grad=False)
        self.lora_A = nn.Linear(4, 2, bias=False)
        self.lora_B = nn.Linear(2, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.weight.float() / 8).T + self.lora_B(self.lora_A(x))


def test_40_weights_of_whole_numbers_are_left_out_and_their_corrections_are_not():
    readings = skipscope.probe(nn.Sequential(LowRank(), nn.Linear(4, 3)), labelled(), loss=cross_entropy)
    found = table(readings, "weight_norm")

    assert set(found) == {"0.lora_A", "0.lora_B", "1"}


def test_41_keyword_tensors_are_seen():
    model: Any = Calls(lambda m, *, x, scale: m.fc(x) * scale, fc=nn.Linear(4, 3))
    readings = skipscope.probe(model, {"x": torch.randn(6, 4), "scale": torch.tensor(2.0)})

    assert {"input.x", "input.scale"} <= set(table(readings, "activation_rms"))


# -------------------------------------------------------------------------------------------------- leaving no trace


def hooks(model: nn.Module) -> int:
    return sum(len(x) for m in model.modules() for name, x in vars(m).items() if name.endswith("_hooks"))


def test_42_after_an_exception_nothing_is_left():
    refs: list[weakref.ref[Tensor]] = []

    def forward(model: Any, x: Tensor) -> Tensor:
        y = model.fc(x)
        refs.append(weakref.ref(y))
        raise RuntimeError("the model's own")

    model: Any = Calls(forward, fc=nn.Linear(4, 3), norm=nn.BatchNorm1d(3))
    with pytest.raises(RuntimeError, match="the model's own"):
        skipscope.probe(model, torch.randn(6, 4))
    gc.collect()

    assert hooks(model) == 0
    assert [ref() for ref in refs] == [None]


def test_43_two_scopes_at_once_do_not_see_each_other():
    model, batch = mlp(), labelled()
    with listening(model) as one, listening(model) as two:
        cross_entropy(model(batch[0]), batch).backward()
        a, b = one.readings(), two.readings()
    alone = table(skipscope.probe(model, batch, loss=cross_entropy), "activation_grad_norm")

    assert a.equals(b)
    assert table(a, "activation_grad_norm") == alone
    assert hooks(model) == 0


def test_44_what_goes_through_unchanged_is_the_same_object():
    model, x = nn.Identity(), torch.randn(6, 4, requires_grad=True)
    with listening(model):
        assert model(x) is x
    assert not x._backward_hooks


def test_45_copies_and_pickles_of_a_model_under_listening():
    model, batch = mlp(), labelled()
    keys = [sorted(vars(module)) for module in model.modules()]
    bare = pickle.dumps(model.state_dict())
    with listening(model) as scope:
        copied = copy.deepcopy(model)
        buffer = io.BytesIO()
        torch.save(model, buffer)
        assert pickle.dumps(model.state_dict()) == bare
        assert [sorted(vars(module)) for module in model.modules()] == keys
        cross_entropy(model(batch[0]), batch).backward()
        copied(torch.randn(9, 4))  # heard by nobody
        assert scope.readings().cells["batch"].to_list() == [6]
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(batch[0]), model(batch[0]))


@pytest.mark.parametrize("name", ZOO)
def test_46_and_47_random_states_buffers_and_all_else_are_undisturbed(name: str):
    check_undisturbed(*made(name))


@pytest.mark.parametrize("what", ["buffer", "generator", "gradient", "hook"])
def test_46_the_check_can_fail(what: str, monkeypatch: pytest.MonkeyPatch):
    """Each disturbance in turn, by a listener that disturbs."""
    from skipscope.torch import checking

    original: Any = vars(checking)["listening"]

    def disturbing(model: Any) -> Any:
        if what == "buffer":
            model.get_buffer("calls").add_(1)
        elif what == "generator":
            torch.rand(1)
        elif what == "gradient":
            next(model.parameters()).register_hook(lambda gradient: gradient * (1 + 1e-6))
        else:
            model.fc.register_forward_hook(lambda *given: None)
        return original(model)

    monkeypatch.setattr(checking, "listening", disturbing)
    with pytest.raises(AssertionError, match=r"under listening: .* is not what it is without"):
        check_undisturbed(*made("random"))


# ------------------------------------------------------------------------------------------------------ small and deep


def test_48_dead_units_come_with_their_interval_and_samples():
    model: Any = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3))
    with torch.no_grad():
        model[0].bias[:4] = -100.0
    readings = skipscope.probe(model, torch.randn(40, 4))
    found = {name: table(readings, name)["1"] for name in ("dead", "dead_low", "dead_high", "samples")}
    (finding,) = [each for each in skipscope.diagnose(readings) if each.rule == "dead units"]

    assert found["dead"] == pytest.approx(0.4)
    assert found["dead_low"] < 0.4 < found["dead_high"]
    assert found["samples"] == 40
    assert "positive on none of 40 samples" in finding.statement


def test_48_of_a_convolution_the_units_are_channels():
    model: Any = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    with torch.no_grad():
        model[0].bias[:2] = -100.0

    assert table(skipscope.probe(model, torch.randn(6, 3, 8, 8)), "dead")["1"] == pytest.approx(0.25)


def test_49_one_sample_one_unit_and_a_constant():
    model: Any = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    readings = skipscope.probe(model, torch.zeros(1, 1))

    assert readings.rows["value"].is_finite().all()
    assert table(readings, "activation_variance")["2"] == 0.0


def test_49_an_empty_batch_is_refused():
    with pytest.raises(InputError, match="batch is empty"):
        skipscope.probe(mlp(), torch.zeros(0, 4))


def test_50_a_network_of_1202_layers():
    model = mlp(depth=1202, width=4)
    readings = skipscope.probe(model, labelled(), loss=cross_entropy)

    assert len(table(readings, "weight_grad_norm")) == 1202
    assert readings.cells["depth"].to_list() == [1202]
    assert readings.sites["block"].max() == 1200


def test_50_modules_one_within_the_other():
    model: Any = nn.Linear(4, 4)
    for _ in range(150):  # PyTorch's own calls recurse, several frames a module
        model = nn.Sequential(model)

    assert len(table(skipscope.probe(model, torch.randn(6, 4)), "weight_norm")) == 1


def test_the_language_model_and_the_resnet_have_their_blocks():
    for model, batch, blocks in ((*made("resnet18"), 8), (*made("language"), 3)):
        sites = skipscope.probe(model, batch).sites.filter(pl.col("block") > 0)
        assert sites["block"].to_list() == list(range(1, blocks + 1))


# -------------------------------------------------------------------------------------------------------------- names


class Named(nn.Module):
    """Its parts have the names that the scope has for the ends of a model and for the whole of it."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.network, self.output = nn.Linear(4, 8), NamedBlocks(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.network(self.input(x))) * 2


class NamedBlocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks: Any = nn.ModuleList(NamedBlock() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class NamedBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input, self.output = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.output(torch.relu(self.input(x)))


@pytest.mark.parametrize("way", ["probe", "first step", "later step"])
def test_parts_that_are_called_as_the_ends_are_keep_their_names(way: str):
    model, x = Named(), torch.randn(40, 4)
    readings = skipscope.probe(model, x, sites="*")
    scope = Listening(model, sites="*")
    for _ in range(("probe", "first step", "later step").index(way)):
        with scope.on():
            model(x).sum().backward()
            readings = scope.readings()
    found, weights = table(readings, "activation_rms"), table(readings, "weight_norm")
    gains_of, h = table(readings, "forward_gain"), model.input(x)
    entered = model.network(h)

    expected = {
        "input'": x,
        "input": h,
        "network.blocks.0.input'": h,
        "network.blocks.0.input": model.network.blocks[0].input(h),
        "network'": entered,
        "output": model.output(entered),
        "output'": model(x),
    }
    assert {name: found[name] for name in expected} == pytest.approx(
        {name: rms(value) for name, value in expected.items()}, rel=1e-5
    )
    assert ("output", 1) not in found
    assert weights["input"] == pytest.approx(norm(model.input.weight), rel=1e-6)
    assert weights["network.blocks.0.input"] == pytest.approx(norm(model.network.blocks[0].input.weight), rel=1e-6)
    assert gains_of["output'"] == pytest.approx(norm(model(x)) / norm(x), rel=1e-5)
    assert table(readings, "forward_growth")["network"] ** 1.5 == pytest.approx(norm(entered) / norm(h), rel=1e-5)


def test_a_part_called_network_that_is_a_block_is_one_site():
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.network, self.head = nn.Linear(4, 8), Residual(8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.network(self.stem(x)))

    model, x = Whole(), torch.randn(6, 4)
    readings = skipscope.probe(model, x, sites="*")

    assert "network'" in table(readings, "branch_ratio")
    with gains(model, x, shortcut=0, at="network'") as turned:
        assert [each.module for each in turned.junctions] == ["network"]
    lesions = skipscope.studies.lesion(model, (x, torch.randint(0, 3, (6,))), loss=nn.CrossEntropyLoss())
    assert set(lesions.rows["site"]) == {"network", "network'"}


def test_a_site_can_be_asked_for_by_its_name_with_brackets():
    model, batch = made("recurrent")

    assert table(skipscope.probe(model, batch, sites="lstm[0]"), "activation_rms").keys() == {"lstm[0]"}


# ------------------------------------------------------------------------------------- several outputs, and the loss


class Several(nn.Module):
    """Gives a loss, a number a sample and scores, in an order of choice."""

    def __init__(self, *order: str) -> None:
        super().__init__()
        self.body, self.order = mlp(), order

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        scores = self.body(x)
        made = {"loss": scores.square().mean(), "sizes": scores.square().sum(1), "scores": scores}
        return {name: made[name] for name in self.order}


@pytest.mark.parametrize("order", [("loss", "sizes", "scores"), ("scores", "sizes", "loss")])
@pytest.mark.parametrize("loss", [None, lambda output, batch: output["scores"].sum()])
def test_of_several_outputs_the_scores_are_what_is_looked_back_from(order: tuple[str, ...], loss: Any):
    readings = skipscope.probe(Several(*order), torch.randn(6, 4), loss=loss, sites="*")
    back, sizes = table(readings, "backward_gain"), table(readings, "activation_grad_norm")

    assert back["output.scores"] == 1.0
    assert back["body.0"] == pytest.approx(sizes["body.0"] / sizes["output.scores"], rel=1e-6)
    assert "output.loss" not in readings.sites["site"].to_list()
    assert readings.sites["site"].to_list()[-3:] == ["output.sizes", "output.scores", "network"]


def test_a_loss_alone_is_the_output():
    readings = skipscope.probe(Several("loss"), torch.randn(6, 4), sites="*")

    assert "output" in table(readings, "activation_rms")


def test_a_loss_that_autograd_does_not_follow_is_refused():
    model, batch = mlp(), labelled()
    with pytest.raises(InputError, match="loss gives a number that autograd does not follow"):
        skipscope.probe(model, batch, loss=lambda output, batch: cross_entropy(output.detach(), batch))

    frozen = mlp().requires_grad_(False)  # there is nothing that it could follow
    assert "loss" in set(skipscope.probe(frozen, batch, loss=cross_entropy).rows["quantity"])


def test_a_loss_called_loss_is_said_once():
    def loss(output: Tensor, batch: Any) -> Tensor:
        return output.square().mean()

    model = nn.Sequential(nn.Linear(4, 8), Residual(8), nn.Linear(8, 3))
    assert skipscope.probe(model, torch.randn(6, 4), loss=loss).cells["cotangent"].to_list() == ["loss"]
    twin = skipscope.studies.twin(model, torch.randn(6, 4), loss=loss, steps=1)
    assert set(twin.cells["cotangent"]) == {"loss"}
    assert skipscope.probe(mlp(), labelled(), loss=cross_entropy).cells["cotangent"].to_list() == ["loss cross_entropy"]


# -------------------------------------------------------------------------------------------------- what a cell says


def test_the_number_of_blocks_is_said_whatever_sites_are_asked_for():
    model, x = mlp(), torch.randn(6, 4)

    for sites in (None, "*", "output"):
        assert skipscope.probe(model, x, sites=sites).cells["blocks"].to_list() == [4]


def test_readings_under_gains_say_so():
    model: Any = nn.Sequential(nn.Linear(4, 8), Residual(8), Residual(8), nn.Linear(8, 3))
    x = torch.randn(6, 4)
    found = [skipscope.probe(model, x)]
    for at in (None, "1", "2"):
        with gains(model, x, shortcut=0, branch=0.5, at=at):
            found.append(skipscope.probe(model, x))
    cells = Readings.concat(found).cells

    assert cells["gain"].to_list() == ["", "0, 0.5", "0, 0.5 at 1", "0, 0.5 at 2"]
    assert cells["edit"].to_list() == [
        "",
        "shortcuts times 0, branches times 0.5",
        "shortcut times 0, branch times 0.5 at 1",
        "shortcut times 0, branch times 0.5 at 2",
    ]
    assert skipscope.probe(model, x).cells["cell"].to_list() == found[0].cells["cell"].to_list()


# -------------------------------------------------------------------------------------------------- skipped blocks


class Skipping(nn.Module):
    """Runs the blocks that it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 2)
        self.blocks = nn.ModuleList(Residual(8) for _ in range(4))
        self.order = [0, 1, 2, 3]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for index in self.order:
            x = self.blocks[index](x)
        return self.head(x)


def test_a_block_that_a_step_skips_is_named_and_cut_off_from_nothing():
    model = Skipping()
    scope, found = Listening(model), []
    usual = [0, 1, 2, 3]  # and after a step that was otherwise the next is heard in full
    for step, order in enumerate([usual, [0, 2, 3], usual, [0, 1, 2], usual, [0, 1, 1, 2, 3]]):
        model.order = order
        model.zero_grad()
        with scope.on():
            model(torch.randn(40, 4)).square().mean().backward()
            found.append(scope.take().readings(step=step))
    notes = [each.meta.get("notes", "") for each in found]

    assert [note.partition(":")[0] for note in notes] == [
        "",
        "blocks.1",
        "",
        "blocks.3",
        "",
        "1 call beyond those of the first step listened to",
    ]
    statuses = status(found[1])
    assert {statuses[name] for name in ("blocks.1", "blocks.1.a", "blocks.1.b")} == {"not executed"}
    assert statuses["blocks.2.a"] == "measured"
    # Blocks keep their numbers, so that all steps are of one cell, and are said to be over as many.
    whole = Readings.concat(found)
    assert whole.cells["blocks"].to_list() == [4]
    assert "forward_growth" in set(found[1].rows["quantity"]) & set(found[3].rows["quantity"])


def unreached(readings: Readings) -> tuple[str, set[str]]:
    (finding,) = [each for each in skipscope.diagnose(readings) if each.rule == "unreached"]
    return finding.verdict, set(finding.evidence["site"])


def test_stochastic_depth_is_no_alarm():
    model = Skipping()
    scope = Listening(model)
    # Heard in full, with a block skipped that none called before; by fewer hooks, and in full again.
    for order, skipped in ([0, 2, 3], 1), ([0, 3], 2), ([0, 1, 2, 3], None), ([0, 1, 2, 3], None), ([0, 1, 2], 3):
        model.order = order
        model.zero_grad(set_to_none=True)
        with scope.on():
            model(torch.randn(40, 4)).square().mean().backward()
            readings = scope.take().readings()
        if skipped is None:
            assert all(each.rule != "unreached" for each in skipscope.diagnose(readings))
        else:
            verdict, sites = unreached(readings)
            assert verdict == "cannot tell"
            assert {f"blocks.{skipped}.a", f"blocks.{skipped}.b"} <= sites


def test_beside_a_skipped_block_a_layer_that_is_not_used_is_dead():
    model = Skipping()
    model.order = [0, 2, 3]
    model.add_module("unused", nn.Linear(8, 2))

    assert unreached(skipscope.probe(model, torch.randn(40, 4))) == ("dead", {"unused"})


def test_a_layer_of_a_list_that_is_skipped_is_not_dead():
    """A bare layer has no parts by which its place in the list is told; whether it is heard in full or not."""

    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.skipped = nn.ModuleList(nn.Linear(4, 4) for _ in range(5)), -1

        def forward(self, x: Tensor) -> Tensor:
            for index, layer in enumerate(self.layers):
                x = x if index == self.skipped else torch.tanh(layer(x))
            return x

    model = Listed()
    scope = Listening(model)
    for skipped in (-1, 2, 3):  # the second step is heard by a few hooks, the third in full
        model.skipped = skipped
        model.zero_grad()
        with scope.on():
            model(torch.randn(40, 4)).sum().backward()
        readings = scope.take().readings()
        if skipped >= 0:
            assert status(readings)[f"layers.{skipped}"] == "not executed"
            assert unreached(readings) == ("cannot tell", {f"layers.{skipped}"})
