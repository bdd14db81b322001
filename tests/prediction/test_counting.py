from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from damoyolo.detections import Detections
from damoyolo.errors import UserError
from damoyolo.prediction.counting import FORGET_S, Line, Zone, check_inside, read_line, read_zone
from damoyolo.prediction.tracking import NO_ID, Tracked

Place = tuple[float, float]


def tracked(*things: tuple[Place, int], label: int = 0) -> Tracked:
    """Boxes of 20 x 20 around places, with numbers."""
    boxes = [(x - 10, y - 10, x + 10, y + 10) for (x, y), _ in things]
    count = len(things)
    found = Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.ones(count, np.float32),
        np.full(count, label, np.int64),
        ("person", "dog"),
    )
    return Tracked(found, np.array([number for _, number in things], np.int64))


def walk(counting: Line | Zone, places: Sequence[Place], number: int = 1, label: int = 0) -> None:
    for second, place in enumerate(places):
        counting.update(tracked((place, number), label=label), float(second))


def test_crossings_are_counted_by_class_and_side() -> None:
    line = read_line("0,100,200,100")  # to the right; who goes down goes to its right
    walk(line, [(50, 80), (50, 120)])
    walk(line, [(90, 80), (90, 95), (90, 130)], number=2, label=1)
    walk(line, [(50, 130), (50, 70)], number=3)
    assert line.to_record() == {
        "line": [0, 100, 200, 100],
        "to_left": {"person": 1},
        "to_right": {"person": 1, "dog": 1},
    }


def test_there_and_back_counts_on_both_sides() -> None:
    line = read_line("0,100,200,100")
    walk(line, [(50, 80), (50, 120), (50, 80), (50, 120)])
    assert (line.to_left["person"], line.to_right["person"]) == (1, 2)


def test_who_trembles_on_the_line_is_not_counted() -> None:
    line = read_line("0,100,200,100")
    walk(line, [(50, 80), *[(50, 100.5), (50, 99.5)] * 10, (50, 80)])
    assert not line.to_left
    assert not line.to_right


def test_who_passes_beside_the_line_is_not_counted() -> None:
    line = read_line("0,100,200,100")
    walk(line, [(250, 80), (250, 120)])
    assert not line.to_right


def test_what_has_no_number_is_not_counted() -> None:
    line, zone = read_line("0,100,200,100"), read_zone("0,0,200,0,200,200")
    for each in (line, zone):
        walk(each, [(50, 40), (50, 120)], number=NO_ID)
        assert "person" not in str(each.to_record())


@given(
    places=st.lists(st.tuples(st.floats(0, 200), st.floats(0, 200)), min_size=2, max_size=12),
    angle=st.sampled_from([0, 1, 2, 3]),
)
def test_a_line_turned_round_swaps_its_sides_and_crossings_alternate(places: list[Place], angle: int) -> None:
    ends = [(0.0, 100.0), (200.0, 100.0), (100.0, 0.0), (100.0, 200.0)]
    start, end = ends[angle], ends[angle ^ 1]
    one, other = Line(start, end), Line(end, start)
    walk(one, places)
    walk(other, places)
    assert (one.to_left, one.to_right) == (other.to_right, other.to_left)
    assert abs(one.to_left["person"] - one.to_right["person"]) <= 1  # the line divides all of the place


def test_a_zone_knows_who_is_and_who_ever_was_there() -> None:
    zone = read_zone("0,0,100,0,100,100,0,100")
    zone.update(tracked(((50, 50), 1), ((150, 50), 2)), 0.0)
    assert zone.to_record() == {
        "zone": [0, 0, 100, 0, 100, 100, 0, 100],
        "now": {"person": 1},
        "ever": {"person": 1},
    }
    zone.update(tracked(((150, 50), 1), ((50, 50), 2)), 1.0)
    zone.update(tracked(((50, 50), 1), ((60, 50), 2)), 2.0)
    assert (zone.now["person"], zone.ever["person"]) == (2, 2)
    zone.update(tracked(), 3.0)
    assert zone.to_record()["now"] == {}


def test_numbers_of_those_long_gone_are_forgotten() -> None:
    line, zone = read_line("0,100,200,100"), read_zone("0,0,100,0,100,100")
    for time_s, number in ((0.0, 1), (FORGET_S + 1, 2)):
        for each in (line, zone):
            each.update(tracked(((60, 30), number)), time_s)
        assert list(line._places) == list(zone._known) == [number]


@pytest.mark.parametrize(
    ("counting", "inside"),
    [
        (read_line("10,10,90,40"), True),
        (read_line("-50,25,500,25"), True),  # both ends outside
        (read_line("90,-20,105,20"), True),  # over a corner
        (read_line("100,0,100,50"), False),  # along the border, which no middle crosses
        (read_line("90,-30,120,-10"), False),
        (read_line("95,-20,130,20"), False),  # past a corner
        (read_line("320,480,320,0"), False),
        (read_zone("-10,-10,20,-10,20,20"), True),
        (read_zone("-10,-10,900,-10,900,900,-10,900"), True),  # around all of it
        (read_zone("110,0,300,0,300,300"), False),
        (read_zone("-30,-30,200,-30,200,80,190,80,190,-20,-30,-20"), False),  # around a corner of it
    ],
)
def test_a_line_or_zone_must_have_something_in_the_picture(counting: Line | Zone, inside: bool) -> None:
    if inside:
        check_inside(counting, (50, 100), "a.mp4")
        return
    with pytest.raises(
        UserError, match=r"^count_.*: no part of .* is inside a.mp4, which has 100 x 50 pixels; give"
    ):
        check_inside(counting, (50, 100), "a.mp4")


@pytest.mark.parametrize(
    "text", ["", "1,2", "1,2,3", "1,2,3,x", "1,2,1,2", "1,2,3,4,5,6", "inf,0,inf,50", "nan,1,2,3"]
)
def test_what_is_no_line_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^count_line: .*x1,y1,x2,y2"):
        read_line(text)


@pytest.mark.parametrize("text", ["1,2,3,4", "1,2,3,4,5", "1,2,3,4,1,2", "0,0,10,10,20,20"])
def test_what_is_no_zone_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^count_zone: .*x1,y1,x2,y2,x3,y3"):
        read_zone(text)
