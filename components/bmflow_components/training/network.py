"""A small three-head anchor detector with the building blocks of the YOLOv5 family, in PyTorch.

    stem -> down2 -> C3 -> down3 -> C3 -> down4 -> C3 -> down5 -> C3 -> SPPF        backbone, strides 2 4 8 16 32
                            |p3            |p4                          |p5
    p5 -> 1x1 -> up, join p4 -> C3 -> 1x1 -> up, join p3 -> C3                      top-down path
    n3 -> down, join -> C3 = n4 -> down, join -> C3 = n5                            bottom-up path
    n3, n4, n5 -> 1x1 convolution -> raw maps (n, 3 * (5 + classes), ny, nx)        heads, strides 8 16 32

Sources of the ideas: CSP (arXiv 1911.11929), spatial pyramid pooling (arXiv 1406.4729) as a chain of small pools, path
aggregation (arXiv 1803.01534), anchors and objectness (arXiv 1804.02767).
"""

# pyright: reportMissingImports=false
# (PyTorch and matplotlib belong to the extra `train`)

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

STRIDES = (8, 16, 32)
ANCHORS_PER_CELL = 3


@dataclass(frozen=True)
class NetworkOptions:
    """Number of classes; channels after each halving (strides 2, 4, 8, 16, 32); bottlenecks of the backbone's C3 blocks."""

    classes: int
    channels: tuple[int, int, int, int, int] = (8, 16, 32, 48, 80)
    depths: tuple[int, int, int, int] = (1, 1, 2, 1)


class ConvBlock(nn.Module):
    """Convolution without bias, batch normalisation, SiLU; padding keeps ceil(size / stride)."""

    def __init__(self, ic: int, oc: int, kernel: int = 1, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(ic, oc, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(oc, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """(n, ic, h, w) -> (n, oc, ceil(h / stride), ceil(w / stride))."""
        return self.act(self.norm(self.conv(x)))


class Bottleneck(nn.Module):
    """x -> 1x1 -> 3x3, added to x where asked."""

    def __init__(self, channels: int, shortcut: bool):
        super().__init__()
        self.squeeze = ConvBlock(channels, channels)
        self.mix = ConvBlock(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> the same shape."""
        y = self.mix(self.squeeze(x))
        return x + y if self.shortcut else y


class C3(nn.Module):
    """Cross-stage partial block: one half through `depth` bottlenecks, the other past them, joined by the third convolution."""

    def __init__(self, ic: int, oc: int, depth: int = 1, shortcut: bool = True):
        super().__init__()
        half = oc // 2
        self.through = ConvBlock(ic, half)
        self.past = ConvBlock(ic, half)
        self.inner = nn.Sequential(*(Bottleneck(half, shortcut) for _ in range(depth)))
        self.join = ConvBlock(2 * half, oc)

    def forward(self, x: Tensor) -> Tensor:
        """(n, ic, h, w) -> (n, oc, h, w)."""
        return self.join(torch.cat((self.inner(self.through(x)), self.past(x)), 1))


class Sppf(nn.Module):
    """Pools of 5, 9 and 13 as a chain of three 5x5 pools, joined with their source."""

    def __init__(self, channels: int):
        super().__init__()
        self.squeeze = ConvBlock(channels, channels // 2)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.join = ConvBlock(channels * 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> the same shape."""
        a = self.squeeze(x)
        b = self.pool(a)
        c = self.pool(b)
        return self.join(torch.cat((a, b, c, self.pool(c)), 1))


class Detector(nn.Module):
    """Picture (n, 3, h, w) RGB in 0..1, h and w multiples of 32 -> three raw maps, strides 8, 16, 32."""

    def __init__(self, options: NetworkOptions):
        super().__init__()
        self.options = options
        c1, c2, c3, c4, c5 = options.channels
        d2, d3, d4, d5 = options.depths
        self.stem = ConvBlock(3, c1, 3, 2)
        self.stage2 = nn.Sequential(ConvBlock(c1, c2, 3, 2), C3(c2, c2, d2))
        self.stage3 = nn.Sequential(ConvBlock(c2, c3, 3, 2), C3(c3, c3, d3))
        self.stage4 = nn.Sequential(ConvBlock(c3, c4, 3, 2), C3(c4, c4, d4))
        self.stage5 = nn.Sequential(ConvBlock(c4, c5, 3, 2), C3(c5, c5, d5), Sppf(c5))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.lateral5 = ConvBlock(c5, c4)
        self.down_path4 = C3(2 * c4, c4, shortcut=False)
        self.lateral4 = ConvBlock(c4, c3)
        self.down_path3 = C3(2 * c3, c3, shortcut=False)
        self.halve3 = ConvBlock(c3, c3, 3, 2)
        self.up_path4 = C3(2 * c3, c4, shortcut=False)
        self.halve4 = ConvBlock(c4, c4, 3, 2)
        self.up_path5 = C3(2 * c4, c5, shortcut=False)
        fields = ANCHORS_PER_CELL * (5 + options.classes)
        self.heads = nn.ModuleList(nn.Conv2d(channels, fields, 1) for channels in (c3, c4, c5))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Raw maps (n, 3 * (5 + classes), ny, nx); channels count anchor-major: x, y, w, h, objectness, classes."""
        p3 = self.stage3(self.stage2(self.stem(x)))
        p4 = self.stage4(p3)
        p5 = self.lateral5(self.stage5(p4))
        n4 = self.lateral4(self.down_path4(torch.cat((self.up(p5), p4), 1)))
        n3 = self.down_path3(torch.cat((self.up(n4), p3), 1))
        m4 = self.up_path4(torch.cat((self.halve3(n3), n4), 1))
        m5 = self.up_path5(torch.cat((self.halve4(m4), p5), 1))
        return tuple(head(feature) for head, feature in zip(self.heads, (n3, m4, m5), strict=True))


def build(options: NetworkOptions, size: int, seed: int) -> Detector:
    """A new detector with seeded weights; head biases start at rare objects (8 a picture) and even classes (RetinaNet, arXiv 1708.02002, 4.1)."""
    torch.manual_seed(seed)
    network = Detector(options)
    for head, stride in zip(network.heads, STRIDES, strict=True):
        assert isinstance(head, nn.Conv2d)
        assert head.bias is not None
        bias = head.bias.data.view(ANCHORS_PER_CELL, -1)
        bias[:, 4] = math.log(8 / (size / stride) ** 2)
        bias[:, 5:] = math.log(0.6 / (options.classes - 0.99))
    return network


def parameter_count(network: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in network.parameters())


def to_cells(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Raw maps to (n, 3, ny, nx, 5 + classes), the form the loss reads."""
    return [out.unflatten(1, (ANCHORS_PER_CELL, -1)).permute(0, 1, 3, 4, 2) for out in outputs]
