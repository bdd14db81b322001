from __future__ import annotations

import numpy as np
import pytest

from damoyolo.data.resize import Resize
from damoyolo.data.sample import Sample


def sample() -> Sample:
    return Sample(
        image=np.zeros((20, 10, 3), dtype=np.uint8),
        boxes=np.array([[1, 2, 3, 4], [0, 0, 10, 20]], dtype=np.float32),
        labels=np.array([7, 8]),
        name="a.jpg",
    )


def test_boxes_without_their_labels_are_refused() -> None:
    with pytest.raises(Exception, match=r"boxes|labels|shape"):  # the shape check of the tests comes first
        Sample(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 4), np.float32), np.zeros(1, np.int64), "a.jpg")


def test_select_filters_boxes_and_labels_together() -> None:
    kept = sample().select(np.array([False, True]))
    np.testing.assert_array_equal(kept.boxes, [[0, 0, 10, 20]])
    np.testing.assert_array_equal(kept.labels, [8])


def test_resized_moves_the_boxes_with_the_image() -> None:
    resized = sample().resized(Resize("stretch", (40, 40)))
    assert resized.size == (40, 40)
    np.testing.assert_allclose(resized.boxes, [[4, 4, 12, 8], [0, 0, 40, 40]])
