"""Which files are images, and how large those are, by their headers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from damoyolo.data.images import read_image
from damoyolo.data.resize import Size, size_of
from damoyolo.errors import UserError

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".jp2", ".ppm", ".pgm")
)
ORIENTATION, QUARTER_TURNS = 0x0112, (5, 6, 7, 8)
"""The EXIF field that tells how to turn an image upright, and its values that swap width and height."""
READERS = 8
"""Files read at once, most of the time waiting for a disk."""


def images_in(folder: Path) -> list[Path]:
    """The image files in a folder and below it, in order of their names."""
    return sorted(each for each in folder.rglob("*") if is_image(each) and each.is_file())


def is_image(path: Path) -> bool:
    """Whether a path has the suffix of an image, and is no hidden file."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_size(path: Path) -> Size:
    """(height, width) of the upright image in a file, from its header.

    Raises:
        UserError: if there is no such file, or it is no image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION) in QUARTER_TURNS
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return size_of(read_image(path))  # which says in a sentence what is wrong, if anything is
    return (width, height) if turned else (height, width)


def read_sizes(paths: Sequence[Path]) -> list[Size | UserError]:
    """The size of each, or what is wrong with it."""

    def size(path: Path) -> Size | UserError:
        try:
            return read_size(path)
        except UserError as error:
            return error

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(size, paths))
