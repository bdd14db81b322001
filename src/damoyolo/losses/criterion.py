"""The detector's loss: assign, then compare (paper section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from damoyolo.boxes.assign import AlignedOTA
from damoyolo.boxes.decode import decode_boxes
from damoyolo.boxes.geometry import box_giou
from damoyolo.boxes.types import Assignment, Predictions, Targets
from damoyolo.losses.quality import quality_focal_loss
from damoyolo.losses.sides import distribution_focal_loss, side_targets


@dataclass(frozen=True)
class Losses:
    """Weighted scalars; `total` is their sum, the one to differentiate. `distill` needs a teacher."""

    quality: Float[Tensor, ""]
    giou: Float[Tensor, ""]
    sides: Float[Tensor, ""]
    distill: Float[Tensor, ""] | None = None

    @property
    def parts(self) -> dict[str, Float[Tensor, ""]]:
        """What there is, by name."""
        named = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: loss for name, loss in named.items() if loss is not None}

    @property
    def total(self) -> Float[Tensor, ""]:
        """The sum."""
        return torch.stack(list(self.parts.values())).sum()


@dataclass(frozen=True)
class Match:
    """Which points are to predict which boxes, and how much each counts.

    `image` and `point` are the m positive points' positions; `weight` is their best class probability.
    """

    assignment: Assignment
    image: Int64[Tensor, " m"]
    point: Int64[Tensor, " m"]
    weight: Float[Tensor, " m"]

    @property
    def amount(self) -> Float[Tensor, "amounts=2"]:
        """The number of positive points and the sum of their weights: what the losses are divided by."""
        return torch.stack([self.weight.new_tensor(len(self.weight)), self.weight.sum()])


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
        match = self.match(predictions, targets)
        return self.compare(predictions, targets, match, match.amount.clamp(min=1))

    @torch.no_grad()
    def match(self, predictions: Predictions, targets: Targets) -> Match:
        """Give boxes to points."""
        scores = predictions.class_logits.float().sigmoid()
        assignment = self.assigner(scores, predictions.boxes, predictions.pyramid, targets)
        image, point = assignment.positive.nonzero(as_tuple=True)
        return Match(assignment, image, point, weight=scores[image, point].amax(dim=1))

    def compare(
        self, predictions: Predictions, targets: Targets, match: Match, amount: Float[Tensor, "amounts=2"]
    ) -> Losses:
        """Losses of a batch divided by an `amount`, which is the batch's own or that of a larger whole."""
        count, norm = amount
        image, point, weight = match.image, match.point, match.weight
        box = match.assignment.gt_index[image, point]
        quality = quality_focal_loss(
            predictions.class_logits.float(),
            match.assignment.positive,
            targets.labels[image, box],
            match.assignment.iou[image, point],
        )
        points, strides = predictions.points[point], predictions.strides[point]
        side_logits, truth = predictions.side_logits[image, point], targets.boxes[image, box]
        decoded = decode_boxes(side_logits, points, strides)
        giou = (weight * (1 - box_giou(decoded, truth))).sum()
        wanted = side_targets(truth, points, strides, side_logits.shape[-1])
        sides = (weight[:, None] * distribution_focal_loss(side_logits, wanted)).sum()
        return Losses(
            quality=self.quality_weight * quality / count,
            giou=self.giou_weight * giou / norm,
            sides=self.sides_weight * sides / (4 * norm),
        )
