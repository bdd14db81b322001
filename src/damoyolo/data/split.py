"""Training and validation images drawn by a seed, with near-duplicates on one side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from damoyolo.data.likeness import fingerprints, groups_of
from damoyolo.errors import UserError

VAL_SHARE = 0.2
"""Of the images, for validation."""


def draw_val(paths: Sequence[Path], seed: int = 0) -> list[bool]:
    """Which images are for validation: whole groups of near-duplicates, about `VAL_SHARE` of all.

    The same for the same files in the same order and seed. Frames of one video, versions of one photograph
    and images that look alike are a group.

    Raises:
        UserError: if all images are one group.
    """
    groups = groups_of(paths, fingerprints(paths))
    if len(groups) < 2:
        raise UserError(_why_undivided(paths))
    order = np.random.default_rng(seed).permutation(len(groups))
    room = max(1, round(VAL_SHARE * len(paths)))
    chosen: set[int] = set()
    for number in order:
        if len(groups[number]) <= room - len(chosen):
            chosen.update(groups[number])
    if not chosen:
        smallest: list[int] = min(groups, key=len)
        chosen.update(smallest)
    return [index in chosen for index in range(len(paths))]


def _why_undivided(paths: Sequence[Path]) -> str:
    if not paths:
        return "there is no val, and no image to draw it from; add images"
    if len(paths) == 1:
        return f"{paths[0].parent}: there is no val, and one image cannot be divided; add images"
    return (
        f"{paths[0].parent}: there is no val, and its {len(paths)} images cannot be divided because all are "
        "frames of one video or look alike; add images of other places, or choose val yourself"
    )
