from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from damoyolo.assemble import convert_data, doctor, fix_data
from damoyolo.data.formats import read_dataset
from damoyolo.data.shapes import write_shapes
from damoyolo.errors import UserError


@pytest.fixture
def sick(tmp_path: Path) -> Path:
    """Drawn images: one truncated, one also in val, one with a box outside, one box there twice."""
    folder = tmp_path / "sick"
    write_shapes(folder, train=8, val=3, image_size=96)
    content = json.loads((folder / "train.json").read_text())
    shutil.copy(folder / "images" / "val_0000.jpg", folder / "images" / "train_0001.jpg")
    path = folder / "images" / "train_0002.jpg"
    path.write_bytes(path.read_bytes()[:600])
    first = content["annotations"][0]
    content["annotations"] += [{**first, "id": 900}, {**first, "id": 901, "bbox": [500, 0, 5, 5]}]
    (folder / "train.json").write_text(json.dumps(content))
    return folder


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_errors_come_first_and_make_data_unsound(sick: Path) -> None:
    diagnosis = doctor(sick, device="cpu")
    levels = [finding.level for finding in diagnosis.findings]
    assert levels == sorted(levels, key=("error", "warning", "note").index)
    assert diagnosis.count("error") == 3
    assert not diagnosis.is_sound
    assert diagnosis.command.startswith(f"damoyolo train {sick} --model Ns --recipe quick --image-size 320")


def test_without_the_pixels_only_annotations_are_judged(sick: Path) -> None:
    assert doctor(sick, device="cpu", pixels=False).count("error") == 1


def test_boxes_are_counted_as_training_counts_them(sick: Path) -> None:
    diagnosis = doctor(sick, device="cpu", pixels=False)
    counted = sum(len(record.labels) for record in read_dataset(sick, "train").records)
    assert sum(diagnosis.boxes["train"].values()) == counted  # the one outside is no box of any class
    assert f" {counted} boxes" in diagnosis.summaries["train"]


def test_a_corrected_copy_is_sound_and_the_original_is_as_it_was(sick: Path, tmp_path: Path) -> None:
    before = digests(sick)
    told = fix_data(sick, tmp_path / "fixed")
    assert digests(sick) == before
    assert (
        "empty boxes 1, bad images or annotations 1; repeated boxes 1; images that another split has 1"
        in told["train"]
    )
    assert doctor(tmp_path / "fixed", device="cpu").is_sound
    names = {record.path.name for record in read_dataset(tmp_path / "fixed", "train").records}
    assert names == {f"train_{number:04d}.jpg" for number in (0, 3, 4, 5, 6, 7)}
    assert len(read_dataset(tmp_path / "fixed", "val")) == 3


def test_a_split_of_which_nothing_would_be_left_is_explained(tmp_path: Path) -> None:
    write_shapes(tmp_path / "in", train=2, val=1, image_size=64)
    shutil.copy(tmp_path / "in" / "train.json", tmp_path / "in" / "val.json")
    with pytest.raises(UserError, match="every image of train is in another split, too"):
        fix_data(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_page_holds_findings_pictures_and_advice_and_needs_no_other_host(
    sick: Path, tmp_path: Path
) -> None:
    diagnosis = doctor(sick, device="cpu", html=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    text = re.sub(r"base64,[^\"]*", "", page)
    for finding in diagnosis.findings:
        assert finding.title in text
    for advice in diagnosis.advice:
        assert advice.reason.replace("'", "&#x27;") in text
    assert diagnosis.command in text
    assert page.count("data:image/jpeg;base64,") >= 3
    assert page.count("data:image/png;base64,") == 1
    assert not re.search(r"https?://|<script|<link", text)
    assert '<div class="error"><b>3</b><span>errors</span></div>' in text
    assert "div.error b { color: #b3261e }" in text


def test_a_number_of_nothing_has_no_colour(tmp_path: Path) -> None:
    write_shapes(tmp_path / "in", train=3, val=1, image_size=64)
    doctor(tmp_path / "in", device="cpu", html=tmp_path / "page.html")
    assert "<div><b>0</b><span>errors</span></div>" in (tmp_path / "page.html").read_text()


def test_pictures_of_a_finding_show_which_boxes_are_meant(sick: Path, tmp_path: Path) -> None:
    diagnosis = doctor(sick, device="cpu", html=tmp_path / "page.html")
    titles = [each.title for each in diagnosis.findings]
    _, *parts = (tmp_path / "page.html").read_text().split("<h3>")
    (twice,) = [parts[n] for n, title in enumerate(titles) if title == "images with an object labelled twice"]
    coded = base64.b64decode(re.findall(r"jpeg;base64,([^\"]*)", twice)[0])
    picture = cv2.imdecode(np.frombuffer(coded, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert picture is not None
    x, y, width, height = json.loads((sick / "train.json").read_text())["annotations"][0]["bbox"]
    scale = max(picture.shape) / 96
    column, row = round(scale * min(95, x + width)), round(scale * (y + height / 2))
    around = picture[row - 3 : row + 4, max(0, column - 6) : column + 7].astype(int)
    assert (around.sum(axis=2) < 150).any(axis=1).all()  # a line of black
    assert (around[..., 0] - around[..., 2] > 60).any(axis=1).all()  # and one of yellow


def test_its_json_says_all_of_it(sick: Path) -> None:
    diagnosis = doctor(sick, device="cpu", image_size="96x128")
    value = json.loads(diagnosis.to_json())
    assert all("faulty" not in each for each in value["findings"])
    assert value["is_sound"] is False
    assert value["image_size"] == [96, 128]
    assert [each["title"] for each in value["findings"]] == [each.title for each in diagnosis.findings]
    assert sum(value["boxes"]["val"].values()) > 3


def test_a_test_split_that_is_named_and_not_there_is_noted(tmp_path: Path) -> None:
    write_shapes(tmp_path / "coco", train=2, val=1, image_size=64)
    convert_data(tmp_path / "coco", tmp_path / "yolo", "yolo")
    file = tmp_path / "yolo" / "data.yaml"
    assert "splits left out" not in [each.title for each in doctor(file, device="cpu").findings]
    file.write_text(file.read_text() + "test: images/tset\n")
    noted = doctor(file, device="cpu").findings[-1]
    assert (noted.level, noted.title, noted.count) == ("note", "splits left out", 1)
    assert noted.examples[0].startswith(f"{file}: test: there is no images/tset")
