"""Non-maximum suppression as operators that PyTorch runs here and ONNX or TensorRT runs elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from onnx.defs import OpSchema
from onnxscript import opset18, values
from torch import Tensor

from damoyolo.boxes.nms import nms
from damoyolo.export.sessions import PLUGIN


@torch.library.custom_op(
    "damoyolo::suppress",
    mutates_args=(),
    schema="(Tensor boxes, Tensor scores, float score_threshold, float nms_iou, int max_detections)"
    " -> Tensor",
)
def suppress(
    boxes: Tensor, scores: Tensor, score_threshold: float, nms_iou: float, max_detections: int
) -> Tensor:
    """Scores (b c p) of the boxes (b p 4) that survive suppression within their class, 0 for the others.

    Only scores above `score_threshold` take part, and at most `max_detections` of a class survive.
    """
    kept = torch.zeros_like(scores)
    for image, of_image in enumerate(scores):
        for label, of_class in enumerate(of_image):
            (hopeful,) = (of_class > score_threshold).nonzero(as_tuple=True)
            best = hopeful[nms(boxes[image, hopeful], of_class[hopeful], nms_iou)[:max_detections]]
            kept[image, label, best] = of_class[best]
    return kept


@suppress.register_fake
def _(boxes: Tensor, scores: Tensor, score_threshold: float, nms_iou: float, max_detections: int) -> Tensor:
    return torch.empty_like(scores)


@torch.library.custom_op(
    "damoyolo::efficient_nms",
    mutates_args=(),
    schema="(Tensor boxes, Tensor scores, float score_threshold, float nms_iou, int max_detections)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)
def efficient_nms(
    boxes: Tensor, scores: Tensor, score_threshold: float, nms_iou: float, max_detections: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What TensorRT's plug-in of that name gives for boxes (b p 4) and scores (b p c).

    The count (b 1), boxes (b k 4), scores (b k) and labels (b k) of the survivors, best first, where k is
    `max_detections`; zeros beyond the count.
    """
    kept = suppress(boxes, scores.transpose(1, 2), score_threshold, nms_iou, max_detections)
    kept = kept.transpose(1, 2).flatten(1)
    kept = F.pad(kept, (0, max(0, max_detections - kept.shape[1])))
    best, places = kept.topk(max_detections)
    points, labels = places // scores.shape[2], places % scores.shape[2]
    meant = best > score_threshold
    found = boxes.gather(1, (points * meant)[..., None].expand(-1, -1, 4)) * meant[..., None]
    return meant.sum(dim=1, keepdim=True).int(), found, best * meant, (labels * meant).int()


@efficient_nms.register_fake
def _(
    boxes: Tensor, scores: Tensor, score_threshold: float, nms_iou: float, max_detections: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images, whole = boxes.shape[0], torch.int32
    return (
        boxes.new_empty(images, 1, dtype=whole),
        boxes.new_empty(images, max_detections, 4),
        scores.new_empty(images, max_detections),
        boxes.new_empty(images, max_detections, dtype=whole),
    )


op: Any = opset18
"""Each operator is a method; their types know no constants."""


def _suppress_in_onnx(
    boxes: Any, scores: Any, score_threshold: float, nms_iou: float, max_detections: int
) -> Any:
    """ONNX's operator names the survivors by (image, class, point), which is where their scores are."""
    kept = op.NonMaxSuppression(
        boxes,
        scores,
        op.Constant(value_ints=[max_detections]),
        op.Constant(value_floats=[nms_iou]),
        op.Constant(value_floats=[score_threshold]),
    )
    nothing = op.Mul(scores, op.Constant(value_float=0.0))
    return op.ScatterND(nothing, kept, op.GatherND(scores, kept))


PLUGINS = "trt.plugins"


def _plugin() -> values.Op:
    """The plug-in as an operator, in the domain where ONNX Runtime, too, finds TensorRT's plug-ins.

    Source: plugin/efficientNMSPlugin/README.md of TensorRT.
    """
    tensor, attribute, types = OpSchema.FormalParameter, OpSchema.Attribute, OpSchema.AttrType
    whole = ("background_class", "box_coding", "max_output_boxes", "score_activation")
    real = ("iou_threshold", "score_threshold")
    schema = OpSchema(
        PLUGIN,
        PLUGINS,
        1,
        inputs=[tensor("boxes", "T"), tensor("scores", "T")],
        outputs=[
            tensor("num_detections", "tensor(int32)"),
            tensor("detection_boxes", "T"),
            tensor("detection_scores", "T"),
            tensor("detection_classes", "tensor(int32)"),
        ],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "")],
        attributes=[
            attribute("plugin_version", types.STRING, required=True),
            *(attribute(name, types.INT, required=True) for name in whole),
            *(attribute(name, types.FLOAT, required=True) for name in real),
        ],
    )
    return values.Op(values.Opset(PLUGINS, 1), schema.name, schema)


_efficient_nms: Any = _plugin()


def _efficient_nms_in_onnx(
    boxes: Any, scores: Any, score_threshold: float, nms_iou: float, max_detections: int
) -> Any:
    """No class is background, boxes are corners, and scores are scores already."""
    return _efficient_nms(
        boxes,
        scores,
        plugin_version="1",
        background_class=-1,
        box_coding=0,
        score_activation=0,
        iou_threshold=nms_iou,
        score_threshold=score_threshold,
        max_output_boxes=max_detections,
    )


ONNX_OPERATORS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.damoyolo.suppress.default: _suppress_in_onnx,
    torch.ops.damoyolo.efficient_nms.default: _efficient_nms_in_onnx,
}
"""How the exporter writes the operators of this file."""
