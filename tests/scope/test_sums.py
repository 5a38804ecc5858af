"""The sums of tensors are those of arrays, and one transfer brings them here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from skipscope.moments import Field, moments
from skipscope.torch.sums import gathered, norms_of, sums

FIELDS: tuple[Field, ...] = ("sum", "positive", "nonfinite", "units", "samples")


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30, 1e-200, 1e200])
@pytest.mark.parametrize("samples", [7, 700])  # below and above what is summed in float64 at once
def test_sums_are_the_moments(rng: np.random.Generator, scale: float, samples: int):
    dtype = np.float32 if 1e-38 < scale < 1e37 else np.float64
    x = (rng.standard_normal((samples, 9, 8)) * scale).astype(dtype)
    x[..., 3] = -abs(x[..., 3])
    (found,) = gathered([sums(torch.from_numpy(x), FIELDS, batch=samples)])
    expected = moments(x[None], FIELDS)

    # Sums of 50,000 in float32 by pairs: some 16 roundings of 2^-24.
    tolerance = 1e-6 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(found.norm, expected.norm, rtol=tolerance)
    np.testing.assert_allclose(found.mean, expected.mean, atol=tolerance * float(expected.rms[0]))
    np.testing.assert_array_equal(found.positive, expected.positive)
    np.testing.assert_array_equal(found.units, expected.units)
    np.testing.assert_array_equal(found.nonfinite, expected.nonfinite)
    assert found.samples is not None
    assert expected.samples is not None
    shares = [each / each.sum() for each in (found.samples, expected.samples)]
    np.testing.assert_allclose(shares[0], shares[1], rtol=10 * tolerance)
    assert (found.count, found.rows) == (expected.count, expected.rows)


def test_what_is_not_finite_is_counted():
    x = torch.zeros(5, 8)
    x[1, 2], x[3, 4], x[3, 5] = torch.nan, torch.inf, 1.0
    (found,) = gathered([sums(x, FIELDS, batch=5)])

    assert (found.nonfinite, found.positive) == (2, 2)
    assert np.isnan(found.norm) or np.isinf(found.norm)


@pytest.mark.parametrize(("shape", "channels"), [((6, 3, 4, 4), 1), ((6, 5, 3), -1), ((6, 3), -1), ((3,), -1)])
def test_units(shape: tuple[int, ...], channels: int):
    x = torch.ones(shape)
    x.select(channels, 1).neg_()
    (found,) = gathered([sums(x, FIELDS, batch=6)])
    (found,) = gathered([sums(x, FIELDS, batch=6, channels=channels)])

    assert found.units is not None
    assert found.units.tolist() == [[True, False, True]]
    assert found.positive == x.numel() * 2 / 3


def test_norms_of_many_are_those_of_each():
    tensors = [torch.randn(5, 4) * 10.0**power for power in (-30, 0, 30)] + [torch.randn(3).double(), torch.zeros(2)]
    found = [each.norm[0] for each in gathered(norms_of(tensors))]

    np.testing.assert_allclose(found, [float(x.double().norm()) for x in tensors], rtol=1e-6)


def test_a_device_is_asked_once(monkeypatch: pytest.MonkeyPatch):
    """Off the processor nothing is brought to the host but by `gathered`; a device without numbers stands for one."""
    asked: list[Any] = []
    for name in ("item", "__bool__", "__float__", "tolist", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, lambda self, *given, name=name: asked.append(name))
    found = sums(torch.empty(6, 4, device="meta"), FIELDS, batch=6)
    norms_of([torch.empty(6, 4, device="meta"), torch.empty(2, device="meta", dtype=torch.float64)])

    assert set(found.parts) == {"norms", "sums", "positive", "units", "nonfinite", "samples"}
    assert asked == []
