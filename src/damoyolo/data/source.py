"""Samples of a data set, by index."""

from __future__ import annotations

from collections.abc import Sequence

from damoyolo.data.dataset import Record
from damoyolo.data.images import ImageCache, read_sized
from damoyolo.data.resize import Resize
from damoyolo.data.sample import Sample


class Source:
    """Reads samples; the resized images, which training asks for most, are kept up to `cache_mb` MiB."""

    def __init__(self, records: Sequence[Record], cache_mb: int) -> None:
        self._records = records
        self._cache = ImageCache(cache_mb)

    def __len__(self) -> int:
        return len(self._records)

    def has_boxes(self, index: int) -> bool:
        """Whether the image has any; without reading it."""
        return len(self._records[index].labels) > 0

    def original(self, index: int) -> Sample:
        """The sample as it is on disk, in the frame of its annotations."""
        record = self._records[index]
        image = read_sized(record.path, record.size)
        return Sample(image, record.boxes, record.labels, record.path.name)

    def fitted(self, index: int, resize: Resize) -> Sample:
        """The sample at its fitted size: as `resize` makes it, but not yet padded."""
        record = self._records[index]
        image = self._cache.get((index, resize), lambda: resize.content(read_sized(record.path, record.size)))
        return Sample(image, resize.boxes(record.boxes, record.size), record.labels, record.path.name)
