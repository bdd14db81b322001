from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colour_model import colour_model, photo
from damoyolo.detections import Detections
from damoyolo.errors import UserError
from damoyolo.prediction import detect
from damoyolo.prediction.tiles import tiled, windows

SIDE, OVERLAP = 96, 24
SEEN = 16
"""A thing is seen that is at least this fraction of what is looked at."""

sizes = st.tuples(st.integers(1, 300), st.integers(1, 300))


def find_colours(images: list[np.ndarray]) -> list[Detections]:
    """Sees each colour exactly where it is, but nothing that is small in what it looks at."""
    found = []
    for image in images:
        boxes = []
        for colour in np.unique(image[..., 0][image[..., 0] > 0]):
            rows, columns = np.nonzero(image[..., 0] == colour)
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            if SEEN * max(box[2] - box[0], box[3] - box[1]) >= max(image.shape[:2]):
                boxes.append(box)
        count = len(boxes)
        array = np.array(boxes, np.float32).reshape(-1, 4)
        found.append(Detections(array, np.full(count, 0.9, np.float32), np.zeros(count, np.int64), ("it",)))
    return found


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, set[tuple[float, ...]]]:
    """An image with things of all sizes that do not touch each other, and where they are."""
    height, width = draw(st.integers(20, 380)), draw(st.integers(20, 380))
    image, truth = np.zeros((height, width, 3), np.uint8), set()
    for colour in range(1, draw(st.integers(1, 8)) + 1):
        wide, high = (draw(st.integers(8, max(8, side))) for side in (width, height))
        x, y = draw(st.integers(0, width)), draw(st.integers(0, height))
        box = (x, y, min(x + wide, width), min(y + high, height))
        place = image[max(0, y - 1) : box[3] + 1, max(0, x - 1) : box[2] + 1]
        if min(box[2] - x, box[3] - y) >= 8 and not place.any():
            image[y : box[3], x : box[2], 0] = colour
            truth.add(tuple(map(float, box)))
    return image, truth


@given(size=sizes, side=st.integers(16, 200), share=st.floats(0, 0.8))
def test_tiles_cover_the_image_stay_inside_and_are_no_larger(
    size: tuple[int, int], side: int, share: float
) -> None:
    seen = np.zeros(size, bool)
    for x1, y1, x2, y2 in windows(size, side, int(share * side)):
        assert 0 <= x1 < x2 <= size[1]
        assert 0 <= y1 < y2 <= size[0]
        assert max(x2 - x1, y2 - y1) <= side
        seen[y1:y2, x1:x2] = True
    assert seen.all()


@given(data=st.data(), size=sizes, side=st.integers(16, 200), share=st.floats(0.01, 0.8))
def test_what_is_no_larger_than_the_overlap_is_whole_in_a_tile(
    data: st.DataObject, size: tuple[int, int], side: int, share: float
) -> None:
    overlap = int(share * side)
    high, wide = (data.draw(st.integers(0, min(overlap, length))) for length in size)
    x, y = data.draw(st.integers(0, size[1] - wide)), data.draw(st.integers(0, size[0] - high))
    assert any(
        x1 <= x and x + wide <= x2 and y1 <= y and y + high <= y2
        for x1, y1, x2, y2 in windows(size, side, overlap)
    )


@given(scene=scenes(), batch_size=st.integers(1, 5))
@settings(max_examples=60)
def test_everything_is_found_once_and_whole(
    scene: tuple[np.ndarray, set[tuple[float, ...]]], batch_size: int
) -> None:
    image, truth = scene
    (found,) = tiled(find_colours, SIDE, overlap=OVERLAP / SIDE, batch_size=batch_size)([image])
    assert sorted(map(tuple, found.boxes.tolist())) == sorted(truth)


def test_what_is_too_small_for_one_look_is_found_in_a_tile() -> None:
    image = np.zeros((400, 600, 3), np.uint8)
    image[200:210, 300:310, 0] = 1
    assert len(find_colours([image])[0]) == 0
    (found,) = tiled(find_colours, SIDE)([image])
    assert found.boxes.tolist() == [[300, 200, 310, 210]]


def test_an_image_no_larger_than_a_tile_is_seen_once() -> None:
    looks: list[tuple[int, ...]] = []

    def find(images: list[np.ndarray]) -> list[Detections]:
        looks.extend(image.shape for image in images)
        return find_colours(images)

    tiled(find, 64)([np.zeros((64, 50, 3), np.uint8)])
    assert looks == [(64, 50, 3)]


def test_only_the_best_are_kept_best_first() -> None:
    image = np.zeros((64, 200, 3), np.uint8)
    for number in range(8):
        image[8:24, 24 * number : 24 * number + 16, 0] = number + 1

    def find(images: list[np.ndarray]) -> list[Detections]:
        found = find_colours(images)
        return [
            Detections(each.boxes, np.linspace(0.5, 0.9, len(each), dtype=np.float32), each.labels, ("it",))
            for each in found
        ]

    (found,) = tiled(find, 64, most=3)([image])
    assert len(found) == 3
    assert (np.diff(found.scores) <= 0).all()


def test_a_real_finder_works_on_tiles() -> None:
    model = colour_model(size=(96, 96))
    image = photo((192, 192), (136, 72, 144, 80))  # a cell of a tile, a quarter of one of the whole image
    assert len(detect(model, [image])[0]) == 0
    (found,) = tiled(lambda images: detect(model, images), 96, overlap=1 / 3)([image])
    assert found.boxes.tolist() == [[136, 72, 144, 80]]


@pytest.mark.parametrize(
    ("side", "input_size", "wanted"),
    [
        (100, (640, 320), "100 pixels are less than half of the network's 640"),
        (319, (640, 640), "show little; take 640"),
        (320, (640, 640), ""),
        (100, None, ""),
    ],
)
def test_tiles_much_smaller_than_the_input_are_told_of(
    side: int, input_size: tuple[int, int] | None, wanted: str
) -> None:
    told: list[str] = []
    tiled(find_colours, side, input_size=input_size, tell=told.append)
    assert len(told) == bool(wanted)
    assert wanted in "".join(told)


def test_very_many_tiles_are_told_of_once_with_a_side_that_gives_fewer() -> None:
    told: list[str] = []
    find = tiled(
        lambda images: [find_colours([np.zeros((1, 1, 3), np.uint8)])[0] for _ in images],
        32,
        tell=told.append,
    )
    find([np.zeros((400, 400, 3), np.uint8)])
    assert told == []
    large = np.zeros((480, 640, 3), np.uint8)
    find([large, large])
    find([large])
    assert told == [
        "tile: an image of 640 x 480 pixels gives 540 tiles of 32, and the network looks at each, "
        "which takes long; of 64 there are 130, in which things are half as large"
    ]


def test_of_very_many_tiles_the_overlap_is_blamed_where_it_is_unusual() -> None:
    told: list[str] = []
    nothing = find_colours([np.zeros((1, 1, 3), np.uint8)])
    tiled(lambda images: nothing * len(images), 64, overlap=0.9, tell=told.append)(
        [np.zeros((240, 320, 3), np.uint8)]
    )
    assert told[0].endswith("takes long; with --tile-overlap 0.25 there are 35")


@pytest.mark.parametrize(
    ("side", "overlap", "message"), [(8, 0.2, "tile: 8 "), (640, 0.95, "tile_overlap: 0.95")]
)
def test_tiles_that_make_no_sense_are_refused(side: int, overlap: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiled(find_colours, side, overlap=overlap)
