"""Reading image files, and keeping the decoded ones at hand."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from damoyolo.data.resize import Size
from damoyolo.errors import UserError

cv2.utils.logging.setLogLevel(0)  # a file that cannot be decoded is reported once, by the UserError below


REDUCED = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
"""How to decode an image at a fraction of its size, by the divisor; of a JPEG that is quicker."""


def read_image(path: str | Path, *, upright: bool = True) -> UInt8[np.ndarray, "h w 3"]:
    """The image in a file, RGB, 0..255, turned upright as its EXIF data say unless `upright` is False.

    Grey becomes RGB, an alpha channel is dropped, 16 bits become 8, CMYK is converted, an animation gives
    its first frame. `UserError` for a file that is missing, truncated or not an image.
    """
    return _decode(path, _read_bytes(path), cv2.IMREAD_COLOR_RGB, upright)


def decode_image(data: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """As `read_image`, the image in the bytes of a file; errors call it `name`."""
    return _decode(name, data, cv2.IMREAD_COLOR_RGB, upright=True)


def read_sized(path: str | Path, size: Size, divisor: int = 1) -> UInt8[np.ndarray, "h w 3"]:
    """The image in the frame its annotations are written in, which has the stated (height, width).

    That is the upright image or, where only that one has the stated size, the image as it is stored.
    With a `divisor` of 2, 4 or 8 it comes in that fraction of its size, to be quick; but whole where its two
    frames could not be told apart then.

    Raises:
        UserError: where neither frame has the stated size; read with a divisor, a pixel more or less.
    """
    height, width = size
    if 0 < abs(height - width) < 2 * divisor:
        divisor = 1
    data = _read_bytes(path)
    shape: Size = (0, 0)
    for upright in (True, False):
        image = _decode(path, data, REDUCED[divisor], upright)
        if abs(image.shape[0] - height / divisor) < 1 and abs(image.shape[1] - width / divisor) < 1:
            return image
        shape = shape if any(shape) else (image.shape[0], image.shape[1])
    if divisor > 1:
        return read_sized(path, size)
    raise UserError(
        f"{path}: is {shape[1]} x {shape[0]} pixels but its annotations say {width} x {height}; "
        "correct width and height, and the boxes if they belong to another version of the image"
    )


def check_image(path: str | Path, size: Size) -> None:
    """Raise what `read_sized` would; a JPEG of the stated size is decoded at an eighth of it, to be quick."""
    data = _read_bytes(path)
    if _jpeg_header(data)[0] == size:
        _decode(path, data, cv2.IMREAD_REDUCED_COLOR_8, upright=False)
    else:
        read_sized(path, size)


class ImageCache:
    """Images in memory up to `limit_mb` MiB; the least recently used go first. They are read-only."""

    def __init__(self, limit_mb: int) -> None:
        self._room = limit_mb * 2**20
        self._images: OrderedDict[Hashable, UInt8[np.ndarray, "h w 3"]] = OrderedDict()

    def get(
        self, key: Hashable, make: Callable[[], UInt8[np.ndarray, "h w 3"]]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The image kept under `key`, or else a fresh one from `make`, kept from now on if there is room."""
        image = self._images.pop(key, None)
        if image is None:
            image = make()
            image.setflags(write=False)
            self._room -= image.nbytes
        self._images[key] = image
        while self._room < 0:
            self._room += self._images.popitem(last=False)[1].nbytes
        return image


def _read_bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _decode(path: str | Path, data: bytes, flags: int, upright: bool) -> UInt8[np.ndarray, "h w 3"]:
    if not data:
        raise UserError(f"{path}: is empty; replace the file")
    if not _is_complete(data):
        raise UserError(f"{path}: is truncated, its end is missing; replace the file")
    orientation = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags | orientation)
    except cv2.error:  # a header that promises more pixels than OpenCV allows
        image = None
    if image is None:
        raise UserError(f"{path}: is not an image that OpenCV can decode, or is damaged; replace the file")
    return image


def _is_complete(data: bytes) -> bool:
    """Whether a JPEG or PNG has its end marker: some decoders fill what is missing with grey.

    Other formats count as complete; their decoders notice.
    """
    if data.startswith(b"\x89PNG"):
        return b"IEND" in data[-4096:]
    _, scan = _jpeg_header(data)
    return scan is None or data.rfind(b"\xff\xd9", scan) >= 0


def _jpeg_header(data: bytes) -> tuple[Size | None, int | None]:
    """(height, width) as stored and the offset of the first scan of a JPEG; None for what is not there.

    Segments are walked one by one because a thumbnail among them has its own frame and end markers.
    """
    size, offset = None, 2
    if not data.startswith(b"\xff\xd8"):
        return None, None
    while data[offset : offset + 1] == b"\xff" and offset + 9 <= len(data):
        marker = data[offset + 1]
        if marker == 0xFF:  # padding before a marker
            offset += 1
            continue
        if marker == 0xDA:  # start of scan
            return size, offset
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            size = (
                int.from_bytes(data[offset + 5 : offset + 7]),
                int.from_bytes(data[offset + 7 : offset + 9]),
            )
        offset += 2 + int.from_bytes(data[offset + 2 : offset + 4])
    return size, None
