"""Where the box is: distribution focal loss over its sides (arXiv 2006.04388, section 3.2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def side_targets(
    boxes: Float[Tensor, "m 4"], points: Float[Tensor, "m 2"], strides: Float[Tensor, " m"], bins: int
) -> Float[Tensor, "m 4"]:
    """Distances left, top, right, bottom from each point to its box, in strides, within 0 .. bins - 1.1.

    Sides behind the point count as 0; the upper bound keeps both neighbouring bins in range.
    """
    sides = torch.cat([points - boxes[:, :2], boxes[:, 2:] - points], dim=1) / strides[:, None]
    return sides.clamp(0, bins - 1.1)


def distribution_focal_loss(
    side_logits: Float[Tensor, "m 4 bins"], targets: Float[Tensor, "m 4"]
) -> Float[Tensor, "m 4"]:
    """Cross entropy with the two bins around each target, shared by nearness."""
    log_probs = side_logits.log_softmax(dim=-1)
    lower = targets.long()
    share = targets - lower
    both = log_probs.gather(-1, torch.stack([lower, lower + 1], dim=-1))
    return -(both[..., 0] * (1 - share) + both[..., 1] * share)
