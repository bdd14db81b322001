"""From side distributions to boxes (distribution focal loss, arXiv 2006.04388, section 3.2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def expected_sides(side_logits: Float[Tensor, "*d bins"]) -> Float[Tensor, "*d"]:
    """Mean of each side's distribution over 0 .. bins-1, in units of the point's stride."""
    bins = torch.arange(side_logits.shape[-1], device=side_logits.device, dtype=side_logits.dtype)
    return side_logits.softmax(dim=-1) @ bins


def decode_boxes(
    side_logits: Float[Tensor, "*d 4 bins"], points: Float[Tensor, "*#d 2"], strides: Float[Tensor, "*#d"]
) -> Float[Tensor, "*d 4"]:
    """Boxes xyxy in pixels, not clipped: the point minus (left, top) and plus (right, bottom) sides."""
    sides = expected_sides(side_logits) * strides[..., None]
    return torch.cat([points - sides[..., :2], points + sides[..., 2:]], dim=-1)
