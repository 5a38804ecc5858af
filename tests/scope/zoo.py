"""Small models of every style, with what goes in; the tests of the scope run over all of them."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class BasicBlock(nn.Module):
    """As in torchvision's ResNet-18: in-place ReLU, one instance for two places, and `out += identity`."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: Any = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut: Any = self.downsample
        identity = x if shortcut is None else shortcut(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet18(nn.Module):
    """Two blocks in each of four stages; thin."""

    def __init__(self, width: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        for stage in range(1, 5):
            before, after = widths[stage - 1], widths[stage]
            blocks = [BasicBlock(before, after, 1 if stage == 1 else 2), BasicBlock(after, after, 1)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = self.get_submodule(name)(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


class PreNorm(nn.Module):
    """A transformer's block: attention and MLP, each normalised first; dropout draws random numbers."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, dropout=0.1, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.ln1(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.ln2(x))


@dataclass
class Answer:
    """What a language model gives, as transformers does."""

    logits: Tensor
    loss: Tensor | None = None
    hidden: tuple[Tensor, ...] = ()


class Language(nn.Module):
    """Tokens in; the head has the embedding's weight; the loss is its own, if labels are given."""

    def __init__(self, blocks: int = 3, width: int = 16, tokens: int = 11, *, checkpointed: str = "") -> None:
        super().__init__()
        self.wte = nn.Embedding(tokens, width)
        self.wpe = nn.Parameter(torch.randn(1, 7, width) * 0.1)
        self.h = nn.ModuleList(PreNorm(width) for _ in range(blocks))
        self.ln = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, tokens, bias=False)
        self.lm_head.weight = self.wte.weight
        self.checkpointed = checkpointed

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Answer:
        x = self.wte(input_ids) + self.wpe[:, : input_ids.shape[1]]
        for block in self.h:
            x = checkpoint(block, x, use_reentrant=self.checkpointed == "reentrant") if self.checkpointed else block(x)
        logits = self.lm_head(self.ln(x))
        loss = None if labels is None else nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Answer(logits=logits, loss=loss, hidden=(x,))


Pair = namedtuple("Pair", ["value", "none"])


class Odd(nn.Module):
    """Outputs of every kind: a named tuple with None, a dict, a list; a part that is not called, one cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.named, self.mapped, self.listed = Named(), Mapped(), Listed()
        self.unused = nn.Linear(4, 4)
        self.cut = nn.Linear(4, 4)
        self.flag = Flag()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.named(x).value
        x = self.mapped(x)["value"]
        x = self.listed(x)[0]
        self.flag(x)
        return {"answer": x, "detached": self.cut(x).detach()}


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Pair:
        return Pair(self.fc(x), None)


class Mapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"value": self.fc(x), "name": "mapped"}


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> list[Any]:
        return [self.fc(x), [x * 2, 3]]


class Flag(nn.Module):
    def forward(self, x: Tensor) -> None:
        return None


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, num_layers=2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.lstm(x)
        return self.head(out[:, -1])


class Drawn(nn.Module):
    """Draws from all generators, counts its calls in a buffer, and replaces another."""

    calls: Tensor
    average: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("average", torch.full((4,), float("nan")))

    def forward(self, x: Tensor) -> Tensor:
        import random

        import numpy as np

        self.calls += 1
        y = self.drop(self.fc(x)) * (1 + random.random()) * (1 + np.random.rand())
        self.average = y.detach().mean(0)
        return y


class Residual(nn.Module):
    """Two layers and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.relu(self.a(x)))


def looked_at(*given: Any) -> None:
    """A hook of the user's own."""


def hooked() -> nn.Module:
    """Blocks, a layer and a head that the user follows with full backward hooks and pre-hooks."""
    model = nn.Sequential(nn.Linear(4, 8), Residual(8), Residual(8), nn.Linear(8, 3))
    for name in ("1", "2.a", "3"):
        model.get_submodule(name).register_full_backward_hook(looked_at)
    model.get_submodule("2").register_full_backward_pre_hook(looked_at)
    return model


def mlp(depth: int = 6, width: int = 8, features: int = 4, outputs: int = 3) -> Any:
    """A plain network of so many weight layers."""
    parts: list[nn.Module] = [nn.Linear(features, width), nn.ReLU()]
    for _ in range(depth - 2):
        parts += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(width, outputs))


def images() -> Tensor:
    return torch.randn(6, 3, 8, 8)


def rows() -> Tensor:
    return torch.randn(6, 4)


def tokens() -> dict[str, Tensor]:
    drawn = torch.randint(0, 11, (5, 7))
    return {"input_ids": drawn, "labels": drawn}


ZOO: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "resnet18": (ResNet18, images),
    "mlp": (mlp, rows),
    "language": (Language, tokens),
    "language, checkpointed": (lambda: Language(checkpointed="non-reentrant"), tokens),
    "encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 3, enable_nested_tensor=False
        ),
        lambda: torch.randn(5, 7, 16),
    ),
    "odd outputs": (Odd, rows),
    "recurrent": (Recurrent, lambda: torch.randn(5, 7, 4)),
    "random": (Drawn, rows),
    "full backward hooks": (hooked, rows),
    "sparse embedding": (
        lambda: nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)),
        lambda: torch.randint(0, 9, (6,)),
    ),
}
"""name -> (a model, a batch)."""


def made(name: str) -> tuple[Any, Any]:
    """A model of the zoo and its batch, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, batch = ZOO[name]
        return model(), batch()
