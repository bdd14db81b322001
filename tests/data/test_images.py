from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from damoyolo.data.images import ImageCache, check_image, read_image, read_sized
from damoyolo.errors import UserError

ROTATED = Image.Exif()
ROTATED[0x0112] = 6  # "turn by 90 degrees clockwise to view"


def picture(height: int = 40, width: int = 60) -> np.ndarray:
    """Four areas of one colour each, so that a lossy file keeps their insides."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[..., 0] = 200
    image[: height // 2, :, 1] = 100
    image[:, : width // 2, 2] = 50
    return image


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_a_lossless_file_gives_its_rgb_values(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(picture()), **options)
    np.testing.assert_array_equal(read_image(path), picture())


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_becomes_the_rgb_that_pillow_sees(tmp_path: Path, suffix: str) -> None:
    options = {"quality": 98} if suffix == "jpg" else {}
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(picture()).convert("CMYK"), **options)
    assert np.abs(read_image(path)[5::30, 5::30].astype(int) - picture()[5::30, 5::30]).max() <= 3


def test_grey_is_repeated_in_three_channels(tmp_path: Path) -> None:
    grey = picture()[..., 1]
    image = read_image(save(tmp_path / "a.png", Image.fromarray(grey)))
    np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, axis=2))


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    grey = picture()[..., 1]
    image = read_image(save(tmp_path / "a.png", Image.fromarray(grey.astype(np.uint16) * 257)))
    np.testing.assert_array_equal(image[..., 0], grey)


def test_alpha_is_dropped_and_does_not_blacken(tmp_path: Path) -> None:
    rgba = np.dstack([picture(), np.zeros((40, 60), dtype=np.uint8)])
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", Image.fromarray(rgba))), picture())


def test_a_palette_and_one_bit_images_are_read(tmp_path: Path) -> None:
    assert read_image(save(tmp_path / "p.gif", Image.fromarray(picture()).convert("P"))).shape == (40, 60, 3)
    bits = read_image(save(tmp_path / "b.png", Image.fromarray(picture()[..., 1] > 0)))
    assert set(np.unique(bits)) == {0, 255}


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_turns_the_image_upright_unless_told_not_to(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(picture()), exif=ROTATED)
    upright = np.rot90(picture(), -1)
    assert np.abs(read_image(path)[8::25, 5::25].astype(int) - upright[8::25, 5::25]).max() < 9
    assert read_image(path, upright=False).shape == (40, 60, 3)


def jpeg_with_thumbnail() -> bytes:
    """A JPEG whose EXIF data hold a small JPEG, with an end marker of its own, before the first scan."""
    outer, inner = io.BytesIO(), io.BytesIO()
    Image.fromarray(picture(8, 8)).save(inner, "JPEG")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(outer, "JPEG", exif=b"Exif\0\0" + inner.getvalue())
    return outer.getvalue()


@pytest.mark.parametrize("share", [0.3, 0.7, 0.999])
def test_a_truncated_jpeg_is_noticed_even_with_a_whole_thumbnail(tmp_path: Path, share: float) -> None:
    data = jpeg_with_thumbnail()
    path = tmp_path / "cut.jpg"
    path.write_bytes(data)
    assert read_image(path).shape == (64, 64, 3)
    path.write_bytes(data[: 1000 + int(share * (len(data) - 1000))])
    for read in (read_image, lambda file: check_image(file, (64, 64))):
        with pytest.raises(UserError, match=r"cut\.jpg: is truncated"):
            read(path)


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "gif"])
def test_other_truncated_files_are_noticed(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"cut.{suffix}", Image.fromarray(picture()))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=rf"cut\.{suffix}: .*replace the file"):
        read_image(path)


def test_bytes_after_the_end_of_a_jpeg_do_no_harm(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(picture()))
    path.write_bytes(path.read_bytes() + b"a video follows" * 500)
    assert read_image(path).shape == (40, 60, 3)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\nIEND"])
def test_what_is_not_an_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"odd\.jpg: is .*replace the file"):
        read_image(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.jpg: cannot be read \(No such file"):
        read_image(tmp_path / "gone.jpg")
    with pytest.raises(UserError, match="cannot be read"):
        read_image(tmp_path)


def test_annotations_of_the_unturned_image_get_the_unturned_image(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(picture()), exif=ROTATED)
    np.testing.assert_array_equal(read_sized(path, (40, 60)), picture())
    np.testing.assert_array_equal(read_sized(path, (60, 40)), np.rot90(picture(), -1))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_wrong_size_names_both(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(picture()))
    check_image(path, (40, 60))
    for read in (read_sized, check_image):
        with pytest.raises(UserError, match=r"is 60 x 40 pixels but its annotations say 40 x 60"):
            read(path, (60, 40))


def test_the_check_accepts_turned_jpegs_in_either_frame(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(picture()), exif=ROTATED)
    check_image(path, (40, 60))
    check_image(path, (60, 40))


def test_the_cache_makes_each_image_once_while_there_is_room() -> None:
    cache, made = ImageCache(limit_mb=3), []

    def make(key: int) -> np.ndarray:
        made.append(key)
        return np.full((2**20 // 3, 1, 3), key, dtype=np.uint8)

    for key in (0, 1, 2, 0, 3, 0, 1):  # 1 was the least recently used when 3 came
        assert cache.get(key, lambda key=key: make(key))[0, 0, 0] == key
    assert made == [0, 1, 2, 3, 1]


def test_a_cache_without_room_still_serves() -> None:
    cache, made = ImageCache(limit_mb=0), []
    for _ in range(2):
        assert cache.get("a", lambda: made.append(1) or picture()).shape == (40, 60, 3)  # type: ignore[func-returns-value]
    assert len(made) == 2


def test_cached_images_cannot_be_written() -> None:
    image = ImageCache(limit_mb=1).get("a", picture)
    with pytest.raises(ValueError, match="read-only"):
        image[0] = 0


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("divisor", [2, 4, 8])
def test_a_fraction_of_an_image_is_read_in_the_frame_of_its_annotations(
    tmp_path: Path, suffix: str, divisor: int
) -> None:
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(picture(81, 130)), exif=ROTATED)
    for size in ((81, 130), (130, 81)):
        whole, part = read_sized(path, size), read_sized(path, size, divisor)
        assert all(abs(a - b / divisor) < 1 for a, b in zip(part.shape[:2], size, strict=True))
        smaller = cv2.resize(whole, part.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(part.astype(int) - smaller).mean() < 8


def test_a_fraction_that_could_not_tell_the_frames_apart_is_not_taken(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(picture(80, 83)), exif=ROTATED)
    for size in ((80, 83), (83, 80)):
        np.testing.assert_array_equal(read_sized(path, size, 8), read_sized(path, size))


def test_a_wrong_size_is_named_whatever_the_fraction(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(picture()))
    with pytest.raises(UserError, match=r"is 60 x 40 pixels but its annotations say 40 x 60"):
        read_sized(path, (60, 40), 4)
