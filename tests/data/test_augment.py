from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import shared_data
from damoyolo.data.augment import Augment, mirror, mixup, shift_colour
from damoyolo.data.box_augment import BoxAugment
from damoyolo.data.dataset import Record
from damoyolo.data.formats import read_coco
from damoyolo.data.images import read_image
from damoyolo.data.resize import PAD, Resize
from damoyolo.data.sample import Sample
from damoyolo.data.source import Source
from plain_mosaic import plain_mosaic

FULL = Augment(
    mosaic=1.0,
    mosaic_size=None,
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


def made(augment: Augment, index: int, source: Source, resize: Resize, seed: int, **how: Any) -> Sample:
    return augment(index, source, resize, Random(seed), **{"progress": 1.0, "plain": False, **how})


SIZES = st.sampled_from([(96, 96), (64, 128), (128, 96)])
RULES = st.sampled_from(["stretch", "letterbox"])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    index=st.integers(0, 5),
    rule=RULES,
    size=SIZES,
    mosaic_size=st.sampled_from([None, 96, 160]),
)
def test_labels_belong_to_their_boxes_after_mosaic_affine_and_mirrors(
    source: Source, seed: int, index: int, rule: Any, size: Any, mosaic_size: int | None
) -> None:
    augment = replace(FULL, mixup=0.0, degrees=0.0, shear=0.0, mosaic_size=mosaic_size)
    sample = made(augment, index, source, Resize(rule, size), seed)
    assert sample.size == size
    assert ((sample.boxes >= 0) & (sample.boxes <= [size[1], size[0]] * 2)).all()
    big = (sample.boxes[:, 2:] - sample.boxes[:, :2] > 3).all(axis=1)
    assert_labels_fit_pixels(sample.select(big))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rule=RULES,
    size=SIZES,
    mosaic_size=st.sampled_from([None, 96, 160]),
)
def test_a_mosaic_is_that_of_a_canvas_that_is_warped_and_resized(
    source: Source, seed: int, rule: Any, size: Any, mosaic_size: int | None
) -> None:
    augment = replace(FULL, mixup=0.0, flip=0.0, flip_vertical=0.0, mosaic_size=mosaic_size)
    resize = Resize(rule, size)
    rng = Random(seed)
    rng.random()  # whether there is a mosaic
    expected = plain_mosaic(augment, seed % 6, source, resize, rng)
    sample = made(augment, seed % 6, source, resize, seed)
    np.testing.assert_array_equal(sample.boxes, expected.boxes)
    np.testing.assert_array_equal(sample.labels, expected.labels)
    difference = np.abs(sample.image.astype(int) - expected.image).max(axis=2)
    edges = cv2.morphologyEx(expected.image, cv2.MORPH_GRADIENT, np.ones((5, 5))).max(axis=2) > 20
    assert (difference[~edges] > 20).mean() < 0.01
    assert difference.mean() < 8


def test_a_mosaic_of_photographs_is_that_of_a_canvas_that_is_warped() -> None:
    source = Source(read_coco(shared_data("coco-slice"), "train").records, cache_mb=64)
    augment, resize = replace(FULL, mixup=0.0, flip=0.0, flip_vertical=0.0), Resize("stretch", (320, 320))
    differences = []
    for seed in range(8):
        rng = Random(seed)
        rng.random()
        expected = plain_mosaic(augment, seed, source, resize, rng).image
        differences.append(
            np.abs(made(augment, seed, source, resize, seed).image.astype(int) - expected).mean()
        )
    assert np.mean(differences) < 2
    assert np.max(differences) < 5


def test_tiles_out_of_sight_are_not_read(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    pixels = Source.pixels
    monkeypatch.setattr(
        Source, "pixels", lambda self, index, *args: (asked.append(index), pixels(self, index, *args))[1]
    )
    near = replace(FULL, mixup=0.0, scale=(4.0, 4.0))
    for seed in range(20):
        made(near, 0, source, Resize("stretch", (96, 96)), seed)
    assert 20 <= len(asked) < 60


@pytest.mark.parametrize("cache_mb", [0, 1])
def test_samples_do_not_depend_on_the_cache(source: Source, cache_mb: int) -> None:
    augment, resize = replace(FULL, scale=(0.1, 2.0), mosaic=0.7), Resize("stretch", (64, 64))
    expected = [made(augment, seed % 6, source, resize, seed) for seed in range(30)]
    other = Source(source.records, cache_mb)
    for seed in reversed(range(30)):
        sample = made(augment, seed % 6, other, resize, seed)
        np.testing.assert_array_equal(sample.image, expected[seed].image)
        np.testing.assert_array_equal(sample.boxes, expected[seed].boxes)


def test_boxes_are_changed_by_themselves_only_if_asked_for_and_not_in_plain_samples(source: Source) -> None:
    still = replace(PLAIN, boxes=None)
    moving = replace(PLAIN, boxes=BoxAugment(1.0))
    always = replace(PLAIN, boxes=BoxAugment(1.0, plain=True))
    resize = Resize("stretch", (96, 96))
    alone = source.fitted(3, resize).image

    def changes(augment: Augment, **how: Any) -> int:
        images = (made(augment, 3, source, resize, seed, **how).image for seed in range(200))
        return sum(not np.array_equal(image, alone) for image in images)

    assert changes(still) == changes(moving, plain=True) == changes(moving, progress=0.0) == 0
    assert changes(moving) > 5
    assert changes(always, plain=True) > 5


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), shape=st.tuples(st.integers(40, 160), st.integers(40, 160)), size=SIZES)
def test_labels_belong_to_their_boxes_after_mixup(seed: int, shape: tuple[int, int], size: Any) -> None:
    black = Sample(np.zeros((*size, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64), "b")
    mixed = mixup(black, coloured(*shape, seed=seed, boxes=3), shape, Random(seed), (0.5, 1.5))
    sides = mixed.boxes[:, 2:] - mixed.boxes[:, :2]
    assert_labels_fit_pixels(mixed.select((sides > 3).all(axis=1)))
    assert ((mixed.boxes >= 0) & (mixed.boxes <= [size[1], size[0]] * 2)).all()


def test_mixup_keeps_the_boxes_of_both_and_half_of_each_image() -> None:
    base, other = coloured(96, 96, 0, boxes=2), coloured(96, 96, 1, boxes=1)
    mixed = mixup(base, other, other.size, Random(0), (1.0, 1.0))
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
    mixed = mixup(base, other, other.size, Random(0), (0.5, 0.5))
    assert np.abs(mixed.image[60:, 60:].astype(int) - base.image[60:, 60:] / 2).max() <= 0.5


def test_the_same_draws_give_the_same_sample_and_others_another(source: Source) -> None:
    resize = Resize("stretch", (96, 96))
    first, again, other = (made(FULL, 1, source, resize, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.boxes, again.boxes)
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("plain", [False, True])
def test_without_mosaic_the_image_stands_alone(source: Source, plain: bool) -> None:
    resize, augment = Resize("stretch", (64, 96)), replace(PLAIN, mosaic=1.0) if plain else PLAIN
    sample = made(augment, 3, source, resize, 0, plain=plain)
    np.testing.assert_array_equal(sample.image, resize.image(read_image(source.records[3].path)))
    np.testing.assert_array_equal(sample.labels, source.records[3].labels)


def test_a_letterboxed_image_is_padded_with_grey(source: Source) -> None:
    sample = made(PLAIN, 3, source, Resize("letterbox", (64, 256)), 0)
    assert sample.size == (64, 256)
    assert (sample.image[:, 64:] == PAD).all()


def test_mixup_ends_where_no_image_has_boxes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((20, 20, 3), dtype=np.uint8))
    empty = Record(1, path, 20, 20, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    sample = made(replace(FULL, mixup=1.0), 0, Source([empty], 1), Resize("stretch", (96, 96)), 0)
    assert len(sample.labels) == 0


@pytest.mark.parametrize("side", [64, 640])
def test_mixup_keeps_the_shape_of_what_a_photograph_shows(side: int, tmp_path: Path) -> None:
    image, box = np.zeros((200, 400, 3), dtype=np.uint8), np.array([[240, 60, 320, 140]], dtype=np.float32)
    image[60:140, 240:320] = 255
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), image)
    source = Source([Record(1, path, 400, 200, box, np.zeros(1, np.int64))], 1)
    augment = replace(FULL, flip=0.0, flip_vertical=0.0, mixup_scale=(1.0, 1.0))
    without, mixed = (
        made(replace(augment, mixup=chance), 0, source, Resize("stretch", (side, side)), 2)
        for chance in (0.0, 1.0)
    )
    assert 0 < len(without.labels) == len(mixed.labels) - 1
    layer = 2 * mixed.image.max(axis=2).astype(int) - without.image.max(axis=2)
    y, x = np.nonzero(layer > 180)
    seen = [x.min(), y.min(), x.max() + 1, y.max() + 1]
    np.testing.assert_allclose(mixed.boxes[-1], seen, atol=1 + side / 400)
    np.testing.assert_allclose(mixed.boxes[-1, 2:] - mixed.boxes[-1, :2], side / 5, rtol=0.01)


def test_mixup_brings_in_the_boxes_of_another_image(source: Source) -> None:
    resize = Resize("stretch", (96, 96))
    counts = [
        sum(len(made(replace(FULL, mixup=mixup), 0, source, resize, seed).labels) for seed in range(30))
        for mixup in (0.0, 1.0)
    ]
    assert counts[1] > counts[0] + 20


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


def test_colour_changes_are_off_unless_asked_for(source: Source) -> None:
    resize = Resize("stretch", (96, 96))
    alone = made(PLAIN, 1, source, resize, 0)
    np.testing.assert_array_equal(alone.image, source.fitted(1, resize).image)
    changed = made(replace(PLAIN, hue=0.2, saturation=0.5, value=0.5), 1, source, resize, 0)
    assert not np.array_equal(changed.image, alone.image)
    np.testing.assert_array_equal(changed.boxes, alone.boxes)
