"""Non-maximum suppression as an operator that PyTorch runs here and ONNX runs elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18
from torch import Tensor
from torchvision.ops import nms


@torch.library.custom_op("damoyolo::suppress", mutates_args=())
def suppress(boxes: Tensor, scores: Tensor, iou: float, threshold: float, most: int) -> Tensor:
    """Scores (b c p) of the boxes (b p 4) that survive suppression within their class, 0 for the others.

    Only scores above `threshold` take part, and at most `most` of a class survive.
    """
    kept = torch.zeros_like(scores)
    for image, of_image in enumerate(scores):
        for label, of_class in enumerate(of_image):
            (hopeful,) = (of_class > threshold).nonzero(as_tuple=True)
            best = hopeful[nms(boxes[image, hopeful], of_class[hopeful], iou)[:most]]
            kept[image, label, best] = of_class[best]
    return kept


@suppress.register_fake
def _(boxes: Tensor, scores: Tensor, iou: float, threshold: float, most: int) -> Tensor:
    return torch.empty_like(scores)


op: Any = opset18
"""Each operator is a method; their types know no constants."""


def _suppress_in_onnx(boxes: Any, scores: Any, iou: float, threshold: float, most: int) -> Any:
    """ONNX's operator names the survivors by (image, class, point), which is where their scores are."""
    kept = op.NonMaxSuppression(
        boxes,
        scores,
        op.Constant(value_ints=[most]),
        op.Constant(value_floats=[iou]),
        op.Constant(value_floats=[threshold]),
    )
    nothing = op.Mul(scores, op.Constant(value_float=0.0))
    return op.ScatterND(nothing, kept, op.GatherND(scores, kept))


ONNX_OPERATORS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.damoyolo.suppress.default: _suppress_in_onnx
}
"""How the exporter writes the operators of this file."""
