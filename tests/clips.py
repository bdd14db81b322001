"""Short videos, and what stands in for a camera."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np


def moving_red(frames: int, size: tuple[int, int] = (64, 96)) -> list[np.ndarray]:
    """A red square of 16 pixels on black that moves 8 pixels to the right in each frame."""
    images = [np.zeros((*size, 3), np.uint8) for _ in range(frames)]
    for number, image in enumerate(images):
        left = 8 * number % (size[1] - 16)
        image[16:32, left : left + 16, 0] = 255
    return images


def write_clip(path: Path, images: Sequence[np.ndarray], rate: float = 10.0, codec: str = "MJPG") -> Path:
    """RGB images as a video; MJPG in an .avi has every frame alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), rate, (width, height))
    for image in images:
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def read_clip(path: Path) -> list[np.ndarray]:
    """All frames, RGB."""
    capture, images = cv2.VideoCapture(str(path)), []
    while True:
        good, image = capture.read()
        if not good:
            return images
        images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


class FakeCapture:
    """Gives these images, None standing for a read that fails, and then fails for ever."""

    def __init__(self, images: Sequence[np.ndarray | None], rate: float = 10.0, frames: float = -1.0) -> None:
        self._images = list(images)
        self._numbers = {cv2.CAP_PROP_FPS: rate, cv2.CAP_PROP_FRAME_COUNT: frames}
        self.opened, self.released = bool(images), False

    def isOpened(self) -> bool:  # noqa: N802
        return self.opened

    def read(self) -> tuple[bool, np.ndarray | None]:
        image = self._images.pop(0) if self._images else None
        return image is not None, image

    def get(self, prop: int, /) -> float:
        return self._numbers.get(prop, 0.0)

    def release(self) -> None:
        self.released = True


def turn_right(path: Path) -> Path:
    """Make an MP4 say that it is to be shown turned right by 90 degrees, as phones do; its frames stay."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    one = 1 << 16
    content[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


def slow_down(path: Path, frames: int, times: int) -> Path:
    """Make the later half of an MP4's frames last so many times as long as the earlier half."""
    content = bytearray(path.read_bytes().replace(b"edts", b"free"))  # what cuts to the former duration
    table = content.index(b"stts") + 8  # a number of entries, then frames and duration of each
    (duration,) = struct.unpack_from(">I", content, table + 8)
    halves = struct.pack(">5I", 2, frames // 2, duration, frames - frames // 2, duration * times)
    content[table : table + 12] = halves
    for name in (b"stts", b"stbl", b"minf", b"mdia", b"trak", b"moov"):  # each around the one before
        start = content.index(name) - 4
        content[start : start + 4] = struct.pack(">I", struct.unpack_from(">I", content, start)[0] + 8)
    path.write_bytes(content)
    return path
