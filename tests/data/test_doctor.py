from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from damoyolo.assemble import convert_data
from damoyolo.data.dataset import Record
from damoyolo.data.doctor.advice import advise, choose_side
from damoyolo.data.doctor.annotations import check_annotations, distortions, repeated_boxes, thinnest_sides
from damoyolo.data.doctor.classes import box_counts
from damoyolo.data.doctor.findings import Finding
from damoyolo.data.doctor.pixels import check_pixels
from damoyolo.data.doctor.unmatched import check_files
from damoyolo.data.formats import read_entries
from damoyolo.data.formats.entries import Annotated, Entries, check_entries
from damoyolo.data.shapes import draw_shapes, write_shapes
from damoyolo.errors import UserError

SIZE = (320, 320)


def entries(
    *boxes: list[float],
    names: tuple[str, ...] = ("cat",),
    labels: tuple[int, ...] = (),
    size: tuple[int, int] = (200, 100),
) -> Entries:
    """One image of that width and height with these boxes x, y, width, height; class 0 unless `labels`."""
    annotations = [
        {"id": number, "image_id": 1, "category_id": labels[number] if labels else 0, "bbox": box}
        for number, box in enumerate(boxes)
    ]
    content: dict[str, list[Any]] = {
        "images": [{"id": 1, "file_name": "a.png", "width": size[0], "height": size[1]}],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
    }
    return check_entries(Annotated(Path("t.json"), content, Path("nowhere")))


ENOUGH: list[list[float]] = [[10.0 * (n % 15), 10.0 * (n // 15), 30, 30] for n in range(45)]
"""Boxes of which nothing can be said."""


def found(splits: dict[str, Entries]) -> dict[str, Finding]:
    return {finding.title: finding for finding in check_annotations(splits, SIZE)}


def record(
    path: Path, *boxes: list[float], width: int = 200, height: int = 100, labels: Any = None
) -> Record:
    xyxy = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    classes = np.zeros(len(xyxy), dtype=np.int64) if labels is None else np.array(labels, dtype=np.int64)
    return Record(1, path, width, height, xyxy, classes)


def test_sound_annotations_are_not_complained_of() -> None:
    splits = {"train": entries(*ENOUGH, size=(200, 200)), "val": entries(*ENOUGH, size=(200, 200))}
    assert found(splits) == {}


def test_all_is_listed_and_people_are_shown_the_first_few() -> None:
    empty = found({"train": entries(*ENOUGH, *[[0.0, 0, 0, 9]] * 8)})[
        "boxes that are empty or wholly outside their image"
    ]
    assert (empty.count, len(empty.examples), len(empty.shown)) == (8, 8, 6)
    assert empty.shown[-1] == "and 3 more"
    few = found({"train": entries(*ENOUGH, *[[0.0, 0, 0, 9]] * 5)})
    assert len(few["boxes that are empty or wholly outside their image"].shown) == 5


def test_labels_and_images_that_have_lost_each_other_are_named(tmp_path: Path) -> None:
    write_shapes(tmp_path / "drawn", train=4, val=2, image_size=64)
    convert_data(tmp_path / "drawn", tmp_path / "yolo", "yolo")
    splits = {split: read_entries(tmp_path / "yolo", split) for split in ("train", "val")}
    assert check_files(splits) == []

    image = splits["train"].path(2)
    label = image.parents[2] / "labels" / "train" / f"{image.stem}.txt"
    image.unlink()
    (label.parent / "classes.txt").write_text("circle\nsquare\n")
    splits = {split: read_entries(tmp_path / "yolo", split) for split in ("train", "val")}
    (lost,) = check_files(splits)
    assert (lost.level, lost.title, lost.count) == ("warning", "label files without an image", 1)
    assert lost.examples == (f"{label}: holds boxes",)


def test_images_that_a_coco_file_does_not_list_are_named(tmp_path: Path) -> None:
    write_shapes(tmp_path, train=4, val=2, image_size=64)
    splits = {split: read_entries(tmp_path, split) for split in ("train", "val")}
    assert check_files(splits) == []
    (alone,) = check_files({"train": splits["train"]})
    assert (alone.level, alone.title, alone.count) == ("note", "images that no split names", 2)
    assert [path.name for path in alone.images] == ["val_0000.jpg", "val_0001.jpg"]


@pytest.mark.parametrize("kind", ["coco", "yolo"])
def test_a_bad_image_is_not_said_to_be_named_by_nobody(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shapes(tmp_path / "drawn", train=4, val=2, image_size=64)
    convert_data(tmp_path / "drawn", tmp_path / "data", kind)
    monkeypatch.chdir(tmp_path)  # messages tell paths as they were given
    if kind == "coco":
        content = json.loads(Path("data/train.json").read_text())
        content["images"][0]["width"] = 0
        Path("data/train.json").write_text(json.dumps(content))
    else:
        next(Path("data/images/train").iterdir()).write_bytes(b"no image")
    splits = {split: read_entries(Path("data"), split) for split in ("train", "val")}
    assert splits["train"].faults
    assert check_files(splits) == []


def test_a_folder_may_be_spelt_in_two_ways(tmp_path: Path) -> None:
    write_shapes(tmp_path / "data", train=4, val=2, image_size=64)
    content = json.loads((tmp_path / "data" / "val.json").read_text())
    for image in content["images"]:
        image["file_name"] = f"../../data/images/{image['file_name']}"
    (tmp_path / "data" / "val.json").write_text(json.dumps(content))
    (tmp_path / "data" / "images" / "folder.png").mkdir()
    assert check_files({split: read_entries(tmp_path / "data", split) for split in ("train", "val")}) == []


def test_empty_boxes_are_errors_and_crossing_ones_are_warnings_beyond_a_pixel() -> None:
    boxes = [[0.0, 0, 0, 9], [200, 0, 9, 9], [-20, 0, 9, 9], [5, 5, -3, 9], [195, 50, 9, 9], [0, 90, 9, 10.9]]
    titles = found({"train": entries(*ENOUGH, *boxes)})
    empty = titles["boxes that are empty or wholly outside their image"]
    assert (empty.level, empty.count) == ("error", 4)
    assert empty.examples[0] == "train: a.png (200 x 100): x, y, width, height 0, 0, 0, 9"
    crossing = titles["boxes that reach over the border of their image"]
    assert (crossing.level, crossing.count) == ("warning", 1)
    assert crossing.examples[0].endswith("195, 50, 9, 9: 4.0 px over the border")
    path = Path("nowhere/a.png")
    assert empty.faulty[1:3] == ((path, (200, 0, 209, 9)), (path, (-20, 0, -11, 9)))
    assert crossing.faulty == ((path, (195, 50, 204, 59)),)


def test_boxes_that_training_leaves_out_are_of_no_class_and_their_image_is_no_background() -> None:
    for boxes in ([[0.0, 0, 0, 9], [200, 0, 9, 9]], [[0.0, 0, 1]]):
        hollow = entries(*boxes, names=("fish", "eel"))
        assert box_counts(hollow) == {"fish": 0, "eel": 0}
        titles = found({"train": hollow})
        assert titles["images of whose boxes none can be used"].examples == ("train: a.png",)
        assert "images without boxes" not in titles
        with pytest.raises(UserError, match="none of its images can be used; the first: "):
            hollow.dataset(skip_bad=True)
    assert box_counts(entries([0.0, 0, 9, 9], [5, 5, 0, 9], names=("fish", "eel"))) == {"fish": 1, "eel": 0}


def test_a_class_that_only_val_has_boxes_of_is_told() -> None:
    names = ("cat", "dog")
    splits = {"train": entries(*ENOUGH, names=names), "val": entries(*ENOUGH, names=names, labels=(1,) * 45)}
    finding = found(splits)["classes of which train has no box"]
    assert finding.examples == ("'dog' has 45 boxes in val and none in train",)


def test_bad_items_are_errors_told_once() -> None:
    bad = entries(*ENOUGH, [0.0, 0, 1])
    finding = found({"train": bad, "val": bad})["bad items in the annotations"]
    assert (finding.level, finding.count) == ("error", 1)
    assert "'bbox' is [0.0, 0, 1]" in finding.examples[0]


def test_classes_that_differ_between_splits_are_told() -> None:
    splits = {
        "train": entries(*ENOUGH, names=("fish", "eel")),
        "val": entries(*ENOUGH, names=("Fishes", "eel")),
    }
    titles = found(splits)
    assert titles["classes that train does not have"].examples == ("val has 'Fishes', train does not",)
    assert titles["classes that train does not have"].level == "error"
    assert titles["classes missing from a split"].examples == ("val lacks 'fish', which train has",)
    assert "class names that may mean the same" not in titles
    splits["val"] = entries(*ENOUGH, names=("Fish_", "eel"))
    assert found(splits)["class names that may mean the same"].examples == ("'Fish_' and 'fish'",)


def test_rare_classes_imbalance_and_shifted_shares_are_told() -> None:
    names = ("cat", "dog")
    train = entries(*ENOUGH, names=names, labels=(0,) * 42 + (1,) * 3)
    val = entries(*ENOUGH, names=names, labels=(1,) * 45)
    titles = found({"train": train, "val": val})
    assert titles["classes with fewer than 20 training boxes"].examples == ("'dog' has 3 boxes in train",)
    assert titles["classes of very different frequency"].examples == (
        "'cat' has 42 boxes in train, 'dog' 3: 14 times as many",
    )
    assert titles["class shares that differ between splits"].examples == (
        "'cat' is 93.3% of the boxes in train, 0.0% in val",
        "'dog' is 6.7% of the boxes in train, 100.0% in val",
    )


def test_an_object_labelled_twice_is_told_and_its_first_box_is_kept() -> None:
    boxes = [[0.0, 0, 40, 40], [0, 0, 40, 41], [0, 0, 40, 30], [0, 0, 40, 40]]
    assert repeated_boxes(record(Path("a"), *boxes, labels=[0, 0, 0, 1])).tolist() == [
        False,
        True,
        False,
        False,
    ]
    assert not repeated_boxes(record(Path("a"))).any()
    finding = found({"train": entries(*ENOUGH, ENOUGH[0])})["images with an object labelled twice"]
    assert finding.examples == ("train: a.png: 1 of 46 boxes",)
    assert finding.faulty == ((Path("nowhere/a.png"), (0, 0, 30, 30)),)


def test_what_stretching_does_to_boxes_and_images_is_measured() -> None:
    image = record(Path("a"), [0.0, 0, 10, 10], [0, 0, 100, 2])
    np.testing.assert_allclose(thinnest_sides([image], (320, 320)), [16, 6.4])
    np.testing.assert_allclose(distortions([image], (320, 320)), [2])
    np.testing.assert_allclose(distortions([image], (160, 320)), [1])
    titles = found({"train": entries(*ENOUGH, *[[0.0, 0, 50, 1]] * 5)})
    thin = titles["boxes thinner than a stride (8 px) at an input of 320 x 320"]
    assert (thin.level, thin.count) == ("warning", 5)
    shape = titles["images far from the shape of 320 x 320"]
    assert "by a factor of 2.00 in the middle, 2.00 at most (a.png, 200 x 100)" in shape.examples[0]


def test_images_without_boxes_are_noted() -> None:
    finding = found({"train": entries(*ENOUGH), "val": entries()})["images without boxes"]
    assert (finding.level, finding.examples) == ("note", ("val: a.png",))


def test_unreadable_double_and_leaking_images_are_told_apart(tmp_path: Path) -> None:
    def image(name: str, seed: int, scale: int = 1) -> Record:
        picture = draw_shapes(np.random.default_rng(seed), 96).image
        picture = cv2.resize(picture, None, fx=scale, fy=scale)
        cv2.imwrite(str(tmp_path / name), picture)
        return record(tmp_path / name, width=96 * scale, height=96 * scale)

    broken, wrong = image("broken.png", 5), image("wrong.png", 6)
    broken.path.write_bytes(broken.path.read_bytes()[:300])
    wrong = record(wrong.path, width=50, height=50)
    splits = {
        "train": [image("a.png", 0), image("b.png", 1), image("c.png", 1), broken, image("v_MOV-0.png", 7)],
        "val": [image("leak.png", 0), image("near.png", 1, scale=2), wrong, image("v_MOV-1.png", 8)],
    }
    done: list[int] = []
    titles = {each.title: each for each in check_pixels(splits, done.append)}
    assert done == list(range(1, 10))
    assert titles["unreadable images, or not of the stated size"].count == 2
    leaking = titles["images that are in two splits"]
    assert (leaking.level, leaking.examples) == ("error", ("train: a.png and val: leak.png",))
    assert leaking.images == (tmp_path / "a.png", tmp_path / "leak.png")
    assert titles["images that are there twice"].examples == ("train: b.png and train: c.png",)
    near = titles["near-duplicates in two splits"]
    assert near.level == "warning"
    assert near.examples == ("train: b.png and val: near.png", "train: c.png and val: near.png")
    assert titles["videos with frames in two splits"].examples == ("v_MOV: 1 in train, 1 in val",)


@pytest.mark.parametrize(
    ("side", "longest", "expected", "why"),
    [
        (60, 640, 320, "0.0% of the boxes are thinner"),
        (12, 640, 512, "but 100.0% at 416"),
        (6, 2000, 1280, "cut images of 2000 px into tiles"),
        (4, 300, 320, "a larger input adds no detail to images of 300 px"),
    ],
)
def test_the_input_is_the_smallest_that_shows_the_boxes_and_no_larger_than_images(
    side: int, longest: int, expected: int, why: str
) -> None:
    images = [record(Path("a"), [0.0, 0, side, side], width=longest, height=longest)] * 3
    chosen, reason = choose_side(images)
    assert chosen == expected
    assert why in reason


@pytest.mark.parametrize(
    ("count", "device", "model", "recipe"),
    [
        (200, "cpu", "Ns", "quick"),
        (6_000, "cpu", "Nm", "quick"),
        (200, "cuda", "T", "quick"),
        (30_000, "cuda", "M", "coco"),
    ],
)
def test_advice_follows_data_and_device_and_gives_its_reason(
    count: int, device: str, model: str, recipe: str
) -> None:
    images = [record(Path("a"), [0.0, 0, 90, 90], width=400, height=200)] * count
    advice = {each.setting: each for each in advise(images, device)}
    values = {setting: each.value for setting, each in advice.items()}
    assert values == {"image_size": "320", "resize": "letterbox", "model": model, "recipe": recipe}
    assert f"{count} training images" in advice["model"].reason
    assert "100% of the images" in advice["resize"].reason
