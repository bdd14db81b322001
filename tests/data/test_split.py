from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import shared_data
from damoyolo.data.formats import read_coco
from damoyolo.data.likeness import recording
from damoyolo.data.split import draw_val
from damoyolo.errors import UserError


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=12), st.integers(0, 9))
def test_groups_stay_whole_and_about_a_fifth_is_drawn(sizes: list[int], seed: int) -> None:
    paths = [
        Path(f"nowhere/{group}_MOV-{number}.jpg")
        for group, size in enumerate(sizes)
        for number in range(size)
    ]
    chosen = draw_val(paths, seed)
    assert draw_val(paths, seed) == chosen
    sides: dict[str | None, set[bool]] = {}
    for path, is_val in zip(paths, chosen, strict=True):
        sides.setdefault(recording(path), set()).add(is_val)
    assert all(len(each) == 1 for each in sides.values())
    assert 1 <= sum(chosen) <= max(round(0.2 * len(paths)), min(sizes))
    assert sum(chosen) < len(paths)


def test_images_that_are_all_alike_cannot_be_divided(tmp_path: Path) -> None:
    paths = [tmp_path / f"v_MOV-{number}.png" for number in range(5)]
    with pytest.raises(UserError, match="there is no val, and its 5 images cannot be divided"):
        draw_val(paths)
    with pytest.raises(UserError, match="no image to draw it from"):
        draw_val([])


def test_no_video_of_the_aquarium_is_on_both_sides() -> None:
    paths = [record.path for record in read_coco(shared_data("aquarium"), "train").records]
    chosen = draw_val(paths)
    sides = [
        {recording(path) for path, is_val in zip(paths, chosen, strict=True) if is_val == side} - {None}
        for side in (True, False)
    ]
    assert not sides[0] & sides[1]
    assert all(sides)
    assert sum(chosen) == round(0.2 * len(paths))


def test_one_image_is_told_as_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no val, and one image cannot be divided; add images"):
        draw_val([tmp_path / "a.png"])
