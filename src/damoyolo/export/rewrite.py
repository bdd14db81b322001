"""Exact rewrites of a trained network into one that computes the same function in fewer steps.

`Network` applies them all to a copy. What each is worth, for every size and on two runtimes, is printed by
`benchmarks/rewrites.py`. Chained pooling (SPP) needs no rewrite: the network is built that way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from damoyolo.nn.blocks import ConvNorm, Focus
from damoyolo.nn.detector import Detector, fuse
from damoyolo.nn.head import ZeroHead
from damoyolo.nn.neck import Fusion, RepGFPN

SidesAt = Callable[[Tensor], Tensor]
"""Gives the side logits (b 4 bins k) of the points (b k)."""


class Network(nn.Module):
    """Backbone, neck and head of a detector, rewritten; frozen, in eval mode, float32.

    With `sparse` its head is a `SparseHead`, else a `JointHead`.
    """

    @torch.no_grad()
    def __init__(self, detector: Detector, *, sparse: bool = False) -> None:
        super().__init__()
        fused = fuse(detector).cpu().float()
        fold_norms(fused)
        merge_focus(fused)
        upsample_late(fused.neck)
        assert isinstance(fused.head, ZeroHead)
        self.backbone, self.neck = fused.backbone, fused.neck
        self.head = SparseHead(fused.head) if sparse else JointHead(fused.head)
        self.eval().requires_grad_(False)

    def forward(
        self, images: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b p c"], Float[Tensor, "b 4 bins p"] | SidesAt]:
        """Class logits and side logits of float RGB images 0..255."""
        logits: tuple[Tensor, Tensor | SidesAt] = self.head(*self.neck(*self.backbone(images)))
        return logits


class Convolution(nn.Module):
    """A convolution with bias, then its activation."""

    def __init__(self, conv: nn.Conv2d, act: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.act = act

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        """Convolve, activate."""
        out: Tensor = self.act(self.conv(x))
        return out


def fold_norms(module: nn.Module) -> None:
    """Every batch normalisation becomes part of the convolution before it; computed in float64."""
    _replace(module, ConvNorm, _folded)


def merge_focus(module: nn.Module) -> None:
    """`Focus` with its kxk convolution, norm folded, is one convolution of the image: 2kx2k, stride 2."""
    _replace(module, Focus, _as_convolution)


def upsample_late(neck: nn.Module) -> None:
    """Both fusions that read an upsampled map apply their 1x1 convolutions to it before it is upsampled."""
    assert isinstance(neck, RepGFPN)
    t5, t4 = neck.fuse_t5.mix.conv, neck.fuse_t4.mix.conv
    for name, part in {
        "up": nn.Identity(),
        "fuse_t4": LateUpsampling(neck.fuse_t4, t5.out_channels),
        "fuse_p3": LateUpsampling(neck.fuse_p3, t4.out_channels),
    }.items():
        setattr(neck, name, part)


class LateUpsampling(nn.Module):
    """A fusion, norms folded, whose last map comes at half the resolution.

    A 1x1 convolution commutes with nearest upsampling, and a convolution of maps side by side is the sum of
    the convolutions of each: so the last map's part costs a quarter.
    """

    def __init__(self, fusion: Fusion, channels: int) -> None:
        super().__init__()
        self.bypass = SplitConvolution(fusion.bypass, channels)
        self.enter = SplitConvolution(fusion.enter, channels)
        self.layers = fusion.layers
        self.mix = fusion.mix

    def forward(self, *maps: Float[Tensor, "b _ _ _"]) -> Float[Tensor, "b o h w"]:
        """All maps have height h and width w, the last one half of them."""
        x, coarse = torch.cat(maps[:-1], dim=1), maps[-1]
        outputs = [self.bypass(x, coarse)]
        y = self.enter(x, coarse)
        for layer in self.layers:
            y = layer(y)
            outputs.append(y)
        out: Tensor = self.mix(torch.cat(outputs, dim=1))
        return out


class SplitConvolution(nn.Module):
    """A 1x1 convolution of maps of which the last `channels` are computed at half the resolution."""

    def __init__(self, layer: Convolution | ConvNorm, channels: int) -> None:
        super().__init__()
        weight = layer.conv.weight
        self.fine = _convolution(weight[:, :-channels], layer.conv.bias)
        self.coarse = _convolution(weight[:, -channels:])
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.act = layer.act

    def forward(self, x: Float[Tensor, "b i h w"], coarse: Float[Tensor, "b j h/2 w/2"]) -> Tensor:
        """The sum of both parts, activated."""
        out: Tensor = self.act(self.fine(x) + self.up(self.coarse(coarse)))
        return out


class JointHead(nn.Module):
    """ZeroHead with one convolution per scale for both tasks, the scales' factors folded in.

    Gives side logits channel by channel, as convolutions leave them, so that they are not transposed.
    """

    def __init__(self, head: ZeroHead) -> None:
        super().__init__()
        self.num_classes, self.bins = head.num_classes, head.bins
        self.project = nn.ModuleList(
            _convolution(
                torch.cat([classify.weight, weight]),
                torch.cat([classify.bias, bias]),
                padding=classify.padding,
            )
            for classify, weight, bias in _tasks(head)
        )

    def forward(
        self, *maps: Float[Tensor, "b _ _ _"]
    ) -> tuple[Float[Tensor, "b p c"], Float[Tensor, "b 4 bins p"]]:
        """Class logits and side logits; points are ordered level by level, row by row."""
        tasks = [self.num_classes, 4 * self.bins]
        both = [
            project(x).flatten(2).split(tasks, dim=1) for project, x in zip(self.project, maps, strict=True)
        ]
        class_logits = torch.cat([classes.transpose(1, 2) for classes, _ in both], dim=1)
        side_logits = torch.cat([sides for _, sides in both], dim=2)
        return class_logits, side_logits.unflatten(1, (4, self.bins))


class SparseHead(nn.Module):
    """ZeroHead whose side logits are computed only at points that are asked for."""

    def __init__(self, head: ZeroHead) -> None:
        super().__init__()
        self.bins = head.bins
        self.classify = head.classify
        self.regress = nn.ModuleList(SparseConvolution(weight, bias) for _, weight, bias in _tasks(head))

    def forward(self, *maps: Float[Tensor, "b _ _ _"]) -> tuple[Float[Tensor, "b p c"], SidesAt]:
        """Class logits of all points, and what computes the side logits of some."""
        logits = [
            classify(x).permute(0, 2, 3, 1).flatten(1, 2)
            for classify, x in zip(self.classify, maps, strict=True)
        ]
        return torch.cat(logits, dim=1), partial(self.side_logits, maps)

    def side_logits(
        self, maps: tuple[Float[Tensor, "b _ _ _"], ...], points: Int64[Tensor, "b k"]
    ) -> Float[Tensor, "b 4 bins k"]:
        """Those of the chosen points, each of which lies on one of the maps."""
        found: list[Tensor] = []
        start = 0
        for regress, x in zip(self.regress, maps, strict=True):
            found.append(regress(x, points - start))
            start += x.shape[2] * x.shape[3]
        sides: Tensor = torch.stack(found).sum(dim=0).transpose(1, 2).unflatten(1, (4, self.bins))
        return sides


class SparseConvolution(nn.Module):
    """A convolution with stride 1 and 'same' padding, computed at a few cells only."""

    def __init__(self, weight: Float[Tensor, "o i kernel kernel"], bias: Float[Tensor, " o"]) -> None:
        super().__init__()
        self.kernel = weight.shape[-1]
        self.weight = nn.Parameter(weight.detach().permute(2, 3, 1, 0).flatten(0, 2))
        self.bias = nn.Parameter(bias.detach().clone())

    def forward(self, x: Float[Tensor, "b i h w"], cells: Int64[Tensor, "b k"]) -> Float[Tensor, "b k o"]:
        """Cells are counted row by row; 0 for those outside of the map."""
        channels, height, width = x.shape[1:]
        here = (cells >= 0) & (cells < height * width)
        cells = cells.clamp(0, height * width - 1)
        row = cells.div(width, rounding_mode="trunc")
        taps = torch.arange(self.kernel) - self.kernel // 2
        rows = row[..., None] + taps.repeat_interleave(self.kernel)
        columns = (cells - row * width)[..., None] + taps.repeat(self.kernel)
        inside = here[..., None] & (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        places = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
        first = torch.arange(x.shape[0])[:, None, None] * (height * width)
        taken = F.embedding(first + places, x.permute(0, 2, 3, 1).reshape(-1, channels))
        found: Tensor = (taken * inside[..., None]).flatten(2) @ self.weight
        return found + self.bias * here[..., None]


def _tasks(head: ZeroHead) -> Iterator[tuple[Any, Tensor, Tensor]]:
    """Of each scale the convolution for classes, and weight and bias of the one for sides, scaled."""
    for classify, regress, scale in zip(head.classify, head.regress, head.scales, strict=True):
        assert isinstance(regress, nn.Conv2d)
        assert regress.bias is not None
        yield classify, scale * regress.weight, scale * regress.bias


def _replace(module: nn.Module, kind: type[nn.Module], substitute: Callable[[Any], nn.Module]) -> None:
    """Put `substitute(part)` in the place of every part of that kind, however deep."""
    for name, part in module.named_children():
        if isinstance(part, kind):
            setattr(module, name, substitute(part))
        else:
            _replace(part, kind, substitute)


def _folded(layer: ConvNorm) -> Convolution:
    conv, norm = layer.conv, layer.norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    weight = conv.weight.double() * scale[:, None, None, None]
    bias = norm.bias.double() - norm.running_mean.double() * scale
    folded = _convolution(
        weight.float(), bias.float(), stride=conv.stride, padding=conv.padding, groups=conv.groups
    )
    return Convolution(folded, layer.act)


def _as_convolution(focus: Focus) -> Convolution:
    small = focus.conv.conv  # its 12 channels: four patches of three colours
    out, _, kernel, _ = small.weight.shape
    weight = small.weight.new_zeros(out, 3, 2 * kernel, 2 * kernel)
    for patch, (column, row) in enumerate(product((0, 1), repeat=2)):
        weight[:, :, row::2, column::2] = small.weight[:, 3 * patch : 3 * patch + 3]
    conv = _convolution(weight, small.bias, stride=2, padding=2 * (kernel // 2))
    return Convolution(conv, focus.conv.act)


def _convolution(weight: Tensor, bias: Tensor | None = None, groups: int = 1, **geometry: Any) -> nn.Conv2d:
    """A convolution with these numbers."""
    out, channels, height, width = weight.shape
    kernel = (height, width)
    conv = nn.Conv2d(channels * groups, out, kernel, groups=groups, bias=bias is not None, **geometry)
    conv.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach().clone())
    return conv
