from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import golden
from damoyolo.data.mosaic import tile_windows


@pytest.mark.parametrize("case", range(8))
def test_tiles_lie_where_the_reference_puts_them(case: int) -> None:
    with np.load(golden("golden-affine.npz")) as file:
        for quadrant in range(4):
            row = file[f"mosaic/{case}_{quadrant}"].tolist()
            number, x, y, width, height, side, _ = row[:7]
            target, source = tile_windows(number, (x, y), (height, width), (2 * side, 2 * side))
            assert (*target, *source) == tuple(row[7:])


@given(
    st.lists(st.tuples(st.integers(8, 32), st.integers(8, 40)), min_size=4, max_size=4),
    st.integers(20, 60),
    st.integers(16, 48),
)
def test_tiles_touch_the_centre_do_not_overlap_and_are_shown_at_their_size(
    sizes: list[tuple[int, int]], x: int, y: int
) -> None:
    count = np.zeros((64, 80), dtype=int)
    for quadrant, size in enumerate(sizes):
        (x1, y1, x2, y2), (u1, v1, u2, v2) = tile_windows(quadrant, (x, y), size, (64, 80))
        assert (x2 - x1, y2 - y1) == (u2 - u1, v2 - v1)
        assert 0 <= u1 <= u2 <= size[1]
        assert 0 <= v1 <= v2 <= size[0]
        assert (x if quadrant in (1, 3) else x2, y if quadrant in (2, 3) else y2) == (
            x1 if quadrant in (1, 3) else x,
            y1 if quadrant in (2, 3) else y,
        )
        count[y1:y2, x1:x2] += 1
    assert count.max() == 1
