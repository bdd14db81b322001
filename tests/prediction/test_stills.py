from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path

import cv2
import pytest

from colour_model import colour_model, photo, write
from damoyolo.errors import UserError
from damoyolo.prediction import Broken, Found, detect, find_images, predict_files, predict_into


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good images, a broken one between them, and a file that is no image."""
    folder = tmp_path / "photos"
    write(folder / "a.png", photo((64, 96), (8, 16, 16, 24)))
    (folder / "b.jpg").write_bytes(b"\xff\xd8 this is no photograph")
    write(folder / "c.bmp", photo((64, 96), (80, 40, 88, 48)))
    (folder / "notes.txt").write_text("nothing to see")
    return folder


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


def test_pictures_and_lists_are_written(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    write(folder / "sub" / "a.PNG", photo((64, 96), (0, 0, 8, 8)))
    results = list(predict_into(partial(detect, colour_model()), find_images(f"{folder}/**/*"), output))
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
        len(
            list(
                predict_into(
                    partial(detect, colour_model()), find_images(tmp_path / "long.tif"), tmp_path / "out"
                )
            )
        )
        == 1
    )
    assert (tmp_path / "out" / "long.tif.jpg.png").is_file()


def test_what_was_found_before_an_interruption_is_kept(folder: Path, tmp_path: Path) -> None:
    results = predict_into(
        partial(detect, colour_model()), find_images(folder), tmp_path / "out", batch_size=1
    )
    next(results)
    results.close()
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text())) == 1


def test_a_second_run_removes_the_pictures_of_the_first_and_nothing_else(
    folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    list(predict_into(partial(detect, colour_model()), find_images(folder), output))
    (output / "mine.png").write_bytes(b"not drawn by us")
    list(predict_into(partial(detect, colour_model()), find_images(folder / "a.png"), output))
    left = {path.name for path in output.iterdir()}
    assert left == {"a.png", "mine.png", "detections.json", "detections.csv"}


def test_only_pictures_inside_the_folder_are_ever_removed(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    precious = write(tmp_path / "precious.png", photo((8, 8), (0, 0, 8, 8)))
    names = ["../precious.png", str(precious), "absent.png", 7, None]
    (output / "detections.json").write_text(json.dumps([{"picture": name} for name in names]))
    list(predict_into(partial(detect, colour_model()), find_images(folder), output))
    assert precious.exists()


@pytest.mark.parametrize("content", ["no JSON", "[1]", '{"picture": "a.png"}', "[[]]", "null"])
def test_an_earlier_list_that_cannot_be_understood_is_replaced(
    folder: Path, tmp_path: Path, content: str
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "detections.json").write_text(content)
    assert len(list(predict_into(partial(detect, colour_model()), find_images(folder), output))) == 3
    assert len(json.loads((output / "detections.json").read_text())) == 3


@pytest.mark.parametrize("output", [".", "../photos", "sub"])
def test_the_images_themselves_are_never_overwritten(folder: Path, output: str) -> None:
    write(folder / "sub" / "a.png", photo((64, 96), (0, 0, 8, 8)))
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    with pytest.raises(UserError, match=r"a\.png: would be overwritten; choose another output folder"):
        list(
            predict_into(partial(detect, colour_model()), find_images(f"{folder}/**/*.png"), folder / output)
        )
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before
