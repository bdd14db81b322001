"""Greedy non-maximum suppression, by torchvision's operator.

The operator is loaded without the Python package around it: that imports PyTorch's compiler, which takes as
long as PyTorch itself and which nothing here needs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

AT_ONCE = 1000
"""Boxes of which all classes are suppressed in one call; more are quicker class by class."""


def nms(boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], iou: float) -> Int64[Tensor, " kept"]:
    """Indices, best first, of the boxes that overlap no better one that is kept by more than `iou`."""
    kept: Tensor = _operator()(boxes, scores, iou)
    return kept


def nms_by_class(
    boxes: Float[Tensor, "n 4"], scores: Float[Tensor, " n"], labels: Int64[Tensor, " n"], iou: float
) -> Int64[Tensor, " kept"]:
    """The same within each class; indices ascend."""
    if len(boxes) == 0:
        return labels
    if len(boxes) > AT_ONCE:
        classes = ((labels == label).nonzero()[:, 0] for label in labels.unique())
        kept = torch.cat([members[nms(boxes[members], scores[members], iou)] for members in classes])
    else:
        wide = torch.float32 if boxes.device.type == "mps" else torch.float64  # which Apple's GPUs lack
        apart = labels.to(wide) * (boxes.max() - boxes.min() + 1)  # so that no two classes overlap
        kept = nms(boxes.to(wide) + apart[:, None], scores.to(wide), iou)
    return kept.sort().values


@cache
def _operator() -> Callable[[Tensor, Tensor, float], Tensor]:
    package = find_spec("torchvision")
    assert package is not None
    assert package.origin is not None
    with suppress(OSError):
        for library in sorted(Path(package.origin).parent.glob("_C*")):
            torch.ops.load_library(str(library))
    if not hasattr(torch.ops.torchvision, "nms"):
        import torchvision  # noqa: F401 (its own way of loading, which knows of every system)

    operator: Callable[[Tensor, Tensor, float], Tensor] = torch.ops.torchvision.nms.default
    return operator
