from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from damoyolo.data.image_files import images_in, read_size, read_sizes
from damoyolo.data.images import read_image
from damoyolo.errors import UserError


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.webp", "a.tif"])
def test_sizes_are_read_from_headers(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / name)
    assert read_size(tmp_path / name) == (20, 30)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_upright_image(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert read_size(tmp_path / "a.jpg") == read_image(tmp_path / "a.jpg").shape[:2]


def test_what_is_no_image_is_explained_one_by_one(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 6, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"text")
    good, bad, gone = read_sizes([tmp_path / name for name in ("a.png", "b.png", "c.png")])
    assert good == (4, 6)
    assert isinstance(bad, UserError)
    assert "b.png: is not an image" in str(bad)
    assert "c.png: cannot be read" in str(gone)


def test_images_are_found_below_a_folder_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/c.png", ".b.jpg", "b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert images_in(tmp_path) == [tmp_path / "a" / "c.png", tmp_path / "b.JPG"]
