from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from damoyolo.data.formats import overlooked, read_dataset, splits_in
from damoyolo.data.formats.yolo import find_yolo
from damoyolo.errors import UserError

WIDTH, HEIGHT = 64, 48


def picture(path: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.zeros((height, width, 3), dtype=np.uint8))


def write(root: Path, images: str, labels: str, text: str = "1 0.5 0.5 0.25 0.5\n") -> None:
    """One image and its label file in these folders."""
    picture(root / images / "a.png")
    (root / labels).mkdir(parents=True, exist_ok=True)
    (root / labels / "a.txt").write_text(text)


def usual(root: Path, text: str, names: str | None = "names: [cat, dog, eel]\n") -> Path:
    """The same single image in `train` and in `val`, the label lines in `train`."""
    write(root, "images/train", "labels/train", text)
    write(root, "images/val", "labels/val")
    if names is not None:
        (root / "data.yaml").write_text(f"train: images/train\nval: images/val\n{names}")
    return root


def test_every_kind_of_line_gives_the_box_that_supervision_reads(tmp_path: Path) -> None:
    """Numbers of supervision 0.31.2, `DetectionDataset.from_yolo`; float32 there."""
    text = "0 0.5 0.5 0.25 0.5\n1 0.1 0.2 0.1 0.123456\n\n1 0.2 0.3 0.4 0.35 0.3 0.8 0.25 0.6\n"
    data = read_dataset(usual(tmp_path, text + "2.0 0.301 0.402 0.2 0.3 0.9\n"), "train")
    np.testing.assert_allclose(
        data.records[0].boxes,
        [
            [24.0, 12.0, 40.0, 36.0],
            [3.2, 6.637056350708008, 9.6, 12.562943458557129],
            [12.8, 14.4, 25.6, 38.4],
            [0.201 * WIDTH, 0.252 * HEIGHT, 0.401 * WIDTH, 0.552 * HEIGHT],
        ],
        rtol=1e-5,
    )
    assert data.records[0].labels.tolist() == [0, 1, 1, 2]
    assert data.class_names == ("cat", "dog", "eel")
    assert data.category_ids == (0, 1, 2)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=8), st.booleans())
def test_a_polygon_becomes_the_box_around_it_with_or_without_a_confidence(
    tmp_path_factory: pytest.TempPathFactory, points: list[tuple[float, float]], confidence: bool
) -> None:
    line = " ".join(["0", *(f"{value!r}" for point in points for value in point), *["0.5"] * confidence])
    data = read_dataset(usual(tmp_path_factory.mktemp("polygon"), line), "train")
    xs, ys = zip(*points, strict=True)
    expected = np.array([min(xs) * WIDTH, min(ys) * HEIGHT, max(xs) * WIDTH, max(ys) * HEIGHT], np.float32)
    if len(data.records[0].boxes):
        np.testing.assert_allclose(data.records[0].boxes[0], expected, atol=1e-4)
    else:
        assert data.report.degenerate == 1


def test_key_points_behind_a_box_are_left_out(tmp_path: Path) -> None:
    names = "kpt_shape: [2, 3]\nnames: [man]\n"
    data = read_dataset(usual(tmp_path, "0 0.5 0.5 0.25 0.5 0.9 0.9 2 0.1 0.1 2\n", names), "train")
    np.testing.assert_allclose(data.records[0].boxes, [[24, 12, 40, 36]])


BAD_LINES = {
    "line 2: has 4 numbers, expected a class and x, y, width, height": "0 0.5 0.5 0.1",
    "line 2: 'x' is no number": "0 0.5 0.5 x 0.1",
    "line 2: 'nan' is no finite number": "0 0.5 0.5 nan 0.1",
    "line 2: class 3 has no name; there are 3": "3 0.5 0.5 0.1 0.1",
    "line 2: class -1 is no whole number": "-1 0.5 0.5 0.1 0.1",
    "line 2: class 0.5 is no whole number": "0.5 0.5 0.5 0.1 0.1",
    "line 2: '320 240 50 50' is far outside the image; .* no pixels": "0 320 240 50 50",
}


@pytest.mark.parametrize("sentence", BAD_LINES)
def test_a_bad_line_is_an_error_that_names_file_and_line_or_is_skipped(tmp_path: Path, sentence: str) -> None:
    usual(tmp_path, f"0 0.5 0.5 0.25 0.5\n{BAD_LINES[sentence]}\n")
    with pytest.raises(UserError, match=rf"a\.txt: {sentence}.*; correct it.*--skip-bad"):
        read_dataset(tmp_path, "train")
    data = read_dataset(tmp_path, "train", skip_bad=True)
    assert len(data.records[0].labels) == 1
    assert len(data.report.skipped) == 1


def test_an_image_without_a_label_file_has_no_boxes_and_one_that_is_none_is_named(tmp_path: Path) -> None:
    usual(tmp_path, "0 0.5 0.5 0.25 0.5\n")
    picture(tmp_path / "images/train/b.png")
    assert [len(each.labels) for each in read_dataset(tmp_path, "train").records] == [1, 0]
    (tmp_path / "images/train/b.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"b\.png: is not an image"):
        read_dataset(tmp_path, "train")
    assert len(read_dataset(tmp_path, "train", skip_bad=True)) == 1


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images/val", "labels/val"),
        ("val/images", "val/labels"),
        ("valid/images", "valid/labels"),
        ("images/validation", "labels/validation"),
        ("val", "val"),
    ],
)
def test_layouts_without_a_data_file_are_found(tmp_path: Path, images: str, labels: str) -> None:
    write(tmp_path, images, labels)
    data = read_dataset(tmp_path, "val")
    assert data.records[0].path == tmp_path / images / "a.png"
    assert data.class_names == ("class0", "class1")


@pytest.mark.parametrize("name", ["classes.txt", "obj.names", "labels/classes.txt"])
def test_class_names_come_from_a_text_file_where_there_is_no_data_file(tmp_path: Path, name: str) -> None:
    usual(tmp_path, "1 0.5 0.5 0.25 0.5", names=None)
    (tmp_path / name).write_text("red cell\nwhite cell\n")
    assert read_dataset(tmp_path, "val").class_names == ("red cell", "white cell")


@pytest.mark.parametrize(
    "content",
    [
        "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['a', 'b']",  # as Roboflow writes it
        "path: nowhere\ntrain: [train/images]\nvalid: valid/images\nnames: {0: a, 1: b}",
        "train: train.txt\nval: val.txt\nnames: [a, b]",
    ],
)
def test_a_data_file_is_believed_by_itself_and_in_its_folder(tmp_path: Path, content: str) -> None:
    for folder, listing in (("train", "train"), ("valid", "val")):
        write(tmp_path, f"{folder}/images", f"{folder}/labels")
        (tmp_path / f"{listing}.txt").write_text(f"{folder}/images/a.png\n")
    (tmp_path / "data.yaml").write_text(content)
    for source in (tmp_path, tmp_path / "data.yaml"):
        data = read_dataset(source, "val")
        assert data.class_names == ("a", "b")
        assert data.records[0].path == tmp_path / "valid/images/a.png"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("val: images/vla\nnames: [a]", "val: there is no images/vla; correct the path"),
        ("val: 3\nnames: [a]", "val: is 3, expected the path of a folder"),
        ("val: images/val\nnames: {1: a}", r"names: has the keys \[1\], expected 0, 1, 2"),
        ("val: images/val\nnames: abc", "names: is abc, expected a list"),
        ("train: images/val\nnames: [a]\nval: empty", "val: no image in empty"),
    ],
)
def test_a_wrong_data_file_is_explained(tmp_path: Path, content: str, sentence: str) -> None:
    write(tmp_path, "images/val", "labels/val", "0 0.5 0.5 0.1 0.1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "data.yaml").write_text(content)
    with pytest.raises(UserError, match=rf"data\.yaml: {sentence}"):
        read_dataset(tmp_path, "val")


def test_images_alone_are_no_yolo_data(tmp_path: Path) -> None:
    picture(tmp_path / "images/val/a.png")
    assert find_yolo(tmp_path, "val") is None
    with pytest.raises(UserError, match=r"no annotations of split 'val'; .*labels/val and images \(YOLO\)"):
        read_dataset(tmp_path, "val")


@pytest.mark.parametrize("place", [r"images\val", r".\images\val", r"..\images\val"])
def test_a_data_file_written_on_windows_is_understood(tmp_path: Path, place: str) -> None:
    usual(tmp_path, "1 0.5 0.5 0.25 0.5\r\n", names=None)
    text = f"\ufefftrain: images/train\r\nval: {place}\r\nnames: [cat, dog]\r\n"
    (tmp_path / "data.yaml").write_bytes(text.encode())
    assert len(read_dataset(tmp_path, "val")) == 1


def test_a_list_of_images_written_on_windows_is_understood(tmp_path: Path) -> None:
    usual(tmp_path, "1 0.5 0.5 0.25 0.5\n", names=None)
    (tmp_path / "val.txt").write_bytes(b"images\\val\\a.png\r\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: val.txt\nnames: [cat, dog]\n")
    assert read_dataset(tmp_path, "val").records[0].path.is_file()


def test_a_test_split_that_is_named_but_not_there_leaves_the_others(tmp_path: Path) -> None:
    usual(tmp_path, "1 0.5 0.5 0.25 0.5\n", "test: ../test/images\nnames: [cat, dog]\n")
    assert splits_in(tmp_path) == ("train", "val")
    with pytest.raises(UserError, match=r"test: there is no \.\./test/images"):
        read_dataset(tmp_path, "test")
    assert overlooked(tmp_path) == [
        f"{tmp_path / 'data.yaml'}: test: there is no ../test/images; correct the path, or 'path' above it"
    ]


def test_a_split_whose_name_is_misspelt_is_told(tmp_path: Path) -> None:
    usual(tmp_path, "1 0.5 0.5 0.25 0.5\n", "tset: images/val\nnames: [cat, dog]\nroboflow: {version: 1}\n")
    assert overlooked(tmp_path) == [
        f"{tmp_path / 'data.yaml'}: 'tset' is no split and is not read; did you mean 'test'?"
    ]
    assert overlooked(tmp_path / "images") == []


def test_an_image_of_whose_lines_none_can_be_read_is_left_out_with_them(tmp_path: Path) -> None:
    usual(tmp_path, "0 0.5 0.5 0.25 0.5\n")
    picture(tmp_path / "images/train/b.png")
    (tmp_path / "labels/train/b.txt").write_text("0 0.5 what\n")
    data = read_dataset(tmp_path, "train", skip_bad=True)
    assert [record.path.name for record in data.records] == ["a.png"]
    assert data.report.skipped[-1].endswith("b.png: none of its boxes can be used")
