from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damoyolo.data.resize import PAD, Resize, clip

SIDES = st.integers(1, 900)
SIZES = st.tuples(SIDES, SIDES)
RESIZES = st.builds(Resize, st.sampled_from(["stretch", "letterbox"]), SIZES)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(RESIZES, SIZES, st.integers(0, 2**32 - 1))
def test_invert_undoes_boxes(resize: Resize, original: tuple[int, int], seed: int) -> None:
    height, width = original
    boxes = np.random.default_rng(seed).uniform(0, (width, height, width, height), (5, 4)).astype(np.float32)
    resized = resize.boxes(boxes, original)
    np.testing.assert_allclose(resize.invert(resized, original), boxes, rtol=1e-6)
    np.testing.assert_array_equal(resized, clip(resized, resize.fitted(original)).clip(resized - 1e-3, None))


@given(RESIZES, SIZES)
def test_the_whole_image_lands_on_exactly_the_fitted_pixels(
    resize: Resize, original: tuple[int, int]
) -> None:
    height, width = original
    whole = np.array([[0, 0, width, height]], dtype=np.float32)
    fitted = resize.fitted(original)
    np.testing.assert_allclose(resize.boxes(whole, original)[0, 2:], fitted[::-1], rtol=1e-6)
    assert all(1 <= used <= side for used, side in zip(fitted, resize.size, strict=True))
    assert resize.rule == "letterbox" or fitted == resize.size


def test_stretch_is_the_bilinear_resize_of_opencv() -> None:
    image = picture(48, 64)
    np.testing.assert_array_equal(
        Resize("stretch", (96, 32)).image(image), cv2.resize(image, (32, 96), interpolation=cv2.INTER_LINEAR)
    )


def test_letterbox_keeps_the_ratio_at_the_top_left_and_pads_with_grey() -> None:
    image = picture(50, 100)
    out = Resize("letterbox", (64, 64)).image(image)
    assert out.shape == (64, 64, 3)
    np.testing.assert_array_equal(out[:32], cv2.resize(image, (64, 32)))
    assert (out[32:] == PAD).all()


@pytest.mark.parametrize("rule", ["stretch", "letterbox"])
def test_an_image_of_the_right_size_is_not_copied(rule: str) -> None:
    image = picture(32, 64)
    assert Resize(rule, (32, 64)).image(image) is image  # type: ignore[arg-type]


def test_clip_cuts_at_the_border_and_empties_what_is_outside() -> None:
    boxes = np.array([[-5, 2, 12, 40], [30, 30, 50, 50]], dtype=np.float32)
    np.testing.assert_array_equal(clip(boxes, (20, 10)), [[0, 2, 10, 20], [10, 20, 10, 20]])


def test_no_boxes_stay_no_boxes() -> None:
    none = np.zeros((0, 4), dtype=np.float32)
    resize = Resize("letterbox", (64, 64))
    assert resize.invert(resize.boxes(none, (10, 20)), (10, 20)).shape == (0, 4)


def test_resize_imports_no_torch() -> None:
    code = "import sys, damoyolo.data.resize; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
