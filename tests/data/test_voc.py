from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from damoyolo.data.formats import read_dataset
from damoyolo.errors import UserError

DOG = ("dog", 5, 7, 20, 31)
CAT = ("cat", 1, 1, 64, 48)


def xml(*objects: tuple[str, float, float, float, float], name: str = "a.png", size: str = "") -> str:
    items = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax>"
        f"<ymax>{y2}</ymax></bndbox></object>"
        for label, x1, y1, x2, y2 in objects
    )
    return f"<annotation><filename>{name}</filename>{size}{items}</annotation>"


def write(folder: Path, annotations: str, images: str, text: str, stem: str = "a") -> Path:
    """An XML file and its image in these folders; returns the image's path."""
    for each in (annotations, images):
        (folder / each).mkdir(parents=True, exist_ok=True)
    (folder / annotations / f"{stem}.xml").write_text(text)
    path = folder / images / f"{stem}.png"
    assert cv2.imwrite(str(path), np.zeros((48, 64, 3), dtype=np.uint8))
    return path


def listed(root: Path, **splits: str) -> Path:
    """The development kit's layout, one image a split."""
    for split, text in splits.items():
        write(root, "Annotations", "JPEGImages", text.replace("a.png", f"{split}.png"), split)
        (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Main/{split}.txt").write_text(f"{split} 1\n")
    return root


def test_corners_count_from_one_as_supervision_reads_them(tmp_path: Path) -> None:
    """Numbers of supervision 0.31.2, `DetectionDataset.from_pascal_voc`."""
    data = read_dataset(listed(tmp_path, train=xml(DOG, CAT), val=xml()), "train")
    np.testing.assert_array_equal(data.records[0].boxes, [[4, 6, 20, 31], [0, 0, 64, 48]])
    assert data.records[0].labels.tolist() == [1, 0]
    assert data.class_names == ("cat", "dog")
    assert data.records[0].size == (48, 64)


def test_classes_are_those_of_all_splits_in_each(tmp_path: Path) -> None:
    listed(tmp_path, train=xml(DOG), val=xml(CAT), test=xml())
    for split in ("train", "val", "test"):
        assert read_dataset(tmp_path, split).class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("val", "val"),
        ("valid", "valid"),
        ("val/Annotations", "val/JPEGImages"),
        ("val/annotations", "val/images"),
        ("Annotations/val", "JPEGImages/val"),
        ("annotations/val", "images/val"),
    ],
)
def test_plain_folders_are_found(tmp_path: Path, annotations: str, images: str) -> None:
    image = write(tmp_path, annotations, images, xml(DOG))
    data = read_dataset(tmp_path, "val")
    assert data.records[0].path == image
    assert len(data.records[0].labels) == 1


def test_the_development_kit_is_found_from_above(tmp_path: Path) -> None:
    listed(tmp_path / "VOCdevkit/VOC2012", train=xml(DOG), val=xml(DOG))
    assert len(read_dataset(tmp_path, "val")) == 1


def test_a_stated_size_counts_and_else_that_of_the_image(tmp_path: Path) -> None:
    size = "<size><width>100</width><height>80</height></size>"
    listed(tmp_path, train=xml(DOG, size=size), val=xml(DOG, size=size.replace("100", "0")))
    assert read_dataset(tmp_path, "train").records[0].size == (80, 100)
    assert read_dataset(tmp_path, "val").records[0].size == (48, 64)


BAD_FILES = {
    r"val\.xml: object\[1\]: 'xmin' of its bndbox is 'x', expected a finite": xml(DOG, ("dog", "x", 1, 2, 3)),  # type: ignore[arg-type]
    r"val\.xml: object\[1\]: 'ymax' of its bndbox is 'nan'": xml(DOG, ("dog", 1, 1, 2, float("nan"))),
    r"val\.xml: object\[1\]: lacks 'name'": xml(DOG, ("", 1, 1, 2, 3)),
    r"val\.xml: is not valid XML": "<annotation>",
}


@pytest.mark.parametrize("sentence", BAD_FILES)
def test_a_bad_item_is_an_error_that_names_it(tmp_path: Path, sentence: str) -> None:
    listed(tmp_path, train=xml(DOG), val=BAD_FILES[sentence])
    with pytest.raises(UserError, match=sentence):
        read_dataset(tmp_path, "val")


def test_a_listed_file_that_is_missing_is_named_or_skipped(tmp_path: Path) -> None:
    listed(tmp_path, train=xml(DOG), val=xml(DOG))
    with (tmp_path / "ImageSets/Main/val.txt").open("a") as file:
        file.write("gone\n")
    with pytest.raises(UserError, match=r"gone\.xml: cannot be read"):
        read_dataset(tmp_path, "val")
    assert len(read_dataset(tmp_path, "val", skip_bad=True)) == 1
