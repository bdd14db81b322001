from __future__ import annotations

from random import Random

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import golden
from damoyolo.data.affine import affine_matrix, still_visible, transform_boxes, transform_polygons, warp

CASES = [f"{group}_{seed}" for group in range(4) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def cases() -> dict[str, np.ndarray]:
    with np.load(golden("golden-affine.npz")) as file:
        return dict(file)


@pytest.mark.parametrize("case", CASES)
def test_matrix_zoom_and_boxes_are_those_of_the_reference(cases: dict[str, np.ndarray], case: str) -> None:
    def get(key: str) -> np.ndarray:
        return cases[f"affine/{case}/{key}"]

    canvas, target, degrees, translate, low, high, shear = get("args").tolist()
    matrix, zoom = affine_matrix(
        Random(int(get("seed"))), int(canvas), int(target), degrees, translate, (low, high), shear
    )
    np.testing.assert_allclose(matrix, get("M"), atol=1e-9)
    assert zoom == get("scale")

    before, labels = get("in")[:, :4], get("in")[:, 4]
    if f"affine/{case}/seg0" in cases:
        polygons = [get(f"seg{number}") for number in range(len(before))]
        after = transform_polygons(polygons, matrix, int(target))
    else:
        after = transform_boxes(before, matrix, int(target))
    keep = still_visible(before, after, zoom)
    np.testing.assert_allclose(after[keep], get("out")[:, :4], atol=1e-3)
    np.testing.assert_array_equal(labels[keep], get("out")[:, 4])


@given(st.integers(0, 2**32 - 1))
def test_boxes_are_the_bounds_of_the_four_corners(seed: int) -> None:
    draw = np.random.default_rng(seed)
    start = draw.uniform(0, 600, (6, 2))
    boxes = np.concatenate([start, start + draw.uniform(1, 200, (6, 2))], axis=1)
    matrix, _ = affine_matrix(Random(seed), 640, 320, 45.0, 0.2, (0.1, 2.0), 10.0)
    x1, y1, x2, y2 = boxes.T
    corners = np.stack([x1, y1, x2, y1, x2, y2, x1, y2], axis=1).reshape(-1, 4, 2)
    moved = corners @ matrix[:2, :2].T + matrix[:2, 2]
    expected = np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1).clip(0, 320)
    np.testing.assert_allclose(transform_boxes(boxes, matrix, 320), expected, atol=1e-9)


def test_warp_moves_pixels_where_the_boxes_say() -> None:
    image = np.zeros((200, 200, 3), dtype=np.uint8)
    image[60:100, 80:140] = 255
    matrix, _ = affine_matrix(Random(3), 200, 100, 0.0, 0.1, (0.8, 1.2), 0.0)
    box = transform_boxes(np.array([[80.0, 60, 140, 100]]), matrix, 100)[0]
    x, y, width, height = cv2.boundingRect((warp(image, matrix, 100)[..., 0] > 180).astype(np.uint8))
    np.testing.assert_allclose(box, [x, y, x + width, y + height], atol=1.5)


def test_outside_the_image_there_is_grey() -> None:
    matrix = np.diag([0.25, 0.25, 1])
    out = warp(np.zeros((64, 64, 3), dtype=np.uint8), matrix, 64)
    assert (out[40:] == 114).all()
    assert (out[:10, :10] == 0).all()


def test_a_polygon_that_touches_the_left_border_with_every_point_keeps_its_height() -> None:
    line = np.array([[0.0, 10], [0, 50]])
    np.testing.assert_allclose(transform_polygons([line], np.eye(3), 64), [[0, 10, 0, 50]])


def test_a_polygon_outside_the_target_gives_zeros() -> None:
    np.testing.assert_array_equal(
        transform_polygons([np.array([[70.0, 70], [90, 90]])], np.eye(3), 64), [[0, 0, 0, 0]]
    )


@pytest.mark.parametrize(
    ("box", "kept"),
    [
        ((0, 0, 2, 50), False),  # 2 px wide
        ((0, 0, 2.1, 2.1), False),  # under a tenth of its area
        ((0, 0, 31, 11), True),
        ((0, 0, 60, 2.5), False),  # 24 times as long as wide
    ],
)
def test_what_is_still_visible(box: tuple[float, ...], kept: bool) -> None:
    before = np.array([[0.0, 0, 20, 20]])
    assert still_visible(before, np.array([box], dtype=float), zoom=1.0).tolist() == [kept]
    assert not still_visible(before, np.array([box], dtype=float), zoom=10.0).any()
