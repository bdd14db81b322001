"""The module that is exported: a rewritten detector, what comes before it, and what becomes of its output.

The detector itself knows nothing of this.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor, nn

from damoyolo.boxes.points import Pyramid
from damoyolo.export.card import ExportCard
from damoyolo.export.rewrite import Network
from damoyolo.export.suppress import efficient_nms, suppress
from damoyolo.nn.detector import Detector
from damoyolo.spec import STRIDES

Final = tuple[Int32[Tensor, "b 1"], Float[Tensor, "b k 4"], Float[Tensor, "b k"], Int32[Tensor, "b k"]]
"""Count, boxes, scores and labels; see `card.FINAL_OUTPUTS`."""


class Grid:
    """Where side distances are counted from, and in which direction: xyxy = `origin` + `step` x distance."""

    def __init__(self, height: int, width: int) -> None:
        pyramid = Pyramid.of_image(height, width, STRIDES)
        points, strides = pyramid.points().T, pyramid.point_strides()
        self.origin: Float[Tensor, "4 p"] = torch.cat([points, points])
        self.step: Float[Tensor, "4 p"] = torch.stack([-strides, -strides, strides, strides])


def decode(side_logits: Float[Tensor, "b 4 bins p"], origin: Tensor, step: Tensor) -> Float[Tensor, "b 4 p"]:
    """`boxes.decode.decode_boxes`, channel by channel: nothing is transposed on the way."""
    weights = (side_logits - side_logits.amax(dim=2, keepdim=True)).exp()
    bins = side_logits.shape[2]
    sums = torch.tensor([list(range(bins)), [1] * bins], dtype=side_logits.dtype) @ weights
    return origin + step * (sums[:, :, 0] / sums[:, :, 1])


class Raw(nn.Module):
    """Everything: scores (b p c), 0..1, and boxes (b p 4), xyxy in pixels of the input."""

    def forward(
        self, class_logits: Float[Tensor, "b p c"], side_logits: Float[Tensor, "b 4 bins p"], grid: Grid
    ) -> tuple[Float[Tensor, "b p c"], Float[Tensor, "b p 4"]]:
        """Boxes are transposed at the very end."""
        boxes = decode(side_logits, grid.origin, grid.step)
        return class_logits.sigmoid(), boxes.transpose(1, 2)


class TopK(nn.Module):
    """The best pairs of point and class, best first; only their sides are computed and decoded."""

    def __init__(self, score_threshold: float, max_detections: int) -> None:
        super().__init__()
        self.score_threshold, self.max_detections = score_threshold, max_detections

    def forward(
        self, class_logits: Float[Tensor, "b p c"], side_logits_at: Callable[[Tensor], Tensor], grid: Grid
    ) -> Final:
        """The count is of those above the threshold."""
        logits, labels, points = best(class_logits, self.max_detections)
        origin, step = (each[:, points].transpose(0, 1) for each in (grid.origin, grid.step))
        boxes = decode(side_logits_at(points).float(), origin, step)
        return _final(boxes.transpose(1, 2), logits.sigmoid(), labels, self.score_threshold)


class Suppressed(nn.Module):
    """What non-maximum suppression leaves, best first."""

    def __init__(self, score_threshold: float, nms_iou: float, max_detections: int) -> None:
        super().__init__()
        self.limits = (score_threshold, nms_iou, max_detections)

    def forward(
        self, class_logits: Float[Tensor, "b p c"], side_logits: Float[Tensor, "b 4 bins p"], grid: Grid
    ) -> Final:
        """Scores of those beyond the count are 0."""
        boxes = decode(side_logits, grid.origin, grid.step).transpose(1, 2)
        scores = class_logits.sigmoid().transpose(1, 2)
        kept = suppress(boxes, scores, *self.limits)
        score_threshold, _, max_detections = self.limits
        scores, labels, points = best(kept.transpose(1, 2), max_detections)
        return _final(boxes.gather(1, points[..., None].expand(-1, -1, 4)), scores, labels, score_threshold)


class EfficientNms(nn.Module):
    """What TensorRT's plug-in leaves, best first; it looks at the best few thousand only."""

    def __init__(self, score_threshold: float, nms_iou: float, max_detections: int) -> None:
        super().__init__()
        self.limits = (score_threshold, nms_iou, max_detections)

    def forward(
        self, class_logits: Float[Tensor, "b p c"], side_logits: Float[Tensor, "b 4 bins p"], grid: Grid
    ) -> Final:
        """Boxes and scores beyond the count are 0."""
        boxes = decode(side_logits, grid.origin, grid.step).transpose(1, 2)
        outputs: Final = efficient_nms(boxes, class_logits.sigmoid(), *self.limits)
        return outputs


class Graph(nn.Module):
    """Images in, named outputs out, as an `ExportCard` says; only the network computes in its precision."""

    def __init__(self, detector: Detector, card: ExportCard) -> None:
        super().__init__()
        self.network = Network(detector, sparse=card.head == "topk")
        self.takes_bytes = card.preprocess is not None
        self.dtype = torch.float16 if card.precision == "fp16" else torch.float32
        self.network.to(self.dtype)
        if card.preprocess == "bgr":
            _swap_colours(self.network)
        limits = (card.score_threshold, card.nms_iou, card.max_detections)
        self.finish = {
            "raw": Raw(),
            "topk": TopK(card.score_threshold, card.max_detections),
            "nms": Suppressed(*limits),
            "trt_nms": EfficientNms(*limits),
        }[card.head]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images are float RGB 0..255 (b 3 h w), or uint8 (b h w 3) in the card's colour order."""
        images = images.to(self.dtype)  # first of all: TensorRT does nothing else with bytes
        if self.takes_bytes:
            images = images.permute(0, 3, 1, 2)
        class_logits, sides = self.network(images)
        sides = sides.float() if isinstance(sides, Tensor) else sides
        outputs: tuple[Tensor, ...] = self.finish(class_logits.float(), sides, Grid(*images.shape[2:]))
        return outputs


def best(
    scores: Float[Tensor, "b p c"], count: int
) -> tuple[Float[Tensor, "b k"], Int64[Tensor, "b k"], Int64[Tensor, "b k"]]:
    """The highest `count` scores of each image, or all, descending, with their labels and points.

    Looks for the best points first: the best n pairs are among the n best points.
    """
    classes = scores.shape[2]
    points = scores.amax(dim=2).topk(min(count, scores.shape[1])).indices
    hopeful = scores.gather(1, points[..., None].expand(-1, -1, classes))
    values, places = hopeful.flatten(1).topk(min(count, scores.shape[1] * classes))
    return values, places % classes, points.gather(1, places // classes)


def _final(
    boxes: Float[Tensor, "b k 4"],
    scores: Float[Tensor, "b k"],
    labels: Int64[Tensor, "b k"],
    threshold: float,
) -> Final:
    count = (scores > threshold).sum(dim=1, keepdim=True)
    return count.int(), boxes, scores, labels.int()


def _swap_colours(network: Network) -> None:
    """The first convolution reads its channels in reverse order."""
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    first.weight = nn.Parameter(first.weight.flip(1), requires_grad=False)
