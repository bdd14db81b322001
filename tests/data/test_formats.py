from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import shared_data
from damoyolo.data.formats import read_coco
from damoyolo.errors import UserError


def content() -> dict[str, list[dict[str, Any]]]:
    """Two images, ids out of order, category ids with gaps."""
    return {
        "images": [
            {"id": 9, "file_name": "b.png", "width": 40, "height": 30},
            {"id": 2, "file_name": "a.png", "width": 20, "height": 20},
        ],
        "annotations": [
            {"id": 1, "image_id": 9, "category_id": 90, "bbox": [1, 2, 10, 5], "iscrowd": 0},
            {"id": 2, "image_id": 9, "category_id": 3, "bbox": [30, 20, 50, 50]},
        ],
        "categories": [{"id": 90, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 7, "name": "eel"}],
    }


def write(folder: Path, value: Any, name: str = "train.json") -> Path:
    """A data folder with that annotation file; returns the folder."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(value))
    return folder


def changed(key: str, number: int, **fields: Any) -> dict[str, list[dict[str, Any]]]:
    """`content()` with some fields of one item replaced, or removed where the value is `...`."""
    value = content()
    item = {**value[key][number], **fields}
    value[key][number] = {name: each for name, each in item.items() if each is not ...}
    return value


def test_records_come_by_id_with_clipped_xyxy_boxes_and_labels_in_category_order(tmp_path: Path) -> None:
    data = read_coco(write(tmp_path, content()), "train")
    assert [record.image_id for record in data.records] == [2, 9]
    assert data.class_names == ("dog", "eel", "cat")
    assert data.category_ids == (3, 7, 90)
    np.testing.assert_array_equal(data.records[1].boxes, [[1, 2, 11, 7], [30, 20, 40, 30]])
    np.testing.assert_array_equal(data.records[1].labels, [2, 0])
    assert data.records[0].boxes.shape == (0, 4)
    assert data.annotations == tmp_path / "train.json"


def test_classes_are_matched_by_name_to_those_of_a_model(tmp_path: Path) -> None:
    names = ("cat", "bird", "eel", "dog")
    data = read_coco(write(tmp_path, content()), "train", class_names=names)
    assert data.class_names == names
    assert data.category_ids == (90, -1, 7, 3)
    np.testing.assert_array_equal(data.records[1].labels, [0, 3])


def test_a_class_that_the_file_lacks_has_no_id_that_annotations_could_use(tmp_path: Path) -> None:
    folder = write(tmp_path, changed("annotations", 1, category_id=-1))
    with pytest.raises(UserError, match="category_id -1 is not the id of a category"):
        read_coco(folder, "train", class_names=("cat", "bird", "eel", "dog"))


def test_a_category_that_the_model_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="no class for 'cat', it knows 'cats', 'dog', 'eel'; did you mean 'cats'"
    ):
        read_coco(write(tmp_path, content()), "train", class_names=("cats", "dog", "eel"))


def test_crowds_and_empty_boxes_are_left_out_and_counted(tmp_path: Path) -> None:
    value = content()
    for number, (box, crowd) in enumerate(
        [([0, 0, 5, 5], 1), ([0, 0, 0, 5], 0), ([3, 3, -1, 5], 0), ([25, 0, 5, 5], 0)], start=10
    ):
        value["annotations"].append(
            {"id": number, "image_id": 2, "category_id": 3, "bbox": box, "iscrowd": crowd}
        )
    data = read_coco(write(tmp_path, value), "train")
    assert (data.report.crowd, data.report.degenerate, data.report.skipped) == (1, 3, ())
    assert len(data.records[0].labels) == 0
    assert (
        "2 images (1 without boxes), 2 boxes, 3 classes; left out: crowd boxes 1, empty boxes 3"
        in data.summary()
    )


@given(st.lists(st.tuples(*[st.floats(-50, 80, width=32)] * 4), max_size=6))
def test_kept_boxes_lie_in_the_image_and_labels_stay_with_them(
    tmp_path_factory: pytest.TempPathFactory, boxes: list[tuple[float, ...]]
) -> None:
    value = content()
    categories = [3, 7, 90]
    value["annotations"] = [
        {"id": number, "image_id": 9, "category_id": categories[number % 3], "bbox": list(box)}
        for number, box in enumerate(boxes)
    ]
    data = read_coco(write(tmp_path_factory.mktemp("boxes"), value), "train")
    record = data.records[1]
    assert (record.boxes >= 0).all()
    assert (record.boxes <= (40, 30, 40, 30)).all()
    assert (record.boxes[:, :2] < record.boxes[:, 2:]).all()
    inside = [
        number % 3
        for number, (x, y, w, h) in enumerate(np.array(boxes, dtype=np.float64).reshape(-1, 4))
        if np.float32(min(x + w, 40)) > np.float32(max(x, 0))
        and np.float32(min(y + h, 30)) > np.float32(max(y, 0))
    ]
    assert record.labels.tolist() == inside
    assert data.report.degenerate == len(boxes) - len(inside)


BAD_ITEMS = {
    r"annotations\[1\] \(id 2\): image_id 5 is not the id of an image": changed("annotations", 1, image_id=5),
    r"annotations\[1\] \(id 2 in b\.png\): category_id 4 is not": changed("annotations", 1, category_id=4),
    r"annotations\[1\] \(id 1 in b\.png\): repeats the id 1": changed("annotations", 1, id=1),
    r"annotations\[1\] \(id 2 in b\.png\): 'bbox' is \[nan": changed(
        "annotations", 1, bbox=[float("nan"), 0, 1, 1]
    ),
    r"annotations\[1\] \(id 2 in b\.png\): 'bbox' is \[inf": changed(
        "annotations", 1, bbox=[float("inf"), 0, 1, 1]
    ),
    r"annotations\[1\] \(id 2 in b\.png\): 'bbox' is \[1, 2, 3\]": changed("annotations", 1, bbox=[1, 2, 3]),
    r"annotations\[1\] \(id 2 in b\.png\): 'bbox' is \[None": changed("annotations", 1, bbox=[None, 0, 1, 1]),
    r"annotations\[1\] \(id 2 in b\.png\): lacks 'bbox'": changed("annotations", 1, bbox=...),
    r"annotations\[1\] \(id 2\): lacks 'image_id'": changed("annotations", 1, image_id=...),
    r"annotations\[1\]: is a str": {**content(), "annotations": [content()["annotations"][0], "?"]},
    r"images\[1\]: repeats the id 9": changed("images", 1, id=9),
    r"images\[1\]: lacks 'width'": changed("images", 1, width=...),
    r"images\[1\]: 'height' is 0": changed("images", 1, height=0),
    r"images\[1\]: 'id' is 'x'": changed("images", 1, id="x"),
    r"images\[1\]: 'file_name' is ''": changed("images", 1, file_name=""),
    r"images\[1\]: 'file_name' is 'a\\x00'": changed("images", 1, file_name="a\0"),
    r"images\[1\]: 'width' is 1000000": changed("images", 1, width=10**400),
}


@pytest.mark.parametrize("sentence", BAD_ITEMS)
def test_a_bad_item_is_an_error_that_names_it_or_is_skipped_and_listed(tmp_path: Path, sentence: str) -> None:
    folder = write(tmp_path, BAD_ITEMS[sentence])
    with pytest.raises(UserError, match=rf"train\.json: {sentence}.*--skip-bad"):
        read_coco(folder, "train")
    data = read_coco(folder, "train", skip_bad=True)
    assert len(data.report.skipped) == 1
    assert "left out: bad images or annotations 1" in data.summary()
    assert any(record.image_id == 9 and len(record.labels) >= 1 for record in data.records)


def test_all_bad_items_and_image_files_are_told_at_once(tmp_path: Path) -> None:
    value = changed("annotations", 1, category_id=4)
    value["annotations"] += [{"id": 3, "image_id": [], "category_id": 3}, {}]
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((20, 20, 3), dtype=np.uint8))
    with pytest.raises(UserError, match=r"annotations\[1\].*, and see to 3 more bad items") as caught:
        read_coco(write(tmp_path, value), "train")
    listed = caught.value.__notes__
    expected = (
        "[1] (id 2 in b.png): category_id 4",
        "[2] (id 3): 'image_id' is []",
        "[3]: lacks 'id'",
        "b.png: ca",
    )
    for sentence, part in zip(listed, expected, strict=True):
        assert part in sentence


def test_annotations_of_a_skipped_image_are_not_reported_again(tmp_path: Path) -> None:
    data = read_coco(write(tmp_path, changed("images", 0, width=-1)), "train", skip_bad=True)
    assert [record.image_id for record in data.records] == [2]
    assert len(data.report.skipped) == 1


BAD_FILES = {
    "is not valid JSON": "{",
    r"is not valid JSON \(maximum recursion": "[" * 200_000,
    "holds a list": "[]",
    "lacks 'categories'; did you mean 'category'": '{"images": [], "annotations": [], "category": []}',
    "'annotations' is a dict": '{"images": [], "annotations": {}, "categories": []}',
    "has no categories": '{"images": [], "annotations": [], "categories": []}',
    "has no images": '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}',
    r"categories\[1\]: repeats the name 'dog'": json.dumps(
        changed("categories", 1, name="dog", id=8)
    ).replace('"cat"', '"dog"'),
    r"categories\[1\]: repeats the id 90": json.dumps(changed("categories", 1, id=90)),
    r"categories\[1\]: 'id' is -1": json.dumps(changed("categories", 1, id=-1)),
    r"categories\[0\]: lacks 'name'": json.dumps(changed("categories", 0, name=...)),
    r"categories\[0\]: 'name' is 'a\\nb', expected": json.dumps(changed("categories", 0, name="a\nb")),
    r"categories\[0\]: 'name' is 'a\\n', expected": json.dumps(changed("categories", 0, name="a\n")),
    r"categories\[0\]: 'name' is '', expected": json.dumps(changed("categories", 0, name="")),
    r"categories\[0\]: 'name' is ' ', expected": json.dumps(changed("categories", 0, name=" ")),
    r"none of its images can be used; the first: .*images\[0\]: 'width' is 0": json.dumps(
        {**content(), "images": [{"id": 9, "file_name": "b.png", "width": 0, "height": 30}]}
    ),
}


@pytest.mark.parametrize("sentence", BAD_FILES)
def test_a_file_that_is_wrong_as_a_whole_is_an_error_even_when_skipping(
    tmp_path: Path, sentence: str
) -> None:
    (tmp_path / "train.json").write_text(BAD_FILES[sentence])
    with pytest.raises(UserError, match=rf"train\.json: {sentence}"):
        read_coco(tmp_path, "train", skip_bad=True)


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("val.json", "images"),
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/instances_val2017.json", "images/val2017"),
        ("annotations/instances_val.json", "images/val"),
        ("instances_val.json", "images/val"),
        ("instances_val.json", "images"),
        ("val.json", "."),
    ],
)
def test_known_layouts_are_found(tmp_path: Path, annotations: str, images: str) -> None:
    write(tmp_path, content(), annotations)
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / images).mkdir(exist_ok=True)
    cv2.imwrite(str(tmp_path / images / "a.png"), np.zeros((20, 20, 3), dtype=np.uint8))
    assert read_coco(tmp_path, "val").records[0].path == tmp_path / images / "a.png"


def test_images_that_are_nowhere_are_missed_in_the_folder_that_exists(tmp_path: Path) -> None:
    write(tmp_path, content(), "val.json")
    (tmp_path / "images").mkdir()
    assert read_coco(tmp_path, "val").records[0].path == tmp_path / "images" / "a.png"


def test_a_yaml_file_names_paths_relative_to_itself(tmp_path: Path) -> None:
    write(tmp_path / "labels", content(), "t.json")
    (tmp_path / "data.yaml").write_text("train: {annotations: labels/t.json, images: photos}")
    data = read_coco(tmp_path / "data.yaml", "train")
    assert data.records[0].path == tmp_path / "photos" / "a.png"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("trian: {annotations: t.json, images: .}", "unknown field 'trian'; did you mean 'train'"),
        ("train: {annotation: t.json, images: .}", "unknown field 'train.annotation'; did you mean 'anno"),
        ("train: 2020-99-99", "is not valid YAML"),
        ("val: {annotations: t.json, images: .}", "names no split 'train'"),
        ("train: {annotations: t.json, images: .}", r"train.annotations: no file .*t\.json"),
    ],
)
def test_a_wrong_yaml_file_is_explained(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_coco(tmp_path / "data.yaml", "train")


def test_a_place_without_data_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: does not exist"):
        read_coco(tmp_path / "nowhere", "train")
    with pytest.raises(
        UserError, match=r"no annotations of split 'val'; name a folder with one of val\.json"
    ):
        read_coco(tmp_path, "val")


@pytest.mark.parametrize(
    ("name", "split", "images", "boxes", "empty", "classes"),
    [
        ("bccd", "train", 205, 2804, 0, 3),
        ("bccd", "val", 87, 1137, 0, 3),
        ("bccd", "test", 72, 945, 0, 3),
        ("aquarium", "train", 448, 3323, 1, 7),
        ("aquarium", "val", 127, 909, 0, 7),
        ("aquarium", "test", 63, 582, 0, 7),
        ("coco-slice", "train", 72, 653 - 9, 1, 80),
        ("coco-slice", "val", 44, 304 - 3, 2, 80),
    ],
)
def test_real_data_are_read_whole(
    name: str, split: str, images: int, boxes: int, empty: int, classes: int
) -> None:
    data = read_coco(shared_data(name), split)
    counts = [len(record.labels) for record in data.records]
    assert (len(data), sum(counts), counts.count(0), len(data.class_names)) == (images, boxes, empty, classes)
    assert all(record.path.is_file() for record in data.records)
