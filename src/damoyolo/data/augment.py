"""Random changes that make one training sample out of several images; every draw is from the given `rng`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import cv2
import numpy as np
from jaxtyping import UInt8

from damoyolo.data.affine import affine_matrix, still_visible, transform_boxes, warp
from damoyolo.data.mosaic import mosaic
from damoyolo.data.resize import Resize, clip
from damoyolo.data.sample import Sample
from damoyolo.data.source import Source

MIXUP_TRIES = 20


@dataclass(frozen=True)
class Augment:
    """How training samples are made; the fields are those of `config.AugmentConfig`.

    `mosaic_size` is the side in pixels of the square a mosaic is made at.
    """

    mosaic: float
    mosaic_size: int
    mixup: float
    mixup_scale: tuple[float, float]
    degrees: float
    translate: float
    scale: tuple[float, float]
    shear: float
    flip: float
    flip_vertical: float
    hue: float
    saturation: float
    value: float

    def __call__(self, index: int, source: Source, resize: Resize, rng: Random) -> Sample:
        """Image `index` in a mosaic of `mosaic_size`, or else alone at the fitted size of `resize`."""
        if rng.random() >= self.mosaic:
            return source.fitted(index, resize)
        sample = self._mosaic(index, source, resize, rng)
        if len(sample.labels) and rng.random() < self.mixup:
            other = _random_labelled(source, rng)
            sample = sample if other is None else mixup(sample, other, rng, self.mixup_scale)
        return sample

    def finish(self, sample: Sample, rng: Random) -> Sample:
        """Mirror images and colours: what remains of augmentation in the last epochs, too."""
        if rng.random() < self.flip:
            sample = mirror(sample)
        if rng.random() < self.flip_vertical:
            sample = mirror(sample, vertical=True)
        if self.hue or self.saturation or self.value:
            hue, saturation, value = (
                rng.uniform(-most, most) for most in (self.hue, self.saturation, self.value)
            )
            sample = replace(sample, image=shift_colour(sample.image, hue, saturation, value))
        return sample

    def _mosaic(self, index: int, source: Source, resize: Resize, rng: Random) -> Sample:
        side = self.mosaic_size
        y = int(rng.uniform(0.5 * side, 1.5 * side))
        x = int(rng.uniform(0.5 * side, 1.5 * side))
        tile = Resize(resize.rule, (side, side))
        indices = [index, *(rng.randrange(len(source)) for _ in range(3))]
        canvas = mosaic([source.fitted(each, tile) for each in indices], side, (x, y))
        matrix, zoom = affine_matrix(
            rng, 2 * side, side, self.degrees, self.translate, self.scale, self.shear
        )
        boxes = transform_boxes(canvas.boxes, matrix, side)
        moved = replace(canvas, image=warp(canvas.image, matrix, side), boxes=boxes.astype(np.float32))
        return moved.select(still_visible(canvas.boxes, boxes, zoom))


def mixup(base: Sample, other: Sample, rng: Random, scale: tuple[float, float]) -> Sample:
    """A square sample, half transparent over a part of another one; the boxes of both (arXiv 1710.09412).

    `other` is letterboxed to the side of `base`, zoomed by a factor in `scale`, mirrored half of the time,
    and cropped at random or padded with black to that side again. Its boxes may become empty.
    """
    side = base.size[0]
    length = max(1, int(side * rng.uniform(*scale)))
    other = other.resized(Resize("letterbox", (side, side))).resized(Resize("stretch", (length, length)))
    if rng.random() > 0.5:
        other = mirror(other)
    excess = max(0, length - side)
    top, left = (rng.randrange(excess) if excess else 0 for _ in range(2))
    missing = max(0, side - length)
    crop = other.image[top : top + side, left : left + side]
    if missing:
        crop = cv2.copyMakeBorder(crop, 0, missing, 0, missing, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    boxes = clip(other.boxes - np.array([left, top, left, top], dtype=np.float32), (side, side))
    return replace(
        base,
        image=cv2.addWeighted(base.image, 0.5, crop, 0.5, 0),
        boxes=np.concatenate([base.boxes, boxes]),
        labels=np.concatenate([base.labels, other.labels]),
    )


def mirror(sample: Sample, *, vertical: bool = False) -> Sample:
    """Left and right exchanged, or top and bottom."""
    height, width = sample.size
    x1, y1, x2, y2 = sample.boxes.T
    if vertical:
        y1, y2 = height - y2, height - y1
    else:
        x1, x2 = width - x2, width - x1
    boxes = np.stack([x1, y1, x2, y2], axis=1)
    return replace(sample, image=cv2.flip(sample.image, 0 if vertical else 1), boxes=boxes)


def shift_colour(
    image: UInt8[np.ndarray, "h w 3"], hue: float, saturation: float, value: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Hue turned by a share of the colour circle; saturation and value changed by a share of themselves."""
    levels = np.arange(256)
    tables = np.stack(
        [
            (levels + round(180 * hue)) % 180,
            np.clip(levels * (1 + saturation), 0, 255),
            np.clip(levels * (1 + value), 0, 255),
        ],
        axis=-1,
    ).astype(np.uint8)
    return cv2.cvtColor(cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), tables[None]), cv2.COLOR_HSV2RGB)


def _random_labelled(source: Source, rng: Random) -> Sample | None:
    """A random image that has boxes; None if many draws find none."""
    for _ in range(MIXUP_TRIES):
        index = rng.randrange(len(source))
        if source.has_boxes(index):
            return source.original(index)
    return None
