from __future__ import annotations

import json

import numpy as np
import pytest

from damoyolo.boxes.points import Pyramid
from damoyolo.data.draw import colour_of
from damoyolo.evaluation.assignment import PICTURE_SIDE_PX, Assigned, draw_assignment, summarize

NAMES = ("fish", "shark")
PYRAMID = Pyramid.of_image(128, 128)
BOXES = np.array([[0, 0, 20, 20], [10, 10, 120, 120], [30, 30, 70, 60]], np.float32)


def assigned(owners: dict[int, int], ious: dict[int, float]) -> Assigned:
    owner = np.full(sum(PYRAMID.counts), -1, np.int64)
    iou = np.zeros(len(owner), np.float32)
    for point, box in owners.items():
        owner[point], iou[point] = box, ious[point]
    image = np.zeros((128, 128, 3), np.uint8)
    return Assigned("a.jpg", image, BOXES, np.array([0, 1, 0]), owner, iou, PYRAMID)


FIRST_P4 = PYRAMID.counts[0]
SOME = assigned({17: 0, 40: 1, FIRST_P4 + 9: 1, FIRST_P4 + 10: 1}, {17: 0.5, 40: 0.2, 265: 0.4, 266: 0.9})


def test_points_are_counted_by_object_and_level() -> None:
    assert SOME.counts.tolist() == [[1, 0, 0], [1, 2, 0], [0, 0, 0]]
    assert SOME.mean_iou.tolist() == pytest.approx([0.5, 0.5, 0])


def test_the_summary_has_sizes_lonely_objects_and_means() -> None:
    small, medium, large, everything = summarize([SOME, SOME])
    assert [each.objects for each in (small, medium, large, everything)] == [2, 2, 2, 6]
    assert (small.single, small.without, small.points_per_object) == (2, 0, 1)
    assert (medium.without, medium.points_per_object, medium.mean_iou) == (2, 0, 0)
    assert large.points_per_level == (2, 4, 0)
    assert everything.points_per_object == pytest.approx(4 / 3)
    assert everything.mean_iou == pytest.approx(0.5)


def test_the_record_is_json_with_names_and_sizes() -> None:
    record = json.loads(json.dumps(SOME.to_record(NAMES)))
    assert [each["name"] for each in record["objects"]] == ["fish", "shark", "fish"]
    assert record["objects"][1] == {
        "name": "shark",
        "box": [10, 10, 120, 120],
        "size": "large",
        "points": [1, 2, 0],
        "mean_iou": 0.5,
    }


def test_points_are_drawn_where_they_are_in_the_colour_of_their_object() -> None:
    picture = draw_assignment(SOME, NAMES)
    assert picture.shape[1] == PICTURE_SIDE_PX
    assert picture.shape[0] > PICTURE_SIDE_PX
    points = PYRAMID.points().numpy() * PICTURE_SIDE_PX / 128
    x, y = points[FIRST_P4 + 10].round().astype(int)
    assert tuple(picture[y, x]) == colour_of(1)


def test_a_point_is_the_larger_the_higher_its_iou() -> None:
    def area(iou: float) -> int:
        x, y = (PYRAMID.points().numpy()[150] * PICTURE_SIDE_PX / 128).round().astype(int)
        picture = draw_assignment(assigned({150: 0}, {150: iou}), NAMES)
        window = picture[y - 20 : y + 20, x - 20 : x + 20]
        return int((window == colour_of(0)).all(axis=2).sum())

    assert area(0.1) < area(0.5) < area(1.0)


def test_an_object_without_a_point_is_bold() -> None:
    picture = draw_assignment(SOME, NAMES)
    left = round(30 * PICTURE_SIDE_PX / 128)
    row = round(55 * PICTURE_SIDE_PX / 128)
    bold = (picture[row, left - 9 : left + 9] == colour_of(2)).all(axis=1).sum()
    calm = (picture[row, round(10 * PICTURE_SIDE_PX / 128) - 9 :][:18] == colour_of(1)).all(axis=1).sum()
    assert bold > 1.8 * calm > 0
