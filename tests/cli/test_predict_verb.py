from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from clips import moving_red, read_clip, write_clip
from damoyolo.cli import main
from damoyolo.errors import UserError
from damoyolo.nn.detector import build_detector
from damoyolo.spec import ModelCard
from damoyolo.zoo import read_spec
from damoyolo.zoo.weights import save_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Ns that is sure of what it sees, right or wrong."""
    torch.manual_seed(0)
    card = ModelCard(spec=read_spec("Ns"), class_names=("dust", "cell"), image_size=(64, 64))
    detector = build_detector(card).eval()
    with torch.no_grad():
        for layer in detector.head.classify:
            layer.bias.copy_(torch.tensor([-9.0, 3.0]))
    path = tmp_path_factory.mktemp("weights") / "ns.safetensors"
    save_weights(detector, path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.png"):
        assert cv2.imwrite(str(folder / name), np.full((60, 80, 3), 90, np.uint8))
    (folder / "broken.jpg").write_bytes(b"")
    return folder


def test_a_folder_is_predicted_in_a_real_process(weights: Path, photos: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; from damoyolo.cli import main; sys.exit(main())", "predict"]
    options = ["--weights", str(weights), "--output", "out", "--device", "cpu", "--max-detections", "3"]
    done = subprocess.run(
        [*command, str(photos), *options], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    first, second, last = done.stdout.splitlines()
    assert first == f"{photos}/a.jpg: 3 cell"
    assert second == f"{photos}/b.png: 3 cell"
    assert last == "2 pictures, detections.json and detections.csv in out; 1 could not be read"
    assert done.stderr == f"error: {photos}/broken.jpg: is empty; replace the file\n"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("a.jpg", "b.png", "detections.json", "detections.csv")
    }


def test_json_is_all_that_is_printed(
    weights: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = ["predict", str(photos / "a.jpg"), "--weights", str(weights), "--device", "cpu", "--json"]
    assert main([*request, "--output", str(tmp_path / "out"), "--max-detections", "2"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert len(record["detections"]) == 2
    assert record == json.loads((tmp_path / "out" / "detections.json").read_text())[0]


@pytest.mark.parametrize("options", [["--json"], []])
def test_a_name_that_the_terminal_cannot_show_stops_nothing(
    weights: Path, photos: Path, tmp_path: Path, options: list[str]
) -> None:
    for path in photos.iterdir():
        path.unlink()
    assert cv2.imwrite(str(photos / "é.png"), np.full((60, 80, 3), 90, np.uint8))
    shutil.copy(photos / "é.png", os.fsencode(photos) + b"/\xff.png")
    command = [sys.executable, "-c", "import sys; from damoyolo.cli import main; sys.exit(main())", "predict"]
    done = subprocess.run(
        [*command, str(photos), "--weights", str(weights), "--output", str(tmp_path / "out"), *options],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "out" / "detections.json").read_text(encoding="utf-8"))
    names = [os.fsencode(Path(record["image"]).name) for record in told]
    assert names == ["é.png".encode(), b"\xff.png"]
    if options:
        assert json.loads(done.stdout) == told


@pytest.mark.parametrize(
    ("source", "options", "lanes"),
    [
        ("photos", [], 3),
        ("photos", ["--batch", "2"], 2),
        ("photos/a.jpg", [], 1),
        ("photos/a.jpg", ["--tile", "64"], 3),
        ("clip.mp4", [], 3),
        ("0", [], 1),
        ("rtsp://host/door", [], 1),
    ],
)
def test_many_images_are_looked_at_at_the_same_time_and_a_single_one_quickly(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    options: list[str],
    lanes: int,
) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"a video")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("damoyolo.assemble.inference.usable_cores", lambda: 3)
    told: list[int] = []

    def open_finder(*_: object, **given: object) -> object:
        told.append(given["lanes"])
        raise UserError("enough")

    monkeypatch.setattr("damoyolo.assemble.open_finder", open_finder)
    assert main(["predict", source, "--weights", "m.onnx", *options]) == 2
    assert told == [lanes]


def test_nothing_but_broken_files_is_the_user_s_mistake(
    weights: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = ["predict", str(photos / "broken.jpg"), "--weights", str(weights), "--device", "cpu"]
    assert main([*request, "--output", str(tmp_path / "out")]) == 2
    assert "broken.jpg: is empty" in capsys.readouterr().err


def test_a_source_that_is_not_there_is_named(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = ["predict", str(tmp_path / "absent.jpg"), "--weights", str(weights), "--device", "cpu"]
    assert main([*request, "--output", str(tmp_path / "out")]) == 2
    assert "absent.jpg: no such file or folder; check the path" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_image_may_be_seen_in_tiles_and_in_the_mirror(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    assert cv2.imwrite(str(tmp_path / "a.png"), noise)
    request = ["predict", str(tmp_path / "a.png"), "--weights", str(weights), "--device", "cpu", "--json"]
    counts = []
    for options in ([], ["--tile", "64"], ["--tile", "64", "--ensemble-flip"]):
        assert main([*request, "--output", str(tmp_path / "out"), *options]) == 0
        (record,) = json.loads(capsys.readouterr().out)
        counts.append(len(record["detections"]))
    plain, tiles, both = counts
    assert tiles > plain
    assert 0 < both != tiles
    assert main([*request, "--output", str(tmp_path / "out"), "--tile", "48", "--image-size", "128"]) == 0
    assert "tile: 48 pixels are less than half of the network's 128" in capsys.readouterr().err
    assert main([*request, "--tile", "8"]) == 2
    assert "tile: 8 pixels are too few" in capsys.readouterr().err


@pytest.fixture
def clip(photos: Path) -> Path:
    return write_clip(photos / "clip.avi", moving_red(6))


def lines_of(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_images_and_videos_of_a_folder_are_predicted(
    weights: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    request = ["predict", str(clip.parent), "--weights", str(weights), "--device", "cpu"]
    assert main([*request, "--output", str(output), "--batch", "4", "--max-detections", "2"]) == 0
    *_, images, video = capsys.readouterr().out.splitlines()
    assert images == f"2 pictures, detections.json and detections.csv in {output}; 1 could not be read"
    assert video.startswith(f"{clip}: 6 frames, ")
    assert video.endswith(f" frames/s; {output}/clip.avi.mp4 and {output}/clip.avi.jsonl")
    records = lines_of((output / "clip.avi.jsonl").read_text())
    assert [record["frame"] for record in records] == list(range(6))
    assert {len(record["detections"]) for record in records} == {2}
    assert len(read_clip(output / "clip.avi.mp4")) == 6


def test_with_videos_json_is_a_line_for_each_image_and_frame(
    weights: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = [
        "predict",
        str(clip.parent),
        "--weights",
        str(weights),
        "--device",
        "cpu",
        "--json",
        "--no-draw",
    ]
    assert main([*request, "--output", str(tmp_path / "out"), "--max-detections", "2"]) == 0
    records = lines_of(capsys.readouterr().out)
    assert [Path(str(each.get("image", each.get("video")))).name for each in records] == [
        *("a.jpg", "b.png", "broken.jpg", *["clip.avi"] * 6)
    ]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("detections.json", "detections.csv", "clip.avi.jsonl")
    }


def test_things_are_tracked_and_counted(
    weights: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = ["predict", str(clip), "--weights", str(weights), "--device", "cpu", "--max-detections", "3"]
    counts = ["--count-line", "40,0,40,60", "--count-zone", "0,0,96,0,96,64,0,64"]
    assert main([*request, "--output", str(tmp_path / "out"), *counts]) == 0
    _, line, zone = capsys.readouterr().out.splitlines()
    assert line.startswith("line: left ")
    assert zone.startswith("zone: now ")
    records = lines_of((tmp_path / "out" / "clip.avi.jsonl").read_text())
    numbers = {each["id"] for record in records for each in record["detections"]} - {None}
    assert len(numbers) >= 3
    assert sum(records[-1]["counts"][1]["ever"].values()) == len(numbers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count-line", "1,2,3"], "--count-line: '1,2,3' is no list of points"),
        (["--track"], "--track: is for videos"),
        (["--count-line", "0,0,9,9"], "--count-line: is for videos"),
        (["--tile-overlap", "0.5"], "--tile-overlap: is of tiles; give --tile too"),
    ],
)
def test_tracking_that_makes_no_sense_is_refused(
    weights: Path, clip: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    request = ["predict", str(clip.parent), "--weights", str(weights), "--device", "cpu"]
    assert main([*request, *options]) == 2
    assert message in capsys.readouterr().err


def test_a_line_outside_the_video_is_refused_before_anything_is_written(
    weights: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = ["predict", str(clip), "--weights", str(weights), "--device", "cpu", "--output"]
    assert main([*request, str(tmp_path / "out"), "--count-line", "320,480,320,0"]) == 2
    assert capsys.readouterr().err == (
        f"error: --count-line: no part of 320,480,320,0 is inside {clip}, which has 96 x 64 pixels; give "
        "points with x between 0 and 96 and y between 0 and 64, not all on the border\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_video_too_small_for_the_line_is_left_out_and_the_others_are_looked_at(
    weights: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, width in (("a.mp4", 96), ("b.mp4", 64), ("c.mp4", 96)):
        write_clip(tmp_path / name, [np.zeros((64, width, 3), np.uint8)] * 2, codec="mp4v")
    request = ["predict", str(tmp_path), "--weights", str(weights), "--device", "cpu", "--no-draw"]
    assert main([*request, "--output", str(tmp_path / "out"), "--count-line", "80,0,80,64"]) == 0
    shown = capsys.readouterr()
    assert shown.err.count("error: ") == shown.err.count("b.mp4, which has 64 x 64 pixels") == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jsonl", "c.jsonl"]


def test_a_video_that_cannot_be_read_is_the_user_s_mistake(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    request = ["predict", str(tmp_path / "bad.mp4"), "--weights", str(weights), "--device", "cpu"]
    assert main([*request, "--output", str(tmp_path / "out")]) == 2
    assert "bad.mp4: is no video that OpenCV can read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_video_plays_and_its_lines_are_whole(
    weights: Path, tmp_path: Path, number: signal.Signals
) -> None:
    clip = write_clip(tmp_path / "long.avi", moving_red(60) * 100)
    command = [sys.executable, "-c", "import sys; from damoyolo.cli import main; sys.exit(main())", "predict"]
    options = ["--weights", str(weights), "--output", str(tmp_path / "out"), "--max-detections", "1"]
    process = subprocess.Popen(
        [*command, str(clip), *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = tmp_path / "out" / "long.avi.jsonl"
    while not (lines.exists() and lines.stat().st_size > 1000) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err == ""
    records = lines_of(lines.read_text())
    assert [record["frame"] for record in records] == list(range(len(records)))
    assert f"{len(records)} of 6000 frames, stopped" in out
    assert abs(len(read_clip(tmp_path / "out" / "long.avi.mp4")) - len(records)) <= 1
    assert 0 < len(records) < 6000
