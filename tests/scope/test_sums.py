"""The sums of tensors are those of arrays, and one transfer brings them here."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from skipscope.moments import Field, moments
from skipscope.torch.sums import dot_of, gathered, norms_of, pair, sums

FIELDS: tuple[Field, ...] = ("sum", "positive", "nonfinite", "units", "samples")


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30, 1e-200, 1e200])
@pytest.mark.parametrize("samples", [7, 700])  # below and above what is summed in float64 at once
def test_sums_are_the_moments(rng: np.random.Generator, scale: float, samples: int):
    dtype = np.float32 if 1e-38 < scale < 1e37 else np.float64
    x = (rng.standard_normal((samples, 9, 8)) * scale).astype(dtype)
    x[..., 3] = -abs(x[..., 3])
    ((found,), _) = gathered([sums(torch.from_numpy(x), FIELDS, batch=samples)])
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
    ((found,), _) = gathered([sums(x, FIELDS, batch=5)])

    assert (found.nonfinite, found.positive) == (2, 2)
    assert np.isnan(found.norm) or np.isinf(found.norm)


@pytest.mark.parametrize("shape", [(7, 3), (64, 33, 5), (6, 40, 64), (3, 20, 1088), (6, 40, 40, 3), (90, 16, 16, 16)])
@pytest.mark.parametrize("size", [1.0, 1e-30, 1e25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_pair_is_summed_as_each_and_their_product(shape: tuple[int, ...], size: float, dtype: torch.dtype):
    """To 1e-6 in float32: rows of at most 1024 entries are summed in it, the rest in float64."""
    x, y = (size * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) for seed in (0, 1))
    y += 0.3 * x
    swapped = [each.transpose(0, 1).contiguous().transpose(0, 1) for each in (x, y)]  # where sequences come first
    moved = [each.movedim(1, -1).contiguous().movedim(-1, 1) for each in (x, y)]  # `channels_last`
    for a, b in ((x, y), (x, swapped[1]), swapped, moved, (moved[0], y), (x, torch.zeros_like(y))):
        *both, crossed = pair(a, b, batch=len(x))
        found, products = gathered(both, [crossed])
        for one, of in zip(found, (a, b), strict=True):
            assert one.norm[0] == pytest.approx(of.double().norm().item(), rel=1e-6)
        assert (found[0].count, found[0].rows) == (x.numel(), len(x))
        product = dot_of(products[0])
        expected = torch.dot(a.double().flatten() / size, b.double().flatten() / size).item()
        scale = product.scale_x / size * (product.scale_y / size)
        assert product.value * scale == pytest.approx(expected, rel=1e-5, abs=1e-300)


@pytest.mark.parametrize(("shape", "channels"), [((6, 3, 4, 4), 1), ((6, 5, 3), -1), ((6, 3), -1), ((3,), -1)])
def test_units(shape: tuple[int, ...], channels: int):
    x = torch.ones(shape)
    x.select(channels, 1).neg_()
    ((found,), _) = gathered([sums(x, FIELDS, batch=6)])
    ((found,), _) = gathered([sums(x, FIELDS, batch=6, channels=channels)])

    assert found.units is not None
    assert found.units.tolist() == [[True, False, True]]
    assert found.positive == x.numel() * 2 / 3


def test_norms_of_many_are_those_of_each():
    tensors = [torch.randn(5, 4) * 10.0**power for power in (-30, 0, 30)] + [torch.randn(3).double(), torch.zeros(2)]
    tensors += [torch.zeros(0), torch.tensor(2.0), torch.randn(6, 7).t()[1:], torch.tensor([1.0, torch.nan])]
    tensors += [
        torch.randn(90, 100),
        torch.randn(70, 60).t(),
        torch.randn(3, dtype=torch.complex64),
        torch.randn(9).half(),
    ]
    found = [each.norm[0] for each in gathered(norms_of(tensors))[0]]

    wide = [x.to(torch.complex128 if x.is_complex() else torch.float64) for x in tensors]
    np.testing.assert_allclose(found, [float(x.norm()) for x in wide], rtol=1e-6)


def test_many_entries_of_one_sign_do_not_swamp_each_other():
    """Added one by one in float32, squares of a million equal entries would be off by 1e-4 and more."""
    x = torch.full((1 << 11, 1 << 11), 0.1)
    for found in gathered([*norms_of([x, x.reshape(-1)]), sums(x, FIELDS, batch=1 << 11)])[0]:
        np.testing.assert_allclose(found.norm, 2**11 * float(np.float32(0.1)), rtol=1e-6)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "sequence", "strided", "conjugate"])
def test_any_layout_in_memory(layout: str):
    x = torch.randn(6, 3, 40, 50)
    seen = {
        "channels_last": x.to(memory_format=torch.channels_last),
        "transposed": x.transpose(2, 3),
        "sequence": x.transpose(1, 2),
        "strided": x[:, :, ::2, ::3],
        "conjugate": torch.view_as_complex(x[..., :2].contiguous()).conj(),
    }[layout]
    ((found,), _) = gathered([sums(seen, FIELDS, batch=6, channels=1)])
    ((expected,), _) = gathered([sums(seen.resolve_conj().contiguous(), FIELDS, batch=6, channels=1)])

    assert found.samples is not None
    assert expected.samples is not None
    np.testing.assert_allclose(found.samples, expected.samples, rtol=1e-6)
    assert (found.units is None) == (layout == "conjugate")
    assert found.positive == expected.positive


def test_a_device_is_asked_once(monkeypatch: pytest.MonkeyPatch):
    """Off the processor nothing is brought to the host but by `gathered`; a device without numbers stands for one."""
    asked: list[Any] = []
    for name in ("item", "__bool__", "__float__", "tolist", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, lambda self, *given, name=name: asked.append(name))
    found = sums(torch.empty(6, 4, device="meta"), FIELDS, batch=6)
    norms_of([torch.empty(6, 4, device="meta"), torch.empty(2, device="meta", dtype=torch.float64)])

    assert set(found.parts) == {"norms", "sums", "positive", "units", "nonfinite", "samples"}
    assert asked == []


@pytest.mark.parametrize("layout", ["as it comes", "channels_last", "sequence"])
def test_large_tensors_are_summed_where_they_lie(layout: str):
    """Neither copied nor covered by a mask: of 16 MiB next to nothing is allocated, a byte for each of some samples."""
    x, y = (torch.randn(64, 64, 32, 32) for _ in range(2))
    if layout == "channels_last":
        x, y = (each.to(memory_format=torch.channels_last) for each in (x, y))
    elif layout == "sequence":
        x, y = (each.flatten(2).transpose(0, 1) for each in (x, y))
    ways: tuple[Callable[[], object], ...] = (
        lambda: sums(x, FIELDS, batch=64, channels=1),
        lambda: pair(x, y, batch=64),
        lambda: norms_of([x, y]),
    )
    for work in ways:
        work()
        tracemalloc.start()
        work()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < x.numel() * x.element_size() / 32


def test_units_of_a_large_tensor_are_those_of_its_parts():
    """A unit that is active in the last sample alone, far from the first."""
    x = -torch.ones(70, 5, 40, 40)
    x[69, 3, 0, 0] = x[0, 1, 2, 2] = 1.0
    ((found,), _) = gathered([sums(x, FIELDS, batch=70, channels=1)])

    assert found.units is not None
    assert found.units.tolist() == [[False, True, False, True, False]]
    assert found.positive == 2


def test_the_number_of_threads_changes_no_bit_and_none_is_started():
    x, y = (torch.randn(300, 1024, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    before, running = torch.get_num_threads(), threading.active_count()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            *both, crossed = pair(x, y, batch=300)
            found.append(gathered([*both, sums(x, FIELDS, batch=300), *norms_of([x, y])], [crossed]))
    finally:
        torch.set_num_threads(before)

    assert threading.active_count() == running
    for one, other in zip(found[0][0], found[1][0], strict=True):
        assert one.norm.tobytes() == other.norm.tobytes()
    assert found[0][1][0].tobytes() == found[1][1][0].tobytes()
