"""Areas and overlaps of boxes, xyxy."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

EPS = 1e-6
"""Floor of every union and enclosing area, in square pixels."""


def box_area(boxes: Float[Tensor, "*d 4"]) -> Float[Tensor, "*d"]:
    """Width times height; negative sides are not mended."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_intersection(a: Float[Tensor, "*#d 4"], b: Float[Tensor, "*#d 4"]) -> Float[Tensor, "*d"]:
    """Common area; leading dimensions broadcast."""
    width = torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0])
    height = torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1])
    return width.clamp_(min=0) * height.clamp_(min=0)


def box_iou(a: Float[Tensor, "*#d 4"], b: Float[Tensor, "*#d 4"]) -> Float[Tensor, "*d"]:
    """Intersection over union, 0..1; leading dimensions broadcast."""
    intersection = box_intersection(a, b)
    return intersection / (box_area(a) + box_area(b) - intersection).clamp(min=EPS)


def box_giou(a: Float[Tensor, "*#d 4"], b: Float[Tensor, "*#d 4"]) -> Float[Tensor, "*d"]:
    """Generalised IoU, -1..1 (arXiv 1902.09630); leading dimensions broadcast."""
    intersection = box_intersection(a, b)
    union = (box_area(a) + box_area(b) - intersection).clamp(min=EPS)
    top_left = torch.minimum(a[..., :2], b[..., :2])
    bottom_right = torch.maximum(a[..., 2:], b[..., 2:])
    hull = (bottom_right - top_left).clamp(min=0).prod(dim=-1).clamp(min=EPS)
    return intersection / union - (hull - union) / hull
