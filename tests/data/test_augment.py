from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from damoyolo.data.augment import Augment, mirror, mixup, shift_colour
from damoyolo.data.dataset import Record
from damoyolo.data.resize import Resize
from damoyolo.data.sample import Sample
from damoyolo.data.source import Source

FULL = Augment(
    mosaic=1.0,
    mosaic_size=96,
    mixup=0.5,
    mixup_scale=(0.5, 1.5),
    degrees=10.0,
    translate=0.2,
    scale=(0.5, 1.5),
    shear=2.0,
    flip=0.5,
    flip_vertical=0.5,
    hue=0.0,
    saturation=0.0,
    value=0.0,
)
PLAIN = replace(FULL, mosaic=0.0, mixup=0.0, flip=0.0, flip_vertical=0.0)
COLOURS = ((230, 40, 40), (40, 230, 40), (40, 40, 230))


def coloured(height: int, width: int, seed: int, boxes: int) -> Sample:
    """White, with one filled rectangle per box, far from each other, in the colour of its label."""
    draw = np.random.default_rng(seed)
    image = np.full((height, width, 3), 255, dtype=np.uint8)
    corners, labels = [], []
    for column in range(boxes):
        x1 = column * width // boxes + 3
        x2 = (column + 1) * width // boxes - 3
        y1 = int(draw.integers(2, height // 3))
        y2 = int(draw.integers(height // 2, height - 2))
        labels.append(int(draw.integers(3)))
        corners.append((x1, y1, x2, y2))
        image[y1:y2, x1:x2] = COLOURS[labels[-1]]
    return Sample(
        image,
        np.array(corners, dtype=np.float32).reshape(-1, 4),
        np.array(labels, dtype=np.int64),
        f"{seed}.png",
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Six images of several sizes; number 2 has no boxes (wart 13 of the reference misaligned those)."""
    folder, records = tmp_path_factory.mktemp("coloured"), []
    for number in range(6):
        sample = coloured(
            80 + 10 * number, 140 - 10 * number, number, boxes=0 if number == 2 else 1 + number % 3
        )
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), cv2.cvtColor(sample.image, cv2.COLOR_RGB2BGR))
        records.append(Record(number, path, *sample.size[::-1], sample.boxes, sample.labels))
    return Source(records, cache_mb=4)


def assert_labels_fit_pixels(sample: Sample) -> None:
    """The colour most frequent near the middle of each box is the colour of its label."""
    for box, label in zip(sample.boxes, sample.labels, strict=True):
        x, y = ((box[:2] + box[2:]) / 2).astype(int)
        assert np.argmax(sample.image[y, x]) == label, (box, label, sample.image[y, x])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), index=st.integers(0, 5), rule=st.sampled_from(["stretch", "letterbox"]))
def test_labels_belong_to_their_boxes_after_mosaic_affine_and_mirrors(
    source: Source, seed: int, index: int, rule: str
) -> None:
    augment, rng = replace(FULL, mixup=0.0, degrees=0.0, shear=0.0), Random(seed)
    resize = Resize(rule, (96, 96))  # type: ignore[arg-type]
    sample = augment.finish(augment(index, source, resize, rng), rng)
    assert sample.size == (96, 96)
    assert ((sample.boxes >= 0) & (sample.boxes <= 96)).all()
    assert_labels_fit_pixels(sample)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), shape=st.tuples(st.integers(40, 160), st.integers(40, 160)))
def test_labels_belong_to_their_boxes_after_mixup(seed: int, shape: tuple[int, int]) -> None:
    black = Sample(np.zeros((96, 96, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64), "b")
    mixed = mixup(black, coloured(*shape, seed=seed, boxes=3), Random(seed), (0.5, 1.5))
    sides = mixed.boxes[:, 2:] - mixed.boxes[:, :2]
    assert_labels_fit_pixels(mixed.select((sides > 3).all(axis=1)))
    assert ((mixed.boxes >= 0) & (mixed.boxes <= 96)).all()


def test_mixup_keeps_the_boxes_of_both_and_half_of_each_image() -> None:
    base, other = coloured(96, 96, 0, boxes=2), coloured(96, 96, 1, boxes=1)
    mixed = mixup(base, other, Random(0), (1.0, 1.0))
    np.testing.assert_array_equal(mixed.boxes[:2], base.boxes)
    np.testing.assert_array_equal(mixed.labels, [*base.labels, *other.labels])
    halves = {
        tuple(np.abs(mixed.image.astype(int) * 2 - base.image - each.image).max(axis=(0, 1)) <= 1)
        for each in (other, mirror(other))
    }
    assert (True, True, True) in halves


def test_mixup_pads_a_smaller_image_with_black_and_never_writes_into_its_inputs() -> None:
    base, other = coloured(96, 96, 0, boxes=2), coloured(96, 96, 1, boxes=1)
    for sample in (base, other):
        sample.image.setflags(write=False)
    mixed = mixup(base, other, Random(0), (0.5, 0.5))
    assert np.abs(mixed.image[60:, 60:].astype(int) - base.image[60:, 60:] / 2).max() <= 0.5


def test_the_same_draws_give_the_same_sample_and_others_another(source: Source) -> None:
    resize = Resize("stretch", (96, 96))
    first, again, other = (FULL(1, source, resize, Random(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.boxes, again.boxes)
    assert not np.array_equal(first.image, other.image)


def test_without_mosaic_the_image_stands_alone(source: Source) -> None:
    resize = Resize("stretch", (64, 96))
    sample = PLAIN.finish(PLAIN(3, source, resize, Random(0)), Random(0))
    np.testing.assert_array_equal(sample.image, resize.image(source.original(3).image))
    np.testing.assert_array_equal(sample.labels, source.original(3).labels)


def test_mixup_ends_where_no_image_has_boxes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((20, 20, 3), dtype=np.uint8))
    empty = Record(1, path, 20, 20, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    sample = replace(FULL, mixup=1.0)(0, Source([empty], 1), Resize("stretch", (96, 96)), Random(0))
    assert len(sample.labels) == 0


@pytest.mark.parametrize("vertical", [False, True])
def test_mirroring_twice_changes_nothing_and_once_moves_pixels_with_boxes(vertical: bool) -> None:
    sample = coloured(40, 60, 0, boxes=3)
    once = mirror(sample, vertical=vertical)
    assert_labels_fit_pixels(once)
    assert not np.array_equal(once.boxes, sample.boxes)
    twice = mirror(once, vertical=vertical)
    np.testing.assert_array_equal(twice.image, sample.image)
    np.testing.assert_array_equal(twice.boxes, sample.boxes)


def test_colours_shift_as_asked() -> None:
    red = np.full((2, 2, 3), (200, 100, 100), dtype=np.uint8)
    np.testing.assert_allclose(shift_colour(red, 0.0, 0.0, 0.0), red, atol=2)
    np.testing.assert_allclose(shift_colour(red, 1 / 3, 0.0, 0.0)[0, 0], (100, 200, 100), atol=2)
    np.testing.assert_allclose(shift_colour(red, 0.0, -1.0, 0.0)[0, 0], (200, 200, 200), atol=2)
    np.testing.assert_allclose(shift_colour(red, 0.0, 0.0, -0.5)[0, 0], (100, 50, 50), atol=2)
    np.testing.assert_allclose(shift_colour(red, 0.0, 0.0, 1.0)[0, 0], (255, 127, 127), atol=2)


def test_colour_changes_are_off_unless_asked_for() -> None:
    sample = coloured(40, 60, 0, boxes=1)
    assert PLAIN.finish(sample, Random(0)).image is sample.image
    changed = replace(PLAIN, hue=0.2, saturation=0.5, value=0.5).finish(sample, Random(0))
    assert not np.array_equal(changed.image, sample.image)
    np.testing.assert_array_equal(changed.boxes, sample.boxes)
