"""Four images in one (arXiv 2004.10934, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from damoyolo.data.resize import PAD, Size
from damoyolo.data.sample import Sample

Window = tuple[int, int, int, int]
"""x1, y1, x2, y2 in whole pixels; the last column and row are outside."""


def tile_windows(quadrant: int, centre: tuple[int, int], tile: Size, canvas: int) -> tuple[Window, Window]:
    """Where a tile lands on a square canvas, and the part of the tile that is seen there.

    Quadrants 0 1 2 3 are top left, top right, bottom left, bottom right of `centre` (x, y); every tile
    touches the centre with one corner and is cut at the canvas border.
    """
    height, width = tile
    x, y = centre
    left = x - width if quadrant in (0, 2) else x
    top = y - height if quadrant in (0, 1) else y
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + width, canvas), min(top + height, canvas)
    return (x1, y1, x2, y2), (x1 - left, y1 - top, x2 - left, y2 - top)


def mosaic(tiles: Sequence[Sample], side: int, centre: tuple[int, int]) -> Sample:
    """Four samples around `centre` (x, y) on a grey canvas of 2 `side` x 2 `side` pixels.

    No tile is larger than `side`. Boxes are clipped to the canvas and may be empty. Named after the first.
    """
    canvas = 2 * side
    x, y = centre
    quadrants = ((0, 0, x, y), (x, 0, canvas, y), (0, y, x, canvas), (x, y, canvas, canvas))
    image = np.empty((canvas, canvas, 3), dtype=np.uint8)
    boxes = []
    for number, (tile, quadrant) in enumerate(zip(tiles, quadrants, strict=True)):
        target, source = tile_windows(number, centre, tile.size, canvas)
        _fill_around(image, quadrant, target)
        image[target[1] : target[3], target[0] : target[2]] = tile.image[
            source[1] : source[3], source[0] : source[2]
        ]
        shift = np.array([target[0] - source[0], target[1] - source[1]] * 2, dtype=np.float32)
        boxes.append(tile.boxes + shift)
    return Sample(
        image=image,
        boxes=np.clip(np.concatenate(boxes), 0, np.float32(canvas)),
        labels=np.concatenate([tile.labels for tile in tiles]),
        name=tiles[0].name,
    )


def _fill_around(image: np.ndarray, outer: Window, inner: Window) -> None:
    """Grey in `outer` but not in `inner`, which lies within it: only where no tile will."""
    image[outer[1] : inner[1], outer[0] : outer[2]] = PAD
    image[inner[3] : outer[3], outer[0] : outer[2]] = PAD
    image[inner[1] : inner[3], outer[0] : inner[0]] = PAD
    image[inner[1] : inner[3], inner[2] : outer[2]] = PAD
