"""Which images are near-duplicates: by what they look like, and by names that tell of one recording."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from damoyolo.data.image_files import READERS
from damoyolo.data.images import REDUCED

SIDE = 16
"""Cells along each side of the grid that a fingerprint compares, each with its right-hand neighbour."""
BITS = SIDE * SIDE
MOST_DIFFERENT = 40
"""Bits in which fingerprints of near-duplicates differ at most; of other images it is about half of them."""
FLATTEST = 2.0
"""Mean difference of grey values between neighbouring cells below which an image looks like nothing."""
BLOCK = 256
"""Images compared with all others at once."""

_FRAME = re.compile(r"(.+[_\-. ](?:mov|mp4|avi|mkv|m4v|webm|frame|frm|f))[_\-. ]?\d+$", re.IGNORECASE)
_VERSION = re.compile(r"(.+)\.rf\.[0-9a-zA-Z]{8,}$")
_SUFFIX = re.compile(r"_(?:jpe?g|png|bmp|webp)$", re.IGNORECASE)

Fingerprint = Bool[np.ndarray, "bits=256"]


def fingerprint(image: UInt8[np.ndarray, "h w 3"]) -> Fingerprint | None:
    """The difference hash of an RGB image: where it gets brighter from left to right; None if it is flat."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    cells = cv2.resize(grey, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
    steps = np.diff(cells, axis=1)
    return None if np.abs(steps).mean() < FLATTEST else (steps > 0).ravel()


def fingerprints(paths: Sequence[Path]) -> list[Fingerprint | None]:
    """Of the images in files, several read at once; see `read_fingerprint`."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read_fingerprint, paths))


def read_fingerprint(path: Path) -> Fingerprint | None:
    """Of the image in a file, decoded at a fraction of its size; None if it cannot be read, or is flat."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return _kept(path, stat.st_mtime_ns, stat.st_size)


def recording(path: Path) -> str | None:
    """What the name says about the video or photograph that an image was made from; None if nothing.

    `IMG_8599_MOV-1.jpg` is a frame of `IMG_8599_MOV`, `cat_jpg.rf.0a1b2c3d.jpg` a version of `cat`.
    """
    stem, is_version = path.stem, False
    if match := _VERSION.match(stem):
        stem, is_version = _SUFFIX.sub("", _SUFFIX.sub("", match[1])), True
    if match := _FRAME.match(stem):
        return match[1]
    return stem if is_version else None


def near_pairs(marks: Sequence[Fingerprint | None]) -> list[tuple[int, int]]:
    """The pairs of images whose fingerprints differ in at most `MOST_DIFFERENT` bits."""
    places = np.array([place for place, mark in enumerate(marks) if mark is not None], dtype=np.int64)
    if not len(places):
        return []
    signs = np.stack([mark for mark in marks if mark is not None]).astype(np.float32) * 2 - 1
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(signs), BLOCK):
        differing = (BITS - signs[start : start + BLOCK] @ signs.T) / 2
        first, second = np.nonzero(differing <= MOST_DIFFERENT)
        later = second > first + start
        pairs += zip(places[first[later] + start].tolist(), places[second[later]].tolist(), strict=True)
    return pairs


def groups_of(paths: Sequence[Path], marks: Sequence[Fingerprint | None]) -> list[list[int]]:
    """The images by number, near-duplicates together; every image is in one group."""
    leader = list(range(len(paths)))

    def find(number: int) -> int:
        while leader[number] != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    recordings: dict[str, int] = {}
    named = [
        (recordings.setdefault(name, number), number)
        for number, path in enumerate(paths)
        if (name := recording(path)) is not None
    ]
    for first, second in (*named, *near_pairs(marks)):
        low, high = sorted((find(first), find(second)))
        leader[high] = low
    groups: dict[int, list[int]] = {}
    for number in range(len(paths)):
        groups.setdefault(find(number), []).append(number)
    return list(groups.values())


@lru_cache(maxsize=200_000)
def _kept(path: Path, changed: int, length: int) -> Fingerprint | None:
    """As long as the file stays what it is, its fingerprint is computed once."""
    try:
        data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        image = cv2.imdecode(data, REDUCED[8])
        if image is not None and min(image.shape[:2]) < SIDE:
            image = cv2.imdecode(data, REDUCED[1])
    except (OSError, cv2.error):
        return None
    return None if image is None else fingerprint(image)
