from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from damoyolo.data.dataset import check_images
from damoyolo.data.formats import read_dataset, read_entries, splits_in
from damoyolo.data.shapes import write_shapes
from damoyolo.errors import UserError


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawn images in one split, without any other."""
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, train=12, val=1, image_size=64)
    (folder / "val.json").unlink()
    return folder


def names(folder: Path, split: str, seed: int = 0) -> set[str]:
    return {record.path.name for record in read_dataset(folder, split, seed=seed).records}


def test_without_val_two_parts_are_drawn_that_share_nothing_and_lack_nothing(shapes: Path) -> None:
    train, val = names(shapes, "train"), names(shapes, "val")
    assert len(val) == 2
    assert not train & val
    assert len(train | val) == 12
    assert (names(shapes, "train"), names(shapes, "val")) == (train, val)
    assert any(names(shapes, "val", seed) != val for seed in range(1, 5))
    assert "drawn by seed 0, about 20%, as the data have no val" in read_dataset(shapes, "val").summary()


def test_the_draw_does_not_depend_on_the_order_of_a_file(shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes, tmp_path, dirs_exist_ok=True)
    content = json.loads((tmp_path / "train.json").read_text())
    content["images"].reverse()
    renumbered = {image["id"]: number for number, image in enumerate(content["images"], 1)}
    for image in content["images"]:
        image["id"] = renumbered[image["id"]]
    for annotation in content["annotations"]:
        annotation["image_id"] = renumbered[annotation["image_id"]]
    (tmp_path / "train.json").write_text(json.dumps(content))
    assert names(tmp_path, "val") == names(shapes, "val")


@pytest.mark.parametrize("file", ["annotations.json", "annotations/instances_default.json", "result.json"])
def test_annotations_without_a_split_are_divided(shapes: Path, tmp_path: Path, file: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    shutil.copy(shapes / "train.json", tmp_path / file)
    shutil.copytree(shapes / "images", tmp_path / "images")
    assert splits_in(tmp_path) == ("train", "val")
    assert names(tmp_path, "val") == names(shapes, "val")
    with pytest.raises(
        UserError, match="no annotations of split 'test'; take train or val, or name a folder"
    ):
        read_dataset(tmp_path, "test")


def test_images_beside_labels_without_a_split_are_divided(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for image in (shapes / "images").glob("train_*"):
        shutil.copy(image, tmp_path / "images")
        (tmp_path / "labels" / f"{image.stem}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    assert names(tmp_path, "val") == names(shapes, "val")


def test_a_roboflow_export_is_found(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 0, "file_name": "a.png", "width": 8, "height": 6}],
        "categories": [{"id": 0, "name": "cells", "supercategory": "none"}, {"id": 1, "name": "RBC"}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [1, 1, 4, 4]}],
    }
    for folder in ("train", "valid", "test"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "_annotations.coco.json").write_text(json.dumps(content))
        cv2.imwrite(str(tmp_path / folder / "a.png"), np.zeros((6, 8, 3), dtype=np.uint8))
    assert splits_in(tmp_path) == ("train", "val", "test")
    data = check_images(read_dataset(tmp_path, "val"))
    assert data.records[0].path == tmp_path / "valid" / "a.png"
    assert data.records[0].labels.tolist() == [1]


def test_a_split_of_its_own_is_taken_whole(shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes, tmp_path, dirs_exist_ok=True)
    shutil.copy(tmp_path / "train.json", tmp_path / "val.json")
    assert len(read_dataset(tmp_path, "train")) == len(read_dataset(tmp_path, "val")) == 12


def test_an_evaluation_has_the_truth_of_data_that_are_no_coco_file(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "images" / split / "a.png"), np.zeros((50, 100, 3), dtype=np.uint8))
        (tmp_path / "labels" / split / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    data = read_dataset(tmp_path, "val")
    assert data.truth is not None
    assert data.truth["annotations"][0]["bbox"] == [25.0, 12.5, 50.0, 25.0]


def test_labels_follow_the_names_of_a_model_in_every_format(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "images" / split / "a.png"), np.zeros((50, 100, 3), dtype=np.uint8))
        (tmp_path / "labels" / split / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    data = read_dataset(tmp_path, "val", class_names=("bird", "cat", "dog"))
    assert data.records[0].labels.tolist() == [2]
    assert data.category_ids == (-1, 1, 0)
    with pytest.raises(UserError, match="no class for 'dog', it knows 'bird', 'cat'; take weights"):
        read_entries(tmp_path, "val", ("bird", "cat"))


def test_images_without_labels_are_said_to_have_none(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="has 1 image but no annotations of split 'train'"):
        splits_in(tmp_path)


def test_for_data_with_test_images_only_it_is_said_how_to_add_others(shapes: Path, tmp_path: Path) -> None:
    shutil.copy(shapes / "train.json", tmp_path / "test.json")
    shutil.copytree(shapes / "images", tmp_path / "images")
    assert splits_in(tmp_path) == ("test",)
    with pytest.raises(
        UserError, match=r"of split 'train'; take test, or name a folder with one of train\.json"
    ):
        read_dataset(tmp_path, "train")
    with pytest.raises(UserError, match=r"of split 'trian'; take test$"):
        read_dataset(tmp_path, "trian")
