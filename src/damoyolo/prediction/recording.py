"""What is kept of a video: the annotated video, and a line of JSON per frame."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import cv2
from jaxtyping import UInt8
from numpy import ndarray

from damoyolo.errors import RunError, UserError

CODEC = "mp4v"
"""MPEG-4 part 2: every build of OpenCV writes it, and quickly; H.264 needs what most of them lack."""
LONGEST_S = 120
"""A picture stands for so long at most where nothing came from a live source."""


class Recording:
    """Files that grow frame by frame while the `with` block lasts.

    The lines are written at once, and whole. The video takes its place at the end, however the block ends,
    and can be played if it has a frame.
    """

    def __init__(self, lines: Path, video: Path | None, rate: float, *, by_the_wall: bool = False) -> None:
        """Say where.

        Args:
            lines: the file of JSON lines.
            video: the annotated video, an .mp4; None for none.
            rate: of that, in frames per second.
            by_the_wall: show each picture until the next one's time instead of for one frame.
        """
        self.lines, self.video = lines, video
        self._rate, self._by_the_wall = rate, by_the_wall
        self._file: BinaryIO | None = None
        self._writer: cv2.VideoWriter | None = None
        self._part = video.with_name(f".{video.stem}.{os.getpid()}.part.mp4") if video else None
        self._written, self._size = 0, (0, 0)

    def __enter__(self) -> Recording:
        try:
            self.lines.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.lines.open("wb")
        except OSError as error:
            raise UserError(
                f"{self.lines}: cannot be written ({error.strerror}); choose another place"
            ) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file:
            self._file.close()
        if self._writer is None or self._part is None or self.video is None:
            return
        self._writer.release()
        if kind is None and not _plays(self._part):
            self._part.unlink(missing_ok=True)
            raise RunError(f"{self.video}: the video could not be written; is the disk full?")
        with contextlib.suppress(FileNotFoundError):
            self._part.replace(self.video)

    def count_frames(self) -> int:
        """How many lines there are, by the file: a signal may come between a line and its count."""
        if self._file is None:
            return 0
        with self.lines.open("rb") as file:
            return sum(1 for _ in file)

    def add(self, record: dict[str, Any], picture: UInt8[ndarray, "h w 3"] | None, time_s: float) -> None:
        """A frame: its line and, where a video is wanted, its RGB picture.

        A picture of another size than the first is made to fit.

        Raises:
            UserError: if no video of such pictures can be written.
        """
        if self._file is None:
            raise RuntimeError("a recording is written inside its `with` block")
        if picture is not None and self.video:
            self._show(picture, time_s)
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()

    def _show(self, picture: UInt8[ndarray, "h w 3"], time_s: float) -> None:
        height, width = picture.shape[:2]
        if self._writer is None:
            self._size = (width, height)
            self._writer = self._open_writer()
        if (width, height) != self._size:
            picture = cv2.resize(picture, self._size)
        due = round(time_s * self._rate) + 1 - self._written
        image = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        for _ in range(min(due, round(LONGEST_S * self._rate)) if self._by_the_wall else 1):
            self._writer.write(image)
            self._written += 1

    def _open_writer(self) -> cv2.VideoWriter:
        code = cv2.VideoWriter.fourcc(*CODEC)
        writer = cv2.VideoWriter(str(self._part), cv2.CAP_FFMPEG, code, self._rate, self._size)
        if not writer.isOpened():
            width, height = self._size
            raise UserError(
                f"{self.video}: OpenCV cannot write a video of {width} x {height} pixels there; choose "
                "another --output, or --no-draw for the JSON lines alone"
            )
        return writer


def _plays(path: Path) -> bool:
    """Whether a video has a first frame."""
    capture = cv2.VideoCapture(str(path))
    try:
        return capture.isOpened() and capture.read()[0]
    finally:
        capture.release()
