from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colour_model import colour_model, photo, write
from damoyolo.errors import UserError
from damoyolo.prediction import detect, predict


@given(
    row=st.integers(0, 7),
    column=st.integers(0, 11),
    zoom=st.tuples(st.sampled_from([1, 2, 3]), st.integers(1, 3)),
)
@settings(max_examples=20, deadline=None)
def test_boxes_come_back_in_pixels_of_the_original(row: int, column: int, zoom: tuple[int, int]) -> None:
    down, across = zoom
    box = (column * 8 * across, row * 8 * down, (column + 1) * 8 * across, (row + 1) * 8 * down)
    (found,) = detect(colour_model(), [photo((64 * down, 96 * across), box)])
    assert found.names == ["red"]
    np.testing.assert_allclose(found.boxes, [box], atol=1e-2)
    assert found.scores[0] > 0.99


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (128, 96), (64, 20)])
def test_a_letterbox_is_undone_and_nothing_is_found_in_its_padding(size: tuple[int, int]) -> None:
    height, width = size
    (found,) = detect(colour_model("letterbox"), [photo(size, (0, 0, width, height))])
    assert set(found.names) == {"red"}
    assert (found.boxes >= 0).all()
    assert (found.boxes <= (width, height, width, height)).all()
    cell = 8 / min(64 / height, 96 / width)
    np.testing.assert_allclose(found.boxes[0], (0, 0, cell, cell), atol=0.2)


def test_a_batch_of_different_sizes_gives_what_each_image_gives_alone() -> None:
    model = colour_model()
    images = [
        photo((64, 96), (0, 0, 40, 40)),
        photo((128, 192), (64, 64, 128, 96)),
        photo((33, 50), (0, 0, 1, 1)),
    ]
    together = detect(model, images)
    for image, found in zip(images, together, strict=True):
        (alone,) = detect(model, [image])
        assert np.array_equal(found.boxes, alone.boxes)
    assert [len(each) > 0 for each in together] == [True, True, False]


def test_the_options_reach_the_selection() -> None:
    model, image = colour_model(), photo((64, 96), (0, 0, 96, 64))
    assert len(detect(model, [image])[0]) == 8 * 12
    assert len(detect(model, [image], max_detections=5)[0]) == 5
    assert len(detect(model, [image], score=0.9999)[0]) == 0


def test_no_images_give_no_detections() -> None:
    assert detect(colour_model(), []) == []


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(UserError, match=r"call model\.eval\(\)"):
        detect(colour_model().train(), [photo((64, 96), (0, 0, 8, 8))])


def test_one_image_may_be_a_file_or_pixels(tmp_path: Path) -> None:
    image = photo((64, 96), (8, 16, 16, 24))
    from_file = predict(colour_model(), write(tmp_path / "a.png", image))
    assert from_file.boxes.tolist() == predict(colour_model(), image).boxes.tolist() == [[8, 16, 16, 24]]
