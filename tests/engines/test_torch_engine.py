"""The torch engine computes what the engine that is written by hand computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import skipscope
from skipscope import InputError, Spec, draws, testing
from skipscope.engines import torch_engine
from skipscope.losses import Cotangent, CrossEntropy

SEEDS = (3, 1)


def spec_of(**fields: Any) -> Spec:
    return Spec.dense(**{"width": 6, "blocks": 3, "features": 4, "outputs": 3} | fields)


def test_the_conformance_suite():
    """Outputs, gradients, invariants, gains and bits of ensembles, on 60 dense and 60 convolutional specs, to 1e-10."""
    testing.check_engine(torch_engine.build, together=2)


@pytest.mark.slow
def test_the_conformance_suite_on_larger_grids():
    testing.check_engine(torch_engine.build)


@pytest.mark.parametrize("order", ["before-add", "after-add", "pre-activation"])
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_readings_agree(order: str, norm: str):
    spec = spec_of(order=order, norm=norm)
    by_hand = skipscope.probe(skipscope.build(spec, seed=SEEDS), batch=8)
    by_torch = skipscope.probe(torch_engine.build(spec, seed=SEEDS), batch=8)

    assert by_torch.rows.drop("value").equals(by_hand.rows.drop("value"))
    np.testing.assert_allclose(by_torch.rows["value"], by_hand.rows["value"], rtol=1e-9, atol=1e-12)


def test_float32_agrees_to_its_precision():
    """Both round every product to 2^-24; 8 layers and sums of some 10 terms leave 1e-4 of a value at most."""
    spec = spec_of(dtype="float32")
    by_hand = skipscope.probe(skipscope.build(spec, seed=SEEDS), batch=8)
    by_torch = skipscope.probe(torch_engine.build(spec, seed=SEEDS), batch=8)

    np.testing.assert_allclose(by_torch.rows["value"], by_hand.rows["value"], rtol=1e-4, atol=1e-5)


def test_a_loss_of_pytorch():
    network = torch_engine.build(spec_of(), seed=SEEDS)
    labels = np.array([0, 1, 2, 0])
    x = draws.normals(SEEDS, "input", (4, 4))

    def loss(output: Any, batch: Any) -> Any:
        targets = torch.from_numpy(batch[1])
        return torch.stack([torch.nn.functional.cross_entropy(each, targets) for each in output])

    own = network.run((x, labels), loss)  # type: ignore[arg-type]
    other = network.run((x, labels), CrossEntropy())
    assert own.loss is not None
    assert other.loss is not None
    np.testing.assert_allclose(own.loss, other.loss, rtol=1e-12)
    with pytest.raises(InputError, match="tensor that autograd follows"):
        network.run(x, lambda output, batch: 3.0)  # type: ignore[arg-type]


def test_the_same_scope_on_the_module_itself_agrees():
    """What is heard by hooks on a single network's module: its output and its parameters' gradients."""
    spec = spec_of()
    network = torch_engine.build(spec, seed=[5])
    x = draws.normals((5,), "input", (8, 4))
    v = Cotangent(draws.normals((5,), "cotangent", (8, 3)))
    by_hand = skipscope.probe(skipscope.build(spec, seed=[5]), x, loss=v)

    def loss(output: Any, batch: Any) -> Any:
        return (torch.from_numpy(v.v) * output).sum()

    heard = skipscope.probe(network.module, torch.from_numpy(x), loss=loss)
    for quantity in ("gradient_norm",):
        mine, other = (each.rows.filter(quantity=quantity, site="network")["value"].item() for each in (heard, by_hand))
        assert mine == pytest.approx(other, rel=1e-9)
