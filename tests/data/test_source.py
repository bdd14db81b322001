from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from damoyolo.data.dataset import Record
from damoyolo.data.images import read_image
from damoyolo.data.resize import Resize
from damoyolo.data.source import Source


@pytest.fixture
def record(tmp_path: Path) -> Record:
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), cv2.resize(noise, (400, 300)))
    return Record(1, path, 400, 300, np.array([[40, 30, 80, 60]], np.float32), np.array([3]))


@pytest.mark.parametrize("size", [(600, 500), (64, 96), (150, 500)])
def test_a_fitted_sample_is_what_the_network_would_see(record: Record, size: tuple[int, int]) -> None:
    for rule in ("stretch", "letterbox"):
        resize = Resize(rule, size)  # type: ignore[arg-type]
        sample = Source([record], 8).fitted(0, resize).resized(resize)
        np.testing.assert_array_equal(sample.image, resize.image(read_image(record.path)))
        np.testing.assert_array_equal(sample.boxes, resize.boxes(record.boxes, (300, 400)))


@pytest.mark.parametrize(
    ("size", "zoom", "kept"),
    [
        ((600, 800), 1.0, (300, 400)),  # there is no more
        ((300, 400), 0.51, (300, 400)),
        ((300, 400), 0.5, (150, 200)),
        ((300, 400), 0.1, (38, 50)),
        ((300, 400), 2.0, (300, 400)),
        ((100, 100), 1.0, (100, 100)),  # of 150 x 200
        ((200, 100), 1.0, (200, 100)),
    ],
)
def test_no_more_pixels_are_decoded_and_kept_than_are_shown(
    record: Record, size: tuple[int, int], zoom: float, kept: tuple[int, int]
) -> None:
    image = Source([record], 8).pixels(0, size, zoom)
    assert image.shape == (*kept, 3)
    whole = cv2.resize(read_image(record.path), kept[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(image.astype(int) - whole).mean() < 6


def test_what_comes_does_not_depend_on_what_was_asked_before(record: Record) -> None:
    asks = [((300, 400), 1.0), ((300, 400), 0.3), ((64, 64), 1.0), ((300, 400), 0.1)]
    expected = [Source([record], 0).pixels(0, *ask) for ask in asks]
    for order in (range(4), reversed(range(4))):
        source = Source([record], 8)
        for number in order:
            np.testing.assert_array_equal(source.pixels(0, *asks[number]), expected[number])
