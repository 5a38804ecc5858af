"""Models of every residual style, and of styles that only look like it, with the junctions that each has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scope.zoo import BasicBlock, ResNet18


class Calls(nn.Module):
    """Its `fn` is its forward; what it holds is given by name."""

    def __init__(self, fn: Any, **held: Any) -> None:
        super().__init__()
        self.fn = fn
        for name, each in held.items():
            setattr(self, name, each)

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(self, *args, **kwargs)


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> Any:
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


# ------------------------------------------------------------------------------------------------------- convolutions


class CifarBlock(nn.Module):
    """He et al. 2015, section 4.2, with shortcuts of option A."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, plain: bool = False) -> None:
        super().__init__()
        self.first, self.second = conv(inputs, outputs, 3, stride), conv(outputs, outputs)
        self.stride, self.more, self.plain = stride, outputs - inputs, plain

    def forward(self, x: Tensor) -> Tensor:
        branch = self.second(functional.relu(self.first(x)))
        if self.plain:
            return functional.relu(branch)
        shortcut = x
        if self.stride > 1:
            shortcut = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return functional.relu(branch + shortcut)


def cifar_resnet(depth: int = 20, width: int = 4, *, plain: bool = False) -> Any:
    blocks: list[nn.Module] = []
    inputs = width
    for stage in range(3):
        for block in range((depth - 2) // 6):
            outputs = width * 2**stage
            blocks.append(CifarBlock(inputs, outputs, 2 if stage and not block else 1, plain=plain))
            inputs = outputs
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 5)]
    return nn.Sequential(conv(3, width), nn.ReLU(), *blocks, *pool)


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, *, pool: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv(inputs, width, 1),
            nn.ReLU(True),
            *conv(width, width, 3, stride),
            nn.ReLU(True),
            *conv(width, 4 * width, 1),
        )
        self.projection = conv(inputs, 4 * width, 1, stride) if stride > 1 or inputs != 4 * width else nn.Identity()
        self.relu = nn.ReLU(True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(torch.add(self.projection(x), self.body(x)))


def resnet50(width: int = 2) -> Any:
    blocks: list[nn.Module] = []
    inputs = 4
    for stage, count in enumerate((3, 4, 6, 3)):
        for block in range(count):
            blocks.append(Bottleneck(inputs, width * 2**stage, 2 if stage and not block else 1))
            inputs = 4 * width * 2**stage
    return nn.Sequential(
        conv(3, 4), nn.ReLU(True), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 5)
    )


class PreActivation(nn.Module):
    """He et al. 2016: the activation before the weights; where the shape changes, the shortcut starts after it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(outputs), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        change = stride > 1 or inputs != outputs
        self.projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if change else None

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(x), inplace=True)
        shortcut = x if self.projection is None else self.projection(y)
        return self.conv2(functional.relu(self.norm2(self.conv1(y)), inplace=True)) + shortcut


def preactivation() -> Any:
    blocks = [PreActivation(4, 4, 1), PreActivation(4, 4, 1), PreActivation(4, 8, 2), PreActivation(8, 8, 1)]
    return nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def vgg() -> Any:
    parts: list[nn.Module] = []
    for inputs, outputs in ((3, 4), (4, 4), (4, 8), (8, 8)):
        parts += [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU(True)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, 4 * growth, 1),
            nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet() -> Any:
    return nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), *(DenseLayer(4 + 2 * i, 2) for i in range(5)), nn.Conv2d(14, 4, 1))


class UNet(nn.Module):
    """Two levels; `residual` adds inside of the levels, the levels themselves meet by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = conv(3, 4), conv(4, 8, 3, 2), conv(8, 8, 3, 2)
        self.up2, self.up1 = conv(16, 4), conv(8, 4)
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = functional.relu(self.down1(x))
        second = functional.relu(self.down2(first))
        y = functional.interpolate(functional.relu(self.middle(second)), scale_factor=2.0)
        y = functional.relu(self.up2(torch.cat([second, y], 1)))
        y = functional.interpolate(y, scale_factor=2.0)
        return self.out(functional.relu(self.up1(torch.cat([first, y], 1))))


class Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = 2 * inputs
        self.conv = nn.Sequential(
            *conv(inputs, wide, 1),
            nn.ReLU6(True),
            *conv(wide, wide, 3, stride, wide),
            nn.ReLU6(True),
            *conv(wide, outputs, 1),
        )
        self.use_res_connect = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


def mobilenet() -> Any:
    plan = [(4, 4, 1), (4, 8, 2), (8, 8, 1), (8, 8, 1), (8, 12, 1)]
    return nn.Sequential(conv(3, 4), nn.ReLU6(True), *(Inverted(*each) for each in plan))


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(1e-1 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(functional.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class Excited(nn.Module):
    """The branch is multiplied by what a look at all of it gives: squeeze and excitation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body, self.look = conv(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return x + y * torch.sigmoid(self.look(y.mean((2, 3))))[:, :, None, None]


class Context(nn.Module):
    """What is added is one number a channel: the sum without its shortcut would have another shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.look = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.look(x.mean((2, 3)))[:, :, None, None]


class Res2Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.inner = nn.ModuleList(nn.Conv2d(width // 4, width // 4, 3, 1, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(functional.relu(self.first(x)), x.shape[1] // 4, 1)
        y = self.inner[0](parts[0])
        made = [y]
        for part, layer in zip(parts[1:3], list(self.inner)[1:], strict=True):
            y = layer(functional.relu(y + part))
            made.append(y)
        return functional.relu(x + self.last(torch.cat([*made, parts[3]], 1)))


# ---------------------------------------------------------------------------------------------------------- dense ones


class Dense(nn.Module):
    """x + f(x), written in one of several ways."""

    def __init__(self, how: Callable[[Tensor, Tensor, Any], Tensor], width: int = 6) -> None:
        super().__init__()
        self.how = how
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.alpha = nn.Parameter(torch.full((), 0.5))
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        # Of a copy, which autograd keeps for the weight, so that the sum may be written over x.
        return self.how(x, self.down(torch.relu(self.up(x.clone()))), self)


class Highway(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.body, self.gate = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        t = torch.sigmoid(self.gate(x))
        return t * torch.relu(self.body(x)) + (1 - t) * x


class Lora(nn.Module):
    def __init__(self, width: int = 6, *, rank: int = 2) -> None:
        super().__init__()
        self.base, self.a, self.b = nn.Linear(width, width), nn.Linear(width, rank), nn.Linear(rank, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.base(x) + self.b(self.a(x)) * 0.5)


class Rotary(nn.Module):
    """Attention whose queries and keys are rotated, with a mask and a bias; the polynomial of GELU; positions added."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.bias = nn.Parameter(torch.zeros(5, 5))

    @staticmethod
    def rotated(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        angle = torch.outer(torch.arange(x.shape[1]).float(), torch.arange(x.shape[2]).float())
        return x * angle.cos() + torch.cat([-b, a], -1) * angle.sin()

    @staticmethod
    def gelu(x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(0.797 * (x + 0.044715 * torch.pow(x, 3))))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = self.rotated(q) @ self.rotated(k).transpose(1, 2) + self.bias
        scores = scores + mask
        x = x + self.out(torch.softmax(scores, -1) @ v)
        return x + self.down(self.gelu(self.up(x)))


class Rotating(nn.Module):
    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(11, 8), nn.Parameter(torch.randn(5, 8))
        self.blocks = nn.ModuleList(Rotary() for _ in range(blocks))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(ids) + self.position
        added = (1.0 - mask.float()[:, None, :]) * -1e4 + torch.zeros(len(ids), 5, 5)
        for block in self.blocks:
            x = block(x, added)
        return x


class Streams(nn.Module):
    """Hyper-connections (arXiv:2409.19606): several streams, mixed, and each given its part of the branch."""

    def __init__(self, streams: int = 4, width: int = 6) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.eye(streams) + 0.1)
        self.read, self.write = nn.Parameter(torch.ones(streams)), nn.Parameter(torch.ones(streams))
        self.body = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, h: Tensor) -> Tensor:
        branch = self.body(torch.einsum("s,bsd->bd", self.read, h))
        return torch.einsum("st,btd->bsd", self.mix, h) + self.write[:, None] * branch[:, None, :]


class ListedStreams(nn.Module):
    """The same as a list of tensors."""

    def __init__(self, streams: int = 3, width: int = 6) -> None:
        super().__init__()
        self.mix, self.write = nn.Parameter(torch.eye(streams) + 0.1), nn.Parameter(torch.ones(streams))
        self.body = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, streams: list[Tensor]) -> list[Tensor]:
        branch = self.body(sum(streams))
        n = len(streams)
        mixed = [sum(self.mix[i, j] * streams[j] for j in range(n)) for i in range(n)]
        return [each + self.write[i] * branch for i, each in enumerate(mixed)]


def streams_listed(model: Any, x: Tensor) -> Tensor:
    x = model.stem(x)
    streams = [x, x, x]
    for layer in model.layers:
        streams = layer(streams)
    total: Any = sum(streams)
    return total


class Wrapped(nn.Module):
    """`Residual(fn)`: the addition stands in a class of its own."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x) + x


class Parallel(nn.Module):
    """Attention and MLP side by side, as in GPT-J: two branches, one shortcut."""

    def __init__(self, width: int = 6, *, first: bool) -> None:
        super().__init__()
        self.norm, self.first = nn.LayerNorm(width), first
        self.a = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.b = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        return x + self.a(h) + self.b(h) if self.first else self.a(h) + self.b(h) + x


class Experts(nn.Module):
    """A mixture of experts beside one that is shared; the sum of both is the branch."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.router = nn.Linear(width, 3)
        self.experts = nn.ModuleList(mlp_of(width) for _ in range(3))
        self.shared = mlp_of(width)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.router(x), -1)
        routed = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            routed = routed + weights[:, index : index + 1] * expert(x)
        return x + (routed + self.shared(x))


def mlp_of(width: int) -> Any:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


def global_skip(model: Any, x: Tensor) -> Tensor:
    """As in EDSR: residual blocks, and a shortcut around all of them."""
    x = model.head(x)
    return model.tail(model.body(x) + x)


def dense(*blocks: nn.Module, width: int = 6) -> Any:
    return nn.Sequential(nn.Linear(4, width), *blocks, nn.Linear(width, 3))


def images() -> Tensor:
    return torch.randn(4, 3, 8, 8)


def rows() -> Tensor:
    return torch.randn(5, 4)


def in_place(x: Tensor, y: Tensor, block: Any) -> Tensor:
    y += x
    return y


def over_the_shortcut(x: Tensor, y: Tensor, block: Any) -> Tensor:
    x += y
    return x


WAYS: dict[str, tuple[Callable[[Tensor, Tensor, Any], Tensor], tuple[float, float]]] = {
    "torch.add, alpha": (lambda x, y, m: torch.add(x, y, alpha=0.5), (1, 0.5)),
    "torch.add, alpha on the shortcut": (lambda x, y, m: torch.add(y, x, alpha=0.5), (0.5, 1)),
    "Tensor.add_": (lambda x, y, m: y.add_(x, alpha=0.5), (0.5, 1)),
    "stack, sum": (lambda x, y, m: torch.stack([x, y]).sum(0), (1, 1)),
    "stack, sum of the last axis": (lambda x, y, m: torch.sum(torch.stack((y, x), -1), dim=-1), (1, 1)),
    "stack, mean": (lambda x, y, m: torch.stack([x, y]).mean(0), (0.5, 0.5)),
    "cat, sum": (lambda x, y, m: torch.cat([x[None], y[None]]).sum(0), (1, 1)),
    "cat, mean, keepdim": (lambda x, y, m: torch.cat([y[None], x[None]]).mean(0, keepdim=True)[0], (0.5, 0.5)),
    "lerp": (lambda x, y, m: torch.lerp(x, y, 0.3), (0.7, 0.3)),
    "lerp_": (lambda x, y, m: y.lerp_(x, 0.3), (0.3, 0.7)),
    "lerp by a tensor": (lambda x, y, m: torch.lerp(x, y, torch.full((6,), 0.3, dtype=x.dtype)), (0.7, 0.3)),
    "lerp_ by a tensor": (lambda x, y, m: y.lerp_(x, torch.full((6,), 0.3, dtype=x.dtype)), (0.3, 0.7)),
    "addcmul": (lambda x, y, m: torch.addcmul(x, torch.ones(6, dtype=x.dtype), y, value=0.5), (1, 0.5)),
    "addcmul_": (lambda x, y, m: x.clone().addcmul_(y, torch.full((6,), 0.5, dtype=x.dtype)), (1, 0.5)),
    "addcdiv": (lambda x, y, m: torch.addcdiv(x, y, torch.full((6,), 2.0, dtype=x.dtype)), (1, 0.5)),
}
"""Ways to add a shortcut and a branch, each with the factors of both."""


def written(how: Callable[[Tensor, Tensor, Any], Tensor]) -> Any:
    return dense(*(Dense(how) for _ in range(3)))


Made = tuple[Callable[[], Any], Callable[[], Any]]
Expected = tuple[dict[str, int], int, int]
"""How many of each kind; how many that are not understood; how many concatenations."""

DESIGNS: dict[str, tuple[Callable[[], Any], Callable[[], Any], Expected]] = {
    "cifar resnet-20": (cifar_resnet, images, ({"identity": 7, "parameter-free": 2}, 0, 0)),
    "resnet-18": (ResNet18, images, ({"identity": 5, "projection": 3}, 0, 0)),
    "resnet-50": (resnet50, lambda: torch.randn(2, 3, 16, 16), ({"projection": 4, "identity": 12}, 0, 0)),
    "pre-activation": (preactivation, images, ({"identity": 3, "projection": 1}, 0, 0)),
    "vgg": (vgg, images, ({}, 0, 0)),
    "densenet": (densenet, images, ({}, 0, 5)),
    "u-net": (UNet, images, ({}, 0, 2)),
    "mobilenetv2": (mobilenet, images, ({"identity": 3}, 0, 0)),
    "convnext": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 2, 2), ConvNeXtBlock(8), ConvNeXtBlock(8)),
        images,
        ({"identity": 2}, 0, 0),
    ),
    "squeeze and excitation": (
        lambda: nn.Sequential(conv(3, 4), Excited(4), nn.ReLU(), Excited(4)),
        images,
        ({"identity": 2}, 0, 0),
    ),
    "global context": (lambda: nn.Sequential(conv(3, 4), Context(4), nn.ReLU()), images, ({"identity": 1}, 0, 0)),
    "res2net": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), Res2Block(8), Res2Block(8)),
        images,
        ({"identity": 2}, 4, 2),
    ),
    "x + f(x)": (lambda: dense(*(Dense(lambda x, y, m: x + y) for _ in range(3))), rows, ({"identity": 3}, 0, 0)),
    "f(x) + x": (lambda: dense(*(Dense(lambda x, y, m: y + x) for _ in range(3))), rows, ({"identity": 3}, 0, 0)),
    "out += x": (lambda: dense(*(Dense(in_place) for _ in range(3))), rows, ({"identity": 3}, 0, 0)),
    "x += f(x)": (lambda: dense(*(Dense(over_the_shortcut) for _ in range(3))), rows, ({"identity": 3}, 0, 0)),
    "torch.add": (
        lambda: dense(*(Dense(lambda x, y, m: torch.add(x, y, alpha=0.5)) for _ in range(3))),
        rows,
        ({"identity": 3}, 0, 0),
    ),
    "sum of a list": (
        lambda: dense(*(Dense(lambda x, y, m: sum([y, x])) for _ in range(3))),  # type: ignore[arg-type, return-value]
        rows,
        ({"identity": 3}, 0, 0),
    ),
    **{f"by {name}": (partial(written, how), rows, ({"identity": 3}, 0, 0)) for name, (how, _) in WAYS.items()},
    "highway by lerp": (
        lambda: dense(*(Dense(lambda x, y, m: torch.lerp(x, y, torch.sigmoid(m.up(x)[:, :6]))) for _ in range(3))),
        rows,
        ({"gated": 3}, 0, 0),
    ),
    "layerscale by addcmul": (
        lambda: dense(*(Dense(lambda x, y, m: torch.addcmul(x, m.scale, y)) for _ in range(3))),
        rows,
        ({"identity": 3}, 0, 0),
    ),
    "rezero": (
        lambda: dense(*(Dense(lambda x, y, m: x + m.alpha * y) for _ in range(3))),
        rows,
        ({"identity": 3}, 0, 0),
    ),
    "layerscale": (
        lambda: dense(*(Dense(lambda x, y, m: y * m.scale + x) for _ in range(3))),
        rows,
        ({"identity": 3}, 0, 0),
    ),
    "scaled": (
        lambda: dense(*(Dense(lambda x, y, m: 0.7 * x + 0.7 * y) for _ in range(3))),
        rows,
        ({"identity": 3}, 0, 0),
    ),
    "highway": (lambda: dense(*(Highway() for _ in range(3))), rows, ({"gated": 3}, 0, 0)),
    "wrapped": (
        lambda: dense(*(Wrapped(nn.Sequential(nn.LayerNorm(6), mlp_of(6))) for _ in range(3))),
        rows,
        ({"identity": 3}, 0, 0),
    ),
    "parallel, shortcut first": (
        lambda: dense(*(Parallel(first=True) for _ in range(2))),
        rows,
        ({"identity": 4}, 0, 0),
    ),
    "parallel, shortcut last": (
        lambda: dense(*(Parallel(first=False) for _ in range(2))),
        rows,
        ({"identity": 2}, 0, 0),
    ),
    "mixture of experts": (lambda: dense(*(Experts() for _ in range(2))), rows, ({"identity": 2}, 0, 0)),
    "global skip": (
        lambda: Calls(
            global_skip,
            head=nn.Conv2d(3, 4, 3, 1, 1),
            body=nn.Sequential(BasicBlock(4, 4, 1), BasicBlock(4, 4, 1), nn.Conv2d(4, 4, 3, 1, 1)),
            tail=nn.Conv2d(4, 3, 1),
        ),
        images,
        ({"identity": 3}, 0, 0),
    ),
    "hyper-connections": (
        lambda: nn.Sequential(nn.Linear(6, 6), Streams(), Streams()),
        lambda: torch.randn(5, 4, 6),
        ({}, 2, 0),
    ),
    "hyper-connections, listed": (
        lambda: Calls(streams_listed, stem=nn.Linear(4, 6), layers=nn.ModuleList([ListedStreams(), ListedStreams()])),
        rows,
        ({}, 6, 0),
    ),
    "lora": (lambda: dense(Lora(), Lora()), rows, ({}, 0, 0)),
    "linear": (lambda: dense(Lora(6, rank=6), Lora(6, rank=6)), rows, ({}, 2, 0)),
    "rotary, gelu, masks, biases, positions": (
        Rotating,
        lambda: {"ids": torch.randint(0, 11, (2, 5)), "mask": torch.ones(2, 5, dtype=torch.long)},
        ({"identity": 6}, 0, 0),
    ),
}
"""name -> (a model, a batch, what is in it)."""


def design(name: str) -> tuple[Any, Any]:
    """A design and its batch, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, batch, _ = DESIGNS[name]
        return model(), batch()
