"""Residual networks as most public repositories of PyTorch have them, by the names that their checkpoints have.

`Cifar` is the widespread network for CIFAR-10 (`layer1.0.conv1`, `linear`; option A pads both sides of the channels),
`ImageNet` is torchvision's (`downsample`, `fc`). What a repository would leave to its default is an argument here where
the paper's networks need another: where option A's zeros go, option C, the plain network, stride v1, pre-activation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Pad(nn.Module):
    """Option A; what other repositories write as a lambda."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.before, self.after, self.stride = before, after, stride

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def shortcut_of(option: str, n_in: int, n_out: int, stride: int, *, bare: bool) -> nn.Module | None:
    """None for the identity; `bare` is without batch normalisation."""
    if option != "C" and n_in == n_out and stride == 1:
        return None
    if option in ("B", "C"):
        conv = nn.Conv2d(n_in, n_out, kernel_size=1, stride=stride, bias=False)
        return nn.Sequential(conv) if bare else nn.Sequential(conv, nn.BatchNorm2d(n_out))
    missing = n_out - n_in
    return Pad(missing // 2, missing // 2, stride) if option == "A-both" else Pad(0, missing, stride)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions."""

    def __init__(self, n_in: int, width: int, stride: int, option: str, name: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.plain, self.name = option == "none", name
        if not self.plain:
            setattr(self, name, shortcut_of(option, n_in, width, stride, bare=False))

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(joined(self, x, out))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, the last to four times the channels."""

    def __init__(self, n_in: int, width: int, stride: int, option: str, name: str, *, early: bool = False) -> None:
        super().__init__()
        first, second = (stride, 1) if early else (1, stride)
        self.conv1 = nn.Conv2d(n_in, width, kernel_size=1, stride=first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=second, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.plain, self.name = option == "none", name
        if not self.plain:
            setattr(self, name, shortcut_of(option, n_in, 4 * width, stride, bare=False))

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = functional.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return functional.relu(joined(self, x, out))


class PreActBlock(nn.Module):
    """He et al. 2016: normalisation and ReLU before each convolution."""

    def __init__(self, n_in: int, width: int, stride: int, option: str, name: str) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(n_in)
        self.conv1 = nn.Conv2d(n_in, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=1, padding=1, bias=False)
        self.plain, self.name = option == "none", name
        if not self.plain:
            setattr(self, name, shortcut_of(option, n_in, width, stride, bare=True))

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(functional.relu(self.bn1(x)))
        out = self.conv2(functional.relu(self.bn2(out)))
        return joined(self, x, out)


def joined(block: Any, x: Tensor, out: Tensor) -> Tensor:
    if block.plain:
        return out
    shortcut = getattr(block, block.name)
    return out + (x if shortcut is None else shortcut(x))


class Cifar(nn.Module):
    """Three stages for images of 32 x 32."""

    def __init__(
        self, depth: int = 20, option: str = "A-both", *, width: int = 16, classes: int = 10, preact: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn1 = nn.Identity() if preact else nn.BatchNorm2d(width)
        block, name, n_in = PreActBlock if preact else BasicBlock, "shortcut", width
        for number, stride in enumerate((1, 2, 2), start=1):
            wide = width * 2 ** (number - 1)
            layers = [block(n_in, wide, stride, option, name)]
            layers += [block(wide, wide, 1, option, name) for _ in range((depth - 2) // 6 - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*layers))
            n_in = wide
        self.final: nn.Module | None = nn.BatchNorm2d(n_in) if preact else None
        self.linear = nn.Linear(n_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x))
        out = out if self.final is not None else functional.relu(out)
        for number in (1, 2, 3):
            out = self.get_submodule(f"layer{number}")(out)
        if self.final is not None:
            out = functional.relu(self.final(out))
        out = functional.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


class ImageNet(nn.Module):
    """torchvision's."""

    def __init__(
        self,
        blocks: tuple[int, ...],
        option: str = "B",
        *,
        deep: bool,
        width: int = 64,
        classes: int = 1000,
        **fields: Any,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        block: Any = Bottleneck if deep else BasicBlock
        n_in, out = width, width
        for number, count in enumerate(blocks, start=1):
            wide = width * 2 ** (number - 1)
            out = wide * (4 if deep else 1)
            layers = [block(n_in, wide, 1 if number == 1 else 2, option, "downsample", **fields)]
            layers += [block(out, wide, 1, option, "downsample", **fields) for _ in range(count - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*layers))
            n_in = out
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(out, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(functional.relu(self.bn1(self.conv1(x))))
        for number in (1, 2, 3, 4):
            x = self.get_submodule(f"layer{number}")(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def sites_by_name(model: nn.Module) -> dict[str, str]:
    """Our names of the arrays in order, by the model's names, worked out from the modules and not from any table."""
    found: dict[str, str] = {}
    inner = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_variance"}
    for name in model.state_dict():
        *path, kind = name.split(".")
        if kind == "num_batches_tracked":
            continue
        holder: Any = model.get_submodule(".".join(path))
        site = {"conv1": "stem", "bn1": "stem", "fc": "head", "linear": "head", "final": "final"}.get(path[0], "")
        if not site:
            site = f"stage{path[0][-1]}.block{int(path[1]) + 1}"
            site += ".shortcut" if path[2] in ("downsample", "shortcut") else f".layer{path[2][-1]}"
        found[name] = f"{site}.{inner[kind] if isinstance(holder, nn.BatchNorm2d) else kind}"
    return found
