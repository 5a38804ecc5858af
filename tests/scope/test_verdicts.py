"""No model is healthy whose gradient dies anywhere, whatever was taken for its body."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor, nn

import skipscope
from scope.test_bodies import Again, Residual, Tower
from skipscope import QUANTITIES
from skipscope.diagnosis import Finding

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH = 32  # PyTorch's own initialisation takes 1/sqrt(3) of the gradient a layer, with a ReLU 1/sqrt(6)


class Plain(nn.Module):
    """Two layers that keep a sixth of the gradient between them."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.b(torch.relu(self.a(x))))


class EncoderDecoder(nn.Module):
    """The decoder is given what the encoder is: a way round of its dying blocks is there."""

    def __init__(self, encoder: list[nn.Module], decoder: list[nn.Module]) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.encoder, self.decoder = nn.ModuleList(encoder), nn.ModuleList(decoder)

    def forward(self, x: Tensor) -> Tensor:
        y = x = self.stem(x)
        for each in self.decoder:
            y = each(y)
        for each in self.encoder:
            x = each(x)
        return self.head(x + y)


class Towers(nn.Module):
    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.a, self.head = _wide(), nn.Linear(2 * WIDTH, 3)
        self.b = None if shared else _wide()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.a(x), (self.b or self.a)(x.flip(0))], -1))


def _wide() -> nn.Module:
    tower = Tower(0)
    tower.b.extend(part for _ in range(20) for part in (nn.Linear(WIDTH, WIDTH), nn.ReLU()))
    return tower


def judged(model: nn.Module, **given: Any) -> dict[str, Finding]:
    readings = skipscope.probe(model, torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(1)), **given)
    return {finding.rule: finding for finding in skipscope.diagnose(readings)}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_towers_side_by_side():
    found = judged(Towers(shared=False))["gradient"]

    assert found.verdict == "vanishing"
    assert "over 39 blocks" in found.statement


def test_a_tower_that_is_called_twice():
    found = judged(Towers(shared=True))["gradient"]

    assert found.verdict == "vanishing"
    assert "over 19 blocks (95 % interval over its 40 samples" in found.statement


class Siamese(nn.Module):
    """Two towers of one set of weights; what the second hands on may be let go, or all but lost."""

    def __init__(self, block: Any, second: Any = lambda y: y) -> None:
        super().__init__()
        self.tower, self.head, self.second = Stacked(block), nn.Linear(2 * WIDTH, 3), second

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.tower(x), self.second(self.tower(x.flip(0)))], -1))


class Stacked(nn.Module):
    def __init__(self, block: Any) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Linear(WIDTH, WIDTH), nn.ModuleList(block(WIDTH) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize("block", [Plain, Residual])
@pytest.mark.parametrize("second", [lambda y: y, lambda y: y.detach(), lambda y: 1e-4 * y], ids=["", "cut", "small"])
def test_a_siamese_model_is_judged_tower_by_tower(block: Any, second: Any):
    """Its towers stand side by side: over one of them the gradient changes as it does in the tower by itself."""
    model = Siamese(block, second)
    readings = skipscope.probe(model, torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(1)))
    found = {finding.rule: finding for finding in skipscope.diagnose(readings)}

    assert readings.cells["blocks"].to_list() == [6]
    assert found["gradient"].verdict == ("vanishing" if block is Plain else "healthy")
    assert "over 6 blocks (95 % interval over its 40 samples" in found["gradient"].statement


def test_a_second_tower_that_dies_is_seen():
    class Uneven(Siamese):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat([self.tower(x), self.tower(x.flip(0)) * 0], -1))

    found = judged(Uneven(Residual))["gradient"]
    assert found.verdict == "dead"


@pytest.mark.parametrize(("block", "verdict"), [(Plain, "vanishing"), (Residual, "healthy")])
def test_one_block_called_again_and_again(block: Any, verdict: str):
    model = Again(block(WIDTH), times=12)
    model.stem, model.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
    found = judged(model)["gradient"]

    assert found.verdict == verdict
    assert "over 12 blocks (95 % interval over its 40 samples" in found.statement


@pytest.mark.parametrize("again", [False, True], ids=["each thrice", "all thrice"])
def test_blocks_that_share_their_weights_are_judged_in_order_of_execution(again: bool):
    """As in ALBERT with two groups: the gradient that dies over the blocks is that over all of their calls."""

    class Shared(Stacked):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            two = list(self.blocks)[:2]
            for block in two * 3 if again else [two[0]] * 3 + [two[1]] * 3:
                x = block(x)
            return x

    model = nn.Sequential(Shared(Plain), nn.Linear(WIDTH, 3))
    readings = skipscope.probe(model, torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(1)))
    (found,) = [finding for finding in skipscope.diagnose(readings) if finding.rule == "gradient"]

    norms = {
        (site, call): value
        for site, call, value in readings.rows.filter(quantity="activation_grad_norm")
        .select("site", "call", "value")
        .iter_rows()
    }
    over = norms["0.blocks.0.input", 0] / norms["0.blocks.1", 2]
    (growth,) = readings.rows.filter(quantity="backward_growth")["value"]
    assert growth ** (6 / 2) == pytest.approx(over, rel=1e-6)
    assert (found.verdict, readings.cells["blocks"].to_list()) == ("vanishing", [6])
    assert "over 6 blocks" in found.statement


def test_of_several_bodies_the_verdict_is_that_of_the_worst():
    model = EncoderDecoder([Residual(WIDTH) for _ in range(6)], [Plain() for _ in range(8)])
    found = judged(model)["gradient"]

    assert found.verdict == "vanishing"
    # What the first block is given goes to the encoder too, and gets its gradient from there.
    assert "But over decoder.0 to decoder.7 (7 blocks) it changes by a factor of" in found.statement
    assert found.evidence["site"].to_list() == [f"decoder.{each}" for each in range(8)]


def test_a_body_that_gets_no_gradient_is_dead():
    class Unheard(EncoderDecoder):
        def forward(self, x: Tensor) -> Tensor:
            y = x = self.stem(x)
            for each in self.decoder:
                y = each(y)
            for each in self.encoder:
                x = each(x)
            return self.head(x + 0 * y)

    class Other(Residual):
        pass

    found = judged(Unheard([Residual(WIDTH) for _ in range(4)], [Other(WIDTH) for _ in range(4)]))["gradient"]

    assert found.verdict == "dead"
    assert found.statement.endswith("But it is 0 at decoder.0.")


def test_of_several_healthy_bodies_that_differ_nothing_can_be_told():
    model = EncoderDecoder([Residual(WIDTH) for _ in range(4)], [Residual(WIDTH) for _ in range(4)])
    with torch.no_grad():
        model.head.weight.mul_(0.1)

    class Scaled(EncoderDecoder):
        def forward(self, x: Tensor) -> Tensor:
            y = x = self.stem(x)
            for each in self.decoder:
                y = each(y)
            for each in self.encoder:
                x = each(x)
            return self.head(x + 0.001 * y)

    model.__class__ = Scaled
    found = judged(model)["gradient"]

    assert found.verdict == "cannot tell"
    assert "whether the one stands after the other or beside it is not known" in found.statement


def test_what_dies_before_the_body_is_no_health():
    stem = [part for _ in range(10) for part in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    model = nn.Sequential(nn.Sequential(*stem), *(Residual(WIDTH) for _ in range(12)), nn.Linear(WIDTH, 3))
    found = judged(model)["gradient"]

    assert found.verdict == "cannot tell"
    assert "gradient by the weights of *.*" in found.statement
    assert "The body that was judged goes from 1 to 12." in found.statement


def test_a_body_of_a_few_of_the_layers_is_no_health():
    widths = [32, 40, 30, 42, 28, 44]
    head = [nn.Linear(a, b) for a, b in pairwise(widths)]
    found = judged(nn.Sequential(Residual(WIDTH), Residual(WIDTH), *head))["gradient"]

    assert found.verdict == "cannot tell"
    assert "over 4 weight layers of 9, too few to judge the model by" in found.statement


def test_a_norm_that_comes_back_is_no_health():
    class Scaled(Residual):
        factor = 1.0

        def forward(self, x: Tensor) -> Tensor:
            return self.factor * super().forward(x)

    blocks = [Scaled(WIDTH) for _ in range(4)]
    blocks[0].factor, blocks[2].factor = 0.01, 100.0
    found = judged(nn.Sequential(nn.Linear(WIDTH, WIDTH), *blocks, nn.Linear(WIDTH, 3)))["gradient"]

    assert found.verdict == "cannot tell"
    assert "within its body the norm ranges over a factor of" in found.statement


@pytest.mark.parametrize("sites", [None, "*"])
def test_healthy_models_stay_healthy(sites: str | None):
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), *(Residual(WIDTH) for _ in range(8)), nn.Linear(WIDTH, 3))
    found = judged(model, sites=sites)

    assert found["signal"].verdict == found["gradient"].verdict == "healthy"
    assert "over 8 blocks" in found["gradient"].statement


# ------------------------------------------------------------------------------------------- why there is no verdict


def plain(depth: int = 5) -> nn.Sequential:
    return nn.Sequential(
        *(part for _ in range(depth) for part in (nn.Linear(WIDTH, WIDTH), nn.ReLU())), nn.Linear(32, 3)
    )


def test_a_head_of_zeros_is_dead_where_the_body_ends():
    model = plain()
    nn.init.zeros_(model[-1].weight)  # type: ignore[arg-type]
    found = judged(model)["gradient"]

    assert found.verdict == "dead"
    assert "is 0 at 9 already, where its body ends" in found.statement
    assert found.evidence["value"].to_list() == [0.0]


@pytest.mark.parametrize(
    ("sites", "words"),
    [
        ("[0-9]", "the site 'network', whose reading it is, is not in these readings"),
        (None, "no blocks were found in it"),
    ],
)
def test_the_reason_is_the_one_that_holds(sites: str | None, words: str):
    found = judged(plain(5 if sites else 1), sites=sites)

    assert found["signal"].verdict == "cannot tell"
    assert words in found["signal"].statement


def test_without_gradients_there_is_none():
    with torch.no_grad():
        found = judged(plain())

    assert found["gradient"].verdict == "cannot tell"
    assert found["gradient"].statement.endswith("is not known: there is none in these readings.")
    assert "weight layers)" in found["gradient"].statement  # nothing was sent back, so nothing is said of it


def test_how_many_blocks_there_are_does_not_hang_on_what_is_reported():
    model = plain(6)
    whole = judged(model)["gradient"].statement
    rows = skipscope.probe(
        model, torch.randn(40, WIDTH), quantities=QUANTITIES, sites=["3", "network"], factors={"blocks": 4}
    )

    assert "over 5 blocks" in whole
    assert any("over 4 blocks" in finding.statement for finding in skipscope.diagnose(rows))
    assert rows.sites.filter(pl.col("block") > 0).height == 1
