from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from clips import FakeCapture, moving_red, slow_down, turn_right, write_clip
from conftest import shared_data
from damoyolo.errors import RunError, UserError
from damoyolo.prediction import VideoReader
from damoyolo.prediction.reader import BAD_IN_A_ROW, USUAL_RATE, WAITS_S

BLANK = np.zeros((8, 8, 3), np.uint8)


def test_frames_are_rgb_numbered_and_timed(tmp_path: Path) -> None:
    reader = VideoReader(write_clip(tmp_path / "a.avi", moving_red(5), rate=12.5))
    frames = list(reader.frames())
    assert (reader.rate, reader.total, reader.live, reader.missing) == (12.5, 5, False, 0)
    assert reader.size == (64, 96)
    assert [frame.number for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.time_s for frame in frames] == pytest.approx([0, 0.08, 0.16, 0.24, 0.32])
    red = frames[2].image[24, 24]
    assert red[0] > 200
    assert red[1:].max() < 60


def test_a_video_of_a_phone_held_upright_is_seen_upright(tmp_path: Path) -> None:
    clip = turn_right(write_clip(tmp_path / "a.mp4", moving_red(3), codec="mp4v"))
    reader = VideoReader(clip)
    assert {frame.image.shape for frame in reader.frames()} == {(96, 64, 3)}
    assert reader.size == (96, 64)
    first = next(VideoReader(clip).frames()).image
    red = np.argwhere(first[..., 0] > 128).mean(axis=0)
    assert red == pytest.approx([7.5, 63 - 23.5], abs=1)  # what was at the left is at the top


def test_times_are_those_of_the_file_where_its_rate_varies(tmp_path: Path) -> None:
    clip = slow_down(write_clip(tmp_path / "a.mp4", moving_red(8), codec="mp4v"), frames=8, times=4)
    times = [frame.time_s for frame in VideoReader(clip).frames()]
    assert times == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.8, 1.2, 1.6])


def test_real_clips_are_read_to_their_end() -> None:
    for name, rate, count in (("bottle.mp4", 15, 165), ("people.mp4", 10, 135)):
        reader = VideoReader(shared_data("videos") / name)
        times = [frame.time_s for frame in reader.frames()]
        assert (reader.rate, len(times), reader.missing) == (rate, count, 0)
        assert times == pytest.approx(np.arange(count) / rate)


def test_damage_inside_a_real_clip_is_counted_and_survived(tmp_path: Path) -> None:
    data = bytearray((shared_data("videos") / "bottle.mp4").read_bytes())
    data[200_000:230_000] = np.random.default_rng(0).integers(0, 256, 30_000, dtype=np.uint8).tobytes()
    (tmp_path / "damaged.mp4").write_bytes(data)
    told: list[str] = []
    reader = VideoReader(tmp_path / "damaged.mp4", tell=told.append)
    count = sum(1 for _ in reader.frames())
    assert 100 < count < 165
    assert reader.missing == 165 - count
    assert told == [f"{tmp_path}/damaged.mp4: {165 - count} of 165 promised frames could not be read"]


def test_reads_that_fail_inside_a_file_are_tried_again() -> None:
    images = [BLANK, *[None] * BAD_IN_A_ROW, BLANK, None, BLANK]
    reader = VideoReader(
        "a.mp4", tell=[].append, open_capture=lambda _: FakeCapture(images, frames=len(images))
    )
    assert [frame.number for frame in reader.frames()] == [0, 1, 2]
    assert reader.missing == BAD_IN_A_ROW + 1


def test_a_file_cut_off_in_the_middle_ends_there(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.avi", moving_red(40)).read_bytes()
    (tmp_path / "half.avi").write_bytes(whole[: len(whole) // 2])
    reader = VideoReader(tmp_path / "half.avi", tell=[].append)
    assert 10 < sum(1 for _ in reader.frames()) < 30
    assert reader.missing > 10


def test_a_file_of_which_nothing_can_be_read_is_a_failed_run() -> None:
    capture = FakeCapture([None] * 4, frames=4)
    for source, why in (
        ("a.mp4", "it is broken"),
        ("http://host/a.mp4", "may know no byte ranges; download"),
    ):
        reader = VideoReader(source, tell=[].append, open_capture=lambda _: capture)
        with pytest.raises(RunError, match=f"none of 4 promised frames could be read; .*{why}"):
            list(reader.frames())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("notes.mp4", "is no video that OpenCV can read"),
        ("rtsp://me:secret@127.0.0.1:9/door", r"^rtsp://127\.0\.0\.1:9/door: cannot be reached"),
        ("97", "no camera of that number"),
    ],
)
def test_what_cannot_be_opened_is_the_user_s_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.mp4").write_text("no video")
    with pytest.raises(UserError, match=message):
        VideoReader(source)


def test_a_stream_that_goes_is_tried_again_with_longer_waits() -> None:
    captures = [FakeCapture([BLANK] * 3), FakeCapture([]), FakeCapture([]), FakeCapture([BLANK] * 2)]
    opened, told, waits = iter(captures), [], []
    reader = VideoReader(
        "rtsp://me:secret@host/door",
        tell=told.append,
        wait=waits.append,
        open_capture=lambda _: next(opened, FakeCapture([])),
    )
    assert reader.live
    frames = reader.frames()
    assert [next(frames).number for _ in range(5)] == [0, 1, 2, 3, 4]
    assert told[0] == "rtsp://host/door: is gone; attempt 1 of 5 in 1 s"
    assert told[-1] == "rtsp://host/door: is back"
    assert waits == list(WAITS_S[:3])
    with pytest.raises(RunError, match="did not come back after 5 attempts"):
        next(frames)
    assert waits[3:] == list(WAITS_S)
    assert all(capture.released for capture in captures)


@pytest.mark.parametrize("frames", [-9.2e18, 0.0, float("nan"), 9.2e18])
def test_a_number_of_frames_that_makes_no_sense_is_ignored(frames: float) -> None:
    reader = VideoReader("a.mp4", open_capture=lambda _: FakeCapture([BLANK] * 3, frames=frames))
    assert sum(1 for _ in reader.frames()) == 3
    assert (reader.total, reader.missing) == (0, 0)


@pytest.mark.parametrize("rate", [0.0, float("nan"), 90_000.0])
def test_a_rate_that_makes_no_sense_is_replaced(rate: float) -> None:
    reader = VideoReader("a.mp4", open_capture=lambda _: FakeCapture([BLANK] * 3, rate=rate))
    assert reader.rate == USUAL_RATE
    assert [frame.time_s for frame in reader.frames()] == pytest.approx([0, 0.04, 0.08])


def test_leaving_early_lets_go_of_the_source() -> None:
    capture = FakeCapture([BLANK] * 3)
    frames = VideoReader("0", open_capture=lambda _: capture).frames()
    next(frames)
    frames.close()
    assert capture.released


@pytest.fixture
def faulty_camera() -> Iterator[str]:
    """The address of a network camera (MJPEG over HTTP) that hangs up after four frames."""
    _, jpeg = cv2.imencode(".jpg", BLANK)
    part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for _ in range(4):
                self.wfile.write(part + jpeg.tobytes() + b"\r\n")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/video.mjpg"
    server.shutdown()
    server.server_close()


def test_a_real_stream_that_hangs_up_is_called_again(faulty_camera: str) -> None:
    told: list[str] = []
    reader = VideoReader(faulty_camera, tell=told.append, wait=lambda _: None)
    assert reader.live
    frames = reader.frames()
    assert [next(frames).number for _ in range(10)] == list(range(10))
    frames.close()
    assert f"{faulty_camera}: is back" in told
