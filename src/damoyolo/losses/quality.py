"""Quality focal loss (Generalized Focal Loss, arXiv 2006.04388, section 3.1; paper section 3.4)."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def quality_focal_loss(
    class_logits: Float[Tensor, "b p c"],
    positive: Bool[Tensor, "b p"],
    labels: Int64[Tensor, " m"],
    quality: Float[Tensor, " m"],
) -> Float[Tensor, ""]:
    """Sum over points and classes of BCE(p, t) |t - p|^2.

    The target t is `quality` (the IoU, 0..1) at the label of each of the m positive points, in the order of
    `positive.nonzero()`, and 0 everywhere else.
    """
    background = _towards_zero(class_logits).sum()
    logits = class_logits[positive].gather(1, labels[:, None]).squeeze(1)
    toward_quality = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    toward_quality = toward_quality * (quality - logits.sigmoid()).square()
    return background + (toward_quality - _towards_zero(logits)).sum()


def _towards_zero(logits: Tensor) -> Tensor:
    """BCE(p, 0) p^2."""
    return F.softplus(logits) * logits.sigmoid().square()
