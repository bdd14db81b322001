from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from damoyolo.data import shapes
from damoyolo.data.dataset import check_images
from damoyolo.data.formats import read_coco
from damoyolo.data.images import read_image
from damoyolo.data.shapes import CLASS_NAMES, draw_shapes, write_shapes


def test_a_seed_draws_the_same_picture_and_another_seed_another() -> None:
    first, again, other = (draw_shapes(np.random.default_rng(seed), 96) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.boxes, again.boxes)
    assert not np.array_equal(first.image, other.image)


def test_boxes_are_exactly_the_bounds_of_what_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = []
    paint = shapes._paint
    monkeypatch.setattr(
        shapes, "_paint", lambda rng, image, mask: (masks.append(mask), paint(rng, image, mask))
    )
    for seed in range(5):
        masks.clear()
        sample = draw_shapes(np.random.default_rng(seed), 128)
        assert len(masks) == len(sample.boxes)
        for mask, box in zip(masks, sample.boxes, strict=True):
            rows, columns = np.nonzero(mask > 0.5)
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_array_equal(box, expected)


def test_shapes_stay_mostly_visible() -> None:
    owner = np.full((128, 128), -1)
    areas: list[int] = []
    rng = np.random.default_rng(0)
    for _ in range(30):
        mask = shapes._place(rng, 1, owner, areas)
        if mask is not None:
            owner[mask > 0.5] = len(areas)
            areas.append(int((mask > 0.5).sum()))
    visible = np.bincount(owner[owner >= 0], minlength=len(areas))
    assert len(areas) > 5
    assert (visible >= shapes.MIN_VISIBLE * np.array(areas)).all()
    assert (visible < areas).any()


def test_small_and_large_shapes_of_every_class_are_drawn() -> None:
    samples = [draw_shapes(np.random.default_rng(seed), 192) for seed in range(60)]
    labels = np.concatenate([sample.labels for sample in samples])
    boxes = np.concatenate([sample.boxes for sample in samples])
    longest = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    assert set(labels) == set(range(len(CLASS_NAMES)))
    assert longest.min() < 24
    assert longest.max() > 96
    assert np.bincount(labels).min() > 0.15 * len(labels)


def test_a_written_data_set_is_read_back_and_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shapes(tmp_path / name, train=6, val=3, image_size=96, seed=1)
    for split, count in (("train", 6), ("val", 3)):
        data = check_images(read_coco(tmp_path / "a", split))
        assert (len(data), data.class_names) == (count, CLASS_NAMES)
        assert data.report.degenerate == 0
        assert (tmp_path / "a" / f"{split}.json").read_bytes() == (
            tmp_path / "b" / f"{split}.json"
        ).read_bytes()
        for record in data.records:
            assert record.size == (96, 96)
            assert record.path.read_bytes() == (tmp_path / "b" / "images" / record.path.name).read_bytes()
    drawn = draw_shapes(np.random.default_rng([1, 1, 0]), 96)
    first = read_coco(tmp_path / "a", "val").records[0]
    np.testing.assert_array_equal(first.boxes, drawn.boxes)
    np.testing.assert_array_equal(first.labels, drawn.labels)
    assert np.abs(read_image(first.path).astype(int) - drawn.image).mean() < 8


def test_train_and_val_are_different_pictures(tmp_path: Path) -> None:
    write_shapes(tmp_path, train=1, val=1, image_size=64)
    first, second = sorted((tmp_path / "images").iterdir())
    assert first.read_bytes() != second.read_bytes()
