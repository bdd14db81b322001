"""The detector's loss: assign, then compare (paper section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from damoyolo.boxes.assign import AlignedOTA
from damoyolo.boxes.decode import decode_boxes
from damoyolo.boxes.geometry import box_giou
from damoyolo.boxes.types import Predictions, Targets
from damoyolo.losses.quality import quality_focal_loss
from damoyolo.losses.sides import distribution_focal_loss, side_targets


@dataclass(frozen=True)
class Losses:
    """Weighted scalars; `total` is their sum and the one to differentiate."""

    quality: Float[Tensor, ""]
    giou: Float[Tensor, ""]
    sides: Float[Tensor, ""]

    @property
    def total(self) -> Float[Tensor, ""]:
        """The sum."""
        return self.quality + self.giou + self.sides


@dataclass(frozen=True)
class Criterion:
    """Quality focal loss on classes, GIoU and distribution focal loss on boxes.

    Box terms count each positive point by its best class probability, so that sure points weigh more.
    """

    assigner: AlignedOTA = field(default_factory=AlignedOTA)
    quality_weight: float = 1.0
    giou_weight: float = 2.0
    sides_weight: float = 0.25

    def __call__(self, predictions: Predictions, targets: Targets) -> Losses:
        """Losses of a batch; without any box the box terms are 0 and still reach every weight."""
        points, strides = predictions.points, predictions.strides
        class_logits = predictions.class_logits.float()
        scores = class_logits.detach().sigmoid()
        boxes = decode_boxes(predictions.side_logits.detach(), points, strides)
        assignment = self.assigner(scores, boxes, predictions.pyramid, targets)

        positive = assignment.positive
        image, point = positive.nonzero(as_tuple=True)
        box = assignment.gt_index[image, point]
        count = max(len(point), 1)
        quality = quality_focal_loss(
            class_logits, positive, targets.labels[image, box], assignment.iou[image, point]
        )

        weight = scores[image, point].amax(dim=1)
        norm = weight.sum().clamp(min=1)
        side_logits, truth = predictions.side_logits[image, point], targets.boxes[image, box]
        decoded = decode_boxes(side_logits, points[point], strides[point])
        giou = (weight * (1 - box_giou(decoded, truth))).sum() / norm
        wanted = side_targets(truth, points[point], strides[point], side_logits.shape[-1])
        sides = (weight[:, None] * distribution_focal_loss(side_logits, wanted)).sum() / (4 * norm)
        return Losses(
            quality=self.quality_weight * quality / count,
            giou=self.giou_weight * giou,
            sides=self.sides_weight * sides,
        )
