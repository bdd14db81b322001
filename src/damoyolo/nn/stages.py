"""Residual layers and the cross-stage-partial stage that backbones and neck are stacked from."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from damoyolo.nn.blocks import Activation, ConvNorm, RepConv, activation


def _spatial(rep: bool, in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Module:
    """The kxk convolution of a residual layer, before its activation."""
    kind = RepConv if rep else ConvNorm
    return kind(in_channels, out_channels, kernel, stride)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """What is added to a residual layer's output: its input, projected where the widths differ."""
    if stride == 2:
        return None
    return nn.Identity() if in_channels == out_channels else ConvNorm(in_channels, out_channels)


class ResidualLayer(nn.Module):
    """Two convolutions and a shortcut: 1x1 then kxk (k1kx), or kxk then kxk (kxkx).

    As in the published models a stride-2 layer has no shortcut.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bottleneck: int,
        kernel: int,
        stride: int,
        act: Activation,
        rep: bool,
        first_kernel: int = 1,
    ) -> None:
        super().__init__()
        self.reduce = ConvNorm(in_channels, bottleneck, first_kernel, act=act)
        self.expand = _spatial(rep, bottleneck, out_channels, kernel, stride)
        self.act = activation(act)
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Transform, add the shortcut if there is one, activate."""
        y = self.expand(self.reduce(x))
        if self.shortcut is not None:
            y = y + self.shortcut(x)
        out: Tensor = self.act(y)
        return out


class BottleneckLayer(nn.Module):
    """Three convolutions (1x1, kxk, 1x1) and a shortcut: the k1kxk1 layer of MAE-NAS."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bottleneck: int,
        kernel: int,
        stride: int,
        act: Activation,
        rep: bool,
    ) -> None:
        super().__init__()
        self.reduce = ConvNorm(in_channels, bottleneck, act=act)
        self.spatial = nn.Sequential(_spatial(rep, bottleneck, bottleneck, kernel, stride), activation(act))
        self.expand = ConvNorm(bottleneck, out_channels)
        self.act = activation(act)
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Transform, add the shortcut if there is one, activate."""
        y = self.expand(self.spatial(self.reduce(x)))
        if self.shortcut is not None:
            y = y + self.shortcut(x)
        out: Tensor = self.act(y)
        return out


class InvertedLayer(nn.Module):
    """Inverted residual (MobileNetV2, arXiv 1801.04381): 1x1 widen, depthwise kxk, 1x1 project.

    The inner width is `expansion` times the output, rounded to a multiple of 8; the shortcut is there when
    the shapes allow it.
    """

    def __init__(
        self, in_channels: int, out_channels: int, expansion: float, kernel: int, stride: int, act: Activation
    ) -> None:
        super().__init__()
        hidden = multiple_of_8(out_channels * expansion)
        self.expand = ConvNorm(in_channels, hidden, act=act)
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, depthwise=True, act=act)
        self.project = ConvNorm(hidden, out_channels)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Widen, filter, project; add the input where shapes agree."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.has_shortcut else y


class CspStage(nn.Module):
    """Cross-stage-partial stage of the M and L backbones (CSPNet, arXiv 1911.11929).

    Downsample; then half of the channels pass through `layers` while the other half bypasses them.
    """

    def __init__(
        self,
        downsample: nn.Module,
        spp: nn.Module,
        layers: list[nn.Module],
        in_channels: int,
        layer_channels: tuple[int, int],
        out_channels: int,
        act: Activation,
    ) -> None:
        super().__init__()
        entering, leaving = layer_channels
        self.downsample = downsample
        self.spp = spp
        self.enter = ConvNorm(in_channels, entering, act=act)
        self.bypass = ConvNorm(in_channels, out_channels // 2, act=act)
        self.layers = nn.Sequential(*layers)
        self.fuse = ConvNorm(leaving + out_channels // 2, out_channels, act=act)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h/2 w/2"]:
        """Halve the resolution and mix both branches; the processed branch comes first."""
        x = self.spp(self.downsample(x))
        out: Tensor = self.fuse(torch.cat([self.layers(self.enter(x)), self.bypass(x)], dim=1))
        return out


def multiple_of_8(width: float) -> int:
    """The multiple of 8 nearest to `width` rounded up, at least 8 and not under 90 % of it."""
    whole = math.ceil(width)
    rounded = max(8, (whole + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * whole else rounded
