"""One image with its boxes, on its way to a batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from damoyolo.data.resize import Resize, Size


@dataclass(frozen=True)
class Sample:
    """An RGB image and its boxes, xyxy in pixels of this very image; label i belongs to box i.

    Boxes and labels are only ever changed together (`select`, or both at once). The image may be shared with
    a cache: never write into it.
    """

    image: UInt8[np.ndarray, "h w 3"]
    boxes: Float32[np.ndarray, "n 4"]
    labels: Int64[np.ndarray, " n"]
    name: str

    def __post_init__(self) -> None:
        if len(self.boxes) != len(self.labels):
            raise ValueError(f"{self.name}: {len(self.boxes)} boxes but {len(self.labels)} labels")

    @property
    def size(self) -> Size:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]

    def select(self, keep: Bool[np.ndarray, " n"]) -> Sample:
        """The same image with the boxes, and their labels, where `keep` is True."""
        return replace(self, boxes=self.boxes[keep], labels=self.labels[keep])

    def resized(self, resize: Resize) -> Sample:
        """Image and boxes brought to `resize.size`."""
        return replace(self, image=resize.image(self.image), boxes=resize.boxes(self.boxes, self.size))
