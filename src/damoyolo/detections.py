"""What people want to know: which things, where, how sure. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

PICTURE_SCORE = 0.4
"""Lowest score shown to people; evaluation takes the model's own, much lower threshold."""
MAX_DETECTIONS = 500
"""Boxes kept per image, over all classes."""


@dataclass(frozen=True)
class Detections:
    """Final boxes of one image, best first.

    `boxes` are xyxy in pixels of the image as it was given, after EXIF orientation; `scores` are 0..1;
    `labels` index `class_names`.
    """

    boxes: Float32[np.ndarray, "n 4"]
    scores: Float32[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """The class name of each box."""
        return [self.class_names[label] for label in self.labels]

    def above(self, score: float) -> Detections:
        """Those with at least this score."""
        keep = self.scores >= score
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep], self.class_names)

    def to_records(self) -> list[dict[str, Any]]:
        """One JSON-ready dictionary per box; the box as [x1, y1, x2, y2] in pixels."""
        return [
            {
                "label": int(label),
                "name": name,
                "score": round(float(score), 6),
                "box": np.round(box, 3).tolist(),
            }
            for box, score, label, name in zip(
                self.boxes.astype(float), self.scores, self.labels, self.names, strict=True
            )
        ]
