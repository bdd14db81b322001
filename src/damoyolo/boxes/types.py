"""What travels between network, assigner, losses and selection.

Dimensions, here and everywhere: b image, p point, c class, n box, h w rows and columns of an image.
Boxes are xyxy float32 in pixels of the network's input unless a docstring says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from damoyolo.boxes.decode import decode_boxes
from damoyolo.boxes.points import Pyramid


@dataclass(frozen=True)
class Predictions:
    """Raw output of the network, before any decision."""

    class_logits: Float[Tensor, "b p c"]
    side_logits: Float[Tensor, "b p 4 bins"]
    pyramid: Pyramid

    @property
    def points(self) -> Float[Tensor, "p 2"]:
        """(x, y) of every point in pixels."""
        return self.pyramid.points(self.side_logits.device)

    @property
    def strides(self) -> Float[Tensor, " p"]:
        """Stride of every point in pixels."""
        return self.pyramid.point_strides(self.side_logits.device)

    @property
    def scores(self) -> Float[Tensor, "b p c"]:
        """Class probabilities 0..1."""
        return self.class_logits.sigmoid()

    @property
    def boxes(self) -> Float[Tensor, "b p 4"]:
        """Decoded boxes, not clipped to the image; computed at each access."""
        return decode_boxes(self.side_logits, self.points, self.strides)


@dataclass(frozen=True)
class Targets:
    """Ground truth of a batch, padded to the image with the most boxes; `mask` is False on padding.

    An image without boxes is a row of padding; n may be 0.
    """

    boxes: Float[Tensor, "b n 4"]
    labels: Int64[Tensor, "b n"]
    mask: Bool[Tensor, "b n"]

    @classmethod
    def pad(cls, boxes: list[Tensor], labels: list[Tensor]) -> Targets:
        """From one (n 4) and one (n) tensor per image."""
        lengths = torch.tensor([len(each) for each in labels])
        sequence = torch.nn.utils.rnn.pad_sequence
        padded = sequence([each.reshape(-1, 4).float() for each in boxes], batch_first=True)
        mask = torch.arange(padded.shape[1]) < lengths[:, None]
        device = padded.device
        return cls(padded, sequence([each.long() for each in labels], batch_first=True), mask.to(device))

    def to(self, device: torch.device | str) -> Targets:
        """The same targets on another device."""
        return Targets(self.boxes.to(device), self.labels.to(device), self.mask.to(device))


@dataclass(frozen=True)
class Assignment:
    """Which ground-truth box each point has to predict.

    `gt_index` is the box's position in the image's targets, -1 for background; `iou` is the overlap of the
    point's predicted box with it (0 for background), the target of the quality score.
    """

    gt_index: Int64[Tensor, "b p"]
    iou: Float[Tensor, "b p"]

    @property
    def positive(self) -> Bool[Tensor, "b p"]:
        """Points that are not background."""
        return self.gt_index >= 0
