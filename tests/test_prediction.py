from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from damoyolo.boxes.points import Pyramid
from damoyolo.boxes.types import Predictions
from damoyolo.errors import UserError
from damoyolo.nn.detector import Detector
from damoyolo.prediction import Broken, Found, detect, find_images, predict, predict_files, predict_into
from damoyolo.spec import ModelCard
from damoyolo.zoo import read_spec

SURE = 9.0


class Apart(nn.Module):
    """Stands for a backbone and for a neck."""

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (image,)


class ColourHead(nn.Module):
    """Finds cells, 8 x 8 pixels, that are red (class 0, "red") or like a letterbox's padding (1, "pad")."""

    def __init__(self) -> None:
        super().__init__()
        self.somewhere = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Predictions:
        cells = nn.functional.avg_pool2d(images, 8)
        red = (cells[:, 0] > 250) & (cells[:, 1:] < 5).all(dim=1)
        pad = (cells - 114).abs().amax(dim=1) < 1
        logits = torch.stack([red, pad], dim=-1).flatten(1, 2).float() * 2 * SURE - SURE
        sides = torch.tensor([[SURE * 9, 0.0], [SURE * 9, 0.0], [0.0, SURE * 9], [0.0, SURE * 9]])
        pyramid = Pyramid.of_image(images.shape[2], images.shape[3], strides=(8,))
        return Predictions(logits, sides.expand(*logits.shape[:2], 4, 2), pyramid)


def colour_model(rule: str = "stretch", size: tuple[int, int] = (64, 96)) -> Detector:
    card = ModelCard(spec=read_spec("Ns"), class_names=("red", "pad"), image_size=size, resize=rule)
    return Detector(Apart(), Apart(), ColourHead(), card).eval()


def photo(size: tuple[int, int], red: tuple[int, int, int, int]) -> np.ndarray:
    image = np.zeros((*size, 3), np.uint8)
    left, top, right, bottom = red
    image[top:bottom, left:right, 0] = 255
    return image


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good images, a broken one between them, and a file that is no image."""
    folder = tmp_path / "photos"
    write(folder / "a.png", photo((64, 96), (8, 16, 16, 24)))
    (folder / "b.jpg").write_bytes(b"\xff\xd8 this is no photograph")
    write(folder / "c.bmp", photo((64, 96), (80, 40, 88, 48)))
    (folder / "notes.txt").write_text("nothing to see")
    return folder


@given(
    row=st.integers(0, 7),
    column=st.integers(0, 11),
    zoom=st.tuples(st.sampled_from([1, 2, 3]), st.integers(1, 3)),
)
@settings(max_examples=20, deadline=None)
def test_boxes_come_back_in_pixels_of_the_original(row: int, column: int, zoom: tuple[int, int]) -> None:
    down, across = zoom
    box = (column * 8 * across, row * 8 * down, (column + 1) * 8 * across, (row + 1) * 8 * down)
    (found,) = detect(colour_model(), [photo((64 * down, 96 * across), box)])
    assert found.names == ["red"]
    np.testing.assert_allclose(found.boxes, [box], atol=1e-2)
    assert found.scores[0] > 0.99


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (128, 96), (64, 20)])
def test_a_letterbox_is_undone_and_nothing_is_found_in_its_padding(size: tuple[int, int]) -> None:
    height, width = size
    (found,) = detect(colour_model("letterbox"), [photo(size, (0, 0, width, height))])
    assert set(found.names) == {"red"}
    assert (found.boxes >= 0).all()
    assert (found.boxes <= (width, height, width, height)).all()
    cell = 8 / min(64 / height, 96 / width)
    np.testing.assert_allclose(found.boxes[0], (0, 0, cell, cell), atol=0.2)


def test_a_batch_of_different_sizes_gives_what_each_image_gives_alone() -> None:
    model = colour_model()
    images = [
        photo((64, 96), (0, 0, 40, 40)),
        photo((128, 192), (64, 64, 128, 96)),
        photo((33, 50), (0, 0, 1, 1)),
    ]
    together = detect(model, images)
    for image, found in zip(images, together, strict=True):
        (alone,) = detect(model, [image])
        assert np.array_equal(found.boxes, alone.boxes)
    assert [len(each) > 0 for each in together] == [True, True, False]


def test_the_options_reach_the_selection() -> None:
    model, image = colour_model(), photo((64, 96), (0, 0, 96, 64))
    assert len(detect(model, [image])[0]) == 8 * 12
    assert len(detect(model, [image], max_detections=5)[0]) == 5
    assert len(detect(model, [image], score=0.9999)[0]) == 0


def test_no_images_give_no_detections() -> None:
    assert detect(colour_model(), []) == []


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(UserError, match=r"call model\.eval\(\)"):
        detect(colour_model().train(), [photo((64, 96), (0, 0, 8, 8))])


def test_one_image_may_be_a_file_or_pixels(tmp_path: Path) -> None:
    image = photo((64, 96), (8, 16, 16, 24))
    from_file = predict(colour_model(), write(tmp_path / "a.png", image))
    assert from_file.boxes.tolist() == predict(colour_model(), image).boxes.tolist() == [[8, 16, 16, 24]]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_broken_file_is_reported_and_the_rest_goes_on(folder: Path, batch_size: int) -> None:
    first, second, third = predict_files(
        partial(detect, colour_model()), find_images(folder), batch_size=batch_size
    )
    assert isinstance(first, Found)
    assert isinstance(second, Broken)
    assert isinstance(third, Found)
    assert first.detections.boxes.tolist() == [[8, 16, 16, 24]]
    assert third.detections.boxes.tolist() == [[80, 40, 88, 48]]
    assert second.path.name == "b.jpg"
    assert "b.jpg" in second.error


def test_a_source_is_a_file_a_folder_or_a_pattern(folder: Path) -> None:
    write(folder / "deeper" / "d.PNG", photo((8, 8), (0, 0, 8, 8)))
    assert [path.name for path in find_images(folder / "notes.txt")] == ["notes.txt"]  # named, so tried
    assert [path.name for path in find_images(folder)] == ["a.png", "b.jpg", "c.bmp"]
    assert [path.name for path in find_images(f"{folder}/*.[pj]*")] == ["a.png", "b.jpg"]
    assert [path.name for path in find_images(f"{folder}/**/*")] == ["a.png", "b.jpg", "c.bmp", "d.PNG"]


def test_a_source_without_images_is_an_error_that_says_what_to_do(folder: Path) -> None:
    (folder / "empty").mkdir()
    for source, message in {
        folder / "empty": r"has no images; .*\*\*/\*\.jpg",
        f"{folder}/*.gif": "matches no images",
        folder / "absent.jpg": "no such file",
    }.items():
        with pytest.raises(UserError, match=message):
            find_images(source)


def test_pictures_and_lists_are_written(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    write(folder / "sub" / "a.PNG", photo((64, 96), (0, 0, 8, 8)))
    results = list(predict_into(partial(detect, colour_model()), f"{folder}/**/*", output))
    assert len(results) == 4
    files = sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file())
    assert files == ["a.png", "c.bmp.jpg", "detections.csv", "detections.json", "sub/a.PNG"]
    assert cv2.imread(str(output / "a.png")).any(axis=2).sum() > 100
    records = json.loads((output / "detections.json").read_text())
    assert [Path(record["image"]).relative_to(folder).as_posix() for record in records] == [
        *("a.png", "b.jpg", "c.bmp", "sub/a.PNG")
    ]
    assert records[0]["width"] == 96
    assert [record.get("picture") for record in records] == ["a.png", None, "c.bmp.jpg", "sub/a.PNG"]
    assert records[0]["detections"] == [
        {"label": 0, "name": "red", "score": pytest.approx(0.9999, abs=1e-4), "box": [8, 16, 16, 24]}
    ]
    assert "b.jpg" in records[1]["error"]
    rows = list(csv.DictReader((output / "detections.csv").read_text().splitlines()))
    assert [(Path(row["image"]).name, row["name"], float(row["x1"])) for row in rows] == [
        *(("a.png", "red", 8), ("c.bmp", "red", 80), ("a.PNG", "red", 0))
    ]


def test_an_image_too_long_for_a_jpeg_is_drawn_as_png(tmp_path: Path) -> None:
    write(tmp_path / "long.tif", photo((1, 65_501), (0, 0, 8, 1)))
    assert (
        len(list(predict_into(partial(detect, colour_model()), tmp_path / "long.tif", tmp_path / "out"))) == 1
    )
    assert (tmp_path / "out" / "long.tif.jpg.png").is_file()


def test_what_was_found_before_an_interruption_is_kept(folder: Path, tmp_path: Path) -> None:
    results = predict_into(partial(detect, colour_model()), folder, tmp_path / "out", batch_size=1)
    next(results)
    results.close()
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text())) == 1


def test_a_second_run_removes_the_pictures_of_the_first_and_nothing_else(
    folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    list(predict_into(partial(detect, colour_model()), folder, output))
    (output / "mine.png").write_bytes(b"not drawn by us")
    list(predict_into(partial(detect, colour_model()), folder / "a.png", output))
    left = {path.name for path in output.iterdir()}
    assert left == {"a.png", "mine.png", "detections.json", "detections.csv"}


def test_only_pictures_inside_the_folder_are_ever_removed(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    precious = write(tmp_path / "precious.png", photo((8, 8), (0, 0, 8, 8)))
    names = ["../precious.png", str(precious), "absent.png", 7, None]
    (output / "detections.json").write_text(json.dumps([{"picture": name} for name in names]))
    list(predict_into(partial(detect, colour_model()), folder, output))
    assert precious.exists()


@pytest.mark.parametrize("content", ["no JSON", "[1]", '{"picture": "a.png"}', "[[]]", "null"])
def test_an_earlier_list_that_cannot_be_understood_is_replaced(
    folder: Path, tmp_path: Path, content: str
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "detections.json").write_text(content)
    assert len(list(predict_into(partial(detect, colour_model()), folder, output))) == 3
    assert len(json.loads((output / "detections.json").read_text())) == 3


@pytest.mark.parametrize("output", [".", "../photos", "sub"])
def test_the_images_themselves_are_never_overwritten(folder: Path, output: str) -> None:
    write(folder / "sub" / "a.png", photo((64, 96), (0, 0, 8, 8)))
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    with pytest.raises(UserError, match=r"a\.png: would be overwritten; choose another output folder"):
        list(predict_into(partial(detect, colour_model()), f"{folder}/**/*.png", folder / output))
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before
