"""The one observer: run a network once forward and once backward, and give back what was measured as `Readings`.

The recorder reduces every array to moments the moment it is pushed, and keeps none. The formulas follow afterwards, on
sums that are a few numbers a site. What is summed where is planned beforehand from the quantities asked for, so that
a probe of one quantity pays for one quantity. Imports nothing that summarises or draws.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import gc
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from skipscope import draws, readings
from skipscope.draws import CotangentKind
from skipscope.engines.spread import one_thread
from skipscope.errors import InputError, as_list, choose, quoted, require_function, require_int
from skipscope.losses import Cotangent, cotangent
from skipscope.moments import Dot, Field, Moments, dot, moments
from skipscope.protocol import ROLES, Loss, Network, Run, Site
from skipscope.quantities import QUANTITIES, UPDATE, Profile, Quantity, View
from skipscope.readings import Readings
from skipscope.spec import Spec

__all__ = [
    "Measured",
    "Plan",
    "Recording",
    "called",
    "cell_of",
    "digest_of",
    "matches",
    "measure",
    "probe",
    "require_quantities",
    "uncollected",
]

Values = NDArray[np.float64]


def probe(
    network: Any,
    batch: Any = 64,
    *,
    loss: Loss | Callable[[Any, Any], Any] | None = None,
    cotangent: CotangentKind = "gaussian",
    seed: int | None = None,
    quantities: Mapping[str, Quantity] = QUANTITIES,
    sites: str | Iterable[str] | None = None,
    factors: Mapping[str, Any] | None = None,
) -> Readings:
    """Measure a network, layer by layer, in one forward and one backward pass.

    Args:
        network: what to measure, e.g. from `skipscope.build`; an ensemble is measured network by network. Or a model
            of one's own, a `torch.nn.Module` (see `skipscope.torch.scope` for how a batch is handed to it): it is given
            back as it was, `.grad` included.
        batch: how many Gaussian samples to draw (every network draws its own, from its seed), or the inputs, of shape
            (b, n) or (s, b, n), images (b, c, h, w) or (s, b, c, h, w), or a tuple of inputs and targets for the loss.
            Of a module always what it is to see.
        loss: whose gradient is sent back, e.g. `skipscope.losses.CrossEntropy()`; without one, `cotangent` is. Of a
            module any `loss(output, batch)` that gives a scalar; without one its own, `output.loss`, if it has that.
        cotangent: the output gradient of a probe without a loss: `"gaussian"` or, as in the notebook, `"ones"`.
        seed: draws the Gaussian samples and cotangent in place of the networks' own seeds: then all see the same.
        quantities: what to measure, e.g. `QUANTITIES | {"mine": Quantity(...)}`.
        sites: shell patterns of the sites to report, e.g. `"stage1.block*"`; None is all, and of a module its blocks,
            both ends and all parameters (`"*"` is every part of it).
        factors: columns for the table of cells, e.g. `{"design": "plain"}`.

    Returns:
        Readings of one cell, a row for every seed, site and quantity that is defined.

    Raises:
        InputError: the batch, the loss or a pattern does not fit the network, or a factor is neither text nor number.
    """
    require_quantities(quantities)
    if _is_module(network):
        from skipscope.torch import scope, steps  # torch is there, else there were no such model

        for name, quantity in quantities.items():
            _require_quantity(name, quantity)
        if loss is not None:
            steps.require_loss(loss)
        elif cotangent != "gaussian":
            raise InputError(
                f"cotangent={quoted(cotangent)} is for networks of skipscope.build; of a module leave it out, or give "
                "loss=lambda output, batch: output.sum(), which sends back ones."
            )
        told = _factors(factors or {})
        return scope.measure(network, batch, loss, seed, quantities=quantities, sites=sites, factors=told).readings()
    if not callable(getattr(network, "run", None)):
        raise InputError(
            "network must be a network, e.g. of skipscope.build(spec, seed=0), or a torch.nn.Module; got "
            f"{quoted(network)}."
        )
    if loss is not None:
        require_function("loss", loss, ("output", "batch"), "skipscope.losses.CrossEntropy()")
    for name, quantity in quantities.items():
        _require_quantity(name, quantity)
    given, data = _batch(network, batch, seed)
    with one_thread(), uncollected():
        sent: Any = loss if loss is not None else _cotangent(network, given, cotangent, seed)
        sent_back = _seeded(cotangent, seed) if loss is None else _name(loss)
        given_too = {} if factors is None else _factors(factors)
        told = {"data": data, "cotangent": sent_back, **given_too}
        measured = measure(network, given, sent, quantities=quantities, sites=sites, factors=told)
    return measured.readings()


def _is_module(network: object) -> bool:
    """Whether it is a model of PyTorch, which is not imported to find out."""
    module = getattr(getattr(sys.modules.get("torch"), "nn", None), "Module", None)
    return module is not None and isinstance(network, module)


@contextmanager
def uncollected() -> Iterator[None]:
    """Python's collector of cyclic garbage waits: a network is thousands of objects and makes no cycle.

    Else every collection walks them all again, which makes a layer of a deep network dearer than one of a shallow one.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass(frozen=True)
class Measured:
    """What one probe measured, before it is a table: cheap to make, to send and to join over chunks of seeds.

    Attributes:
        cell: the row of the table of cells.
        sites: the sites that are reported.
        seeds: the seeds along the axis of every value.
        values: (site, quantity), or (site, quantity, call) of a site that is run again, -> values of shape (s,), masked
            where undefined.
        step: of training, where the network was measured after so many.
        statuses: of sites of which it is not said by whether they have a value.
        notes: what else there is to say, for `Readings.meta`.
    """

    cell: Mapping[str, Any]
    sites: Sequence[Site]
    seeds: tuple[int, ...]
    values: Mapping[tuple[Any, ...], Any]
    step: int = 0
    statuses: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def readings(self) -> Readings:
        """The table."""
        return _readings([self])

    @property
    def size(self) -> int:
        """How many readings it is, at most."""
        return len(self.values) * len(self.seeds)

    @classmethod
    def tables(cls, parts: Iterable[Measured], *, most: int) -> Iterator[Readings]:
        """The readings, in tables of several cells; of at most so many rows, but where one part alone has more."""
        gathered: list[Measured] = []
        for part in parts:
            full = sum(each.size for each in gathered) + part.size > most
            known = any(each.cell["cell"] == part.cell["cell"] for each in gathered)
            if gathered and (full or known or not _alike(gathered[0], part)):
                yield _readings(gathered)
                gathered = []
            gathered.append(part)
        if gathered:
            yield _readings(gathered)

    @classmethod
    def concat(cls, parts: Sequence[Measured]) -> Measured:
        """The same cell over the seeds of all parts."""
        first = parts[0]
        values = {key: _joined([part.values[key] for part in parts]) for key in first.values}
        seeds = tuple(seed for part in parts for seed in part.seeds)
        return dataclasses.replace(first, seeds=seeds, values=values)


def _alike(one: Measured, other: Measured) -> bool:
    """Whether the cells of both have the same columns."""
    mine, theirs = ([(name, type(value)) for name, value in each.cell.items()] for each in (one, other))
    return mine == theirs


def _joined(values: Sequence[Any]) -> Any:
    """Values over the seeds of all parts, masked where they are."""
    masks = [np.ma.getmaskarray(each) for each in values]
    return np.ma.array(np.concatenate([np.ma.getdata(each) for each in values]), mask=np.concatenate(masks))


def measure(
    network: Network,
    batch: Any,
    loss: Loss,
    *,
    quantities: Mapping[str, Quantity],
    sites: str | Iterable[str] | None,
    factors: Mapping[str, Any],
) -> Measured:
    """`probe` on a batch and a loss that are at hand; the caller sees to `one_thread`."""
    recording = Recording(network, Plan(network.sites, quantities=quantities, patterns=sites))
    run = network.run(batch, loss, recording.observe)
    return recording.measured(run, batch, loss, factors=factors)


class Recording:
    """A probe of one network while somebody else runs it, as it is run along with others in a sweep.

    Attributes:
        observe: the observer to run the network with.
    """

    def __init__(self, network: Network, plan: Plan) -> None:
        self._network = network
        self.observe = _Recorder(plan)

    def measured(
        self, run: Run, batch: Any, loss: Loss, *, factors: Mapping[str, Any], facts: Mapping[str, Any] | None = None
    ) -> Measured:
        """What the run gave; `facts` are known without it."""
        network = self._network
        known = _facts(network) | ({} if isinstance(loss, Cotangent) else {"loss": run.loss})
        facts = known | dict(facts or {})
        values = self.observe.values(facts, len(network.seeds))
        return Measured(
            _cell(network, batch, _factors(factors)), self.observe.plan.chosen, tuple(network.seeds), values
        )


def require_quantities(quantities: object) -> None:
    """Whether these are quantities by their names.

    Raises:
        InputError: they are not.
    """
    if not isinstance(quantities, Mapping):
        raise InputError(
            "quantities must map names to Quantity, e.g. {'dead': QUANTITIES['dead']}; got "
            f"{type(quantities).__name__}."
        )
    for name, quantity in quantities.items():
        if not isinstance(quantity, Quantity):
            raise InputError(f"quantities[{name!r}] must be a Quantity; got {type(quantity).__name__}.")


def _require_quantity(name: str, quantity: Quantity) -> None:
    """Whether a quantity asks for what there is: a role or a sum misspelt would give no reading, and say nothing."""
    if any(role.endswith(UPDATE) for role in quantity.needs):
        raise InputError(
            f"quantities[{name!r}] is of an optimizer's step, and a probe makes none: listen to a step with "
            "skipscope.torch.Listening, and make it within `with scope.take().updating():`."
        )
    for role, fields in quantity.needs.items():
        choose(f"quantities[{name!r}]: a role of needs", role, ROLES)
        for field in fields:
            choose(f"quantities[{name!r}]: a sum of role {role!r}", field, get_args(Field))


# -------------------------------------------------------------------------------------------------- the recorder


class Plan:
    """What has to be summed where, so that some quantities follow at some sites; good for any number of runs.

    Attributes:
        sites: all sites of the network.
        chosen: those that are reported.
        quantities: what is measured.
        fields: site -> role -> what is summed.
        pairs: site -> pairs of roles whose inner product is summed.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        quantities: Mapping[str, Quantity],
        patterns: str | Iterable[str] | None,
        chosen: Sequence[Site] | None = None,
    ) -> None:
        self.sites = sites
        self.chosen = _chosen(sites, patterns) if chosen is None else chosen
        self.quantities = quantities
        self.last = [site for site in sites if site.kind != "network"][-1]
        self.fields: dict[str, dict[str, set[Field]]] = {site.site: {} for site in sites}
        self.pairs: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for quantity in quantities.values():
            for site in self._read(quantity):
                for role, fields in quantity.needs.items():
                    self.fields[site.site].setdefault(role, set()).update(fields)
                self.pairs[site.site].update(quantity.pairs)

    def _read(self, quantity: Quantity) -> list[Site]:
        """The sites whose moments a quantity is made of."""
        if quantity.scope == "network":
            asked = any(site.kind == "network" for site in self.chosen)
            return [site for site in self.sites if asked and quantity.where(site)]
        here = [site for site in self.chosen if quantity.where(site)]
        # Every formula may look at both ends of the network, as the gains do.
        return [*here, self.sites[0], self.last] if here else []


class _Recorder:
    """Reduces what is pushed to moments, as planned; afterwards computes the quantities."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.moments: dict[str, dict[str, Moments]] = defaultdict(dict)
        self.dots: dict[str, dict[tuple[str, str], Dot]] = defaultdict(dict)

    def wants(self, site: str) -> Collection[str]:
        """The roles of this site that a quantity needs."""
        return self.plan.fields[site].keys()

    def __call__(self, site: str, /, **roles: Any) -> None:
        fields = self.plan.fields[site]
        if not fields:
            return
        kept = self.moments[site]
        found = {role: moments(array, fields[role]) for role, array in roles.items() if role in fields}
        for role, new in found.items():
            kept[role] = kept[role] + new if role in kept else new
        for pair in self.plan.pairs[site]:
            a, b = pair
            if a in found and b in found:
                product = dot(roles[a], roles[b], found[a], found[b])
                dots = self.dots[site]
                dots[pair] = dots[pair] + product if pair in dots else product

    def values(self, facts: Mapping[str, Any], networks: int) -> dict[tuple[str, str], Any]:
        """(site, quantity) -> values of shape (s,), masked where undefined."""
        return _evaluated(self.plan, self.moments, self.dots, facts, networks)


def _evaluated(
    plan: Plan,
    moments: Mapping[str, Mapping[str, Moments]],
    dots: Mapping[str, Mapping[tuple[str, str], Dot]],
    facts: Mapping[str, Any],
    networks: int,
) -> dict[tuple[str, str], Any]:
    """What the formulas make of what was summed: (site, quantity) -> values of shape (s,), masked where undefined."""
    first, last = moments.get(plan.sites[0].site, {}), moments.get(plan.last.site, {})
    views = [
        View(site, moments.get(site.site, {}), dots.get(site.site, {}), first, last)
        for site in plan.sites
        if site.kind != "network"
    ]
    found: dict[tuple[str, str], Any] = {}
    reported = {site.site for site in plan.chosen}
    with np.errstate(all="ignore"):
        for name, quantity in plan.quantities.items():
            if quantity.scope == "network":
                if "network" in reported:
                    found["network", name] = quantity.formula(Profile(views, facts, networks))
                continue
            for view in views:
                here = view.site.site in reported and quantity.where(view.site)
                if here and all(_has(view, role, fields) for role, fields in quantity.needs.items()):
                    found[view.site.site, name] = quantity.formula(view)
    return found


def _has(view: View, role: str, fields: Collection[Field]) -> bool:
    """Whether a role was seen at a site, and all that is needed of it could be summed."""
    moments = view.roles.get(role)
    return moments is not None and all(getattr(moments, field) is not None for field in fields)


# ---------------------------------------------------------------------------------------------- what goes in


def _chosen(sites: Sequence[Site], patterns: str | Iterable[str] | None) -> list[Site]:
    if patterns is None:
        return list(sites)
    listed = as_list(patterns)
    if not listed:
        raise InputError("sites is empty: give at least one pattern, or leave it out for all sites.")
    for pattern in listed:
        if not isinstance(pattern, str) or not any(matches(site.site, pattern) for site in sites):
            raise InputError(
                f"sites={quoted(pattern)} matches none of the {len(sites)} sites, {sites[0].site!r} to "
                f"{sites[-1].site!r}."
            )
    return [site for site in sites if any(matches(site.site, pattern) for pattern in listed)]


def matches(site: str, pattern: str) -> bool:
    """Whether a pattern of the shell is of a site; its own name is, whatever brackets are in that."""
    return site == pattern or fnmatch.fnmatchcase(site, pattern)


def _batch(network: Network, batch: Any, seed: int | None) -> tuple[Any, str]:
    """The batch as arrays, and what the table of cells says about it."""
    if isinstance(batch, int | np.integer):
        samples = require_int("batch", batch, least=1)
        spec = _spec(network)
        if spec is None:
            raise InputError(
                f"batch={samples} asks for samples to be drawn, but this network has no spec that says how many "
                "features one has: give the samples as an array."
            )
        seeds = network.seeds if seed is None else draws.require_seeds(seed)
        drawn = draws.normals(seeds, "input", (samples, *spec.input_shape))
        return drawn, _seeded("gaussian", seed)
    try:
        parts = [np.asarray(part) for part in (batch if isinstance(batch, tuple) else (batch,))]
    except ValueError:
        raise InputError("batch must be an array of numbers; got a list whose rows differ in length.") from None
    if not parts:
        raise InputError("batch is an empty tuple: give the samples, or (samples, targets).")
    return batch, f"given, {digest_of(*parts)}"


def _cotangent(network: Network, batch: Any, kind: CotangentKind, seed: int | None) -> Loss:
    spec = _spec(network)
    if spec is None:
        raise InputError("loss is missing: this network has no spec that says of what shape a cotangent must be.")
    return cotangent(kind, seeds=network.seeds, batch=_samples(spec, batch), outputs=spec.head.features, seed=seed)


def _samples(spec: Spec | None, batch: Any) -> int:
    shape = np.shape(batch[0] if isinstance(batch, tuple) else batch)
    axes = 2 if spec is None else 1 + len(spec.input_shape)  # of a sample and before
    return shape[-axes] if len(shape) >= axes else 0  # the engine says what is wrong with such a batch


def _spec(network: Network) -> Spec | None:
    """Not part of the protocol: somebody's own model has none."""
    spec: Spec | None = getattr(network, "spec", None)
    return spec


def digest_of(*arrays: NDArray[Any]) -> str:
    """A short name of what is in the arrays."""
    digest = hashlib.blake2b(digest_size=6)
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------- what comes out


def _facts(network: Network) -> dict[str, Any]:
    spec = _spec(network)
    return {} if spec is None else {"parameters": spec.parameters, "multiply_adds": spec.multiply_adds}


def _seeded(kind: str, seed: int | None) -> str:
    """What is drawn from the networks' own seeds, or from one `seed` for all."""
    return kind if seed is None or kind == "ones" else f"{kind}, seed {seed}"


def _name(loss: Any) -> str:
    """The loss with its parameters, where it has any."""
    if isinstance(loss, Cotangent):
        return f"given, {digest_of(np.asarray(loss.v))}"
    has_parameters = dataclasses.is_dataclass(loss) and bool(dataclasses.fields(loss))
    return f"loss {loss!r}" if has_parameters else called(loss)


def called(loss: Any) -> str:
    """A function of somebody's that is the loss, in words: by its name."""
    name: str = getattr(loss, "__name__", type(loss).__name__)
    return name if name == "loss" else f"loss {name}"


def _factors(given: Mapping[str, Any]) -> dict[str, Any]:
    """The factors as Python values, of the types that the table of cells has."""
    if not isinstance(given, Mapping):
        raise InputError(f"factors must map names to values, e.g. {{'design': 'plain'}}; got {quoted(given)}.")
    factors = {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}
    for name, value in factors.items():
        if name in readings.CELLS:
            wanted = "a whole number" if readings.CELLS[name] == pl.Int64 else "a text"
            fits = isinstance(value, str if wanted == "a text" else int) and not isinstance(value, bool)
        else:
            wanted = "a text, a number or a truth value"
            fits = isinstance(value, str | int | float)
        if not fits or (isinstance(value, int) and not -(2**63) <= value < 2**63):
            raise InputError(f"factors: {name!r} must be {wanted}; got {quoted(value)}.")
    return factors


def _cell(network: Network, batch: Any, factors: Mapping[str, Any]) -> dict[str, Any]:
    """The row of the table of cells: the spec, and everything else that makes these readings differ from others."""
    spec = _spec(network)
    row: dict[str, Any] = {
        "spec": "" if spec is None else spec.to_json(),
        "study": "probe",
        "design": "",
        "depth": 0 if spec is None else spec.depth,
        "width": 0 if spec is None else spec.width,
        "batch": _samples(spec, batch),
        "gain": "" if spec is None else _gain(spec),
        "norm": "" if spec is None or not spec.stages else spec.stages[0].norm,
        "edit": getattr(network, "edit", ""),
        "dtype": "" if spec is None else spec.dtype,
        **factors,
    }
    return _named(row)


def cell_of(known: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a model that has no spec, of what is known of it."""
    nothing = {name: None if dtype == pl.Int64 else "" for name, dtype in readings.CELLS.items() if name != "cell"}
    return _named({**nothing, "study": "probe", **known})


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """The row with a name for its cell, of what is in it."""
    text = json.dumps(row, sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=5).hexdigest()
    return {"cell": f"{row['design'] or 'network'}-{row['depth']}-{digest}", **row}


def _gain(spec: Spec) -> str:
    gains = sorted({f"{stage.gains.shortcut}, {stage.gains.branch}" for stage in spec.stages})
    return "; ".join(gains)


def _readings(parts: Sequence[Measured]) -> Readings:
    """One table of several cells: to make and check a table each would cost more than to measure some hundred seeds."""
    tables = [_rows(part) for part in parts]
    sites: list[tuple[Any, ...]] = []
    for part, rows in zip(parts, tables, strict=True):
        defined = set(rows["site"].unique())
        sites += [
            _site_row(
                str(part.cell["cell"]),
                site,
                part.statuses.get(site.site, "measured" if site.site in defined else "undefined"),
            )
            for site in part.sites
        ]
    cells = pl.DataFrame([dict(part.cell) for part in parts], schema_overrides=readings.CELLS)
    return Readings(
        rows=pl.concat(tables),
        cells=cells.select(*readings.CELLS, *_extra(parts[0].cell)),
        sites=pl.DataFrame(sites, schema=readings.SITES, orient="row"),
        meta=_versions() | dict(parts[0].notes),
    )


def _site_row(cell: str, site: Site, status: str) -> tuple[Any, ...]:
    """In the order of the columns `readings.SITES`."""
    place = (site.site, site.order, site.depth, site.kind, site.name, site.activation, site.block, site.tied_to)
    return (cell, *place, status)


def _extra(cell: Mapping[str, Any]) -> list[str]:
    return [name for name in cell if name not in readings.CELLS]


def _rows(measured: Measured) -> pl.DataFrame:
    """The readings as rows: the values of every (site, quantity), less those that are undefined."""
    seeds, values = np.asarray(measured.seeds, np.int64), measured.values
    keys = list(values)
    stacked: Values = np.empty((len(keys), len(seeds)))
    defined = np.ones(stacked.shape, bool)
    for index, key in enumerate(keys):
        if np.shape(values[key]) not in ((), (1,), (len(seeds),)):
            raise InputError(
                f"quantities[{key[1]!r}]: its formula must give one number a network, of shape ({len(seeds)},); got "
                f"{np.shape(values[key])}."
            )
        stacked[index] = np.ma.getdata(values[key])
        defined[index] = ~np.ma.getmaskarray(values[key])
    key_index, column = np.nonzero(defined)
    names = pl.DataFrame({"site": [key[0] for key in keys], "quantity": [key[1] for key in keys]})
    calls = np.array([key[2] if len(key) > 2 else 0 for key in keys], np.int64)
    named = names.cast(pl.String)[key_index] if keys else names.cast(pl.String)
    return pl.DataFrame(
        {
            "cell": pl.repeat(str(measured.cell["cell"]), len(key_index), eager=True, dtype=pl.String),
            "seed": seeds[column],
            "step": np.full(len(key_index), measured.step, np.int64),
            "site": named["site"],
            "call": calls[key_index],
            "quantity": named["quantity"],
            "value": stacked[key_index, column],
        },
        schema=readings.ROWS,
    )


@cache
def _versions() -> dict[str, str]:
    from importlib.metadata import version  # a tenth of the import time of NumPy and Polars

    return {name: version(name) for name in ("skipscope", "numpy", "polars")}
