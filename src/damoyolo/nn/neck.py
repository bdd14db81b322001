"""RepGFPN: the efficient generalised feature pyramid (paper section 3.2, figure 4).

Each scale has its own width, upsampling has no queen fusion, and a fusion is a CSP stage whose layers all
contribute to its output (ELAN-style aggregation).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from damoyolo.nn.blocks import Activation, ConvNorm, RepConv
from damoyolo.nn.init import init_depthwise_downsample
from damoyolo.nn.stages import InvertedLayer
from damoyolo.spec import NeckSpec


class RepGFPN(nn.Module):
    """C3 C4 C5 in, P3 P4 P5 out, both at strides 8, 16, 32.

    A coarse map T is made top-down for strides 32 and 16; then P3, P4 and P5 are made bottom-up.
    """

    def __init__(
        self,
        in_channels: tuple[int, int, int],
        out_channels: tuple[int, int, int],
        depth: int,
        act: Activation,
        hidden_ratio: float = 1.0,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        c3, c4, c5 = in_channels
        p3, p4, p5 = out_channels

        def fusion(inputs: int, outputs: int) -> Fusion:
            return Fusion(inputs, outputs, depth, act, hidden_ratio, depthwise)

        def downsample(channels: int) -> nn.Module:
            return (
                DepthwiseDownsample(channels, act)
                if depthwise
                else ConvNorm(channels, channels, 3, 2, act=act)
            )

        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.down_c4 = downsample(c4)
        self.fuse_t5 = fusion(c5 + c4, c5)
        self.down_c3 = downsample(c3)
        self.fuse_t4 = fusion(c4 + c3 + c5, c4)
        self.fuse_p3 = fusion(c3 + c4, p3)
        self.down_p3 = downsample(p3)
        self.fuse_p4 = fusion(c4 + p3, p4)
        self.down_t4 = downsample(c4)
        self.down_p4 = downsample(p4)
        self.fuse_p5 = fusion(c5 + c4 + p4, p5)

    def forward(
        self,
        c3: Float[Tensor, "b c3 h3 w3"],
        c4: Float[Tensor, "b c4 h4 w4"],
        c5: Float[Tensor, "b c5 h5 w5"],
    ) -> tuple[Float[Tensor, "b p3 h3 w3"], Float[Tensor, "b p4 h4 w4"], Float[Tensor, "b p5 h5 w5"]]:
        """Each line is one node of figure 4."""
        t5 = self.fuse_t5(c5, self.down_c4(c4))
        t4 = self.fuse_t4(c4, self.down_c3(c3), self.up(t5))
        p3 = self.fuse_p3(c3, self.up(t4))
        p4 = self.fuse_p4(t4, self.down_p3(p3))
        p5 = self.fuse_p5(t5, self.down_t4(t4), self.down_p4(p4))
        return p3, p4, p5


class Fusion(nn.Module):
    """Concatenate, split into two paths, run `depth` layers on one, and mix the outputs of all of them."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        depth: int,
        act: Activation,
        hidden_ratio: float,
        depthwise: bool,
    ) -> None:
        super().__init__()
        bypass = out_channels // 2
        width = out_channels - bypass
        self.bypass = ConvNorm(in_channels, bypass, act=act)
        self.enter = ConvNorm(in_channels, width, act=act)
        self.layers = nn.ModuleList(
            InvertedLayer(width, width, expansion=3.0, kernel=5, stride=1, act=act)
            if depthwise
            else FusionLayer(width, int(width * hidden_ratio), act)
            for _ in range(depth)
        )
        self.mix = ConvNorm(bypass + depth * width, out_channels, act=act)

    def forward(self, *maps: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b o h w"]:
        """All maps have the same height and width."""
        x = torch.cat(maps, dim=1)
        outputs = [self.bypass(x)]
        y = self.enter(x)
        for layer in self.layers:
            y = layer(y)
            outputs.append(y)
        out: Tensor = self.mix(torch.cat(outputs, dim=1))
        return out


class FusionLayer(nn.Module):
    """RepConv, 3x3 convolution, shortcut."""

    def __init__(self, channels: int, hidden: int, act: Activation) -> None:
        super().__init__()
        self.rep = RepConv(channels, hidden, act=act)
        self.conv = ConvNorm(hidden, channels, 3, act=act)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """No activation follows the addition."""
        out: Tensor = x + self.conv(self.rep(x))
        return out


class DepthwiseDownsample(nn.Module):
    """Halve the resolution with a depthwise 3x3 and mix channels with a 1x1."""

    def __init__(self, channels: int, act: Activation) -> None:
        super().__init__()
        self.depthwise = ConvNorm(channels, channels, 3, 2, depthwise=True, act=act)
        self.pointwise = ConvNorm(channels, channels, act=act)
        init_depthwise_downsample(self)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h/2 w/2"]:
        """Filter, then mix."""
        out: Tensor = self.pointwise(self.depthwise(x))
        return out


def build_neck(in_channels: tuple[int, int, int], spec: NeckSpec) -> RepGFPN:
    """The neck a `NeckSpec` describes, freshly initialised."""
    return RepGFPN(in_channels, spec.out, spec.depth, spec.activation, spec.hidden_ratio, spec.depthwise)
