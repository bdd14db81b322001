from __future__ import annotations

from pathlib import Path

import pytest

from damoyolo.cli import main
from damoyolo.data.shapes import write_shapes


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_shapes(tmp_path / "data", train=4, val=2, image_size=64)
    return tmp_path / "data"


def test_there_and_back_again(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert-data", str(data), str(tmp_path / "yolo"), "--to", "yolo"]) == 0
    assert main(["convert-data", str(tmp_path / "yolo"), str(tmp_path / "coco"), "--to", "coco"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["train", "val", "train", "val"]
    assert lines[0].startswith(f"{tmp_path / 'yolo'}: train: {data / 'train.json'}: 4 images")
    assert sorted(path.name for path in (tmp_path / "coco").iterdir()) == ["images", "train.json", "val.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["DATA", "OUT"], "--to: is missing; `damoyolo convert-data --help` tells of it"),
        (["DATA", "OUT", "--to", "voc"], "--to: 'voc' is none of coco, yolo"),
        (["nowhere", "OUT", "--to", "coco"], "nowhere: does not exist"),
        (["DATA", "DATA", "--to", "coco"], "is there already and not an empty folder"),
    ],
)
def test_a_wrong_request_is_answered_with_one_sentence(
    arguments: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"DATA": str(data), "OUT": str(tmp_path / "out")}
    assert main(["convert-data", *(places.get(each, each) for each in arguments)]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert message in shown.err
    assert not (tmp_path / "out").exists()


def test_bad_images_stop_it_unless_they_are_left_out(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "images" / "train_0001.jpg").write_bytes(b"")
    request = ["convert-data", str(data), str(tmp_path / "out"), "--to", "yolo"]
    assert main(request) == 2
    assert "train_0001.jpg: is empty" in capsys.readouterr().err
    assert main([*request, "--skip-bad"]) == 0
    assert len(list((tmp_path / "out" / "labels" / "train").iterdir())) == 3
