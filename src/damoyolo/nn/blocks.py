"""The layers everything else is made of: convolution with normalisation, RepConv, Focus, SPP.

Every batch normalisation here has eps 1e-3 and momentum 0.03, as the published weights expect.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from damoyolo.nn.depthwise import DepthwiseConv2d

Activation = Literal["relu", "silu", "identity"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "identity": nn.Identity}


def activation(name: Activation) -> nn.Module:
    """A new activation module; only ReLU works in place, because SiLU's gradient needs its input."""
    return nn.ReLU(inplace=True) if name == "relu" else _ACTIVATIONS[name]()


def norm(channels: int) -> nn.BatchNorm2d:
    """The batch normalisation of every layer."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03)


class ConvNorm(nn.Module):
    """Convolution without bias, 'same' padding, batch normalisation, then an optional activation.

    A `depthwise` one filters each channel alone and keeps their number.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        depthwise: bool = False,
        act: Activation = "identity",
    ) -> None:
        super().__init__()
        self.conv: nn.Conv2d = (
            DepthwiseConv2d(in_channels, kernel, stride)
            if depthwise
            else nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
        )
        self.norm = norm(out_channels)
        self.act = activation(act)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Apply convolution, normalisation, activation."""
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out


class RepConv(nn.Module):
    """A kxk and a 1x1 convolution side by side while training, one kxk convolution afterwards.

    RepVGG (arXiv 2101.03697) without its identity branch; paper section 3.2. `fuse` replaces the two branches
    by the one convolution that computes the same function.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        act: Activation = "identity",
    ) -> None:
        super().__init__()
        self.stride = stride
        self.dense = ConvNorm(in_channels, out_channels, kernel, stride)
        self.pointwise = ConvNorm(in_channels, out_channels)
        self.act = activation(act)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Sum of the branches (or the fused convolution), then the activation."""
        out: Tensor = self.act(self.fused(x) if hasattr(self, "fused") else self._branches(x))
        return out

    def _branches(self, x: Tensor) -> Tensor:
        """Pixels are left out before the 1x1 convolution, not by it.

        oneDNN writes beyond its memory in the gradient of a strided one with few channels (its issue 6035).
        """
        out: Tensor = self.dense(x) + self.pointwise(x[..., :: self.stride, :: self.stride])
        return out

    @torch.no_grad()
    def fuse(self) -> None:
        """Replace both branches by one convolution, in place; exact up to float32 rounding."""
        if hasattr(self, "fused"):
            return
        weight, bias = _folded(self.dense)
        small_weight, small_bias = _folded(self.pointwise)
        kernel = weight.shape[-1]
        conv = self.dense.conv
        fused = nn.Conv2d(conv.in_channels, conv.out_channels, kernel, conv.stride[0], kernel // 2)
        fused.weight.copy_(weight + nn.functional.pad(small_weight, [kernel // 2] * 4))
        assert fused.bias is not None
        fused.bias.copy_(bias + small_bias)
        self.fused = fused.to(weight.device)
        del self.dense, self.pointwise


def _folded(branch: ConvNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that equals convolution plus normalisation in eval mode."""
    bn = branch.norm
    assert bn.running_var is not None
    assert bn.running_mean is not None
    scale = bn.weight / (bn.running_var + bn.eps).sqrt()
    return branch.conv.weight * scale[:, None, None, None], bn.bias - bn.running_mean * scale


class Focus(nn.Module):
    """Space to depth: four half-resolution images side by side in channels, then a convolution.

    Patch order: top-left, bottom-left, top-right, bottom-right; channel = patch * 3 + colour.
    """

    def __init__(self, out_channels: int, kernel: int, act: Activation) -> None:
        super().__init__()
        self.conv = ConvNorm(12, out_channels, kernel, act=act)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b o h/2 w/2"]:
        """Halve the resolution without losing a pixel."""
        even_rows, odd_rows = x[..., ::2, :], x[..., 1::2, :]
        patches = (even_rows[..., ::2], odd_rows[..., ::2], even_rows[..., 1::2], odd_rows[..., 1::2])
        out: Tensor = self.conv(torch.cat(patches, dim=1))
        return out


class SPP(nn.Module):
    """Spatial pyramid pooling: the map beside its 5x5, 9x9 and 13x13 maxima, mixed by 1x1 convolutions.

    The larger windows are chained 5x5 maxima (a maximum of maxima), which is the same number in fewer steps.
    """

    def __init__(self, in_channels: int, out_channels: int, act: Activation) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.reduce = ConvNorm(in_channels, hidden, act=act)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.expand = ConvNorm(4 * hidden, out_channels, act=act)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """Mix four window sizes."""
        x = self.reduce(x)
        five = self.pool(x)
        nine = self.pool(five)
        out: Tensor = self.expand(torch.cat([x, five, nine, self.pool(nine)], dim=1))
        return out
