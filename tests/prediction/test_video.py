from __future__ import annotations

import json
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from clips import FakeCapture, moving_red, read_clip, write_clip
from colour_model import colour_model
from damoyolo.detections import Detections
from damoyolo.errors import UserError
from damoyolo.prediction import (
    Recording,
    Tracker,
    VideoReader,
    Watcher,
    detect,
    predict_video,
    read_line,
    read_zone,
)

NOTHING = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ("red",))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.avi", moving_red(9))


def red_left(image: np.ndarray) -> int:
    """The first column that is red."""
    return int(np.flatnonzero((image[..., 0] > 128).any(axis=0))[0])


@pytest.mark.parametrize("batch_size", [1, 4])
def test_each_frame_is_found_and_recorded_in_order(clip: Path, tmp_path: Path, batch_size: int) -> None:
    def find(images: list[np.ndarray]) -> list[Detections]:
        sizes.append(len(images))
        boxes = [np.array([[red_left(each), 16, red_left(each) + 16, 32]], np.float32) for each in images]
        return [Detections(each, np.ones(1, np.float32), np.zeros(1, np.int64), ("red",)) for each in boxes]

    sizes: list[int] = []
    recording = Recording(tmp_path / "out.jsonl", tmp_path / "out.mp4", 10.0)
    results = list(predict_video(find, VideoReader(clip), recording, batch_size=batch_size))
    assert [result.frame.number for result in results] == list(range(9))
    assert [round(float(result.detections.boxes[0, 0])) for result in results] == list(range(0, 72, 8))
    assert max(sizes) == batch_size
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert records == [result.to_record() for result in results]
    assert records[3]["time_s"] == 0.3
    assert (records[3]["width"], records[3]["height"]) == (96, 64)
    assert records[3]["detections"][0]["box"] == [24, 16, 40, 32]
    assert len(read_clip(tmp_path / "out.mp4")) == 9


def test_boxes_are_drawn_on_the_frames(tmp_path: Path) -> None:
    image = np.zeros((128, 192, 3), np.uint8)
    image[32:64, 96:112, 0] = 255
    clip = write_clip(tmp_path / "a.mp4", [image] * 2, codec="mp4v")
    recording = Recording(tmp_path / "out.jsonl", tmp_path / "out.mp4", 10.0)
    found = partial(detect, colour_model(size=(128, 192)), max_detections=1)
    list(predict_video(found, VideoReader(clip), recording))
    plain, drawn = read_clip(clip)[0], read_clip(tmp_path / "out.mp4")[0]
    assert np.abs(drawn.astype(int) - plain).max() > 100


def test_memory_stays_bounded_when_nobody_takes_the_results() -> None:
    taken = []

    class Counting(FakeCapture):
        def read(self) -> tuple[bool, np.ndarray | None]:
            taken.append(1)
            return super().read()

    reader = VideoReader("a.mp4", open_capture=lambda _: Counting(moving_red(200), frames=200.0))
    results = predict_video(lambda images: [NOTHING] * len(images), reader, batch_size=2)
    next(results)
    threading.Event().wait(0.1)
    assert len(taken) < 15
    results.close()


def test_frames_that_come_live_and_too_fast_are_left_out() -> None:
    slow = threading.Event()

    def find(images: list[np.ndarray]) -> list[Detections]:
        assert len(images) == 1
        slow.wait(0.02)
        return [NOTHING]

    reader = VideoReader(
        "0", tell=[].append, wait=[].append, open_capture=lambda _: FakeCapture(moving_red(50))
    )
    results = predict_video(find, reader, batch_size=8)
    numbers = [next(results).frame.number for _ in range(4)]
    results.close()
    assert numbers == sorted(set(numbers))
    assert numbers[-1] > 10


def test_leaving_early_leaves_a_video_and_whole_lines(clip: Path, tmp_path: Path) -> None:
    recording = Recording(tmp_path / "out.jsonl", tmp_path / "out.mp4", 10.0)
    results = predict_video(lambda images: [NOTHING] * len(images), VideoReader(clip), recording)
    next(results)
    next(results)
    results.close()
    assert len(read_clip(tmp_path / "out.mp4")) == 2
    assert [json.loads(line)["frame"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [0, 1]


def test_what_goes_wrong_in_the_network_is_told(clip: Path) -> None:
    def find(images: list[np.ndarray]) -> list[Detections]:
        raise UserError("the model is in training mode")

    with pytest.raises(UserError, match="training mode"):
        list(predict_video(find, VideoReader(clip)))


def test_things_are_numbered_counted_and_drawn(tmp_path: Path) -> None:
    def find(images: list[np.ndarray]) -> list[Detections]:
        boxes = [np.array([[red_left(each), 16, red_left(each) + 16, 32]], np.float32) for each in images]
        return [Detections(each, np.ones(1, np.float32), np.zeros(1, np.int64), ("red",)) for each in boxes]

    clip = write_clip(tmp_path / "clip.avi", moving_red(9))
    watcher = Watcher(Tracker(0.4, 10.0), [read_line("40,60,40,0"), read_zone("60,0,95,0,95,60,60,60")])
    recording = Recording(tmp_path / "out.jsonl", tmp_path / "out.mp4", 10.0)
    results = list(predict_video(find, VideoReader(clip), recording, watcher=watcher))
    assert [result.ids for result in results] == [(None,), *[(1,)] * 8]
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [record["detections"][0]["id"] for record in records] == [None, *[1] * 8]
    assert records[0]["counts"][0] == {"line": [40, 60, 40, 0], "to_left": {}, "to_right": {}}
    assert records[-1]["counts"][0]["to_right"] == {"red": 1}
    assert [record["counts"][1]["now"].get("red", 0) for record in records] == [0] * 7 + [1] * 2
    (yellow,) = {tuple(read_clip(tmp_path / "out.mp4")[0][55, 40] > 128)}
    assert yellow == (True, True, False)


def test_unsure_boxes_are_told_only_where_they_are_tracked(clip: Path) -> None:
    def find(images: list[np.ndarray]) -> list[Detections]:
        boxes = np.array([[0, 16, 16, 32], [60, 16, 76, 32]], np.float32)
        scores = np.array([next(sure), 0.2], np.float32)
        return [Detections(boxes, scores, np.zeros(2, np.int64), ("red",)) for _ in images]

    sure = iter([0.9, 0.9, 0.2, 0.2, 0.9, 0.9, 0.9, 0.9, 0.9])
    results = predict_video(find, VideoReader(clip), watcher=Watcher(Tracker(0.4, 10.0)))
    assert [result.ids for result in results] == [(None,), *[(1,)] * 8]
