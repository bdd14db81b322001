from __future__ import annotations

import importlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from damoyolo.detections import Detections
from damoyolo.errors import UserError
from damoyolo.prediction import Tracker
from damoyolo.prediction.tracking import LOST_S, NO_ID, Tracked

Thing = tuple[float, float, float, int]
"""The left of a box of 40 x 80, its top, its score, its class."""


def seen(*things: Thing) -> Detections:
    boxes = [(x, y, x + 40, y + 80) for x, y, _, _ in things]
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([thing[2] for thing in things], np.float32),
        np.array([thing[3] for thing in things], np.int64),
        ("person", "dog"),
    )


def tracked(frames: Sequence[Detections], rate: float = 10.0) -> list[Tracked]:
    tracker = Tracker(0.4, rate)
    return [tracker.update(found, number / rate) for number, found in enumerate(frames)]


def ids(frames: Sequence[Detections], rate: float = 10.0) -> list[list[int]]:
    return [each.ids.tolist() for each in tracked(frames, rate)]


def test_a_thing_keeps_its_number_from_its_second_frame_on() -> None:
    assert ids([seen((10 * n, 50, 0.9, 0)) for n in range(6)]) == [[NO_ID], *[[1]] * 5]


@given(
    starts=st.lists(
        st.tuples(st.integers(0, 3), st.integers(-8, 8)), min_size=1, max_size=4, unique_by=lambda s: s[0]
    ),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=40)
def test_things_far_apart_are_never_mixed_up_in_whatever_order_they_come(
    starts: list[tuple[int, int]], order: object
) -> None:
    numbers: dict[int, set[int]] = {}
    tracker = Tracker(0.4, 10.0)
    for frame in range(8):
        lanes = list(starts)
        order.shuffle(lanes)
        found = seen(*[(200 + speed * frame, 200 * lane, 0.9, 0) for lane, speed in lanes])
        result = tracker.update(found, frame / 10)
        assert np.array_equal(result.detections.boxes, found.boxes)
        for (lane, _), number in zip(lanes, result.ids.tolist(), strict=True):
            if frame:
                numbers.setdefault(lane, set()).add(number)
    assert all(len(each) == 1 for each in numbers.values())
    assert len(set.union(*numbers.values())) == len(starts)


def test_two_that_pass_each_other_keep_their_numbers() -> None:
    frames = [seen((12 * n, 50, 0.9, 0), (300 - 12 * n, 70, 0.9, 0)) for n in range(26)]
    assert ids(frames)[1:] == [[1, 2]] * 25


def test_one_that_goes_leaves_the_numbers_of_others_alone() -> None:
    both = seen((0, 0, 0.9, 0), (200, 0, 0.9, 0))
    assert ids([both, both, seen((200, 0, 0.9, 0)), both]) == [[NO_ID, NO_ID], [1, 2], [2], [1, 2]]


def test_a_thing_that_is_seen_badly_for_a_while_goes_on() -> None:
    scores = [0.9, 0.9, 0.9, 0.2, 0.15, 0.9]
    assert ids([seen((10 * n, 50, score, 0)) for n, score in enumerate(scores)]) == [[NO_ID], *[[1]] * 5]


def test_unsure_boxes_of_nothing_known_are_left_out() -> None:
    assert ids([seen((10, 50, 0.3, 0)) for _ in range(4)]) == [[]] * 4


def test_what_is_seen_only_once_gets_no_number() -> None:
    frames = [seen((0, 0, 0.9, 0)), seen(), seen((0, 0, 0.9, 0)), seen((0, 0, 0.9, 0))]
    assert ids(frames) == [[NO_ID], [], [NO_ID], [1]]


@pytest.mark.parametrize(("gap_s", "number"), [(LOST_S - 0.3, 1), (LOST_S + 0.3, NO_ID)])
@pytest.mark.parametrize("rate", [10.0, 30.0])
def test_a_hidden_thing_is_known_again_where_it_is_expected(gap_s: float, number: int, rate: float) -> None:
    gap = round(gap_s * rate)
    walk = [seen((200 * n / rate, 50, 0.9, 0)) for n in range(round(rate) + gap + 1)]
    hidden = [seen()] * gap
    frames = [*walk[: round(rate)], *hidden, walk[-1]]
    assert ids(frames, rate)[-1] == [number]


def test_classes_are_tracked_apart() -> None:
    frames = [seen((10, 50, 0.9, 0), (12, 52, 0.8, 1)), seen((12, 52, 0.8, 1), (10, 50, 0.9, 0))]
    first, second = tracked([*frames, frames[0]])[1:]
    assert dict(zip(second.detections.names, second.ids.tolist(), strict=True)) == {"person": 1, "dog": 2}
    assert first.ids.tolist() == [2, 1]


@given(shift=st.floats(-500, 500), zoom=st.sampled_from([0.5, 2.0, 4.0]))
@settings(max_examples=20)
def test_where_and_how_large_the_picture_is_makes_no_difference(shift: float, zoom: float) -> None:
    random = np.random.default_rng(0)
    frames = []
    for n in range(12):
        jitter = random.normal(0, 3, (3, 2))
        frames.append(
            seen(*[(100 * k + 12 * n + jitter[k, 0], 60 * k + jitter[k, 1], 0.9, 0) for k in range(3)])
        )
    moved = [
        Detections(
            ((each.boxes + shift) * zoom).astype(np.float32), each.scores, each.labels, each.class_names
        )
        for each in frames
    ]
    assert ids(moved) == ids(frames)


def test_a_fast_walk_in_a_slow_video_is_one_thing() -> None:
    frames = [seen((28 * n, 50, 0.9, 0)) for n in range(8)]  # a box of 40 moves by 28 each frame
    assert ids(frames, rate=5.0)[1:] == [[1]] * 7


def test_uneven_times_are_allowed_for() -> None:
    tracker, numbers = Tracker(0.4, 10.0), []
    for time_s in (
        0.0,
        0.1,
        0.2,
        0.3,
        0.7,
        0.8,
    ):  # 100 px a second: over the gap the thing moves its own width
        numbers.append(tracker.update(seen((100 * time_s, 50, 0.9, 0)), time_s).ids.tolist())
    assert numbers[1:] == [[1]] * 5


def test_without_scipy_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, package: str | None = None) -> object:
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"tracking needs scipy .*pip install 'damoyolo\[track\]'"):
        Tracker(0.4, 10.0)
