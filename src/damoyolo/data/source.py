"""Samples of a data set, by index."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

from damoyolo.data.dataset import Record
from damoyolo.data.images import REDUCED, ImageCache, read_sized
from damoyolo.data.resize import Resize, Size
from damoyolo.data.sample import Sample


class Source:
    """Reads images; they are kept, at no more than the size they are asked for, up to `cache_mb` MiB."""

    def __init__(self, records: Sequence[Record], cache_mb: int) -> None:
        self.records = records
        self._cache = ImageCache(cache_mb)

    def __len__(self) -> int:
        return len(self.records)

    def fitted(self, index: int, resize: Resize) -> Sample:
        """The sample at its fitted size: as `resize` makes it, but not yet padded."""
        record = self.records[index]
        image = self._pixels(index, resize.fitted(record.size), 1)
        return Sample(
            resize.content(image), resize.boxes(record.boxes, record.size), record.labels, record.path.name
        )

    def pixels(self, index: int, size: Size, zoom: float = 1.0) -> UInt8[np.ndarray, "h w 3"]:
        """The whole image with at least the pixels that a picture of it of that size, then zoomed, shows.

        It is decoded at a fraction of its size where that is enough; what comes depends on nothing else.
        """
        record = self.records[index]
        room = min(have / (side * min(1.0, zoom)) for have, side in zip(record.size, size, strict=True))
        return self._pixels(index, size, max(divisor for divisor in REDUCED if divisor <= max(1.0, room)))

    def _pixels(self, index: int, size: Size, divisor: int) -> UInt8[np.ndarray, "h w 3"]:
        """The image decoded at a fraction of its size, resized to `size` if that takes less memory."""
        record = self.records[index]
        height, width = size

        def read() -> UInt8[np.ndarray, "h w 3"]:
            image = read_sized(record.path, record.size, divisor)
            fewer = height * width < image.shape[0] * image.shape[1]
            return cv2.resize(image, (width, height)) if fewer else image

        return self._cache.get((index, size, divisor), read)
