"""Large images, looked at as a whole and in overlapping tiles, so that small things are seen large.

Slicing aided hyper inference, arXiv 2202.06934, with a merge that knows which boxes a tile's border cuts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float32

from damoyolo.data.resize import Size, Window, size_of
from damoyolo.detections import MAX_DETECTIONS, Detections
from damoyolo.errors import UserError
from damoyolo.prediction.detection import Finder, Image
from damoyolo.prediction.flow import batches
from damoyolo.prediction.merging import Look, merge

OVERLAP = 0.25
"""Of a tile's side, in common with its neighbour: what is smaller than that is whole in one of them."""
SMALLEST_PX = 32
"""Side of a tile."""
MOST_TILES = 300
"""Of an image, before somebody is told what they cost."""
AT_THE_BORDER = 0.01
"""Of a tile's side; a box that comes as near to a border inside the image may be cut there."""


def tiled(
    finder: Finder,
    side: int,
    *,
    overlap: float = OVERLAP,
    batch_size: int = 8,
    most: int = MAX_DETECTIONS,
    input_size: Size | None = None,
    tell: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> Finder:
    """A finder that looks at each image as a whole and in tiles, and merges what it finds.

    Args:
        finder: sees the whole image and the tiles, each at its network's size.
        side: of the tiles, in pixels of the image; an image no larger is only seen whole.
        overlap: of neighbouring tiles, as a share of the side, 0..0.9.
        batch_size: tiles detected at once.
        most: boxes kept in each image.
        input_size: of the finder's network, which tiles should not be much smaller than.
        tell: called with a sentence where tiles are that small, and for the first image that gives very many.

    Raises:
        UserError: if there are no such tiles.
    """
    if side < SMALLEST_PX:
        raise UserError(f"tile: {side} pixels are too few; take {SMALLEST_PX} or more, such as 640")
    if not 0 <= overlap <= 0.9:
        raise UserError(f"tile_overlap: {overlap} is no share between 0 and 0.9; take one, such as {OVERLAP}")
    network = max(input_size or (side,))
    told = 2 * side < network
    if told:
        tell(
            f"tile: {side} pixels are less than half of the network's {network}, so that tiles are "
            f"only enlarged and show little; take {network}"
        )

    def find(images: Sequence[Image]) -> list[Detections]:
        nonlocal told
        many = [size for size in map(size_of, images) if _count(size, side, overlap) > MOST_TILES]
        if many and not told:
            tell(_what_they_cost(many[0], side, overlap))
            told = True
        return [_find(finder, image, side, round(overlap * side), batch_size, most) for image in images]

    return find


def windows(size: Size, side: int, overlap: int) -> list[Window]:
    """Tiles that cover an image of that size, evenly, row by row; neighbours share `overlap` pixels or more.

    None is larger than `side`, or reaches out of the image.
    """
    height, width = size
    return [
        (x, y, min(x + side, width), min(y + side, height))
        for y in _starts(height, side, overlap)
        for x in _starts(width, side, overlap)
    ]


def _count(size: Size, side: int, overlap: float) -> int:
    """Tiles of an image."""
    height, width = (len(_starts(length, side, round(overlap * side))) for length in size)
    return height * width


def _what_they_cost(size: Size, side: int, overlap: float) -> str:
    """A sentence about an image that gives very many, with what would give fewer."""
    height, width = size
    usual, larger = _count(size, side, min(overlap, OVERLAP)), _count(size, 2 * side, overlap)
    fewer = (
        f"with --tile-overlap {OVERLAP} there are {usual}"
        if overlap > OVERLAP
        else f"of {2 * side} there are {larger}, in which things are half as large"
    )
    return (
        f"tile: an image of {width} x {height} pixels gives {_count(size, side, overlap)} tiles of {side}, "
        f"and the network looks at each, which takes long; {fewer}"
    )


def _starts(length: int, side: int, overlap: int) -> list[int]:
    """Where tiles begin along one side of the image."""
    steps = max(0, -(-(length - side) // (side - overlap)))
    return [round(step * (length - side) / steps) for step in range(steps + 1)] if steps else [0]


def _find(finder: Finder, image: Image, side: int, overlap: int, batch_size: int, most: int) -> Detections:
    height, width = size = size_of(image)
    tiles = windows(size, side, overlap)
    places = [(0, 0, width, height), *(tiles if len(tiles) > 1 else [])]
    looks = []
    for batch in batches(places, batch_size):
        found = finder([image[y1:y2, x1:x2] for x1, y1, x2, y2 in batch])
        looks += [_placed(each, place, size) for each, place in zip(found, batch, strict=True)]
    return merge(looks, most)


def _placed(found: Detections, place: Window, size: Size) -> Look:
    """What was found in a tile, in the pixels of the image."""
    boxes = found.boxes + np.array(place[:2] * 2, dtype=np.float32)
    return Look(Detections(boxes, found.scores, found.labels, found.class_names), _cut(boxes, place, size))


def _cut(boxes: Float32[np.ndarray, "n 4"], place: Window, size: Size) -> Bool[np.ndarray, " n"]:
    """Which boxes end where their tile does, but not the image."""
    (height, width), (x1, y1, x2, y2) = size, place
    inside = np.array([x1 > 0, y1 > 0, x2 < width, y2 < height])
    distance = np.abs(boxes - np.array(place, dtype=np.float32))
    near = distance <= AT_THE_BORDER * max(x2 - x1, y2 - y1)
    cut: Bool[np.ndarray, " n"] = (near & inside).any(axis=1)
    return cut
