from __future__ import annotations

import cv2
import numpy as np
import pytest

from damoyolo.data.draw import colour_of
from damoyolo.detections import Detections
from damoyolo.evaluation.judge import judge
from damoyolo.evaluation.pictures import GAP_PX, as_jpeg, beside, show_boxes, tile

NAMES = ("cell", "dust")


def thickness(picture: np.ndarray, row: int, label: int) -> int:
    """Pixels of a class's colour along a row."""
    return int((picture[row] == colour_of(label)).all(axis=1).sum())


def test_boxes_are_scaled_with_their_image() -> None:
    image = np.zeros((50, 100, 3), np.uint8)
    boxes = np.array([[20, 10, 60, 40]], np.float32)
    picture = show_boxes(image, boxes, np.array([1]), NAMES, side=200)
    assert picture.shape == (100, 200, 3)
    assert (picture[60, 40] == colour_of(1)).all()
    assert (picture[60, 120] == colour_of(1)).all()


def test_faulty_boxes_are_outlined_and_outside_the_image_at_its_border() -> None:
    image = np.full((50, 100, 3), 90, np.uint8)
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    faulty = [(20.0, 10.0, 60.0, 40.0), (300.0, 10.0, 320.0, 40.0)]
    picture = show_boxes(image, *nothing, NAMES, side=200, faulty=faulty)
    is_yellow = (picture[..., 0] > 200) & (picture[..., 2] < 60)
    assert is_yellow[60, 40]
    assert is_yellow[60, 199]
    assert not is_yellow[90:, 150:].any()
    for invisible in ((5.0, 5.0, 5.0, 5.0), (300.0, 200.0, 304.0, 202.0), (9.0, 9.0, 2.0, 2.0)):
        picture = show_boxes(image, *nothing, NAMES, side=200, faulty=[invisible])
        assert ((picture[..., 0] > 200) & (picture[..., 2] < 60)).sum() > 10


def test_missed_and_false_boxes_have_thicker_lines() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    true = np.array([[10, 20, 40, 90], [60, 20, 90, 90]], np.float32)
    found = Detections(
        np.array([[10, 20, 40, 90], [48, 22, 56, 88]], np.float32),
        np.array([0.9, 0.8], np.float32),
        np.array([0, 1]),
        NAMES,
    )
    picture = beside(image, judge(found, true, np.array([0, 1])), NAMES, side=400)
    assert picture.shape == (400, 800 + GAP_PX, 3)
    left, right = picture[:, :400], picture[:, 400 + GAP_PX :]
    assert 0 < thickness(left, 300, 0) < thickness(left, 300, 1)
    assert 0 < thickness(right, 300, 0) < thickness(right, 300, 1)


@pytest.mark.parametrize(
    ("count", "columns", "size"), [(1, 4, (20, 30)), (3, 2, (46, 66)), (4, 4, (20, 138))]
)
def test_pictures_are_laid_out_in_rows(count: int, columns: int, size: tuple[int, int]) -> None:
    pictures = [np.full((20, 30, 3), number, np.uint8) for number in range(count)]
    sheet = tile(pictures, columns)
    assert sheet.shape[:2] == size
    assert (sheet[-1, -1] == (255 if count == 3 else count - 1)).all()


def test_a_jpeg_keeps_red_red() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[..., 0] = 200
    decoded = cv2.imdecode(np.frombuffer(as_jpeg(image), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert decoded[8, 8, 0] > 180
    assert decoded[8, 8, 2] < 30
