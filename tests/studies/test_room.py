"""What fits into memory is known before it is measured."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest

from skipscope import Spec, build, studies
from skipscope.errors import InputError
from skipscope.studies import room


@pytest.mark.parametrize(
    "spec",
    [
        Spec.dense(width=7, blocks=0, features=3),
        Spec.dense(width=7, blocks=5, layers=1, shortcut="none", features=3, outputs=4),
        Spec.dense(width=7, blocks=5, features=3),
        Spec.dense(width=7, blocks=2, layers=3, features=3),
    ],
    ids=lambda spec: str(spec.depth),
)
@pytest.mark.parametrize("batch", [1, 10])
def test_what_a_network_holds_is_counted(spec: Spec, batch: int):
    arrays: list[int] = []

    def observe(site: str, /, **roles: Any) -> None:
        arrays.extend(
            roles[role].size for role in ("activation", "weight") if role in roles and "block" not in site[-7:]
        )

    class Sum:
        def __call__(self, output: Any, batch: Any) -> Any:
            return output.sum(axis=(1, 2))

        def gradient(self, output: Any, batch: Any) -> Any:
            return 0 * output + 1

    network = build(spec, seed=0)
    network.run([[0.0] * 3] * batch, Sum(), observe)

    assert room.numbers(spec, batch) == sum(arrays)


def test_the_memory_of_this_machine_is_known():
    assert 2**28 < room._memory() < math.inf


@pytest.mark.parametrize(("held", "fits"), [(1.8e6, False), (1.9e6, True)])
def test_what_fits_is_measured(held: float, fits: bool, monkeypatch: pytest.MonkeyPatch):
    # Four networks of 66 sites together, of 16 kB each, and 8 x 66 x 15 readings of 100 bytes: 1.85 MB; weights: 17 kB.
    monkeypatch.setattr(room, "_memory", lambda: held)

    given: dict[str, Any] = {"seeds": range(8), "depth": 6, "width": 8}
    with contextlib.nullcontext() if fits else pytest.raises(InputError, match="this is too large"):
        assert len(studies.flow(**given)) > 0


@pytest.mark.parametrize("study", [studies.jacobian, studies.correlation])
@pytest.mark.parametrize(
    "asked", [{"depths": [10**9], "seeds": range(2)}, {"depths": [10], "seeds": range(10**12)}], ids=["deep", "long"]
)
def test_studies_of_other_measurements_need_room_too(study: Any, asked: dict[str, Any]):
    with pytest.raises(InputError, match="this is too large: seeds="):
        study(designs=["plain"], width=8, **asked)
