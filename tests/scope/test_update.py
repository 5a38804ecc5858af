"""What a step of an optimizer adds to the weights: asked for by name, seen while it is made, and paid for only then."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor, nn

import skipscope
from scope.zoo import ZOO, Language, made, mlp
from skipscope import QUANTITIES, InputError, Readings
from skipscope.quantities import UPDATES, Quantity
from skipscope.torch import Listening, Taken, listening

RATE = 0.05
ASKED = QUANTITIES | UPDATES


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(20151210)


def backward(output: Any) -> None:
    """Of the first tensor there is."""
    output = getattr(output, "logits", output)
    output = output["answer"] if isinstance(output, dict) else output
    output.square().mean().backward()


def heard(model: nn.Module, batch: Any, scope: Listening | None = None, *, quantities: Any = ASKED) -> Taken:
    """What was taken of a step of which the optimizer has still to run."""
    scope = scope or Listening(model, quantities=quantities)
    model.zero_grad()
    with scope.on():
        backward(model(**batch) if isinstance(batch, dict) else model(batch))
    return scope.take()


def updated(model: nn.Module, batch: Any, optimizer: torch.optim.Optimizer | None = None, **more: Any) -> Readings:
    """The readings of one step."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=RATE)
    with heard(model, batch, **more).updating() as taken:
        optimizer.step()
    return taken.readings()


def by_site(readings: Readings, quantity: str = "update_ratio") -> dict[str, float]:
    rows = readings.rows.filter(pl.col("quantity") == quantity)
    return dict(zip(rows["site"], rows["value"], strict=True))


# ------------------------------------------------------------------------------------------------------------ its value


def test_by_hand():
    model = nn.Linear(2, 1, bias=False)
    model.weight = nn.Parameter(torch.tensor([[3.0, 4.0]]))  # of norm 5
    scope = Listening(model, quantities=UPDATES)
    with scope.on():
        model(torch.tensor([[6.0, 8.0]])).sum().backward()  # the gradient is the input, of norm 10
    with scope.take().updating() as taken:
        torch.optim.SGD(model.parameters(), lr=0.25).step()

    assert list(by_site(taken.readings()).values()) == [0.5]


@pytest.mark.parametrize("name", ZOO)
def test_of_plain_descent_it_is_the_rate_times_gradient_to_weight(name: str):
    model, batch = made(name)
    model = model.double()
    batch = batch.double() if isinstance(batch, Tensor) and batch.is_floating_point() else batch
    readings = updated(model, batch)
    found, gradients = by_site(readings), by_site(readings, "grad_weight_ratio")

    assert gradients
    for site, ratio in gradients.items():
        assert found[site] == pytest.approx(RATE * ratio, rel=1e-9, abs=1e-15)
    assert not any(ratio for site, ratio in found.items() if site not in gradients)  # what no gradient reaches


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    ],
    ids=["momentum", "AdamW"],
)
def test_of_any_optimizer_it_is_what_became_of_the_weight(make: Callable[[Any], torch.optim.Optimizer]):
    model = mlp()
    optimizer, scope = make(model.parameters()), Listening(model, quantities=ASKED)
    for _ in range(3):  # so that momentum has gathered
        before = {name: p.detach().double() for name, p in model.named_parameters() if name.endswith("weight")}
        found = by_site(updated(model, torch.randn(6, 4), optimizer, scope=scope))
        for name, weight in before.items():
            added = model.get_parameter(name).detach().double() - weight
            assert found[name.removesuffix(".weight")] == pytest.approx(float(added.norm() / weight.norm()), rel=1e-5)


def test_a_step_with_a_closure_is_one_update():
    model, x = mlp(depth=3), torch.randn(6, 4)
    taken = heard(model, x)
    before = model[0].weight.detach().clone()

    def closure() -> Tensor:
        model.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    with taken.updating():
        torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3).step(closure)

    expected = float((model[0].weight.detach() - before).norm() / before.norm())
    assert by_site(taken.readings())["0"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_differences_of_half_precision_are_taken_and_summed_in_float32(dtype: torch.dtype):
    small, large = nn.Linear(64, 64, bias=False), nn.Linear(1, 1, bias=False)
    model = nn.Sequential(small, nn.Flatten(0), nn.Unflatten(0, (-1, 1)), large).to(dtype)
    with torch.no_grad():
        small.weight.fill_(2.0**-4)
        large.weight.fill_(40000.0)
    taken = heard(model, torch.zeros(1, 64, dtype=dtype))
    with taken.updating(), torch.no_grad():
        small.weight.mul_(1 + 2.0**-7)  # squares of what is added, 2^-22 each, are nothing beside 1 in half precision
        large.weight.neg_()  # twice 40000 is more than float16 holds

    assert by_site(taken.readings()) == {"0": 2.0**-7, "3": 2.0}


def test_complex_weights_have_one():
    class Rotation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turn = nn.Parameter(torch.tensor([[3 + 4j]]))

        def forward(self, x: Tensor) -> Tensor:
            return torch.view_as_real(x.to(torch.complex64) @ self.turn)

    model = Rotation()
    taken = heard(model, torch.ones(2, 1))
    with taken.updating(), torch.no_grad():
        model.turn.mul_(1j)

    assert by_site(taken.readings())["turn"] == pytest.approx(2**0.5)


def test_a_quantity_of_ones_own_may_need_any_update():
    mine = Quantity(
        formula=lambda view: view["bias_update"].mean,
        needs={"bias_update": ("sum",)},
        symbol="mean(db)",
        unit="per element",
        about="Mean of what is added to the bias.",
    )
    model = mlp(depth=3)
    taken = heard(model, torch.randn(6, 4), quantities={"mine": mine})
    with taken.updating(), torch.no_grad():
        model[0].bias.sub_(0.25)

    assert by_site(taken.readings(), "mine")["0"] == pytest.approx(-0.25, rel=1e-5)


# -------------------------------------------------------------------------------------------------------- of which step


def test_micro_batches_make_one_update():
    model = mlp(depth=3)
    scope = Listening(model, quantities=ASKED)
    with scope.on():
        for _ in range(3):
            backward(model(torch.randn(6, 4)))
        taken = scope.take()
    told = taken.readings().meta["notes"].split("; ")
    assert [each.split(":")[0] for each in told] == ["3 passes (micro-batches) are added up", "no update_ratio"]
    with taken.updating():
        torch.optim.SGD(model.parameters(), lr=RATE).step()

    readings = taken.readings()
    gradients = by_site(readings, "grad_weight_ratio")
    assert by_site(readings) == pytest.approx({site: RATE * ratio for site, ratio in gradients.items()}, rel=1e-4)


def test_every_step_has_its_own():
    model = mlp(depth=3)
    optimizer, scope, taken = torch.optim.SGD(model.parameters(), lr=1.0), Listening(model, quantities=ASKED), []
    for rate in (0.1, 0.2, 0.4):
        optimizer.param_groups[0]["lr"] = rate
        with heard(model, torch.randn(6, 4), scope).updating() as one:
            optimizer.step()
        taken.append((rate, one))

    for rate, one in taken:  # after all of them
        readings = one.readings()
        gradients = by_site(readings, "grad_weight_ratio")
        assert by_site(readings) == pytest.approx({site: rate * each for site, each in gradients.items()}, rel=1e-4)


def test_a_step_that_a_scaler_skips_adds_exactly_nothing():
    model = mlp(depth=3)
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9), torch.amp.GradScaler("cpu")
    taken = heard(model, torch.randn(6, 4))
    scaler.scale(torch.zeros(()))
    model[0].weight.grad.fill_(torch.inf)
    with taken.updating():
        scaler.step(optimizer)
        scaler.update()

    found = by_site(taken.readings())
    assert set(found) == {"0", "2", "4"}
    assert set(found.values()) == {0.0}


def test_a_step_that_raises_is_none_and_can_be_made_again():
    model = mlp(depth=3)
    taken = heard(model, torch.randn(6, 4))
    with pytest.raises(ZeroDivisionError), taken.updating():
        raise ZeroDivisionError
    assert by_site(taken.readings()) == {}

    with taken.updating():
        torch.optim.SGD(model.parameters(), lr=RATE).step()
    assert all(by_site(taken.readings()).values())


def test_a_step_that_was_not_seen_has_no_row_and_the_readings_say_so():
    taken = heard(mlp(depth=3), torch.randn(6, 4))
    before = taken.readings()
    with taken.updating():
        pass
    after = taken.readings()

    assert by_site(before) == {}
    assert "no update_ratio: the optimizer's step was not made within" in before.meta["notes"]
    assert "notes" not in after.meta
    assert by_site(before, "weight_norm") == by_site(after, "weight_norm")


def test_where_one_step_is_listened_to_the_step_is_taken_from_the_scope():
    model = mlp(depth=3)
    with listening(model, quantities=ASKED) as scope:
        backward(model(torch.randn(6, 4)))
    with scope.take().updating() as taken:
        torch.optim.SGD(model.parameters(), lr=RATE).step()

    assert set(by_site(taken.readings())) == {"0", "2", "4"}


# ------------------------------------------------------------------------------------------------------ of which weight


def test_a_weight_that_several_modules_share_is_measured_once():
    model, words = Language(tokens=47), torch.randint(0, 47, (5, 7))
    found = by_site(updated(model, words))

    assert "wte" in found
    assert "lm_head" not in found
    assert copies(model, heard(model, words)) == len(found)


def test_what_is_frozen_has_none_and_what_the_optimizer_was_not_given_has_zero():
    model = mlp(depth=3)
    model[0].requires_grad_(False)
    found = by_site(updated(model, torch.randn(6, 4), torch.optim.SGD(model[4].parameters(), lr=RATE)))

    assert set(found) == {"2", "4"}
    assert found["2"] == 0
    assert found["4"] > 0


def test_a_weight_of_zeros_has_no_ratio():
    model = mlp(depth=3)
    nn.init.zeros_(model[4].weight)
    found = by_site(updated(model, torch.randn(6, 4)))

    assert set(found) == {"0", "2"}


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_weight_that_is_replaced_has_none(when: str):
    model = mlp(depth=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def replace() -> None:
        model[2].weight = nn.Parameter(model[2].weight.detach() + 1)
        model[0].bias, model[4].weight = None, None

    taken = heard(model, torch.randn(6, 4))
    if when == "before":
        replace()
    with taken.updating():
        optimizer.step()
        if when == "while":
            replace()

    assert set(by_site(taken.readings())) == {"0"}


def test_a_weight_whose_memory_is_exchanged_is_still_the_same_weight_where_it_has_the_same_shape():
    model = mlp(depth=3)
    taken = heard(model, torch.randn(6, 4))
    with taken.updating():
        model[0].weight.data = model[0].weight.data * 1.5
        model[2].weight.data = model[2].weight.data[:1]

    assert by_site(taken.readings()) == {"0": pytest.approx(0.5), "4": 0.0}


def test_a_weight_that_is_added_later_has_none():
    model = mlp(depth=3)
    taken = heard(model, torch.randn(6, 4))
    model.append(nn.Linear(4, 4))
    with taken.updating(), torch.no_grad():
        model[-1].weight.mul_(2)

    assert set(by_site(taken.readings()).values()) == {0.0}


def test_what_has_no_values_is_left_out():
    class Waiting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.LazyLinear(3)
            self.elsewhere = nn.Linear(4, 4, device="meta")
            self.never = nn.LazyLinear(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = Waiting()
    taken = heard(model, torch.randn(6, 4))
    with taken.updating():
        torch.optim.SGD(model.used.parameters(), lr=RATE).step()

    readings = taken.readings()
    assert set(by_site(readings)) == set(by_site(readings, "weight_norm")) == {"used"}


def test_patterns_choose_the_weights_that_are_copied():
    model = odd(43)
    scope = Listening(model, quantities=ASKED, sites="2")
    with heard(model, torch.randn(6, 4), scope).updating() as taken:
        torch.optim.SGD(model.parameters(), lr=RATE).step()
    assert set(by_site(taken.readings())) == {"2"}

    assert copies(model, heard(model, torch.randn(6, 4), scope)) == 1
    assert copies(model, heard(model, torch.randn(6, 4))) == 3


# ---------------------------------------------------------------------------------------------- what it costs, and when


def copies(model: nn.Module, taken: Taken) -> int:
    """How many copies of weights there are while the optimizer runs."""
    before = _alike(model)
    with taken.updating():
        return _alike(model) - before


def _alike(model: nn.Module) -> int:
    """How many tensors there are of the shapes of the model's weights."""
    shapes = {p.shape for p in model.parameters() if p.ndim > 1}
    gc.collect()
    return sum(type(each) in (Tensor, nn.Parameter) and each.shape in shapes for each in gc.get_objects())


def odd(width: int = 37) -> nn.Sequential:
    """Of shapes that nothing else in the process has."""
    return nn.Sequential(
        nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width + 2), nn.ReLU(), nn.Linear(width + 2, 3)
    )


def test_weights_are_copied_while_the_optimizer_runs_and_at_no_other_time():
    model = odd()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    scope = Listening(model, quantities=ASKED)
    heard(model, torch.randn(6, 4), quantities=QUANTITIES)
    bare = _alike(model)
    taken = heard(model, torch.randn(6, 4), scope)
    there = [_alike(model)]
    with taken.updating():
        there.append(_alike(model))
        optimizer.step()
    there.append(_alike(model))

    assert [each - bare for each in there] == [0, 3, 0]


def test_no_copy_is_left_where_the_step_raises_while_the_error_is_held():
    model = odd(41)
    taken = heard(model, torch.randn(6, 4))
    before = _alike(model)
    held: list[BaseException] = []
    try:
        with taken.updating():
            assert _alike(model) == before + 3
            raise ZeroDivisionError
    except ZeroDivisionError as error:
        held.append(error)

    assert held[0].__traceback__ is not None
    assert _alike(model) == before


def test_training_is_bit_for_bit_the_same(one_thread: None):
    first = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 4), nn.BatchNorm1d(4))
    second = copy.deepcopy(first)
    torch.manual_seed(0)
    state = torch.random.get_rng_state()

    def trained(model: nn.Module, scope: Listening | None) -> list[Any]:
        torch.random.set_rng_state(state)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for step in range(6):
            model.zero_grad()
            if scope is None or step % 2:
                backward(model(torch.randn(6, 4)))
                optimizer.step()
            else:
                with scope.on():
                    backward(model(torch.randn(6, 4)))
                with scope.take().updating() as taken:
                    optimizer.step()
                assert all(by_site(taken.readings()).values())
        moments = [each for known in optimizer.state.values() for each in known.values()]
        gradients = [p.grad for p in model.parameters()]
        return [*model.state_dict().values(), *moments, *gradients, torch.random.get_rng_state()]

    bare, seen = trained(first, None), trained(second, Listening(second, quantities=ASKED))

    assert len(bare) == len(seen)
    assert all(torch.equal(a, b) for a, b in zip(bare, seen, strict=True))


# ---------------------------------------------------------------------------------------------------- what is not asked


def test_it_is_not_among_what_is_measured_unasked():
    assert not set(UPDATES) & set(QUANTITIES)
    model = mlp(depth=3)
    taken = heard(model, torch.randn(6, 4), quantities=QUANTITIES)

    message = r"none was asked for: give Listening\(model, quantities=QUANTITIES \| UPDATES"
    with pytest.raises(InputError, match=message), taken.updating():
        pass


def test_a_step_has_one_update():
    taken = heard(mlp(depth=3), torch.randn(6, 4))
    with taken.updating():
        pass

    with pytest.raises(InputError, match=r"for this step already: call take\(\) in every step"), taken.updating():
        pass


def test_a_probe_makes_no_step_and_refuses_it():
    with pytest.raises(InputError, match=r"update_ratio.*makes none"):
        skipscope.probe(mlp(depth=3), torch.randn(6, 4), quantities=UPDATES)
    with pytest.raises(InputError, match=r"update_ratio.*makes none"):
        skipscope.probe(skipscope.build(skipscope.Spec.dense(width=4, blocks=2), seed=0), quantities=UPDATES)


@pytest.mark.parametrize("name", UPDATES)
def test_each_says_what_it_is(name: str):
    told = UPDATES[name]
    assert told.symbol
    assert told.unit
    assert told.source
    assert told.about.endswith(".")
