"""Random changes that make one training sample out of several images; every draw is from the given `rng`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import cv2
import numpy as np
from jaxtyping import UInt8

from damoyolo.data.affine import (
    affine_matrix,
    is_seen,
    outline,
    paint,
    scaling,
    shift,
    still_visible,
    transform_boxes,
)
from damoyolo.data.box_augment import BoxAugment
from damoyolo.data.mosaic import tile_windows
from damoyolo.data.resize import PAD, Resize, Size, clip, size_of
from damoyolo.data.sample import Sample
from damoyolo.data.source import Source

MIXUP_TRIES = 20


@dataclass(frozen=True)
class Augment:
    """How training samples are made; `config.AugmentConfig` says what the numbers mean.

    `mosaic_size` is the side in pixels of the square in which a mosaic is laid out and its boxes are judged,
    None the network's own size. Pixels go to the network's size at once. `boxes` changes single boxes at
    last, if at all.
    """

    mosaic: float
    mosaic_size: int | None
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
    boxes: BoxAugment | None = None

    def __call__(
        self, index: int, source: Source, resize: Resize, rng: Random, progress: float, plain: bool
    ) -> Sample:
        """Image `index` at network size, in a mosaic or alone, with everything that is done to it.

        `progress` is the share of the run that is over; a `plain` sample is the image alone, mirrored and
        with changed colours at most, and with changed boxes where `boxes.plain` says so.
        """
        if not plain and rng.random() < self.mosaic:
            tile = Resize(resize.rule, (self.mosaic_size,) * 2 if self.mosaic_size else resize.size)
            sample = self._mosaic(index, source, tile, resize, rng)
            if len(sample.labels) and rng.random() < self.mixup:
                sample = self._mixup(sample, source, tile, rng)
        else:
            sample = source.fitted(index, resize)
        sample = self._mirror_and_colour(sample, rng).resized(resize)
        if self.boxes and (self.boxes.plain or not plain):
            sample = self.boxes(sample, progress, rng)
        return sample

    def _mosaic(self, index: int, source: Source, tile: Resize, resize: Resize, rng: Random) -> Sample:
        """Four images around a point, seen through a random affine map; grey where none is.

        Each is laid out as `tile` makes it, but drawn straight from its pixels, and only if it is seen at
        all. Named after the first.
        """
        height, width = frame = tile.size
        canvas = (2 * height, 2 * width)
        y = int(rng.uniform(0.5 * height, 1.5 * height))
        x = int(rng.uniform(0.5 * width, 1.5 * width))
        indices = [index, *(rng.randrange(len(source)) for _ in range(3))]
        matrix, zoom = affine_matrix(rng, canvas, frame, self.degrees, self.translate, self.scale, self.shear)
        seen = resize.fitted(frame)
        to_seen = scaling(frame, seen) @ matrix
        image = np.full((*resize.size, 3), PAD, dtype=np.uint8)
        boxes = []
        for quadrant, record in enumerate(source.records[each] for each in indices):
            fitted = tile.fitted(record.size)
            window, part = tile_windows(quadrant, (x, y), fitted, canvas)
            left, top = window[0] - part[0], window[1] - part[1]
            boxes.append(
                tile.boxes(record.boxes, record.size) + np.array([left, top, left, top], dtype=np.float32)
            )
            corners = outline(window, to_seen)
            if is_seen(corners, seen):
                pixels = source.pixels(indices[quadrant], fitted, zoom * max(seen) / max(frame))
                to_tile = shift(left, top) @ scaling(size_of(pixels), fitted)
                paint(image[: seen[0], : seen[1]], pixels, to_seen @ to_tile, corners)
        before = clip(np.concatenate(boxes), canvas)
        after = transform_boxes(before, matrix, frame)
        sample = Sample(
            image=image,
            boxes=resize.boxes(after.astype(np.float32), frame),
            labels=np.concatenate([source.records[each].labels for each in indices]),
            name=source.records[index].path.name,
        )
        return sample.select(still_visible(before, after, zoom))

    def _mixup(self, sample: Sample, source: Source, tile: Resize, rng: Random) -> Sample:
        """Blended with a random image that has boxes, from the pixels of its tile; alone if none is found."""
        for _ in range(MIXUP_TRIES):
            index = rng.randrange(len(source))
            record = source.records[index]
            if len(record.labels):
                pixels = source.pixels(index, tile.fitted(record.size))
                other = Sample(pixels, record.boxes, record.labels, record.path.name)
                return mixup(sample, other, record.size, rng, self.mixup_scale)
        return sample

    def _mirror_and_colour(self, sample: Sample, rng: Random) -> Sample:
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


def mixup(base: Sample, other: Sample, original: Size, rng: Random, scale: tuple[float, float]) -> Sample:
    """A sample half transparent over a part of another one; the boxes of both (arXiv 1710.09412).

    `other` has its boxes in pixels of a photograph of size `original`, and that photograph's pixels, which
    may be fewer or stretched. It is letterboxed to the size of `base`, zoomed by a factor in `scale`,
    mirrored half of the time, and cropped at random or padded with black to that size again. Its boxes may
    become empty.
    """
    height, width = base.size
    zoom = rng.uniform(*scale)
    zoomed = max(1, int(height * zoom)), max(1, int(width * zoom))
    letterbox = Resize("letterbox", base.size)
    fitted = letterbox.fitted(original)
    zoom_in = scaling(base.size, zoomed)
    matrix, frame = zoom_in @ scaling(other.size, fitted), zoom_in
    boxes = Resize("stretch", zoomed).boxes(letterbox.boxes(other.boxes, original), base.size)
    if rng.random() > 0.5:
        turn = np.array([[-1.0, 0, zoomed[1] - 1], [0, 1, 0], [0, 0, 1]])
        matrix, frame = turn @ matrix, turn @ frame
        boxes = np.stack([zoomed[1] - boxes[:, 2], boxes[:, 1], zoomed[1] - boxes[:, 0], boxes[:, 3]], axis=1)
    excess = [max(0, after - side) for after, side in zip(zoomed, base.size, strict=True)]
    top, left = (rng.randrange(each) if each else 0 for each in excess)
    layer = np.zeros_like(base.image)
    layer[: zoomed[0] - top, : zoomed[1] - left] = PAD
    move = shift(-left, -top)
    corners = outline((0, 0, fitted[1], fitted[0]), move @ frame)
    if is_seen(corners, base.size):
        paint(layer, other.image, move @ matrix, corners)
    boxes = clip(boxes - np.array([left, top, left, top], dtype=np.float32), base.size)
    return replace(
        base,
        image=cv2.addWeighted(base.image, 0.5, layer, 0.5, 0),
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
