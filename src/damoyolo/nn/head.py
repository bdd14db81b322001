"""ZeroHead: one convolution per task and scale (paper section 3.3, "large neck, small head")."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from damoyolo.boxes.points import Pyramid
from damoyolo.boxes.types import Predictions
from damoyolo.nn.init import init_projection


class ZeroHead(nn.Module):
    """Class logits and side distributions straight from the neck's maps.

    Args:
        in_channels: channels of P3, P4, P5.
        num_classes: classes; no background channel.
        bins: each box side is a distribution over 0 .. bins-1 strides.
        kernel: kernel of the projections.
        strides: pixels per cell of each map.
    """

    def __init__(
        self, in_channels: tuple[int, ...], num_classes: int, bins: int, kernel: int, strides: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.num_classes, self.bins, self.strides = num_classes, bins, strides
        self.classify = nn.ModuleList(
            nn.Conv2d(c, num_classes, kernel, padding=kernel // 2) for c in in_channels
        )
        self.regress = nn.ModuleList(nn.Conv2d(c, 4 * bins, kernel, padding=kernel // 2) for c in in_channels)
        self.scales = nn.ParameterList(nn.Parameter(torch.tensor(1.0)) for _ in in_channels)
        for classify, regress in zip(self.classify, self.regress, strict=True):
            assert isinstance(classify, nn.Conv2d)
            assert isinstance(regress, nn.Conv2d)
            init_projection(classify, prior=0.01)
            init_projection(regress)

    def forward(self, *maps: Float[Tensor, "b _ _ _"]) -> Predictions:
        """Points are ordered level by level, row by row."""
        class_logits, side_logits, sizes = [], [], []
        for x, classify, regress, scale in zip(maps, self.classify, self.regress, self.scales, strict=True):
            class_logits.append(classify(x).flatten(2))
            side_logits.append((scale * regress(x)).flatten(2).float())
            sizes.append((x.shape[2], x.shape[3]))
        return Predictions(
            class_logits=torch.cat(class_logits, dim=2).permute(0, 2, 1),
            side_logits=torch.cat(side_logits, dim=2).permute(0, 2, 1).unflatten(2, (4, self.bins)),
            pyramid=Pyramid(tuple(sizes), self.strides),
        )
