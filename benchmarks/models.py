"""The three models that the cost of the scope is measured on, each with a batch and classes to learn."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10


class Block(nn.Module):
    """A basic block of He et al. 2015, section 4.2: where the size changes, the shortcut subsamples and pads (A)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.widened = outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2 if self.widened else 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        if self.widened:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.widened))
        return self.relu2(x + branch)


def resnet20() -> nn.Module:
    widths = [16] * 4 + [32] * 3 + [64] * 3
    blocks = [Block(before, after) for before, after in pairwise(widths)]
    stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES))


class Encoder(nn.Module):
    """Blocks of PyTorch's own encoder, normalised first, and a mean over the sequence."""

    def __init__(self, blocks: int = 12, width: int = 256) -> None:
        super().__init__()
        block = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(block, blocks, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


def mlp(layers: int = 100, width: int = 256) -> nn.Module:
    """Initialised after He et al. 2015b: by PyTorch's default the gradient of so many layers is below every float."""
    hidden = [part for _ in range(layers - 1) for part in (nn.Linear(width, width), nn.ReLU())]
    for each in hidden[::2]:
        nn.init.kaiming_normal_(each.weight, nonlinearity="relu")
    return nn.Sequential(*hidden, nn.Linear(width, CLASSES))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet-20, batch 128 of 3x32x32": (resnet20, (128, 3, 32, 32)),
    "encoder, 12 blocks of width 256, batch 8 of 128": (Encoder, (8, 128, 256)),
    "MLP of 100 layers of width 256, batch 128": (mlp, (128, 256)),
}
"""name -> what makes it, and the shape of its batch."""


def made(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Always the same model, inputs and classes."""
    torch.manual_seed(0)
    model, shape = MODELS[name]
    return model(), torch.randn(shape), torch.randint(0, CLASSES, shape[:1])
