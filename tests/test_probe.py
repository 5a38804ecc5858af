"""The probe: what it takes, what it refuses, what it calls what it measured, and that measuring changes nothing."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

import skipscope
from skipscope import QUANTITIES, InputError, Quantity, Spec, build, draws, probe
from skipscope.diagnosis import first_nonfinite
from skipscope.engines.numpy_engine import NumpyNetwork
from skipscope.losses import Cotangent, CrossEntropy, MeanSquaredError
from skipscope.protocol import Loss, Observer, Run, Site, ignore, sites_of
from skipscope.quantities import Profile, View
from skipscope.readings import Readings
from skipscope.testing import specs

Array = NDArray[Any]
UNKNOWN: Any = "one"
MISSPELT: Any = "summ"

RESIDUAL = Spec.dense(width=6, blocks=2, features=4, outputs=3, bias=True)
NOTEBOOK = Spec.dense(width=6, blocks=2, features=4, output="relu")


class Stub:
    """A network that pushes the arrays that it was given, in order; it has no spec."""

    def __init__(self, pushes: Sequence[tuple[str, dict[str, Array]]], seeds: Sequence[int] = (0,)) -> None:
        self.seeds = seeds
        self.sites: tuple[Site, ...] = sites_of(Spec.dense(width=2, blocks=1, features=2, output="relu"))
        self.pushes = pushes

    def run(self, batch: Any, loss: Loss | None = None, observe: Observer = ignore) -> Run:
        for site, roles in self.pushes:
            observe(site, **roles)
        output = np.zeros((len(self.seeds), 1, 1))
        return Run(output, None if loss is None else loss(output, batch))

    def gains(
        self, *, shortcut: float = 1.0, branch: float = 1.0, at: str | Iterable[str] | None = None
    ) -> AbstractContextManager[None]:
        return nullcontext()


def cell_of(readings: Readings) -> dict[str, Any]:
    return readings.cells.row(0, named=True)


def values(readings: Readings, quantity: str, site: str = "network") -> list[float]:
    chosen = (pl.col("quantity") == quantity) & (pl.col("site") == site)
    return readings.rows.filter(chosen).sort("seed")["value"].to_list()


def one(readings: Readings, quantity: str, site: str = "network") -> float:
    (found,) = values(readings, quantity, site)
    return found


# --------------------------------------------------------------------------------------------------- the readings


def test_readings_have_a_row_for_every_seed_site_and_quantity():
    network = build(RESIDUAL, seed=[5, 3, 11])
    readings = probe(network, 7, factors={"study": "mine", "design": "residual", "rate": 0.5})

    assert readings.rows["seed"].unique(maintain_order=True).sort().to_list() == [3, 5, 11]
    assert set(readings.rows["site"]) == {site.site for site in network.sites}
    assert set(readings.rows["quantity"]) == set(QUANTITIES) - {"loss"}
    counts = readings.rows.group_by("site", "quantity").len()["len"]
    assert set(counts) == {3}
    assert readings.rows.select("step", "call").unique().rows() == [(0, 0)]
    assert cell_of(readings) == {
        "cell": readings.rows["cell"][0],
        "spec": RESIDUAL.to_json(),
        "study": "mine",
        "design": "residual",
        "depth": 6,
        "width": 6,
        "batch": 7,
        "cotangent": "gaussian",
        "gain": "1.0, 1.0",
        "norm": "none",
        "data": "gaussian",
        "edit": "",
        "dtype": "float64",
        "rate": 0.5,
    }
    assert readings.meta["skipscope"] == skipscope.__version__


def test_sites_are_described_and_say_whether_they_were_measured():
    network = build(RESIDUAL, seed=0)
    readings = probe(network, 3, quantities={"branch_ratio": QUANTITIES["branch_ratio"]})

    sites = readings.sites.sort("order")
    assert sites["site"].to_list() == [site.site for site in network.sites]
    assert sites["depth"].to_list() == [site.depth for site in network.sites]
    measured = sites.filter(status="measured")["site"].to_list()
    assert measured == ["stage1.block1", "stage1.block2"]
    assert set(sites["status"]) == {"measured", "undefined"}


def test_same_network_twice_gives_equal_readings():
    network = build(RESIDUAL, seed=range(4))

    assert probe(network, 5).equals(probe(network, 5))
    assert probe(network, 5).equals(probe(build(RESIDUAL, seed=range(4)), 5))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_probing_changes_neither_network_nor_batch(dtype: Any, rng: np.random.Generator):
    network = build(
        Spec.dense(width=6, blocks=2, features=4, norm="layer", branch_gain="zero", dtype=dtype), seed=[1, 2]
    )
    batch = rng.standard_normal((2, 5, 4)), rng.standard_normal((2, 5, 4))
    before = {name: parameter.tobytes() for name, parameter in network.parameters.items()}
    shown = [part.tobytes() for part in batch]
    state = np.random.get_state()[1].tobytes()  # type: ignore[index]

    probe(network, batch, loss=MeanSquaredError())
    probe(network, batch)
    probe(network, 3, cotangent="ones")

    assert {name: parameter.tobytes() for name, parameter in network.parameters.items()} == before
    assert [part.tobytes() for part in batch] == shown
    assert np.random.get_state()[1].tobytes() == state  # type: ignore[index]
    assert network.edit == ""


def test_a_probe_multiplies_in_one_thread_and_gives_the_others_back():
    """How many threads share a sum decides its last bit."""

    def threads() -> list[int]:
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    class Counted(Stub):
        def run(self, batch: Any, loss: Loss | None = None, observe: Observer = ignore) -> Run:
            found.extend(threads())
            return super().run(batch, loss, observe)

    found: list[int] = []
    with threadpool_limits(limits=2, user_api="blas"):
        before = threads()
        probe(Counted([]), (np.zeros((1, 2)), np.zeros((1, 1))), loss=MeanSquaredError(), quantities={})
        assert threads() == before
    assert found == [1] * len(before)


def test_a_probe_takes_read_only_arrays(rng: np.random.Generator):
    network = build(RESIDUAL, seed=0)
    x = rng.standard_normal((5, 4))
    x.setflags(write=False)
    for parameter in network.parameters.values():
        parameter.setflags(write=False)

    assert len(probe(network, x))


# ------------------------------------------------------------------------------------------------------- the batch


def test_a_number_draws_the_samples_of_every_network_from_its_seed():
    network = build(RESIDUAL, seed=[3, 8])
    drawn = probe(network, 5)
    given_ = probe(network, draws.normals([3, 8], "input", (5, 4)))

    assert drawn.rows.drop("cell").equals(given_.rows.drop("cell"))
    assert probe(network, np.int64(5)).equals(drawn)
    assert cell_of(drawn)["data"] == "gaussian"
    assert cell_of(given_)["data"].startswith("given, ")
    assert cell_of(given_)["batch"] == 5


def test_one_batch_for_all_is_the_same_batch_for_each(rng: np.random.Generator):
    network = build(RESIDUAL, seed=[3, 8])
    x = rng.standard_normal((5, 4))
    shared = probe(network, x).rows.drop("cell")

    assert shared.equals(probe(network, np.stack([x, x])).rows.drop("cell"))
    assert shared.equals(probe(network, x[None]).rows.drop("cell"))
    assert shared.equals(probe(network, x.tolist()).rows.drop("cell"))


def test_a_tuple_is_inputs_and_targets(rng: np.random.Generator):
    network = build(RESIDUAL, seed=[3, 8])
    x, targets = rng.standard_normal((5, 4)), rng.standard_normal((5, 3))

    without = probe(network, x)
    assert probe(network, (x, targets)).rows.drop("cell").equals(without.rows.drop("cell"))
    assert cell_of(probe(network, (x, targets)))["batch"] == 5


def test_the_order_of_an_array_in_memory_does_not_matter(rng: np.random.Generator):
    network = build(RESIDUAL, seed=[3, 8])
    x = rng.standard_normal((5, 4))
    fortran = np.asfortranarray(x)
    strided = np.repeat(x, 2, axis=0)[::2]

    assert probe(network, fortran).equals(probe(network, x))
    assert probe(network, strided).equals(probe(network, x))


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (0, "batch must be at least 1; got 0"),
        (-3, "batch must be at least 1; got -3"),
        (True, "batch must be a whole number"),
        (2.5, "batch must have the shape (samples, 4)"),
        (None, "batch must be an array of real numbers; got NoneType"),
        ((), "batch is an empty tuple"),
        ([[1, 2], [3]], "rows differ in length"),
        ("text", "batch must be an array of real numbers; got str"),
        (np.zeros(4), "batch must have the shape (samples, 4)"),
        (np.zeros((5, 3)), "got (5, 3)"),
        (np.zeros((3, 5, 4)), "got (3, 5, 4)"),
        (np.zeros((0, 4)), "batch is empty"),
        (np.full((2, 4), np.nan), "nan or inf"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(batch: Any, words: str):
    with pytest.raises(InputError) as caught:
        probe(build(RESIDUAL, seed=[0, 1]), batch)

    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_network_without_a_spec_needs_samples_and_a_loss():
    stub = Stub([])

    with pytest.raises(InputError, match=r"batch=64 asks for samples .* give the samples as an array"):
        probe(stub)
    with pytest.raises(InputError, match=r"loss is missing"):
        probe(stub, np.zeros((1, 2)))


# ----------------------------------------------------------------------------------------------- what is sent back


def labels_and(network: NumpyNetwork, rng: np.random.Generator) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    x = rng.standard_normal((6, network.spec.stem.features))
    outputs = network.spec.head.features
    return (x, rng.integers(outputs, size=6)), (x, rng.standard_normal((6, outputs)))


def test_the_loss_is_read_and_its_gradient_sent_back(rng: np.random.Generator):
    network = build(RESIDUAL, seed=[0, 1, 2])
    labelled, targeted = labels_and(network, rng)
    for loss, batch in ((CrossEntropy(), labelled), (MeanSquaredError(), targeted)):
        readings = probe(network, batch, loss=loss)
        output = network.run(batch[0]).output

        assert values(readings, "loss") == loss(output, batch).tolist()
        sent = np.linalg.norm(loss.gradient(output, batch), axis=(1, 2))
        assert values(readings, "activation_grad_norm", "head") == pytest.approx(sent.tolist(), rel=1e-14)
        assert cell_of(readings)["cotangent"] == f"loss {type(loss).__name__}"


def test_the_losses_are_what_they_are_by_hand(rng: np.random.Generator):
    network = build(RESIDUAL, seed=4)
    (x, labels), (_, targets) = labels_and(network, rng)
    output = network.run(x).output[0]

    crossed = -np.log([np.exp(row)[label] / np.exp(row).sum() for row, label in zip(output, labels, strict=True)])
    assert one(probe(network, (x, labels), loss=CrossEntropy()), "loss") == pytest.approx(crossed.mean(), rel=1e-13)
    squared = ((output - targets) ** 2).mean()
    assert one(probe(network, (x, targets), loss=MeanSquaredError()), "loss") == pytest.approx(squared, rel=1e-13)


def test_a_users_own_loss(rng: np.random.Generator):
    @dataclass(frozen=True)
    class Scaled:
        factor: float

        def __call__(self, output: Array, batch: Any) -> Array:
            return self.factor * output.sum(axis=(1, 2))

        def gradient(self, output: Array, batch: Any) -> Array:
            return np.full_like(output, self.factor)

    network = build(RESIDUAL, seed=4)
    x = rng.standard_normal((6, 4))
    single, triple = probe(network, x, loss=Scaled(1.0)), probe(network, x, loss=Scaled(3.0))

    assert one(triple, "gradient_norm") == pytest.approx(3 * one(single, "gradient_norm"), rel=1e-13)
    assert single.cells["cell"][0] != triple.cells["cell"][0]
    assert "Scaled(factor=3.0)" in cell_of(triple)["cotangent"]


@pytest.mark.parametrize("kind", ["gaussian", "ones"])
def test_without_a_loss_a_cotangent_is_sent_back(kind: Any):
    seeds = [3, 8]
    network = build(RESIDUAL, seed=seeds)
    v = np.ones((2, 5, 3)) if kind == "ones" else draws.normals(seeds, "cotangent", (5, 3))
    readings = probe(network, 5, cotangent=kind)
    by_hand = probe(network, 5, loss=Cotangent(v))

    same = readings.rows.drop("cell").sort(*readings.rows.columns[1:-1])
    assert same.equals(by_hand.rows.filter(pl.col("quantity") != "loss").drop("cell").sort(*same.columns[:-1]))
    assert cell_of(readings)["cotangent"] == kind
    assert values(readings, "activation_grad_norm", "head") == pytest.approx(np.linalg.norm(v, axis=(1, 2)).tolist())


def test_a_seed_of_the_probe_is_one_draw_for_all():
    network = build(RESIDUAL, seed=[3, 8])
    same = probe(network, 5, seed=21)
    x, v = draws.normals([21], "input", (5, 4)), draws.normals([21], "cotangent", (5, 3))

    assert len(set(values(same, "activation_rms", "input"))) == 1
    assert len(set(values(same, "activation_grad_norm", "head"))) == 1
    assert len(set(values(probe(network, 5), "activation_rms", "input"))) == 2
    by_hand = probe(network, x, loss=Cotangent(v)).rows.filter(pl.col("quantity") != "loss").drop("cell")
    assert same.rows.drop("cell").sort(by_hand.columns[:-1]).equals(by_hand.sort(by_hand.columns[:-1]))
    assert cell_of(same)["data"] == cell_of(same)["cotangent"] == "gaussian, seed 21"
    assert cell_of(probe(network, 5, seed=21, cotangent="ones"))["cotangent"] == "ones"


# --------------------------------------------------------------------------------------------------------- the cell


def cells_that_differ() -> dict[str, Callable[[], Readings]]:
    """Probes of which no two were given the same."""
    network = build(NOTEBOOK, seed=[0, 1])
    x = np.linspace(-1, 1, 20).reshape(5, 4)
    y = np.linspace(0, 1, 20).reshape(5, 4)

    def edited(**gains: Any) -> Readings:
        with network.gains(**gains):
            return probe(network, 5)

    return {
        "plain call": lambda: probe(network, 5),
        "batch": lambda: probe(network, 6),
        "cotangent": lambda: probe(network, 5, cotangent="ones"),
        "seed": lambda: probe(network, 5, seed=1),
        "other seed": lambda: probe(network, 5, seed=2),
        "data": lambda: probe(network, x),
        "data, seed of the cotangent": lambda: probe(network, x, seed=1),
        "data, other seed of the cotangent": lambda: probe(network, x, seed=2),
        "other data": lambda: probe(network, x + 1e-15 * (y == 1)),
        "the same bits as whole numbers": lambda: probe(network, x.view(np.int64)),
        "a batch a seed": lambda: probe(network, np.stack([x, x])),
        "data in single precision": lambda: probe(network, x.astype(np.float32)),
        "targets": lambda: probe(network, (x, y)),
        "loss": lambda: probe(network, (x, y), loss=MeanSquaredError()),
        "other targets": lambda: probe(network, (x, y + 1), loss=MeanSquaredError()),
        "labels": lambda: probe(network, (x, np.arange(5) % 4), loss=CrossEntropy()),
        "given cotangent": lambda: probe(network, x, loss=Cotangent(y)),
        "other given cotangent": lambda: probe(network, x, loss=Cotangent(y + 1)),
        "shortcut": lambda: edited(shortcut=0),
        "branch": lambda: edited(branch=0),
        "branch of one block": lambda: edited(branch=0, at="stage1.block2"),
        "half the branch": lambda: edited(branch=0.5),
        "width": lambda: probe(build(Spec.dense(width=7, blocks=2, features=4, output="relu"), seed=0), 5),
        "dtype": lambda: probe(build(Spec.from_json(NOTEBOOK.to_json().replace("float64", "float32")), seed=0), 5),
        "init": lambda: probe(build(Spec.dense(width=6, blocks=2, features=4, output="relu", init="lecun"), seed=0), 5),
        "twin": lambda: probe(build(NOTEBOOK.twin(), seed=0), 5),
        "factor": lambda: probe(network, 5, factors={"study": "mine"}),
    }


def test_what_differs_has_cells_of_different_names():
    names = {what: measure().cells["cell"][0] for what, measure in cells_that_differ().items()}
    same = [pair for pair in itertools.combinations(names, 2) if names[pair[0]] == names[pair[1]]]

    assert same == []


def test_the_seeds_are_not_part_of_the_cell():
    names = {probe(build(NOTEBOOK, seed=seeds), 5).cells["cell"][0] for seeds in (0, 1, [0, 1], range(5))}

    assert len(names) == 1


def test_nor_is_what_was_asked_for():
    network = build(NOTEBOOK, seed=0)
    everything = probe(network, 5)
    part = probe(network, 5, quantities={"dead": QUANTITIES["dead"]}, sites="stage1.*")

    assert part.cells.equals(everything.cells)
    assert (everything + part).equals(everything)


def test_an_edit_is_recorded():
    network = build(NOTEBOOK, seed=0)
    with network.gains(branch=0, at="stage1.block2"):
        lesion = probe(network, 5)

    assert cell_of(lesion)["edit"] == "stage1.block2: shortcut x 1, branch x 0"
    assert one(lesion, "branch_ratio", "stage1.block2") == 0
    assert cell_of(probe(network, 5))["edit"] == ""
    assert len(lesion + probe(network, 5)) == len(lesion) + len(probe(network, 5))  # nothing clashes


def test_the_twin_is_the_network_with_its_shortcuts_taken_away():
    network = build(NOTEBOOK, seed=range(3))
    with network.gains(shortcut=0):
        edited = probe(network, 5)
    twin = probe(build(NOTEBOOK.twin(), seed=range(3)), 5)

    for quantity in ("forward_growth", "backward_growth", "gradient_norm", "weight_grad_first_last", "output_norm"):
        assert values(edited, quantity) == values(twin, quantity)
    assert values(edited, "shortcut_share", "stage1.block1") == [0, 0, 0]
    assert values(edited, "branch_share", "stage1.block1") == pytest.approx([1, 1, 1], rel=1e-15)


def test_factors_may_be_numpy_scalars():
    readings = probe(
        build(NOTEBOOK, seed=0), 5, factors={"depth": np.int64(3), "rate": np.float32(0.5), "on": np.True_}
    )

    assert cell_of(readings)["depth"] == 3
    assert (cell_of(readings)["rate"], cell_of(readings)["on"]) == (0.5, True)


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ({"depth": "deep"}, "factors: 'depth' must be a whole number; got 'deep'"),
        ({"depth": 2.5}, "factors: 'depth' must be a whole number; got 2.5"),
        ({"width": True}, "factors: 'width' must be a whole number; got True"),
        ({"depth": 2**70}, "factors: 'depth' must be a whole number"),
        ({"design": 3}, "factors: 'design' must be a text; got 3"),
        ({"mine": [1, 2]}, "factors: 'mine' must be a text, a number or a truth value; got [1, 2]"),
        ({"mine": None}, "factors: 'mine' must be a text, a number or a truth value; got None"),
        ({"value": 1.0}, "column 'value' of cells must be called otherwise"),
    ],
)
def test_factors_that_the_table_cannot_hold_are_refused(factors: dict[str, Any], words: str):
    with pytest.raises(InputError) as caught:
        probe(build(NOTEBOOK, seed=0), 5, factors=factors)

    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------- what is asked for


def test_sites_are_chosen_by_pattern():
    network = build(RESIDUAL, seed=[0, 1])
    everything = probe(network, 5)
    patterns: list[tuple[Any, set[str]]] = [
        ("stage1.block1", {"stage1.block1"}),
        ("stage1.block?", {"stage1.block1", "stage1.block2"}),
        ("*.layer1", {"stage1.block1.layer1", "stage1.block2.layer1"}),
        (["stem", "network"], {"stem", "network"}),
        (iter(["head"]), {"head"}),
    ]
    for pattern, expected in patterns:
        part = probe(network, 5, sites=pattern)

        assert set(part.sites["site"]) == expected
        kept = everything.rows.filter(pl.col("site").is_in(list(expected)))
        key = kept.columns[:-1]
        assert part.rows.sort(key).equals(kept.sort(key))


@pytest.mark.parametrize(
    ("sites", "words"),
    [
        ("block1", "sites='block1' matches none of the 10 sites, 'input' to 'network'"),
        (["stem", "stage2.*"], "sites='stage2.*' matches none"),
        ([], "sites is empty"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused(sites: Any, words: str):
    with pytest.raises(InputError) as caught:
        probe(build(RESIDUAL, seed=0), 5, sites=sites)

    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"quantities": ["dead"]}, "quantities must map names to Quantity"),
        ({"quantities": "dead"}, "got str"),
        ({"cotangent": "one"}, "Did you mean 'ones'?"),
        ({"seed": -1}, "seed must be at least 0; got -1"),
        ({"seed": "a"}, "seed must be a whole number"),
        ({"loss": UNKNOWN}, "loss"),
        ({"loss": CrossEntropy()}, "this loss needs a batch of (inputs, labels)"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], words: str):
    with pytest.raises(InputError) as caught:
        probe(build(RESIDUAL, seed=0), 5, **arguments)

    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_a_quantity_asked_for_alone_is_the_same(quantity: str):
    network = build(RESIDUAL, seed=[0, 1])
    labelled = np.linspace(-1, 1, 20).reshape(5, 4), np.arange(5) % 3
    everything = probe(network, labelled, loss=CrossEntropy())
    alone = probe(network, labelled, loss=CrossEntropy(), quantities={quantity: QUANTITIES[quantity]})

    key = everything.rows.columns[:-1]
    expected = everything.rows.filter(pl.col("quantity") == quantity).sort(key)
    assert len(expected)
    assert alone.rows.sort(key).equals(expected)


# ------------------------------------------------------------------------------------------ a probe pays for its plan


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], set[str]]]:
    """Every array that is reduced: its shape, and what is summed beside its square."""
    module = sys.modules["skipscope.probe"]  # the package has a function of that name
    found: list[tuple[tuple[int, ...], set[str]]] = []
    reduce = module.moments

    def counted(x: Array, fields: Iterable[Any] = ()) -> Any:
        found.append((x.shape, set(fields)))
        return reduce(x, fields)

    monkeypatch.setattr(module, "moments", counted)
    return found


def measure(*names: str, **arguments: Any) -> None:
    probe(build(RESIDUAL, seed=[0, 1]), 5, quantities={name: QUANTITIES[name] for name in names}, **arguments)


def test_one_quantity_reduces_its_own_arrays_alone(taken: list[tuple[tuple[int, ...], set[str]]]):
    measure("weight_norm")

    weights = [(2, 3, 6), *4 * [(2, 6, 6)], (2, 6, 4)]  # the backward pass comes to the head first
    assert [shape for shape, _ in taken] == weights
    assert all(fields == set() for _, fields in taken)


def test_what_is_counted_needs_no_array(taken: list[tuple[tuple[int, ...], set[str]]]):
    measure("parameters", "multiply_adds")

    assert taken == []


def test_what_is_asked_for_at_no_site_costs_nothing(taken: list[tuple[tuple[int, ...], set[str]]]):
    measure("activation_rms", sites="network")
    measure("branch_ratio", sites="stem")

    assert taken == []


def test_growth_needs_the_ends_of_the_body_alone(taken: list[tuple[tuple[int, ...], set[str]]]):
    measure("forward_growth")

    assert taken == [((2, 5, 6), set())] * 2


def test_dear_sums_are_taken_where_they_are_needed(taken: list[tuple[tuple[int, ...], set[str]]]):
    measure("forward_growth_low", "activation_rms")

    assert len(taken) == 9  # all sites but `network`
    assert sum("samples" in fields for _, fields in taken) == 2
    assert not any(fields - {"samples"} for _, fields in taken)


def test_a_quantity_of_the_network_costs_nothing_where_the_network_is_not_asked_for(
    taken: list[tuple[tuple[int, ...], set[str]]],
):
    measure("forward_growth_low", "gradient_norm", sites="stem")

    assert taken == []


def test_a_site_pays_for_itself_and_the_ends(taken: list[tuple[tuple[int, ...], set[str]]]):
    measure("activation_mean", sites="stage1.block1")

    assert [shape for shape, _ in taken] == [(2, 5, 4), (2, 5, 6), (2, 5, 3)]  # input, block, output


# ------------------------------------------------------------------------------------------------ in several pieces


def pieces_of(whole: dict[str, Array], cuts: Sequence[int]) -> list[dict[str, Array]]:
    """The samples of the arrays of one call, cut into pieces."""
    split = {role: np.split(array, cuts, axis=1) for role, array in whole.items()}
    return [{role: parts[index] for role, parts in split.items()} for index in range(len(cuts) + 1)]


def a_run(rng: np.random.Generator, seeds: int, batch: int, size: float) -> list[tuple[str, dict[str, Array]]]:
    def drawn() -> Array:
        return np.maximum(rng.standard_normal((seeds, batch, 2)), -0.5) * size

    sites = ("input", "stem", "stage1.block1", "stage1.block1.layer1", "stage1.block1.layer2", "head")
    forward = [(site, {"activation": drawn()}) for site in sites]
    backward = [(site, {"activation_grad": drawn(), "preactivation_grad": drawn()}) for site in sites]
    junction = [
        ("stage1.block1", {"shortcut": drawn(), "branch": drawn(), "total": drawn()}),
        ("stage1.block1", {"shortcut_grad": drawn(), "branch_grad": drawn(), "total_grad": drawn()}),
    ]
    return [*forward, *backward, *junction]


@pytest.mark.parametrize("size", [1.0, 1e200, 1e-200])
@pytest.mark.parametrize("cuts", [(4,), (1, 2, 7), (9,)])
def test_what_is_pushed_in_pieces_adds_up(cuts: tuple[int, ...], size: float, rng: np.random.Generator):
    pushes = a_run(rng, 3, 10, size)
    pieces = [(site, piece) for site, roles in pushes for piece in pieces_of(roles, cuts)]
    target = np.zeros((1, 2)), np.zeros((1, 1))

    whole = probe(Stub(pushes, range(3)), target, loss=MeanSquaredError())
    parts = probe(Stub(pieces, range(3)), target, loss=MeanSquaredError())
    key = whole.rows.columns[:-1]
    a, b = whole.rows.sort(key), parts.rows.sort(key)
    assert a.drop("value").equals(b.drop("value"))
    assert {"dead", "samples", "branch_cosine", "shortcut_share", "forward_growth_low"} <= set(a["quantity"])
    # Sums of 20 numbers in another order: a few units of 2^-53; means, cosines and shares are of order 1 in them.
    unit = size if size < 1 else 1.0
    np.testing.assert_allclose(b["value"], a["value"], rtol=1e-12, atol=1e-14 * unit)


def test_pieces_of_an_overflow_overflow():
    fine, bad = np.ones((1, 2, 2)), np.full((1, 1, 2), np.inf)
    readings = probe(
        Stub([("stem", {"activation": fine}), ("stem", {"activation": bad})]),
        (np.zeros((1, 2)), np.zeros((1, 1))),
        loss=MeanSquaredError(),
        quantities={name: QUANTITIES[name] for name in ("activation_rms", "activation_nonfinite", "samples")},
    )

    assert one(readings, "activation_rms", "stem") == math.inf
    assert one(readings, "activation_nonfinite", "stem") == 2
    assert one(readings, "samples", "stem") == 3


# -------------------------------------------------------------------------------------------- quantities of one's own


def own(formula: Callable[[Any], Any], **fields: Any) -> dict[str, Quantity]:
    return {"mine": Quantity(formula=formula, symbol="m", about="Mine.", unit="one", **fields)}


def test_a_quantity_of_ones_own_is_measured_beside_the_others():
    def largest_share(view: View) -> Array:
        positive = view["activation"].positive
        assert positive is not None
        return np.asarray(positive / view["activation"].count)

    network = build(RESIDUAL, seed=[0, 1])
    mine = own(largest_share, needs={"activation": ("positive",)}, where=lambda site: site.activation == "relu")
    readings = probe(network, 5, quantities=QUANTITIES | mine)

    inactive = np.array(values(readings, "inactive", "stem"))
    assert values(readings, "mine", "stem") == pytest.approx((1 - inactive).tolist(), rel=1e-15)
    assert values(readings, "mine", "input") == []
    assert set(readings.rows["quantity"]) == set(QUANTITIES) - {"loss"} | {"mine"}


def test_a_quantity_of_ones_own_may_be_undefined_and_infinite():
    def odd(view: View) -> Any:
        return np.ma.masked_array([1.0, np.inf, 3.0], mask=[False, False, True])

    readings = probe(build(RESIDUAL, seed=[4, 5, 6]), 5, quantities=own(odd, needs={"activation": ()}), sites="stem")

    assert readings.rows.sort("seed").select("seed", "value").rows() == [(4, 1.0), (5, math.inf)]


def test_a_quantity_of_ones_own_may_be_of_the_whole_network():
    def halves(profile: Profile) -> Array:
        norms = [view["weight"].norm for view in profile.views if "weight" in view.roles]
        return np.asarray(norms[-1] / norms[0]) * profile.networks

    network = build(RESIDUAL, seed=[0, 1])
    mine = own(halves, needs={"weight": ()}, scope="network")
    weights = network.parameters
    expected = (
        2 * np.linalg.norm(weights["head.weight"], axis=(1, 2)) / np.linalg.norm(weights["stem.weight"], axis=(1, 2))
    )
    assert values(probe(network, 5, quantities=mine), "mine") == pytest.approx(expected.tolist(), rel=1e-14)


def test_a_quantity_of_ones_own_sees_both_ends_of_the_network():
    def through(view: View) -> Array:
        return view["activation"].norm / view.input["activation"].norm * view.output["activation"].norm

    mine = own(through, needs={"activation": ()}, where=lambda site: site.kind == "junction")
    readings = probe(build(RESIDUAL, seed=0), 5, quantities=QUANTITIES | mine)

    gain = one(readings, "forward_gain", "stage1.block2")
    assert one(readings, "mine", "stage1.block2") == pytest.approx(gain * one(readings, "output_norm"), rel=1e-14)
    assert set(readings.rows.filter(quantity="mine")["site"]) == {"stage1.block1", "stage1.block2"}


def test_a_quantity_of_ones_own_is_made_of_an_inner_product():
    def product(view: View) -> Array:
        found = view.dots["weight", "weight_grad"]
        return found.value * found.scale_x * found.scale_y

    network = build(NOTEBOOK, seed=[0, 1])
    pairs = (("weight", "weight_grad"),)
    mine = own(product, needs={"weight": (), "weight_grad": ()}, where=lambda site: site.kind == "layer", pairs=pairs)
    readings = probe(network, 5, cotangent="ones", quantities=mine)

    # Euler: a network without biases is homogeneous of degree 1 in its first weights: <W, dW> is the loss, here the
    # sum of the output. An inner product of some tens of numbers, rounded.
    total = network.run(draws.normals([0, 1], "input", (5, 4))).output.sum(axis=(1, 2))
    assert values(readings, "mine", "stem") == pytest.approx(total.tolist(), rel=1e-12)
    assert values(readings, "mine", "head") == pytest.approx(total.tolist(), rel=1e-12)


def test_what_a_users_formula_raises_is_the_users():
    def broken(view: View) -> Any:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        probe(build(RESIDUAL, seed=0), 5, quantities=own(broken, needs={"activation": ()}))


# --------------------------------------------------------------------------------------------------- first non-finite


class Overflows:
    """Remembers, in the order in which they are pushed, the sites at which an activation or its gradient overflows."""

    def __init__(self) -> None:
        self.found: dict[int, list[tuple[str, str]]] = {}

    def __call__(self, site: str, /, **roles: Array) -> None:
        for role, direction in (("activation", "forward"), ("activation_grad", "backward")):
            if role in roles:
                for index, each in enumerate(roles[role]):
                    if not np.isfinite(each).all():
                        self.found.setdefault(index, []).append((direction, site))


DEEP = Spec.dense(width=8, blocks=200, dtype="float32")  # grows by 2.9^(1/2) a block: beyond 3e38 after some 170


def test_the_first_site_that_overflows_is_found():
    seeds = [10, 11, 12]
    network = build(DEEP, seed=seeds)
    x = 1e4 * draws.normals(seeds, "input", (2, 8))
    overflows = Overflows()
    network.run(x, Cotangent(np.ones((2, 8))), overflows)
    readings = probe(network, x, cotangent="ones")

    found = first_nonfinite(readings)
    assert found["seed"].to_list() == seeds
    assert [*zip(found["pass"], found["site"], strict=True)] == [overflows.found[index][0] for index in range(3)]
    assert set(found["pass"]) == {"forward"}
    assert len(set(found["site"])) == 3
    assert not any(np.isfinite(values(readings, "forward_growth")))
    assert len(values(readings, "forward_growth")) == 3


def test_the_first_site_whose_gradient_overflows_is_found():
    seeds = [10, 11, 12]
    network = build(DEEP, seed=seeds)
    x = 1e-10 * draws.normals(seeds, "input", (2, 8))
    loss = Cotangent(np.full((2, 8), 1e12))
    overflows = Overflows()
    network.run(x, loss, overflows)
    readings = probe(network, x, loss=loss)

    found = first_nonfinite(readings)
    assert found["seed"].to_list() == seeds
    assert [*zip(found["pass"], found["site"], strict=True)] == [overflows.found[index][0] for index in range(3)]
    assert set(found["pass"]) == {"backward"}
    assert np.isfinite(values(readings, "forward_growth")).all()
    assert not np.isfinite(values(readings, "backward_growth")).any()


def test_nothing_overflows_where_everything_is_finite():
    readings = probe(build(NOTEBOOK, seed=range(5)), 5)

    assert first_nonfinite(readings).is_empty()
    assert readings.rows["value"].is_finite().all()


# -------------------------------------------------------------------------------------------- alone and in an ensemble


@pytest.mark.parametrize("spec", specs(2), ids=lambda spec: "")
def test_a_seed_reads_the_same_alone_and_in_an_ensemble(spec: Spec):
    """Bit for bit, every quantity at every site."""
    seeds = (3, 1, 2)
    whole = probe(build(spec, seed=seeds), 5)
    chunks = Readings.concat(probe(build(spec, seed=part), 5) for part in ((1,), (2, 3)))

    assert chunks.equals(whole)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=9, unique=True), st.data())
def test_any_chunks_of_any_seeds_give_the_same_readings(seeds: list[int], data: st.DataObject):
    spec = Spec.dense(
        width=5, blocks=2, features=3, norm="layer", dtype=data.draw(st.sampled_from(["float64", "float32"]))
    )
    batch = data.draw(st.integers(1, 7))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(seeds) - 1)))))
    bounds = [0, *(cut for cut in cuts if cut < len(seeds)), len(seeds)]
    parts = [seeds[start:stop] for start, stop in itertools.pairwise(bounds)]

    whole = probe(build(spec, seed=seeds), batch)
    assert Readings.concat(probe(build(spec, seed=part), batch) for part in parts).equals(whole)


def test_a_given_batch_is_seen_alike_alone_and_in_an_ensemble(rng: np.random.Generator):
    x = rng.standard_normal((40, 4))
    whole = probe(build(RESIDUAL, seed=[0, 1, 2]), x)

    assert Readings.concat(probe(build(RESIDUAL, seed=seed), x) for seed in range(3)).equals(whole)


def test_readings_survive_the_disk(tmp_path: Any):
    readings = probe(build(RESIDUAL, seed=[0, 1]), 5, factors={"study": "mine"})
    readings.save(tmp_path / "readings.parquet")

    assert Readings.load(tmp_path / "readings.parquet").equals(readings)
    assert json.loads(cell_of(readings)["spec"])["head"]["features"] == 3


@pytest.mark.parametrize(
    ("quantity", "message"),
    [
        (Quantity(formula=abs, symbol="", about="", unit="", needs={"activations": ()}), "Did you mean 'activation'?"),
        (Quantity(formula=abs, symbol="", about="", unit="", needs={"weight": (MISSPELT,)}), "Did you mean 'sum'?"),
        (UNKNOWN, "quantities['mine'] must be a Quantity"),
        (
            Quantity(formula=lambda view: np.ones((3, 2)), symbol="", about="", unit="", needs={"activation": ()}),
            "quantities['mine']: its formula must give one number a network, of shape (2,); got (3, 2).",
        ),
    ],
)
def test_a_quantity_of_ones_own_that_is_misspelt_is_refused(quantity: Any, message: str):
    with pytest.raises(InputError) as caught:
        probe(build(Spec.dense(width=4, blocks=1), seed=[0, 1]), 2, quantities={"mine": quantity})

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: skipscope.build(UNKNOWN, seed=0), "spec must be a Spec"),
        (lambda: probe(UNKNOWN, 8), "network must be a network, e.g. of skipscope.build(spec, seed=0)"),
        (lambda: skipscope.diagnose(UNKNOWN), "readings must be a Readings"),
        (lambda: skipscope.summarise(UNKNOWN), "readings must be a Readings"),
        (lambda: skipscope.compare(UNKNOWN, UNKNOWN), "a must be a Readings"),
    ],
)
def test_what_is_of_another_kind_is_refused(call: Any, message: str):
    with pytest.raises(InputError) as caught:
        call()

    assert message in str(caught.value)
