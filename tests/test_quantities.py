"""Every quantity, held against numbers worked out by hand and against a plain recomputation from the arrays.

Three tables: `BY_HAND` has one pencil-and-paper value for every quantity on a network whose arrays are written down
here; `RECOMPUTED` has every quantity once more, straight from the stored arrays of real networks, without moments, and
`COUNTED` what needs no array. A quantity that lacks an entry fails the tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from skipscope import QUANTITIES, Spec, build, probe
from skipscope.losses import Cotangent, MeanSquaredError
from skipscope.protocol import Loss, Observer, Run, Site, ignore, sites_of
from skipscope.readings import Readings

Array = NDArray[Any]
Pushes = Sequence[tuple[str, dict[str, Array]]]

Z95 = stats.norm.ppf(0.975)


class Stub:
    """A network that pushes the arrays that it was given, in order."""

    def __init__(self, spec: Spec, pushes: Pushes, seeds: Sequence[int] = (0,)) -> None:
        self.spec = spec
        self.seeds = seeds
        self.sites: tuple[Site, ...] = sites_of(spec)
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


class Quarter:
    """A loss of 1/4, whatever comes out."""

    def __call__(self, output: Array, batch: Any) -> Array:
        return np.full(len(output), 0.25)

    def gradient(self, output: Array, batch: Any) -> Array:
        return np.zeros_like(output)


ONE_BLOCK = Spec.dense(width=2, blocks=1, features=2, output="relu")
BLOCK = "stage1.block1"


def array(*rows: Sequence[float]) -> Array:
    """The array of one network: a leading axis of 1."""
    return np.array([rows], float)


def readings_of(pushes: Pushes, *names: str, spec: Spec = ONE_BLOCK, seeds: Sequence[int] = (0,)) -> Readings:
    chosen = {name: QUANTITIES[name] for name in names} if names else QUANTITIES
    return probe(Stub(spec, pushes, seeds), np.zeros((1, 2)), loss=Quarter(), quantities=chosen)


def values(readings: Readings, quantity: str, site: str = "network") -> list[float]:
    """By seed; empty where the quantity is undefined."""
    chosen = (pl.col("quantity") == quantity) & (pl.col("site") == site)
    return readings.rows.filter(chosen).sort("seed")["value"].to_list()


def value(pushes: Pushes, quantity: str, site: str = "network") -> float:
    (found,) = values(readings_of(pushes, quantity), quantity, site)
    return found


# ------------------------------------------------------------------------------------------------------------ by hand

# Norms are 3, 5 and so on by design; two samples (rows) of two units (columns).
PENCIL: list[tuple[str, dict[str, Array]]] = [
    ("input", {"activation": array([1, 2], [2, 0])}),  # norm 3
    ("stem", {"activation": array([3, 0], [0, 4])}),  # norm 5, the entry of the body: samples 9 and 16
    (f"{BLOCK}.layer1", {"activation": array([6, 0], [0, 0])}),  # its second unit is dead
    (f"{BLOCK}.layer2", {"activation": array([0, 8], [0, 6])}),
    (BLOCK, {"shortcut": array([3, 0], [0, 4]), "branch": array([0, 8], [0, 6]), "total": array([3, 8], [0, 10])}),
    (BLOCK, {"activation": array([3, 8], [0, 10])}),  # the exit of the body: samples 73 and 100
    ("head", {"activation": array([0, 3], [4, 0])}),  # norm 5
    ("head", {"activation_grad": array([1, 1], [1, 1]), "preactivation_grad": array([0, 1], [1, 0])}),
    ("head", {"weight": array([1, 0], [0, 0]), "weight_grad": array([0, 0], [0, 2])}),
    ("head", {"bias": np.array([[0.0, 0.0]]), "bias_grad": np.array([[4.0, 0.0]])}),
    (BLOCK, {"activation_grad": array([3, 0], [0, 4])}),  # samples 9 and 16
    (f"{BLOCK}.layer2", {"weight": array([1, 0], [0, 1]), "weight_grad": array([0, 0], [0, 0])}),
    (f"{BLOCK}.layer1", {"weight": array([1, 0], [0, 1]), "weight_grad": array([2, 4], [4, 0])}),  # norm 6
    (
        BLOCK,
        {
            "shortcut_grad": array([3, 0], [0, 0]),
            "branch_grad": array([-2, 2], [2, 0]),
            "total_grad": array([1, 2], [2, 0]),
        },
    ),
    ("stem", {"activation_grad": array([6, 8], [0, 24]), "preactivation_grad": array([6, 0], [0, 8])}),
    ("stem", {"weight": array([1, 1], [1, 1]), "weight_grad": array([3, 4], [0, 0])}),
    ("input", {"activation_grad": array([1, 0], [0, 0])}),
]


def jackknife(growth: float, without_first: float, without_second: float, sign: int) -> float:
    """With two samples: two estimates, whose standard error is half of what their logarithms differ by.

    Student's t with 1 degree of freedom is Cauchy's law, whose quantile at 0.975 is tan(0.475 pi) = 12.7.
    """
    half = math.tan(0.475 * math.pi) * abs(math.log(without_first / without_second)) / 2
    return growth * math.exp(sign * half)


WILSON_HALF = Z95 / (2 * math.sqrt(2 + Z95**2))  # Wilson's interval for 1 of 2 is 1/2 -+ z/(2 sqrt(n + z^2))

BY_HAND: Mapping[str, tuple[str, float]] = {
    "activation_rms": ("stem", math.sqrt(25 / 4)),
    "activation_mean": ("stem", 7 / 4),
    "activation_variance": ("stem", 25 / 4 - 49 / 16),
    "forward_gain": ("stem", 5 / 3),
    "activation_grad_norm": ("stem", 26),
    "backward_gain": ("stem", 26 / 2),
    "preactivation_grad_norm": ("stem", 10),
    "weight_norm": ("stem", 2),
    "weight_grad_norm": ("stem", 5),
    "grad_weight_ratio": ("stem", 5 / 2),
    "inactive": (f"{BLOCK}.layer1", 3 / 4),
    "dead": (f"{BLOCK}.layer1", 1 / 2),
    "dead_low": (f"{BLOCK}.layer1", 1 / 2 - WILSON_HALF),
    "dead_high": (f"{BLOCK}.layer1", 1 / 2 + WILSON_HALF),
    "samples": ("stem", 2),
    "activation_nonfinite": ("stem", 0),
    "activation_grad_nonfinite": ("stem", 0),
    "branch_ratio": (BLOCK, 10 / 5),
    "branch_cosine": (BLOCK, 24 / (5 * 10)),
    "shortcut_share": (BLOCK, 3 / 9),
    "branch_share": (BLOCK, 6 / 9),
    "output_norm": ("network", 5),
    "gradient_norm": ("network", math.sqrt(5**2 + 6**2 + 0 + 2**2 + 4**2)),
    "weight_grad_first_last": ("network", 5 / 2),
    "forward_growth": ("network", 173 / 25),
    "forward_growth_low": ("network", jackknife(173 / 25, 100 / 16, 73 / 9, -1)),
    "forward_growth_high": ("network", jackknife(173 / 25, 100 / 16, 73 / 9, +1)),
    "backward_growth": ("network", 676 / 25),
    "backward_growth_low": ("network", jackknife(676 / 25, 576 / 16, 100 / 9, -1)),
    "backward_growth_high": ("network", jackknife(676 / 25, 576 / 16, 100 / 9, +1)),
    "loss": ("network", 1 / 4),
    "parameters": ("network", 4 * 2 * 2),
    "multiply_adds": ("network", 4 * 2 * 2),
}


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_quantity_is_what_it_is_by_hand(quantity: str):
    site, expected = BY_HAND[quantity]

    assert value(PENCIL, quantity, site) == pytest.approx(expected, rel=1e-14)


def test_every_quantity_is_worked_out_by_hand_and_recomputed():
    assert set(BY_HAND) == set(QUANTITIES)
    assert set(RECOMPUTED) | set(COUNTED) == set(QUANTITIES)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_quantity_says_what_it_is(quantity: str):
    told = QUANTITIES[quantity]

    assert told.about.endswith(".")
    assert all((told.symbol, told.unit, told.source))
    assert quantity.isidentifier()


# -------------------------------------------------------------------------------------------------------- recomputed


class Seen:
    """Everything that a network pushed, by site and role."""

    def __init__(self) -> None:
        self.sites: tuple[Site, ...] = ()
        self.arrays: dict[tuple[str, str], Array] = {}

    def __call__(self, site: str, /, **roles: Array) -> None:
        for role, pushed in roles.items():
            assert (site, role) not in self.arrays
            self.arrays[site, role] = pushed.astype(np.float64)

    def get(self, site: str, role: str) -> Array | None:
        return self.arrays.get((site, role))

    @property
    def last(self) -> str:
        return self.sites[-2].site  # the last of all is `network`

    def end(self, which: str) -> str | None:
        return next((site.site for site in self.sites if site.ends == which), None)


Recomputed = Array | None  # by seed, nan where undefined; None where the site has no such quantity


def norm(x: Array) -> Array:
    squares: Array = np.array([math.sqrt(math.fsum(float(entry) ** 2 for entry in each.ravel())) for each in x])
    return squares


def ratio(part: Array, whole: Array) -> Array:
    return np.array([p / w if w else math.nan for p, w in zip(part, whole, strict=True)])


def inner(x: Array, y: Array) -> Array:
    return np.array([math.fsum((a * b).ravel()) for a, b in zip(x, y, strict=True)])


def at_site(role: str, formula: Callable[[Array], Array]) -> Callable[[Seen, Site], Recomputed]:
    def recompute(seen: Seen, site: Site) -> Recomputed:
        found = seen.get(site.site, role)
        return None if found is None else formula(found)

    return recompute


def rectified(formula: Callable[[Array], Array]) -> Callable[[Seen, Site], Recomputed]:
    def recompute(seen: Seen, site: Site) -> Recomputed:
        found = seen.get(site.site, "activation")
        return None if found is None or site.activation != "relu" else formula(found)

    return recompute


def of_two(a: str, b: str, formula: Callable[[Array, Array], Array]) -> Callable[[Seen, Site], Recomputed]:
    def recompute(seen: Seen, site: Site) -> Recomputed:
        first, second = seen.get(site.site, a), seen.get(site.site, b)
        return None if first is None or second is None else formula(first, second)

    return recompute


def relative_to(end: str, role: str) -> Callable[[Seen, Site], Recomputed]:
    def recompute(seen: Seen, site: Site) -> Recomputed:
        found, whole = seen.get(site.site, role), seen.get("input" if end == "input" else seen.last, role)
        return None if found is None or whole is None else ratio(norm(found), norm(whole))

    return recompute


def dead_units(activation: Array) -> list[int]:
    return [sum(not (each[:, unit] > 0).any() for unit in range(each.shape[1])) for each in activation]


def dead_bound(end: int) -> Callable[[Array], Array]:
    def bound(activation: Array) -> Array:
        units = activation.shape[-1]
        intervals = [stats.binomtest(k, units).proportion_ci(method="wilson") for k in dead_units(activation)]
        return np.array([interval[end] for interval in intervals])

    return bound


def whole(formula: Callable[[Seen], Recomputed]) -> Callable[[Seen, Site], Recomputed]:
    return lambda seen, site: formula(seen) if site.kind == "network" else None


def growth(role: str, start: str, stop: str) -> Callable[[Seen], Recomputed]:
    def recompute(seen: Seen) -> Recomputed:
        first, last = seen.end(start), seen.end(stop)
        if first is None or last is None:
            return None
        blocks = sum(site.block > 0 for site in seen.sites)
        return ratio(norm(seen.arrays[last, role]), norm(seen.arrays[first, role])) ** (2 / blocks)

    return recompute


def growth_bound(role: str, start: str, stop: str, sign: int) -> Callable[[Seen], Recomputed]:
    """The jackknife as it is defined: the estimate again and again, each time without one sample."""

    def recompute(seen: Seen) -> Recomputed:
        first, last = seen.end(start), seen.end(stop)
        centre = growth(role, start, stop)(seen)
        if first is None or last is None or centre is None:
            return None
        a, c = seen.arrays[last, role], seen.arrays[first, role]
        b, blocks = a.shape[1], sum(site.block > 0 for site in seen.sites)
        if b == 1:
            return None
        left_out = [2 * np.log(norm(np.delete(a, i, 1)) / norm(np.delete(c, i, 1))) for i in range(b)]
        error = np.sqrt((b - 1) * np.var(left_out, axis=0))
        interval: Array = np.exp(np.log(centre) + sign * stats.t.ppf(0.975, b - 1) * error / blocks)
        return np.where(np.isfinite(error), interval, np.nan)

    return recompute


def gradient_norm(seen: Seen) -> Recomputed:
    roles = ("weight_grad", "bias_grad", "gamma_grad", "beta_grad", "gain_grad")
    norms = [norm(found) for (_, role), found in seen.arrays.items() if role in roles]
    return np.linalg.norm(norms, axis=0)


def first_last(seen: Seen) -> Recomputed:
    found = {site: norm(each) for (site, role), each in seen.arrays.items() if role == "weight_grad"}
    return ratio(found["stem"], found["head"])


RECOMPUTED: Mapping[str, Callable[[Seen, Site], Recomputed]] = {
    "activation_rms": at_site("activation", lambda a: np.sqrt((a * a).mean(axis=(1, 2)))),
    "activation_mean": at_site("activation", lambda a: a.mean(axis=(1, 2))),
    "activation_variance": at_site("activation", lambda a: a.var(axis=(1, 2))),
    "forward_gain": relative_to("input", "activation"),
    "activation_grad_norm": at_site("activation_grad", norm),
    "backward_gain": relative_to("output", "activation_grad"),
    "preactivation_grad_norm": at_site("preactivation_grad", norm),
    "weight_norm": at_site("weight", norm),
    "weight_grad_norm": at_site("weight_grad", norm),
    "grad_weight_ratio": of_two("weight_grad", "weight", lambda g, w: ratio(norm(g), norm(w))),
    "inactive": rectified(lambda a: (a == 0).mean(axis=(1, 2))),
    "dead": rectified(lambda a: np.array(dead_units(a)) / a.shape[-1]),
    "dead_low": rectified(dead_bound(0)),
    "dead_high": rectified(dead_bound(1)),
    "samples": rectified(lambda a: np.full(len(a), a.shape[1])),
    "activation_nonfinite": at_site("activation", lambda a: (~np.isfinite(a)).sum(axis=(1, 2))),
    "activation_grad_nonfinite": at_site("activation_grad", lambda g: (~np.isfinite(g)).sum(axis=(1, 2))),
    "branch_ratio": of_two("branch", "shortcut", lambda f, x: ratio(norm(f), norm(x))),
    "branch_cosine": of_two("shortcut", "branch", lambda x, f: ratio(inner(x, f), norm(x) * norm(f))),
    "shortcut_share": of_two("shortcut_grad", "branch_grad", lambda s, f: ratio(inner(s, s + f), inner(s + f, s + f))),
    "branch_share": of_two("shortcut_grad", "branch_grad", lambda s, f: ratio(inner(f, s + f), inner(s + f, s + f))),
    "output_norm": whole(lambda seen: norm(seen.arrays[seen.last, "activation"])),
    "gradient_norm": whole(gradient_norm),
    "weight_grad_first_last": whole(first_last),
    "forward_growth": whole(growth("activation", "entry", "exit")),
    "forward_growth_low": whole(growth_bound("activation", "entry", "exit", -1)),
    "forward_growth_high": whole(growth_bound("activation", "entry", "exit", +1)),
    "backward_growth": whole(growth("activation_grad", "exit", "entry")),
    "backward_growth_low": whole(growth_bound("activation_grad", "exit", "entry", -1)),
    "backward_growth_high": whole(growth_bound("activation_grad", "exit", "entry", +1)),
}
COUNTED = ("loss", "parameters", "multiply_adds")

NETWORKS: Mapping[str, Spec] = {
    "the notebook's": Spec.dense(width=6, blocks=3, features=4, output="relu"),
    "plain": Spec.dense(width=6, blocks=3, layers=1, features=4, shortcut="none", branch_gain=0.5),
    "the paper's": Spec.dense(width=6, blocks=2, features=4, outputs=3, order="after-add", bias=True, init="torch"),
    "pre-activation": Spec.dense(width=6, blocks=2, layers=3, features=4, order="pre-activation", norm="layer"),
    "batch norm, bounded": Spec.dense(width=6, blocks=2, features=4, norm="batch", branch_gain="1/sqrt(L)"),
    "tanh": Spec.dense(width=6, blocks=2, features=4, activation="tanh", shortcut_gain=0.5),
    "silent branches": Spec.dense(width=6, blocks=2, features=4, branch_gain="zero"),
    "without blocks": Spec.dense(width=6, blocks=0, features=4),
    "of width 1": Spec.dense(width=1, blocks=2, features=1),
    "single precision": Spec.dense(width=6, blocks=3, features=4, dtype="float32"),
}
SEEDS = (0, 1, 2)


def measured_and_seen(spec: Spec, batch: int, rng: np.random.Generator) -> tuple[Readings, Seen]:
    network = build(spec, seed=SEEDS)
    x = rng.standard_normal((len(SEEDS), batch, spec.stem.features))
    loss = Cotangent(rng.standard_normal((len(SEEDS), batch, spec.head.features)))
    seen = Seen()
    seen.sites = network.sites
    network.run(x, loss, seen)
    return probe(network, x, loss=loss), seen


@pytest.mark.parametrize("batch", [5, 1])
@pytest.mark.parametrize("name", NETWORKS)
def test_readings_are_those_of_the_arrays(name: str, batch: int, rng: np.random.Generator):
    spec = NETWORKS[name]
    if batch == 1 and "batch" in name:
        batch = 2  # the fewest that batch normalisation takes
    readings, seen = measured_and_seen(spec, batch, rng)

    expected = {
        (site.site, quantity, seed): each
        for quantity, recompute in RECOMPUTED.items()
        for site in seen.sites
        if (found := recompute(seen, site)) is not None
        for seed, each in zip(SEEDS, found, strict=True)
        if not math.isnan(each)
    }
    rows = readings.rows.filter(~pl.col("quantity").is_in(COUNTED))
    measured = dict(zip(rows.select("site", "quantity", "seed").iter_rows(), rows["value"], strict=True))
    assert measured.keys() == expected.keys()
    for key, each in expected.items():
        # Sums of some tens of float64 numbers: rounding in the last few digits. Variances, cosines and shares are
        # differences of numbers of order 1 here (activations are), whose absolute error that is.
        assert measured[key] == pytest.approx(each, rel=1e-11, abs=1e-13), key


def test_counted_quantities_are_those_of_spec_and_loss():
    spec = NETWORKS["the paper's"]
    network = build(spec, seed=SEEDS)
    x = np.linspace(-1, 1, 20).reshape(5, 4)
    targets = np.ones((5, 3))
    readings = probe(network, (x, targets), loss=MeanSquaredError())

    output = network.run(x).output
    assert values(readings, "loss") == pytest.approx([((each - 1) ** 2).mean() for each in output], rel=1e-14)
    weights, biases = 4 * 6 + 4 * 6 * 6 + 6 * 3, 5 * 6 + 3
    assert values(readings, "parameters") == [weights + biases] * 3
    assert values(readings, "multiply_adds") == [weights] * 3


# --------------------------------------------------------------------------------------------------- undefined: no row


def replaced(pushes: Pushes, site: str, **roles: Array) -> Pushes:
    """The pushes with some arrays exchanged."""
    assert any(where == site and roles.keys() & pushed.keys() for where, pushed in pushes)
    return [
        (where, {role: roles.get(role, old) if where == site else old for role, old in pushed.items()})
        for where, pushed in pushes
    ]


ZERO = array([0, 0], [0, 0])


@pytest.mark.parametrize(
    ("site", "roles", "undefined"),
    [
        ("input", {"activation": ZERO}, [("forward_gain", "stem")]),
        ("head", {"activation_grad": ZERO}, [("backward_gain", "stem")]),
        ("stem", {"weight": ZERO}, [("grad_weight_ratio", "stem")]),
        ("head", {"weight_grad": ZERO}, [("weight_grad_first_last", "network")]),
        (BLOCK, {"shortcut": ZERO}, [("branch_ratio", BLOCK), ("branch_cosine", BLOCK)]),
        (BLOCK, {"branch": ZERO}, [("branch_cosine", BLOCK)]),
        (BLOCK, {"shortcut_grad": ZERO, "branch_grad": ZERO}, [("shortcut_share", BLOCK), ("branch_share", BLOCK)]),
        ("stem", {"activation": ZERO}, [(f"forward_growth{end}", "network") for end in ("", "_low", "_high")]),
        (BLOCK, {"activation_grad": ZERO}, [(f"backward_growth{end}", "network") for end in ("", "_low", "_high")]),
        # A sample that holds everything leaves nothing to the jackknife when it is left out.
        (
            "stem",
            {"activation": array([5, 0], [0, 0])},
            [(f"forward_growth{end}", "network") for end in ("_low", "_high")],
        ),
    ],
)
def test_relative_to_nothing_there_is_no_reading(site: str, roles: dict[str, Array], undefined: list[tuple[str, str]]):
    readings = readings_of(replaced(PENCIL, site, **roles))

    for quantity, where in undefined:
        assert values(readings, quantity, where) == []
    others = {*readings_of(PENCIL).rows.select("quantity", "site").iter_rows()} - {*undefined}
    still = {*readings.rows.select("quantity", "site").iter_rows()}
    # A quantity at other sites may go with it (gains), another quantity may not.
    assert {quantity for quantity, _ in others - still} <= {quantity for quantity, _ in undefined}


@pytest.mark.parametrize(
    ("site", "role", "quantity", "where"),
    [
        (BLOCK, "branch", "branch_ratio", BLOCK),
        (BLOCK, "activation", "forward_growth", "network"),
        ("stem", "activation_grad", "backward_growth", "network"),
        ("stem", "weight_grad", "weight_grad_first_last", "network"),
        ("stem", "activation", "forward_gain", "stem"),
    ],
)
def test_nothing_relative_to_something_is_zero(site: str, role: str, quantity: str, where: str):
    assert value(replaced(PENCIL, site, **{role: ZERO}), quantity, where) == 0.0


def test_one_dead_network_takes_no_reading_from_another():
    two = [(site, {role: np.concatenate([each, each]) for role, each in roles.items()}) for site, roles in PENCIL]
    for site, roles in two:
        if site == "stem" and "activation" in roles:
            roles["activation"][0] = 0.0
    readings = readings_of(two, "forward_growth", "forward_growth_low", "forward_gain", seeds=(7, 8))

    assert readings.rows.filter(quantity="forward_growth")["seed"].to_list() == [8]
    assert values(readings, "forward_growth") == pytest.approx([173 / 25])
    assert readings.rows.filter(quantity="forward_growth_low")["seed"].to_list() == [8]
    assert values(readings, "forward_gain", "stem") == pytest.approx([0, 5 / 3])


def test_without_blocks_there_is_no_growth_and_on_a_plain_network_no_share():
    bare = probe(build(NETWORKS["without blocks"], seed=0), 3)
    plain = probe(build(NETWORKS["plain"], seed=0), 3)

    assert not any("growth" in name for name in bare.rows["quantity"].unique())
    assert not {"branch_ratio", "branch_cosine", "shortcut_share", "branch_share"} & set(plain.rows["quantity"])
    assert {"forward_growth", "backward_growth_high"} <= set(plain.rows["quantity"])


def test_a_probe_with_a_cotangent_has_no_loss():
    assert "loss" not in set(probe(build(NETWORKS["plain"], seed=0), 3).rows["quantity"])


# --------------------------------------------------------------------------------------------- at the ends of the range


def scaled(pushes: Pushes, site: str, role: str, factor: float) -> Pushes:
    (old,) = (roles[role] for where, roles in pushes if where == site and role in roles)
    return replaced(pushes, site, **{role: old * factor})


@pytest.mark.parametrize("factor", [1e200, 1e-200, 1e150, 1e-150, 2.0**-540, 2.0**520])
def test_what_is_representable_is_measured(factor: float):
    everything = [(site, {role: each * factor for role, each in roles.items()}) for site, roles in PENCIL]
    readings = readings_of(everything)

    # Norms, rms and means are in the unit of the arrays; the variance in its square; the rest are ratios and counts.
    linear = {"activation_rms", "activation_mean", "activation_grad_norm", "preactivation_grad_norm", "weight_norm"}
    linear |= {"weight_grad_norm", "output_norm", "gradient_norm"}
    with np.errstate(over="ignore", under="ignore"):
        square = float(np.float64(factor) ** 2)
    for quantity, (site, expected) in BY_HAND.items():
        unit = factor if quantity in linear else square if quantity == "activation_variance" else 1.0
        assert values(readings, quantity, site) == [pytest.approx(expected * unit, rel=1e-13)], quantity


@pytest.mark.parametrize(("skip", "branch"), [(1e200, 1e-100), (1e-200, 1e100), (1e-300, 1.0), (1e150, 1e150)])
def test_the_two_terms_may_be_of_any_scale(skip: float, branch: float):
    pushes = scaled(scaled(PENCIL, BLOCK, "shortcut", skip), BLOCK, "branch", branch)

    assert value(pushes, "branch_cosine", BLOCK) == pytest.approx(0.48, rel=1e-13)
    assert value(pushes, "branch_ratio", BLOCK) == pytest.approx(2 * (branch / skip), rel=1e-13)


@pytest.mark.parametrize("factor", [1e-250, 1e-300, 1e250])
def test_the_gradient_norm_is_not_lost_beside_a_zero(factor: float):
    gradients = [
        (site, {role: each * factor if role.endswith("_grad") else each for role, each in roles.items()})
        for site, roles in PENCIL
    ]

    assert value(gradients, "gradient_norm") == pytest.approx(9 * factor, rel=1e-12)  # layer2's gradient is 0


def test_pieces_of_very_different_scales_add_up():
    """One piece whose terms are huge and orthogonal, one piece of order 1: only the latter has an inner product."""
    huge, small = array([1e200, 0]), array([1, 1])
    pushes: Pushes = [
        (BLOCK, {"shortcut": huge, "branch": array([0, 1])}),
        (BLOCK, {"shortcut": small, "branch": small}),
        (BLOCK, {"shortcut_grad": array([0, 1]), "branch_grad": huge, "total_grad": huge}),
        (BLOCK, {"shortcut_grad": small, "branch_grad": array([0, 0]), "total_grad": small}),
    ]

    cosine = 2 / (1e200 * math.sqrt(3))
    assert value(pushes, "branch_cosine", BLOCK) == pytest.approx(cosine, rel=1e-13)
    assert value(pushes, "shortcut_share", BLOCK) == pytest.approx(0.0, abs=1e-300)
    assert value(pushes, "branch_share", BLOCK) == pytest.approx(1.0, rel=1e-13)


def test_single_precision_is_summed_in_double():
    large = array([3e30, 0], [0, 4e30]).astype(np.float32)  # whose squares are beyond single precision

    assert value(replaced(PENCIL, "stem", activation=large), "activation_rms", "stem") == pytest.approx(
        2.5e30, rel=1e-7
    )
    assert value(replaced(PENCIL, "stem", weight=large), "weight_norm", "stem") == pytest.approx(5e30, rel=1e-7)


@pytest.mark.parametrize("size", [1e-160, 1.0, 1e160])
def test_a_cosine_stays_within_its_range(size: float, rng: np.random.Generator):
    x = rng.standard_normal((1, 7, 3))
    for sign in (1, -1):
        pushes: Pushes = [(BLOCK, {"shortcut": x * size, "branch": sign * x})]
        cosine = value(pushes, "branch_cosine", BLOCK)

        assert abs(cosine) <= 1
        assert cosine == pytest.approx(sign, rel=1e-14)


# ------------------------------------------------------------------------------------------------- overflow: a reading


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_a_reading(bad: float):
    pushes = replaced(PENCIL, "stem", activation=array([3, bad], [0, 4]), activation_grad=array([bad, bad], [0, 0]))
    readings = readings_of(replaced(pushes, "stem", weight_grad=array([bad, 0], [0, 0])))

    expected = [pytest.approx(abs(bad), nan_ok=True)]
    for quantity in ("activation_rms", "forward_gain", "activation_grad_norm", "backward_gain", "weight_grad_norm"):
        assert values(readings, quantity, "stem") == expected, quantity
    for quantity in ("gradient_norm", "weight_grad_first_last", "backward_growth"):
        assert values(readings, quantity) == expected, quantity
    assert values(readings, "grad_weight_ratio", "stem") == expected
    assert values(readings, "activation_mean", "stem") == [pytest.approx(bad, nan_ok=True)]
    assert values(readings, "activation_nonfinite", "stem") == [1]
    assert values(readings, "activation_grad_nonfinite", "stem") == [2]
    assert values(readings, "activation_nonfinite", BLOCK) == [0]


def test_overflow_at_both_ends_is_nan_and_not_undefined():
    pushes = replaced(replaced(PENCIL, "stem", activation=ZERO + np.inf), BLOCK, activation=ZERO + np.inf)
    (growth_of_inf,) = values(readings_of(pushes, "forward_growth"), "forward_growth")

    assert math.isnan(growth_of_inf)


def test_terms_of_a_junction_that_overflow_are_readings():
    pushes = replaced(PENCIL, BLOCK, branch=array([np.inf, 1], [1, 1]), branch_grad=ZERO + np.nan)
    readings = readings_of(pushes)

    assert values(readings, "branch_ratio", BLOCK) == [math.inf]
    assert math.isnan(values(readings, "branch_cosine", BLOCK)[0])
    assert math.isnan(values(readings, "branch_share", BLOCK)[0])
    assert math.isnan(values(readings, "shortcut_share", BLOCK)[0])


def test_nan_is_neither_active_nor_dead():
    readings = readings_of(replaced(PENCIL, "stem", activation=array([3, np.nan], [0, 4])))
    infinite = readings_of(replaced(PENCIL, "stem", activation=array([3, np.inf], [0, 4])))

    for quantity in ("inactive", "dead", "dead_low", "dead_high", "samples"):
        assert values(readings, quantity, "stem") == []
        assert len(values(readings, quantity, "head")) == 1
    assert values(infinite, "inactive", "stem") == [1 / 4]
    assert values(infinite, "dead", "stem") == [0]


def test_without_a_finite_norm_growth_has_no_interval():
    readings = readings_of(replaced(PENCIL, BLOCK, activation=array([np.inf, 0], [0, 1])))

    assert values(readings, "forward_growth") == [math.inf]
    assert values(readings, "forward_growth_low") == values(readings, "forward_growth_high") == []


# ---------------------------------------------------------------------------------------------------- single formulas


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=4), st.lists(st.floats(-5, 5), min_size=4, max_size=4))
def test_shares_sum_to_one(skip: list[float], branch: list[float]):
    s, f = np.array(skip).reshape(1, 2, 2), np.array(branch).reshape(1, 2, 2)
    readings = readings_of([(BLOCK, {"shortcut_grad": s, "branch_grad": f, "total_grad": s + f})])
    shares = [values(readings, f"{part}_share", BLOCK) for part in ("shortcut", "branch")]

    if np.abs(s + f).max() < 1e-150:  # whose total is 0 (no share), or whose parts may be far below the range
        return
    ((a,), (b,)) = shares
    # Each part, the inner products and the total are rounded once an entry: a few units of 2^-53 of the parts.
    assert a + b == pytest.approx(1.0, abs=2.0**-53 * 20 * (1 + abs(a) + abs(b)))


def test_a_share_may_be_negative_and_above_one():
    gradients = {"shortcut_grad": array([3, 0]), "branch_grad": array([-2, 0]), "total_grad": array([1, 0])}
    readings = readings_of([(BLOCK, gradients)])

    assert values(readings, "shortcut_share", BLOCK) == [3]
    assert values(readings, "branch_share", BLOCK) == [-2]


@pytest.mark.parametrize("name", ["the notebook's", "the paper's", "pre-activation", "single precision"])
def test_shares_of_a_network_sum_to_one(name: str):
    readings = probe(build(NETWORKS[name], seed=range(5)), 4, sites="stage1.block*")
    shares = readings.rows.filter(pl.col("quantity").str.ends_with("_share"))
    sums = shares.group_by("seed", "site").agg(pl.col("value").sum())["value"].to_numpy()

    blocks = len(NETWORKS[name].body)
    rounding = 2.0**-53 if NETWORKS[name].dtype == "float64" else 2.0**-24
    assert len(sums) == 5 * blocks
    np.testing.assert_allclose(sums, 1, rtol=0, atol=100 * rounding)


@pytest.mark.parametrize(
    ("dead", "low", "high"),
    # Wilson's interval at 95 %, to four digits as tables have it: 0, 1, 5 and 10 of 10.
    [(0, 0.0, 0.2775), (1, 0.0179, 0.4042), (5, 0.2366, 0.7634), (10, 0.7225, 1.0)],
)
def test_the_interval_of_dead_units_is_wilsons(dead: int, low: float, high: float):
    activation = np.where(np.arange(10) < dead, 0.0, 1.0) * np.ones((1, 3, 10))
    readings = readings_of([("stem", {"activation": activation})], "dead", "dead_low", "dead_high", "samples")

    assert values(readings, "dead", "stem") == [dead / 10]
    assert values(readings, "dead_low", "stem") == [pytest.approx(low, abs=5e-5)]
    assert values(readings, "dead_high", "stem") == [pytest.approx(high, abs=5e-5)]
    assert values(readings, "samples", "stem") == [3]


def test_a_unit_that_is_positive_once_is_alive():
    activation = np.zeros((1, 100, 2))
    activation[0, 57, 1] = 1e-300

    pushes: Pushes = [("stem", {"activation": activation})]
    assert value(pushes, "dead", "stem") == 1 / 2
    assert value(pushes, "inactive", "stem") == pytest.approx(199 / 200, rel=1e-15)


@pytest.mark.parametrize("level", [3.0, 0.1, -1e-3, 1e150, 0.0])
def test_a_constant_layer_has_no_variance(level: float):
    pushes: Pushes = [("stem", {"activation": np.full((1, 7, 11), level)})]

    # sumsq/n - mean^2 of 77 terms: rounding of a few units of 2^-53, relative to the square.
    spread = value(pushes, "activation_variance", "stem")
    assert 0 <= math.sqrt(spread) <= abs(level) * math.sqrt(100 * 2.0**-53)
    assert value(pushes, "activation_mean", "stem") == pytest.approx(level, rel=1e-14)
    assert value(pushes, "activation_rms", "stem") == pytest.approx(abs(level), rel=1e-14)


def test_one_sample_of_one_unit():
    spec = Spec.dense(width=1, blocks=1, features=1, output="relu")
    pushes: Pushes = [
        ("input", {"activation": array([2])}),
        ("stem", {"activation": array([3])}),
        (BLOCK, {"shortcut": array([3]), "branch": array([6])}),
        (BLOCK, {"activation": array([9])}),
    ]
    network = Stub(spec, pushes)
    wanted = ["forward_gain", "dead", "inactive", "samples", "branch_cosine", "activation_variance"]
    wanted += ["forward_growth", "forward_growth_low", "forward_growth_high"]
    quantities = {name: QUANTITIES[name] for name in wanted}
    readings = probe(network, np.zeros((1, 1)), loss=Quarter(), quantities=quantities)

    assert values(readings, "forward_gain", "stem") == [1.5]
    assert values(readings, "dead", "stem") == values(readings, "inactive", "stem") == [0]
    assert values(readings, "samples", "stem") == [1]
    assert values(readings, "branch_cosine", BLOCK) == [1]
    assert values(readings, "activation_variance", "stem") == [0]
    assert values(readings, "forward_growth") == [9]
    assert values(readings, "forward_growth_low") == values(readings, "forward_growth_high") == []


# ------------------------------------------------------------------------------------------ the interval of the growth


def ends_of_body(entry: Array, exit: Array) -> Pushes:
    """A body whose samples have the sums of squares `entry` and `exit`, of shape (s, b)."""
    return [("stem", {"activation": entry[..., None] ** 0.5}), (BLOCK, {"activation": exit[..., None] ** 0.5})]


@pytest.mark.parametrize("samples", [4, 8, 32])
def test_the_growth_lies_in_its_interval_as_often_as_it_should(samples: int, rng: np.random.Generator):
    """2000 bodies whose samples grow by exp(0.3 z), z standard normal and the entry another: E exit / E entry = 1."""
    draws = 2000
    entry, exit = np.exp(0.3 * rng.standard_normal((2, draws, samples)) - 0.3**2 / 2)
    names = ("forward_growth_low", "forward_growth_high")
    readings = readings_of(ends_of_body(entry, exit), *names, seeds=range(draws))
    low, high = (np.array(values(readings, name)) for name in names)

    # 95 %, within 4 binomial standard errors (0.5 % each). With the normal quantile in place of Student's t it would
    # be 86 % of 4 samples and 91 % of 8; with a standard error that is 10 % too small, 92.4 % of 32.
    assert ((low <= 1) & (high >= 1)).mean() == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / draws))
    assert (low > 1).mean() == pytest.approx((high < 1).mean(), abs=4 * math.sqrt(0.05 / draws))


def test_the_interval_holds_where_one_sample_is_nearly_everything():
    entry = np.array([[1e17, 2.0, 3.0]])
    exit = np.array([[1e17, 5.0, 4.0]])
    low = value(ends_of_body(entry, exit), "forward_growth_low")

    # Left out in turn: 9/5, then (1e17 + 4)/(1e17 + 3) and (1e17 + 5)/(1e17 + 2), both 1 to rounding. Whole less
    # sample would make 16 or 0 of the 9.
    logs = np.array([math.log(9 / 5), 0.0, 0.0])
    error = math.sqrt(2 / 3 * ((logs - logs.mean()) ** 2).sum())
    assert low == pytest.approx(math.exp(-stats.t.ppf(0.975, 2) * error), rel=1e-12)


def test_equal_growth_of_all_samples_leaves_no_doubt():
    entry = np.array([[1.0, 2.0, 5.0]])
    readings = readings_of(ends_of_body(entry, 3 * entry), "forward_growth_low", "forward_growth_high")

    for name in ("forward_growth_low", "forward_growth_high"):
        assert values(readings, name) == [pytest.approx(3, rel=1e-12)]
