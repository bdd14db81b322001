from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from conftest import shared_data
from damoyolo.data.dataset import Dataset
from damoyolo.data.formats import read_coco, read_dataset
from damoyolo.data.write import write_coco, write_yolo, yolo_lines
from damoyolo.errors import UserError


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """Two images of one name in two folders, and a crowd."""
    for name in ("x/a.png", "y/a.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "images" / name), np.zeros((48, 64, 3), dtype=np.uint8))
    content = {
        "images": [
            {"id": 3, "file_name": "x/a.png", "width": 64, "height": 48},
            {"id": 8, "file_name": "y/a.png", "width": 64, "height": 48},
        ],
        "categories": [{"id": 10, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 10, "bbox": [24, 12, 16, 24]},
            {"id": 2, "image_id": 3, "category_id": 5, "bbox": [3.2, 6.637056, 6.4, 5.925888]},
            {"id": 3, "image_id": 3, "category_id": 5, "bbox": [60, 40, 16, 24]},
            {"id": 4, "image_id": 8, "category_id": 5, "bbox": [1, 2, 30, 40], "iscrowd": 1},
        ],
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    return read_coco(tmp_path, "train")


def test_a_coco_copy_reads_back_equal_with_its_crowds(data: Dataset, tmp_path: Path) -> None:
    done: list[None] = []
    write_coco({"train": data}, tmp_path / "copy", lambda: done.append(None))
    again = read_coco(tmp_path / "copy", "train")
    assert len(done) == 2
    assert again.class_names == data.class_names
    assert again.category_ids == (1, 2)
    assert again.report.crowd == 1
    assert {record.path.name for record in again.records} == {"a_3.png", "a_8.png"}
    for before, after in zip(data.records, again.records, strict=True):
        np.testing.assert_allclose(after.boxes, before.boxes, atol=1e-3)
        np.testing.assert_array_equal(after.labels, before.labels)
        assert after.path.read_bytes() == before.path.read_bytes()


def test_yolo_lines_are_those_of_supervision(data: Dataset) -> None:
    """Numbers of supervision 0.31.2, `DetectionDataset.as_yolo`, which rounds to five digits."""
    lines = np.array([line.split() for line in yolo_lines(data.records[0]).splitlines()], dtype=np.float64)
    expected = [[1, 0.5, 0.5, 0.25, 0.5], [0, 0.1, 0.2, 0.1, 0.12346], [0, 0.96875, 0.91667, 0.0625, 0.16667]]
    np.testing.assert_allclose(lines, expected, atol=6e-6)


def test_a_yolo_copy_reads_back_equal_without_crowds(data: Dataset, tmp_path: Path) -> None:
    write_yolo({"train": data, "val": data}, tmp_path / "copy")
    again = read_dataset(tmp_path / "copy", "val")
    assert again.class_names == data.class_names
    assert again.report.crowd == 0
    for before, after in zip(data.records, again.records, strict=True):
        np.testing.assert_allclose(after.boxes, before.boxes, atol=1e-4)
        np.testing.assert_array_equal(after.labels, before.labels)


def test_an_image_annotated_as_it_is_stored_cannot_become_yolo(data: Dataset, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for record in data.records:
        Image.new("RGB", (64, 48)).save(record.path.with_suffix(".jpg"), exif=exif)
        record.path.with_suffix(".jpg").replace(record.path)
    with pytest.raises(UserError, match=r"a\.png: is not 64 x 48 pixels once it is upright"):
        write_yolo({"train": data}, tmp_path / "copy")
    assert not (tmp_path / "copy" / "data.yaml").exists()


@pytest.mark.parametrize(("name", "split"), [("bccd", "test"), ("aquarium", "test"), ("coco-slice", "val")])
def test_real_data_come_back_from_yolo_and_coco_as_they_were(name: str, split: str, tmp_path: Path) -> None:
    data = read_coco(shared_data(name), split)
    write_yolo({"train": data, "val": data}, tmp_path / "yolo")
    yolo = read_dataset(tmp_path / "yolo", "val")
    write_coco({"val": yolo}, tmp_path / "coco")
    again = read_dataset(tmp_path / "coco", "val")
    before = {record.path.name: record for record in data.records}
    assert {record.path.name for record in again.records} == before.keys()
    for record in again.records:
        np.testing.assert_allclose(record.boxes, before[record.path.name].boxes, atol=2e-3)
        np.testing.assert_array_equal(record.labels, before[record.path.name].labels)
