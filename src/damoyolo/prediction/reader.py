"""Frames of video files, cameras and network streams, as far as they can be read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import UInt8

from damoyolo.data.resize import Size
from damoyolo.errors import RunError, UserError
from damoyolo.prediction.detection import Image
from damoyolo.prediction.sources import is_camera, is_stream, without_password

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong with a video is told by us, once

USUAL_RATE = 25.0
"""Frames per second where a source does not tell a sensible number."""
MOST_FRAMES = 10**9
"""A file that promises more than that knows nothing about it."""
WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Before each attempt to reconnect to a camera or stream that has gone."""
BAD_IN_A_ROW = 30
"""Frames of a file that are tried before it is given up."""
TIMEOUT_MS = 10_000
"""For connecting to a stream, and for each of its frames."""


@runtime_checkable
class Capture(Protocol):
    """What is used of OpenCV's `VideoCapture`, and stands in for it in tests."""

    def isOpened(self) -> bool: ...  # noqa: D102, N802
    def read(self) -> tuple[bool, UInt8[np.ndarray, "h w 3"]]: ...  # noqa: D102
    def get(self, prop: int, /) -> float: ...  # noqa: D102
    def release(self) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Frame:
    """An RGB image, its number in the source from 0, and its time in seconds since the first."""

    image: Image
    number: int
    time_s: float


class VideoReader:
    """The frames of an open video file, camera or stream.

    `size` is (height, width) of its frames as they are shown, None if it does not say. `rate` is in frames
    per second, `total` the number of frames that a file promises, 0 if it does not say, and None if `live`:
    then frames come when they come, and do not wait. After reading, `missing` frames of a file could not be
    read.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        tell: Callable[[str], None] = print,
        wait: Callable[[float], None] = time.sleep,
        open_capture: Callable[[str], Capture] | None = None,
    ) -> None:
        """Open it.

        Args:
            source: a file, the number of a camera, or an address such as rtsp://host/path.
            tell: called with a sentence for everything that goes wrong and is survived.
            wait: for so many seconds, before a stream is tried again.
            open_capture: instead of OpenCV's.

        Raises:
            UserError: if it is no video, or cannot be reached.
        """
        self.source = str(source)
        self.name = without_password(self.source)
        self.missing = 0
        self._tell, self._wait, self._open = tell, wait, open_capture or _open
        self._capture = self._open(self.source)
        if not self._capture.isOpened():
            raise UserError(f"{self.name}: {_remedy(self.source)}")
        frames = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.live = is_camera(self.source) or (is_stream(self.source) and not frames > 0)
        self.total = None if self.live else int(frames) if 0 < frames < MOST_FRAMES else 0
        height, width = map(self._capture.get, (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        self.size: Size | None = (int(height), int(width)) if height > 0 and width > 0 else None
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = round(rate, 2) if 1 <= rate <= 240 else USUAL_RATE

    def close(self) -> None:
        """Let the source go, unread."""
        self._capture.release()

    def frames(self) -> Iterator[Frame]:
        """All of them, once.

        Raises:
            RunError: if a camera or stream has gone and does not come back, or nothing of a file can be read.
        """
        clock = _Clock(self.rate, self.live)
        try:
            while (image := self._read(clock.count)) is not None:
                position = self._capture.get(cv2.CAP_PROP_POS_MSEC)
                yield Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), clock.count, clock.tick(position))
        finally:
            self._capture.release()
        self.missing = max(0, (self.total or 0) - clock.count)
        if self.missing and not clock.count:
            why = (
                "its server may know no byte ranges; download it first"
                if is_stream(self.source)
                else "it is broken"
            )
            raise RunError(f"{self.name}: none of {self.total} promised frames could be read; {why}")
        if self.missing:
            self._tell(f"{self.name}: {self.missing} of {self.total} promised frames could not be read")

    def _read(self, count: int) -> UInt8[np.ndarray, "h w 3"] | None:
        """The next frame that can be read; None at the end of a file."""
        good, image = self._capture.read()
        if good:
            return image
        if self.live:
            return self._reconnected()
        for _ in range(BAD_IN_A_ROW if self.total and count < self.total else 0):
            good, image = self._capture.read()
            if good:
                return image
        return None

    def _reconnected(self) -> UInt8[np.ndarray, "h w 3"]:
        for attempt, seconds in enumerate(WAITS_S, start=1):
            self._tell(f"{self.name}: is gone; attempt {attempt} of {len(WAITS_S)} in {seconds:g} s")
            self._capture.release()
            self._wait(seconds)
            self._capture = self._open(self.source)
            good, image = self._capture.read()
            if good:
                self._tell(f"{self.name}: is back")
                return image
        raise RunError(f"{self.name}: is gone and did not come back after {len(WAITS_S)} attempts")


class _Clock:
    """Times of frames: of a live source by the wall, of a file as it says where it makes sense."""

    def __init__(self, rate: float, live: bool) -> None:
        self.count = 0
        self._rate, self._live = rate, live
        self._begin: float | None = None
        self._last = -1.0

    def tick(self, position_ms: float) -> float:
        """Seconds since the first frame; OpenCV says where in the file this one is."""
        now = time.monotonic() if self._live else position_ms / 1e3
        self._begin = now if self._begin is None else self._begin
        seconds = now - self._begin
        if not seconds > self._last:
            seconds = self._last + 1 / self._rate if self._last >= 0 else 0.0
        self._last = seconds
        self.count += 1
        return seconds


def _open(source: str) -> Capture:
    if is_camera(source):
        return cv2.VideoCapture(int(source))
    if is_stream(source):
        timeouts = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, cv2.CAP_PROP_READ_TIMEOUT_MSEC)
        options = [number for each in timeouts for number in (each, TIMEOUT_MS)]
        return cv2.VideoCapture(source, cv2.CAP_FFMPEG, options)
    return cv2.VideoCapture(source)


def _remedy(source: str) -> str:
    if is_camera(source):
        return "no camera of that number can be opened; check that it is there and not in use"
    if is_stream(source):
        return "cannot be reached or is no video; check the address, and try it in a player"
    return "is no video that OpenCV can read, or is damaged; try it in a player, or convert it to MP4"
