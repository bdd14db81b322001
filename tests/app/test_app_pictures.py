"""What strangers send."""

from __future__ import annotations

import contextlib
import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from damoyolo.app.limits import RefusedError
from damoyolo.app.pictures import MOST_SCANS, read_picture
from exportable import photograph
from live_server import encoded


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that promises, and keeps, so many black pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    packer = zlib.compressobj(9)
    row = bytes(1 + width // 8)
    rows = b"".join(packer.compress(row * 1000) for _ in range(height // 1000)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_the_formats_of_browsers_are_read(kind: str) -> None:
    file = io.BytesIO()
    Image.fromarray(photograph(40, 56)).save(file, kind)
    assert read_picture(file.getvalue(), 1.0).shape == (40, 56, 3)


def test_photographs_are_turned_upright() -> None:
    file, turned = io.BytesIO(), Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(photograph(40, 56)).save(file, "JPEG", exif=turned)
    assert read_picture(file.getvalue(), 1.0).shape == (56, 40, 3)


@pytest.mark.parametrize("side", [12_000, 40_000])
def test_a_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    data = bomb(side, side)
    tracemalloc.start()
    with pytest.raises(RefusedError, match=r"image: has .* pixels.*; send a smaller one") as caught:
        read_picture(data, 50.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.status == 413
    assert peak < 2**22


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 415),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
        (b"%PDF-1.7 and so on", 415),
        (encoded(suffix=".tiff"), 415),
        (encoded()[:60], 422),
        (encoded(suffix=".jpg")[:-30], 422),
        (encoded(suffix=".jpg")[:120], 422),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), 415),
    ],
)
def test_what_is_no_image_is_refused_in_a_sentence(data: bytes, status: int) -> None:
    with pytest.raises(RefusedError, match=r"^image: .*; (send|save|replace)") as caught:
        read_picture(data, 50.0)
    assert caught.value.status == status


def test_damage_anywhere_is_refused_or_read_but_raises_nothing_else() -> None:
    rng = np.random.default_rng(0)
    for suffix in (".png", ".jpg", ".webp", ".bmp"):
        whole = np.frombuffer(encoded(suffix=suffix), np.uint8)
        for _ in range(60):
            broken = whole.copy()
            broken[rng.integers(0, len(whole), 4)] = rng.integers(0, 256, 4)
            with contextlib.suppress(RefusedError):
                assert read_picture(broken.tobytes(), 1.0).ndim == 3


def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded() -> None:
    file = io.BytesIO()
    Image.fromarray(photograph(40, 56)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    assert read_picture(data, 1.0).shape == (40, 56, 3)
    last = data.rindex(b"\xff\xda")
    slow = data[:last] + MOST_SCANS * data[last:-2] + b"\xff\xd9"
    with pytest.raises(RefusedError, match="more than 100 scans; save it as a plain one") as caught:
        read_picture(slow, 1.0)
    assert caught.value.status == 422
