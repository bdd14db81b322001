from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import golden
from damoyolo.data.mosaic import mosaic, tile_windows
from damoyolo.data.resize import PAD
from damoyolo.data.sample import Sample


@pytest.mark.parametrize("case", range(8))
def test_tiles_lie_where_the_reference_puts_them(case: int) -> None:
    with np.load(golden("golden-affine.npz")) as file:
        for quadrant in range(4):
            row = file[f"mosaic/{case}_{quadrant}"].tolist()
            number, x, y, width, height, side, _ = row[:7]
            target, source = tile_windows(number, (x, y), (height, width), 2 * side)
            assert (*target, *source) == tuple(row[7:])


def tile(number: int, height: int, width: int) -> Sample:
    """An image of one grey value per tile, with boxes over the whole of it and over a part."""
    return Sample(
        image=np.full((height, width, 3), number, dtype=np.uint8),
        boxes=np.array([[0, 0, width, height], [1, 2, width / 2, height / 2]], dtype=np.float32),
        labels=np.array([number, number + 10]),
        name=f"{number}.jpg",
    )


TILES = st.lists(st.tuples(st.integers(8, 32), st.integers(8, 32)), min_size=4, max_size=4)


@given(TILES, st.integers(16, 48), st.integers(16, 48))
def test_every_box_covers_the_pixels_of_its_own_tile_and_the_rest_is_grey(
    sizes: list[tuple[int, int]], x: int, y: int
) -> None:
    made = mosaic([tile(number, *size) for number, size in enumerate(sizes)], 32, (x, y))
    assert made.image.shape == (64, 64, 3)
    assert made.name == "0.jpg"
    np.testing.assert_array_equal(made.labels, [0, 10, 1, 11, 2, 12, 3, 13])
    unseen = np.ones((64, 64), dtype=bool)
    for number in range(4):
        x1, y1, x2, y2 = made.boxes[2 * number].astype(int)
        inside = np.zeros((64, 64), dtype=bool)
        inside[y1:y2, x1:x2] = True
        np.testing.assert_array_equal((made.image == number).all(axis=2), inside)
        unseen &= ~inside
    assert (made.image[unseen] == PAD).all()


def test_boxes_are_cut_at_the_canvas() -> None:
    made = mosaic([tile(number, 32, 32) for number in range(4)], 32, (16, 20))
    assert made.boxes.min() == 0
    np.testing.assert_array_equal(made.boxes[0], [0, 0, 16, 20])
    np.testing.assert_array_equal(made.boxes[1], [0, 0, 0, 4])  # its part of the tile is out of sight
