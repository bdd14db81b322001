from __future__ import annotations

import json
from pathlib import Path

import pytest

from damoyolo.cli import main
from damoyolo.data.shapes import write_shapes


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_shapes(tmp_path / "data", train=4, val=2, image_size=64)
    return tmp_path / "data"


def break_image(data: Path) -> None:
    (data / "images" / "train_0001.jpg").write_bytes(b"")


def test_warnings_leave_the_exit_code_at_0_and_errors_make_it_1(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(data), "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "train: 4 images" in shown
    assert "warning  classes with fewer than 20 training boxes: 4" in shown
    assert f"damoyolo train {data} --model Ns" in shown
    break_image(data)
    assert main(["doctor", str(data), "--device", "cpu"]) == 1
    shown = capsys.readouterr().out
    assert "train_0001.jpg: is empty" in shown
    assert "\n1 error, " in shown


def test_without_the_pixels_a_broken_image_is_not_seen_and_that_is_said(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    break_image(data)
    assert main(["doctor", str(data), "--no-pixels", "--device", "cpu"]) == 0
    assert "the images were not read" in capsys.readouterr().out


def test_json_is_all_that_is_printed_and_page_and_copy_are_written(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    break_image(data)
    options = ["--json", "--html", str(tmp_path / "page.html"), "--fix", str(tmp_path / "fixed")]
    assert main(["doctor", str(data), "--device", "cpu", *options]) == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out)["is_sound"] is False
    assert f"{tmp_path / 'fixed'}: train: left out: bad images or annotations 1" in shown.err
    assert "train_0001.jpg: is empty" in (tmp_path / "page.html").read_text()
    assert main(["doctor", str(tmp_path / "fixed"), "--device", "cpu"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: does not exist"),
        (["DATA", "--no-pixels", "--fix", "OUT"], "--fix: needs to read the images"),
        (["DATA", "--image-size", "100"], "--image-size: 100 px is no multiple of 32"),
        (["DATA", "--device", "gpu"], "--device: 'gpu' cannot be used"),
        (["DATA", "--fix", "DATA"], "is there already and not an empty folder"),
    ],
)
def test_a_wrong_request_is_answered_with_one_sentence(
    arguments: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"DATA": str(data), "OUT": str(tmp_path / "out")}
    assert main(["doctor", *(places.get(each, each) for each in arguments)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
