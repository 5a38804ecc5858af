"""Several depths run together: what each pushes and gives is bit for bit what it pushes and gives alone."""

from typing import Any

import numpy as np
import pytest

from skipscope import Spec, draws, losses, probe
from skipscope.engines.nested import nested, run_nested
from skipscope.engines.numpy_engine import build, build_all
from skipscope.studies import ensemble

SEEDS = (3, 5, 8)


def dense(blocks: int, **fields: Any) -> Spec:
    return Spec.dense(**{"width": 7, "features": 4, "outputs": 3, "blocks": blocks, **fields})


class Kept:
    """An observer that keeps a copy of what it is shown, of some sites' roles or of all."""

    def __init__(self, wanted: dict[str, set[str]] | None = None) -> None:
        self.pushed: list[tuple[str, str, bytes, tuple[int, ...]]] = []
        if wanted is not None:
            self.wants = lambda site: wanted.get(site, ())

    def __call__(self, site: str, /, **roles: Any) -> None:
        for role, array in roles.items():
            self.pushed.append((site, role, array.tobytes(), array.shape))


VARIANTS: list[dict[str, Any]] = [
    {},
    {"shortcut": "none"},
    {"shortcut": "none", "layers": 1, "branch_gain": 0.5},
    {"order": "after-add", "norm": "batch"},
    {"order": "pre-activation", "norm": "layer", "bias": True},
    {"order": "pre-activation", "activation": "tanh", "layers": 3},
    {"branch_gain": "zero", "bias": True, "init": "torch"},
    {"shortcut_gain": 0.0, "output": "relu"},
    {"shortcut_gain": 0.5, "branch_gain": 2.0, "dtype": "float32"},
]


@pytest.mark.parametrize("batch", [2, 5])
@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_together_is_alone_bit_for_bit(fields: dict[str, Any], batch: int):
    specs = [dense(blocks, **fields) for blocks in (6, 4, 1)]
    x = draws.normals(SEEDS, "input", (batch, 4))
    loss = losses.cotangent("gaussian", seeds=SEEDS, batch=batch, outputs=3)
    together = [Kept() for _ in specs]

    runs = run_nested(build_all(specs, seed=SEEDS), x, [loss] * 3, together)

    for spec, run, observed in zip(specs, runs, together, strict=True):
        alone = Kept()
        expected = build(spec, seed=SEEDS).run(x, loss, alone)
        assert run.output.tobytes() == expected.output.tobytes()
        assert run.loss is not None
        assert expected.loss is not None
        assert run.loss.tobytes() == expected.loss.tobytes()
        assert observed.pushed == alone.pushed


def test_one_sample_and_one_batch_for_all_seeds():
    specs = [dense(blocks, shortcut="none") for blocks in (5, 2, 0)]
    assert nested(specs[1], specs[0])
    for shape in ((1, 4), (len(SEEDS), 1, 4)):
        x = np.random.default_rng(0).standard_normal(shape)
        given = [losses.cotangent(kind, seeds=SEEDS, batch=1, outputs=3) for kind in ("ones", "gaussian", "ones")]
        together = [Kept() for _ in specs]

        run_nested(build_all(specs, seed=SEEDS), x, given, together)

        for spec, loss, observed in zip(specs, given, together, strict=True):
            alone = Kept()
            build(spec, seed=SEEDS).run(x, loss, alone)
            assert observed.pushed == alone.pushed


def test_every_observer_is_shown_what_it_wants():
    specs = [dense(blocks) for blocks in (4, 2)]
    x = draws.normals(SEEDS, "input", (2, 4))
    loss = losses.cotangent("gaussian", seeds=SEEDS, batch=2, outputs=3)
    shown = [Kept({"stem": {"weight_grad"}}), Kept({"stage1.block1": {"activation", "activation_grad"}})]

    run_nested(build_all(specs, seed=SEEDS), x, [loss] * 2, shown)

    assert [(site, role) for site, role, _, _ in shown[0].pushed] == [("stem", "weight_grad")]
    assert [(site, role) for site, role, _, _ in shown[1].pushed] == [
        ("stage1.block1", "activation"),
        ("stage1.block1", "activation_grad"),
    ]


def test_overflow_is_carried_as_it_is_alone():
    specs = [dense(blocks, branch_gain=1e120) for blocks in (5, 1)]
    x = draws.normals(SEEDS, "input", (2, 4))
    loss = losses.cotangent("gaussian", seeds=SEEDS, batch=2, outputs=3)
    together = [Kept(), Kept()]

    run_nested(build_all(specs, seed=SEEDS), x, [loss] * 2, together)

    for spec, observed in zip(specs, together, strict=True):
        alone = Kept()
        build(spec, seed=SEEDS).run(x, loss, alone)
        assert observed.pushed == alone.pushed
    assert not np.isfinite(np.frombuffer(together[0].pushed[-1][2])).all()


@pytest.mark.parametrize(
    ("shallow", "deep"),
    [
        (dense(3), dense(3)),
        (dense(5), dense(3)),
        (dense(3), dense(5, shortcut="none")),
        (dense(3, layers=1), dense(5)),
        (dense(3, width=8), dense(5)),
        (dense(3, outputs=2), dense(5)),
        (dense(3, init="lecun"), dense(5)),
        (dense(3, bias=True), dense(5)),
        (dense(3, dtype="float32"), dense(5)),
        (dense(3, branch_gain=0.5), dense(5)),
        (dense(3, branch_gain="1/sqrt(L)"), dense(5, branch_gain="1/sqrt(L)")),
        (dense(3, norm="layer"), dense(5)),
        (dense(3, output="relu"), dense(5)),
        (dense(0, order="pre-activation"), dense(5, order="pre-activation")),
    ],
)
def test_what_does_not_nest(shallow: Spec, deep: Spec):
    assert not nested(shallow, deep)


def test_a_probe_of_all_depths_at_once_reads_what_a_probe_of_each_reads():
    cells = [
        ensemble.Cell(spec=spec, factors={"depth": spec.depth}, batch=3)
        for blocks in (2, 5, 3)
        for spec in (dense(blocks, norm="batch"), dense(blocks, shortcut="none"))
    ]

    found = ensemble.measure(cells, SEEDS)

    for cell, measured in zip(cells, found, strict=True):
        alone = probe(build(cell.spec, seed=SEEDS), 3, factors={"depth": cell.spec.depth})
        assert measured.readings().equals(alone)
