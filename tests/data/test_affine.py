from __future__ import annotations

from random import Random

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import golden
from damoyolo.data.affine import (
    affine_matrix,
    is_seen,
    outline,
    paint,
    scaling,
    shift,
    still_visible,
    transform_boxes,
    transform_polygons,
)

CASES = [f"{group}_{seed}" for group in range(4) for seed in (1, 2, 3)]


def square(side: float) -> tuple[int, int]:
    return int(side), int(side)


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
        Random(int(get("seed"))), square(canvas), square(target), degrees, translate, (low, high), shear
    )
    np.testing.assert_allclose(matrix, get("M"), atol=1e-9)
    assert zoom == get("scale")

    before, labels = get("in")[:, :4], get("in")[:, 4]
    if f"affine/{case}/seg0" in cases:
        polygons = [get(f"seg{number}") for number in range(len(before))]
        after = transform_polygons(polygons, matrix, square(target))
    else:
        after = transform_boxes(before, matrix, square(target))
    keep = still_visible(before, after, zoom)
    np.testing.assert_allclose(after[keep], get("out")[:, :4], atol=1e-3)
    np.testing.assert_array_equal(labels[keep], get("out")[:, 4])


@given(st.integers(0, 2**32 - 1))
def test_boxes_are_the_bounds_of_the_four_corners(seed: int) -> None:
    draw = np.random.default_rng(seed)
    start = draw.uniform(0, 600, (6, 2))
    boxes = np.concatenate([start, start + draw.uniform(1, 200, (6, 2))], axis=1)
    matrix, _ = affine_matrix(Random(seed), (500, 640), (200, 320), 45.0, 0.2, (0.1, 2.0), 10.0)
    x1, y1, x2, y2 = boxes.T
    corners = np.stack([x1, y1, x2, y1, x2, y2, x1, y2], axis=1).reshape(-1, 4, 2)
    moved = corners @ matrix[:2, :2].T + matrix[:2, 2]
    expected = np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)
    expected = expected.clip(0, [320, 200, 320, 200])
    np.testing.assert_allclose(transform_boxes(boxes, matrix, (200, 320)), expected, atol=1e-9)


def test_a_random_map_puts_the_middle_of_the_canvas_within_the_shift_of_that_of_the_target() -> None:
    middles = []
    for seed in range(50):
        matrix, _ = affine_matrix(Random(seed), (200, 600), (100, 300), 10.0, 0.2, (0.1, 2.0), 2.0)
        middles.append((matrix @ [300, 100, 1])[:2])
    low, high = np.min(middles, axis=0), np.max(middles, axis=0)
    assert (low >= [90, 30]).all()
    assert (high <= [210, 70]).all()
    assert (high - low > [80, 25]).all()


def test_painted_pixels_are_where_the_boxes_say() -> None:
    image = np.zeros((200, 250, 3), dtype=np.uint8)
    image[60:100, 80:140] = 255
    matrix, _ = affine_matrix(Random(3), (200, 250), (100, 120), 0.0, 0.1, (0.8, 1.2), 0.0)
    box = transform_boxes(np.array([[80.0, 60, 140, 100]]), matrix, (100, 120))[0]
    canvas = np.zeros((100, 120, 3), dtype=np.uint8)
    paint(canvas, image, matrix, outline((0, 0, 250, 200), matrix))
    x, y, width, height = cv2.boundingRect((canvas[..., 0] > 180).astype(np.uint8))
    np.testing.assert_allclose(box, [x, y, x + width, y + height], atol=1.5)


def test_what_lies_outside_the_outline_stays() -> None:
    canvas = np.full((64, 80, 3), 114, dtype=np.uint8)
    matrix = shift(20, 10) @ scaling((50, 50), (25, 20))
    paint(canvas, np.zeros((50, 50, 3), dtype=np.uint8), matrix, outline((0, 0, 50, 50), matrix))
    inside = np.zeros((64, 80), dtype=bool)
    inside[10:35, 20:40] = True
    assert (canvas[cv2.erode(inside.view(np.uint8), np.ones((3, 3))) > 0] == 0).all()
    assert (canvas[cv2.dilate(inside.view(np.uint8), np.ones((3, 3))) == 0] == 114).all()


@given(st.integers(0, 2**32 - 1))
def test_a_painted_part_is_that_of_the_whole_warped_image(seed: int) -> None:
    draw = np.random.default_rng(seed)
    image = cv2.GaussianBlur(draw.integers(0, 256, (60, 90, 3), dtype=np.uint8), (0, 0), 2)
    matrix, _ = affine_matrix(Random(seed), (60, 90), (48, 64), 30.0, 0.5, (0.5, 2.0), 5.0)
    corners = outline((10, 5, 80, 50), matrix)
    canvas = np.zeros((48, 64, 3), dtype=np.uint8)
    if not is_seen(corners, (48, 64)):
        return
    paint(canvas, image, matrix, corners)
    whole = cv2.warpAffine(image, matrix[:2], (64, 48), borderMode=cv2.BORDER_REPLICATE)
    painted = canvas.any(axis=2)
    assert np.abs(canvas.astype(int) - whole)[painted].max(initial=0) <= 4
    positions = np.stack([*np.nonzero(painted)[::-1], np.ones(painted.sum())])
    x, y, _ = np.linalg.inv(matrix) @ positions
    assert ((x > 8) & (x < 81) & (y > 3) & (y < 51)).all()


def test_an_outline_that_only_its_bounds_bring_near_is_not_seen() -> None:
    slanted = np.array([[-30, 10], [10, -30], [5, -35], [-35, 5]], dtype=np.float32)
    assert not is_seen(slanted, (64, 64))
    assert is_seen(slanted + 15, (64, 64))


def test_a_polygon_that_touches_the_left_border_with_every_point_keeps_its_height() -> None:
    line = np.array([[0.0, 10], [0, 50]])
    np.testing.assert_allclose(transform_polygons([line], np.eye(3), (64, 64)), [[0, 10, 0, 50]])


def test_a_polygon_outside_the_target_gives_zeros() -> None:
    np.testing.assert_array_equal(
        transform_polygons([np.array([[70.0, 70], [90, 90]])], np.eye(3), (64, 64)), [[0, 0, 0, 0]]
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
