from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import shared_data
from damoyolo.data.dataset import Dataset, Record, Report, check_images, refusal
from damoyolo.data.formats import read_coco
from damoyolo.errors import UserError


def dataset(folder: Path, count: int = 5) -> Dataset:
    """Images that all exist and have the stated size."""
    records = []
    for number in range(count):
        path = folder / f"{number}.jpg"
        cv2.imwrite(str(path), np.random.default_rng(number).integers(0, 255, (24, 32, 3), dtype=np.uint8))
        records.append(Record(number, path, 32, 24, np.zeros((0, 4), np.float32), np.zeros(0, np.int64)))
    return Dataset(tuple(records), ("a",), (1,), folder / "train.json", Report())


def test_good_images_pass_unchanged(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    assert check_images(data) == data


def test_every_kind_of_bad_image_is_an_error_or_is_left_out_and_listed(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    (tmp_path / "0.jpg").unlink()
    (tmp_path / "1.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:-40])
    (tmp_path / "2.jpg").write_text("not an image")
    records = (*data.records[:3], replace(data.records[3], width=33), data.records[4])
    data = replace(data, records=records, report=Report(skipped=("earlier",)))

    with pytest.raises(UserError, match=r"0\.jpg: cannot be read.*, and see to 3 more bad items.*--skip-bad"):
        check_images(data)
    checked = check_images(data, skip_bad=True)
    assert [record.image_id for record in checked.records] == [4]
    assert checked.report.skipped[0] == "earlier"
    for sentence, part in zip(
        checked.report.skipped[1:],
        ("0.jpg: cannot", "1.jpg: is truncated", "2.jpg: is not", "3.jpg: is 32 x 24 pixels"),
        strict=True,
    ):
        assert part in sentence


@pytest.mark.parametrize(
    ("count", "notes", "last"), [(1, 0, ""), (20, 20, "image 20"), (23, 21, "and 3 more")]
)
def test_bad_items_are_listed_up_to_a_number(count: int, notes: int, last: str) -> None:
    error = refusal([f"image {number}" for number in range(1, count + 1)])
    assert str(error).startswith("image 1, ")
    listed = getattr(error, "__notes__", [])
    assert len(listed) == notes
    assert listed[-1:] == [last] * bool(last)


def test_nothing_left_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    data = dataset(tmp_path, count=1)
    (tmp_path / "0.jpg").unlink()
    with pytest.raises(UserError, match=r"none of its images can be used; the first: .*0\.jpg"):
        check_images(data, skip_bad=True)


@pytest.mark.parametrize("name", ["bccd", "aquarium", "coco-slice"])
def test_real_images_pass_the_check(name: str) -> None:
    data = read_coco(shared_data(name), "val")
    assert check_images(data) is not None
