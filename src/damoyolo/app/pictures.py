"""From the bytes a stranger sent to pixels, without trusting them."""

from __future__ import annotations

import io
import warnings

from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, UnidentifiedImageError

from damoyolo.app.limits import RefusedError
from damoyolo.data.images import decode_image
from damoyolo.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What every browser shows, too."""
MOST_SCANS = 100
"""Of a JPEG. Programs write about ten; each may cost as much time as all pixels, and next to no bytes."""


def read_picture(data: bytes, megapixels: float) -> UInt8[ndarray, "h w 3"]:
    """The upright image, RGB 0..255, of the bytes of a file.

    Raises:
        RefusedError: 415 for what is no image of the `FORMATS`, 413 for one with more pixels, by its header
            and so before a pixel is decoded, and 422 for a damaged one or one that takes very long.
    """
    width, height = _promised_size(data)
    if width * height > megapixels * 1e6:
        raise RefusedError(
            413,
            "pixels",
            f"image: has {width} x {height} pixels, more than {megapixels:g} million; send a smaller one",
        )
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > MOST_SCANS:
        raise RefusedError(
            422, "damaged", f"image: is a JPEG of more than {MOST_SCANS} scans; save it as a plain one"
        )
    try:
        image = decode_image(data, "image")
    except UserError as error:
        raise RefusedError(422, "damaged", str(error)) from error
    if image.shape[0] * image.shape[1] > megapixels * 1e6:
        raise RefusedError(422, "damaged", "image: is larger than its header says; save it again")
    return image


def _promised_size(data: bytes) -> tuple[int, int]:
    """(width, height) in the header."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images, which are judged here
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return image.size
    except Image.DecompressionBombError as error:
        raise RefusedError(413, "pixels", "image: has far too many pixels; send a smaller one") from error
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise RefusedError(
            415, "format", f"image: the body is no file of {known}; send the bytes of one, not a form"
        ) from error
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError) as error:
        raise RefusedError(422, "damaged", "image: its header is damaged; save it again") from error
