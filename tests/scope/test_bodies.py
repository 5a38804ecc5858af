"""What the blocks of a model are: stages and towers are gone into, all calls count, all bodies in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import skipscope
from scope.transformed import transformed
from skipscope import QUANTITIES
from skipscope.torch import junctions

pytestmark = pytest.mark.usefixtures("one_thread")


class Residual(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.relu(self.a(x)))


class Layer(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))


class Listed(nn.Module):
    """A residual block whose branch is a list of parts that keep the shape: a block, and no stage."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.branch = nn.Sequential(Layer(width), Layer(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Stage(nn.Module):
    def __init__(self, block: Callable[[], nn.Module], blocks: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(block() for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class Tower(nn.Module):
    def __init__(self, layers: int = 5) -> None:
        super().__init__()
        self.b = nn.Sequential(*(part for _ in range(layers) for part in (nn.Linear(8, 8), nn.ReLU())))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(x)


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = Tower(), Tower(), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.a(x), self.b(-x)], -1))


class Again(nn.Module):
    """One block, called again and again; as in ALBERT."""

    def __init__(self, block: nn.Module, times: int = 6) -> None:
        super().__init__()
        self.stem, self.block, self.head, self.times = nn.Linear(8, 8), block, nn.Linear(8, 3), times

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(self.times):
            x = self.block(x)
        return self.head(x)


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.t = nn.Linear(8, 8), nn.Transformer(8, 2, 2, 3, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.t(self.stem(x), self.stem(-x))


def chain(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), *parts, nn.Linear(8, 3))


def blocks_of(model: nn.Module, batch: Any) -> list[str]:
    sites = skipscope.probe(model, batch).sites
    return sites.filter(pl.col("block") > 0).sort("block")["site"].to_list()


BODIES: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "isotropic stages": (
        lambda: chain(*(Stage(Residual, 2) for _ in range(3))),
        [f"{stage}.blocks.{block}" for stage in (1, 2, 3) for block in (0, 1)],
    ),
    "few long stages": (
        lambda: chain(*(Stage(Layer, 4) for _ in range(2))),
        [f"{stage}.blocks.{block}" for stage in (1, 2) for block in range(4)],
    ),
    "residual blocks with a list inside": (lambda: chain(*(Listed() for _ in range(3))), ["1", "2", "3"]),
    "towers": (Towers, [f"{tower}.b.{each}" for tower in "ab" for each in (1, 3, 5, 7, 9)][1:]),
    "encoder and decoder": (
        Attending,
        [*(f"t.encoder.layers.{each}" for each in range(2)), *(f"t.decoder.layers.{each}" for each in range(3))],
    ),
    "parametrized layers": (
        lambda: chain(*(parametrizations.weight_norm(nn.Linear(8, 8)) for _ in range(3))),
        ["1", "2", "3"],
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_the_blocks_are(name: str):
    make, blocks = BODIES[name]

    assert blocks_of(make(), torch.randn(4, 5, 8)) == blocks


@pytest.mark.parametrize("block", [Residual(), nn.Linear(8, 8)], ids=["a block", "a layer"])
def test_every_call_of_one_block_is_a_block(block: nn.Module):
    found = skipscope.probe(Again(block), torch.randn(4, 8))

    sites = found.sites.filter(pl.col("block") > 0)
    assert sites["site"].to_list() == ["block"]
    assert sites["block"].max() == 6
    assert found.rows.filter(site="block", quantity="activation_grad_norm")["call"].to_list() == list(range(6))
    # From what the body is given, which of a chain is what its first layer hands on, to what its last call hands on.
    given, steps = ("block.input", 6) if block._modules else ("stem", 6)
    (first,) = found.rows.filter(site=given, call=0, quantity="activation_rms")["value"]
    (last,) = found.rows.filter(site="block", call=5, quantity="activation_rms")["value"]
    (growth,) = found.rows.filter(quantity="forward_growth")["value"]
    assert growth == pytest.approx((last / first) ** (2 / steps), rel=1e-6)
    assert found.rows.filter(pl.col("quantity").is_in(["backward_growth", "backward_growth_low"])).height == 2


def test_the_first_and_the_last_weight_are_known_by_their_gradients():
    x = torch.randn(4, 8)
    asked = {"weight_grad_first_last": QUANTITIES["weight_grad_first_last"]}
    model = chain(nn.Linear(8, 8))

    alone = skipscope.probe(model, x, quantities=asked).rows
    among = skipscope.probe(model, x).rows.filter(quantity="weight_grad_first_last")

    assert alone["value"].to_list() == among["value"].to_list() != []


class Adding(nn.Module):
    """A shortcut and a branch that meet in some operation."""

    def __init__(self, meet: Callable[[Adding, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.t = (nn.Linear(8, 8) for _ in range(4))
        self.scale, self.meet = nn.Parameter(torch.ones(8)), meet

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.meet(self, x, self.b(torch.relu(self.a(x))))


@pytest.mark.parametrize(
    ("meet", "reason"),
    [
        (lambda model, x, h: x - h, "subtracted"),
        (lambda model, x, h: h - x, "subtracted"),
        (lambda model, x, h: x.clone().sub_(h), "subtracted"),
        (lambda model, x, h: torch.addcmul(x, x, h), "one term is a factor of the other"),
        (lambda model, x, h: torch.index_add(x, 0, torch.arange(4), h), "goes to chosen entries"),
        (lambda model, x, h: torch.stack([x, h, h]).sum(0), "more than two tensors are stacked"),
        (lambda model, x, h: (torch.stack([x, h]) * torch.ones(2, 1, 1)).sum(0), "multiplied after they had been"),
        (lambda model, x, h: torch.addmm(x, torch.relu(h), model.t.weight), "last weight of the branch"),
    ],
    ids=["sub", "from", "sub_", "modulated", "index_add", "three stacked", "stacked and weighted", "addmm"],
)
def test_a_shortcut_in_another_operation_is_not_understood(meet: Any, reason: str):
    found = junctions(Adding(meet), torch.randn(4, 8))

    assert len(found) == 0
    assert [reason in each.reason for each in found.not_understood] == [True]


@pytest.mark.parametrize(
    "meet",
    [
        lambda model, x, h: h - h.mean(-1, keepdim=True),
        lambda model, x, h: torch.lerp(h, torch.zeros_like(h), 0.5),
        lambda model, x, h: torch.addmm(model.scale, h, model.t.weight),
        lambda model, x, h: torch.cat([x, h])[:2].sum(0) + torch.stack([h, h]).mean(-1).sum(),
    ],
    ids=["centred", "shrunk", "a bias", "over samples"],
)
def test_what_has_no_shortcut_is_none(meet: Any):
    assert junctions(Adding(meet), torch.randn(4, 8)).not_understood == ()


def test_what_is_subtracted_is_no_condition_on_the_shortcut():
    def meet(model: Adding, x: Tensor, h: Tensor) -> Tensor:
        return (torch.randn(8) - x).abs().mean() + x + h

    assert len(junctions(Adding(meet), torch.randn(4, 8))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("t5", [*(f"encoder.block.{each}[0]" for each in (0, 1)), *(f"decoder.block.{each}[0]" for each in (0, 1))]),
        ("swin", [f"encoder.layers.{stage}.blocks.{block}" for stage in (0, 1) for block in (0, 1)]),
        ("bert", [f"encoder.layer.{each}" for each in range(3)]),
        (
            "resnet-50",
            [
                f"encoder.stages.{stage}.layers.{block}"
                for stage, many in enumerate((3, 4, 6, 3))
                for block in range(many)
            ],
        ),
    ],
)
def test_the_blocks_of_transformers(name: str, blocks: list[str]):
    assert blocks_of(*transformed(name)) == blocks
