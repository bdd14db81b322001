from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from clips import moving_red, read_clip
from damoyolo.errors import RunError, UserError
from damoyolo.prediction import Recording


def test_pictures_and_lines_are_kept_in_their_colours(tmp_path: Path) -> None:
    pictures = moving_red(5)
    lines, video = tmp_path / "out" / "a.jsonl", tmp_path / "out" / "a.mp4"
    with Recording(lines, video, 10.0) as recording:
        for number, picture in enumerate(pictures):
            recording.add({"frame": number}, picture, number / 10)
            assert len(lines.read_text().splitlines()) == number + 1  # at once
            assert not video.exists()
    shown = read_clip(video)
    assert len(shown) == 5
    for picture, frame in zip(pictures, shown, strict=True):
        np.testing.assert_allclose(frame.mean(axis=(0, 1)), picture.mean(axis=(0, 1)), atol=4)
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FPS) == 10
    assert {path.name for path in video.parent.iterdir()} == {"a.mp4", "a.jsonl"}


def record_one(recording: Recording, then: Callable[[], None]) -> None:
    with recording:
        recording.add({"frame": 0}, moving_red(1)[0], 0.0)
        then()


def test_whatever_stops_it_the_video_plays(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    (tmp_path / "a.mp4").write_bytes(b"of yesterday")
    with pytest.raises(KeyboardInterrupt):
        record_one(Recording(tmp_path / "a.jsonl", tmp_path / "a.mp4", 10.0), interrupt)
    assert len(read_clip(tmp_path / "a.mp4")) == 1
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [{"frame": 0}]


def test_without_frames_there_is_no_video(tmp_path: Path) -> None:
    with Recording(tmp_path / "a.jsonl", tmp_path / "a.mp4", 10.0):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_without_a_video_only_the_lines_are_kept(tmp_path: Path) -> None:
    with Recording(tmp_path / "a.jsonl", None, 10.0) as recording:
        recording.add({"frame": 0}, None, 0.0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_live_picture_stands_until_the_next(tmp_path: Path) -> None:
    with Recording(tmp_path / "a.jsonl", tmp_path / "a.mp4", 10.0, by_the_wall=True) as recording:
        for time_s in (
            0.0,
            0.1,
            0.12,
            1.0,
        ):  # the third comes too soon, and before the fourth there was nothing
            recording.add({}, moving_red(1)[0], time_s)
    assert len(read_clip(tmp_path / "a.mp4")) == 11
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 4


def test_a_picture_of_another_size_is_made_to_fit(tmp_path: Path) -> None:
    with Recording(tmp_path / "a.jsonl", tmp_path / "a.mp4", 10.0) as recording:
        for size in ((64, 96), (32, 32), (63, 97)):
            recording.add({}, np.full((*size, 3), 200, np.uint8), 0.0)
    shown = read_clip(tmp_path / "a.mp4")
    assert [frame.shape for frame in shown] == [(64, 96, 3)] * 3
    assert min(frame.min() for frame in shown) > 190


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"a file")
    with (
        pytest.raises(UserError, match=r"a\.jsonl: cannot be written"),
        Recording(tmp_path / "out" / "a.jsonl", None, 10.0),
    ):
        pass


def test_pictures_that_no_video_can_hold_are_refused_with_a_remedy(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"video of 1 x 70000 pixels .* --no-draw"),
        Recording(tmp_path / "a.jsonl", tmp_path / "a.mp4", 10.0) as recording,
    ):
        recording.add({}, np.zeros((70_000, 1, 3), np.uint8), 0.0)


def test_a_video_that_was_lost_on_its_way_to_the_disk_is_noticed(tmp_path: Path) -> None:
    def lose() -> None:
        for part in tmp_path.glob(".a.*.part.mp4"):
            part.unlink()

    with pytest.raises(RunError, match="disk full"):
        record_one(Recording(tmp_path / "a.jsonl", tmp_path / "a.mp4", 10.0), lose)
    assert not (tmp_path / "a.mp4").exists()
