"""Changes to single boxes of an image: scale-aware AutoAugment (SADA, arXiv 2103.17220, in DAMO-YOLO's form).

A policy is a colour operation, which changes boxes and their surroundings, and a geometric one, which
mirrors, turns, shears or copies what is in them. Either fades out from the middle of a box by a Gaussian.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from damoyolo.data.blending import blend, cut, gaussians
from damoyolo.data.box_colour import COLOUR_OPS
from damoyolo.data.box_geometry import change_geometry
from damoyolo.data.resize import Size
from damoyolo.data.sample import Sample

REFERENCE_SIDE_PX = 800

Shares = tuple[float, float, float]
"""One value each for small, medium and large boxes."""


@dataclass(frozen=True)
class Policy:
    """A colour and a geometric operation: name, chance at the end of the ramp, level 0..10."""

    colour: str
    colour_chance: float
    colour_level: int
    geometry: str
    geometry_chance: float
    geometry_level: int


@dataclass(frozen=True)
class Bands:
    """What depends on the area of a box.

    Args:
        limits: areas in px² where medium, large and the largest boxes begin in an image whose shorter side
            is 800 px; they grow linearly with that side.
        colour_shares: how often boxes are selected for colours, relative to each other.
        geometry_shares: likewise for geometric operations.
        spreads: area of the Gaussian relative to the box, for boxes of a band's typical area.
    """

    limits: tuple[float, float, float]
    colour_shares: Shares
    geometry_shares: Shares
    spreads: Shares

    def scaled_limits(self, size: Size) -> list[float]:
        """The limits in an image of that size."""
        return [limit * min(size) / REFERENCE_SIDE_PX for limit in self.limits]

    def chances(self, areas: Sequence[float], shares: Shares, size: Size) -> list[float]:
        """The share of each box's band in all bands; 0 for an empty box."""
        small, medium, _ = self.scaled_limits(size)
        bands = [(area >= small) + (area >= medium) for area in areas]
        return [shares[band] / sum(shares) * (area > 0) for band, area in zip(bands, areas, strict=True)]

    def spread(self, area: float, size: Size) -> float:
        """Area of the Gaussian around a box of that area, relative to the box."""
        small, medium, large = self.scaled_limits(size)
        if area < small:
            return self.spreads[0] * small / area
        if area < medium:
            return self.spreads[1] * (small + medium) / 2 / area
        return self.spreads[2] * max(1.0, large / area)


POLICIES = (
    Policy("colour", 0.4, 2, "translate_x", 0.4, 4),
    Policy("brightness", 0.2, 4, "rotate", 0.4, 2),
    Policy("sharpness", 0.4, 2, "shear_x", 0.2, 6),
    Policy("solarize_add", 0.2, 2, "mirror", 0.5, 1),
    Policy("colour", 0.0, 8, "translate_y", 0.2, 8),
)
"""What the search of DAMO-YOLO's authors found."""
BANDS = Bands(
    limits=(2048.0, 10240.0, 51200.0),
    colour_shares=(7.0, 5.0, 1.0),
    geometry_shares=(3.0, 3.0, 3.0),
    spreads=(6.0, 2.0, 0.4),
)
"""Likewise; its colour shares are the places of the spreads in a list that was searched."""


@dataclass(frozen=True)
class BoxAugment:
    """One random policy per image, applied to some of its boxes.

    Args:
        chance: of a box to be selected, before the shares of the bands.
        clip: copies are cut at the image border and boxed where they are seen, empty ones left out. Without,
            the original's behaviour: the boxes stick out, and what is cut off is always right and bottom.
        plain: whether plain samples, those of a run's last phase, are changed too.
        policies: what to choose from.
        bands: what depends on the area.
    """

    chance: float
    clip: bool = True
    plain: bool = False
    policies: tuple[Policy, ...] = POLICIES
    bands: Bands = BANDS

    def __call__(self, sample: Sample, progress: float, rng: Random) -> Sample:
        """The sample with some boxes changed and copies of boxes appended.

        The chances of a policy's operations grow with `progress`, the share of the run that is over.
        """
        policy = rng.choice(self.policies)
        if rng.random() < policy.colour_chance * progress:
            chosen = self._select(sample, self.bands.colour_shares, rng)
            sample = self._change_colour(sample, chosen, policy)
        if rng.random() < policy.geometry_chance * progress:
            chosen = self._select(sample, self.bands.geometry_shares, rng)
            if chosen:
                sample = change_geometry(
                    sample, chosen, policy.geometry, policy.geometry_level, rng, clip_copies=self.clip
                )
        return sample

    def _select(self, sample: Sample, shares: Shares, rng: Random) -> list[int]:
        """Positions of the boxes that are changed."""
        chances = self.bands.chances(_areas(sample), shares, sample.size)
        return [number for number, chance in enumerate(chances) if rng.random() < self.chance * chance]

    def _change_colour(self, sample: Sample, chosen: Sequence[int], policy: Policy) -> Sample:
        if not chosen:
            return sample
        areas, boxes = _areas(sample), sample.boxes.tolist()
        spreads = [self.bands.spread(areas[number], sample.size) for number in chosen]
        weights, window = gaussians([boxes[number] for number in chosen], spreads, sample.size)
        changed = COLOUR_OPS[policy.colour](sample.image, window, policy.colour_level)
        image = sample.image.copy()
        blend(cut(image, window), np.rint(changed).astype(np.uint8), weights)
        return replace(sample, image=image)


def _areas(sample: Sample) -> list[float]:
    areas: list[float] = (sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(axis=1).tolist()
    return areas
