from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import shared_data
from damoyolo.data.formats import read_coco
from damoyolo.data.likeness import (
    MOST_DIFFERENT,
    fingerprint,
    fingerprints,
    groups_of,
    near_pairs,
    recording,
)
from damoyolo.data.shapes import draw_shapes


def drawn(seed: int, size: int = 160) -> np.ndarray:
    return draw_shapes(np.random.default_rng(seed), size).image


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("IMG_8599_MOV-1.jpg", "IMG_8599_MOV"),
        ("street_mp4-12.png", "street_mp4"),
        ("cam2_frame_0012.jpg", "cam2_frame"),
        ("cat_jpg.rf.0a1b2c3d4e5f.jpg", "cat"),
        ("IMG_8599_MOV-1_jpg.rf.0a1b2c3d4e5f.jpg", "IMG_8599_MOV"),
        ("BloodImage_00001.jpg", None),
        ("frame_0001.jpg", None),
        ("IMG_8599.jpg", None),
    ],
)
def test_names_tell_of_videos_and_of_versions_of_a_photograph(name: str, expected: str | None) -> None:
    assert recording(Path("x") / name) == expected


def test_the_same_image_smaller_brighter_and_compressed_is_near_and_others_are_far() -> None:
    image = drawn(0)
    changed = cv2.resize(cv2.convertScaleAbs(image, alpha=0.8, beta=30), (120, 100))
    _, jpeg = cv2.imencode(".jpg", changed, [cv2.IMWRITE_JPEG_QUALITY, 40])
    changed = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), dtype=np.uint8)
    marks = [fingerprint(each) for each in (image, changed, drawn(1), drawn(2))]
    assert near_pairs(marks) == [(0, 1)]


def test_an_image_without_anything_to_see_is_like_no_other() -> None:
    flat = np.full((40, 40, 3), 128, dtype=np.uint8)
    assert fingerprint(flat) is None
    assert near_pairs([None, None]) == []


def test_groups_join_what_looks_alike_and_what_is_of_one_video(tmp_path: Path) -> None:
    names = ["a.png", "b.png", "v_MOV-0.png", "v_MOV-1.png", "broken.png"]
    paths = [tmp_path / name for name in names]
    for path, seed in zip(paths, (0, 0, 1, 0, 2), strict=True):
        cv2.imwrite(str(path), drawn(seed))
    paths[-1].write_bytes(b"no image")
    marks = fingerprints(paths)
    assert marks[-1] is None
    assert groups_of(paths, marks) == [[0, 1, 2, 3], [4]]


def test_a_changed_file_gets_a_new_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), drawn(0))
    (before,) = fingerprints([path])
    cv2.imwrite(str(path), drawn(1, 200))
    (after,) = fingerprints([path])
    assert before is not None
    assert after is not None
    assert (before != after).sum() > MOST_DIFFERENT


@pytest.mark.parametrize(("name", "near"), [("bccd", 1), ("aquarium", 5)])
def test_few_real_photographs_are_near_each_other(name: str, near: int) -> None:
    folder = shared_data(name)
    paths = [record.path for split in ("train", "val", "test") for record in read_coco(folder, split).records]
    assert len(near_pairs(fingerprints(paths))) == near
