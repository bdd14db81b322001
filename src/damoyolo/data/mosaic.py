"""Four images in one (arXiv 2004.10934, section 3.4)."""

from __future__ import annotations

from damoyolo.data.resize import Size, Window


def tile_windows(quadrant: int, centre: tuple[int, int], tile: Size, canvas: Size) -> tuple[Window, Window]:
    """Where a tile lands on a canvas, and the part of the tile that is seen there.

    Quadrants 0 1 2 3 are top left, top right, bottom left, bottom right of `centre` (x, y); every tile
    touches the centre with one corner and is cut at the canvas border.
    """
    height, width = tile
    x, y = centre
    left = x - width if quadrant in (0, 2) else x
    top = y - height if quadrant in (0, 1) else y
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + width, canvas[1]), min(top + height, canvas[0])
    return (x1, y1, x2, y2), (x1 - left, y1 - top, x2 - left, y2 - top)
