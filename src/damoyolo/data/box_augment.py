"""Changes to single boxes of an image: scale-aware AutoAugment (SADA, arXiv 2103.17220, in DAMO-YOLO's form).

A policy is a colour operation, which changes boxes and their surroundings, and a geometric one, which
mirrors, turns, shears or copies what is in them. Either fades out from the middle of a box by a Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

import cv2
import numpy as np
from jaxtyping import Float32, Real, UInt8

from damoyolo.data.affine import warp
from damoyolo.data.resize import Size, Window, clip
from damoyolo.data.sample import Sample

GREY = np.array([0.2989, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in the brightness."""
BLUR = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13
FILL = (102, 115, 122)
"""RGB where a turned or sheared crop has no content."""
MOST_DEGREES, MOST_SHEAR_DEGREES, MOST_SHIFT_PX, MOST_SOLARIZED = 30.0, 15.0, 120.0, 0.4296875 * 255
"""What level 10 means."""
REFERENCE_SIDE_PX = 800
SIGMAS = 3.55
"""Where the Gaussian is below 1/512, so that not even a change of 255 is seen."""

Image = Real[np.ndarray, "h w 3"]
Part = Float32[np.ndarray, "rows columns 3"]
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
        _blend(_cut(image, window), np.rint(changed).astype(np.uint8), weights)
        return replace(sample, image=image)


def gaussians(
    boxes: Sequence[Sequence[float]], spreads: Sequence[float], size: Size
) -> tuple[Float32[np.ndarray, "rows columns"], Window]:
    """The sum, at most 1, of a Gaussian around each box, and the window out of which it is negligible.

    A Gaussian's area is `spread` times that of the box.
    """
    height, width = size
    curves = []
    for (x1, y1, x2, y2), spread in zip(boxes, spreads, strict=True):
        radius = math.sqrt(spread * height * width / (2 * math.pi))
        curves.append(
            (
                _curve(x1 + (x2 - x1) // 2, (x2 - x1) / width * radius, width),
                _curve(y1 + (y2 - y1) // 2, (y2 - y1) / height * radius, height),
            )
        )
    left, top = min(x for (x, _), _ in curves), min(y for _, (y, _) in curves)
    right = max(x + len(values) for (x, values), _ in curves)
    bottom = max(y + len(values) for _, (y, values) in curves)
    total = np.zeros((bottom - top, right - left), dtype=np.float32)
    for (x, across), (y, down) in curves:
        total[y - top : y - top + len(down), x - left : x - left + len(across)] += np.outer(down, across)
    return np.minimum(total, 1), (left, top, right, bottom)


def _curve(centre: float, sigma: float, side: int) -> tuple[int, Float32[np.ndarray, " n"]]:
    """First position and values of a Gaussian along a side, where it is not negligible."""
    first = max(0, math.floor(centre - SIGMAS * sigma))
    last = max(first + 1, min(side, math.ceil(centre + SIGMAS * sigma) + 1))
    distance = np.arange(first, last, dtype=np.float32) - np.float32(centre)
    return first, np.exp(-(distance**2) / np.float32(2 * max(sigma, 1e-3) ** 2))


def autocontrast(image: Image, window: Window, level: int) -> Part:
    """Each channel's values of the whole image stretched to 0..255; the level does nothing."""
    low = image.min(axis=(0, 1)).astype(np.float32)
    high = image.max(axis=(0, 1)).astype(np.float32)
    gain = np.where(high > low, 255 / np.maximum(high - low, 1e-6), 1).astype(np.float32)
    return (_part(image, window) - np.where(high > low, low, 0)) * gain


def equalize(image: Image, window: Window, level: int) -> Part:
    """The values of the whole image spread evenly, each channel by itself; the level does nothing."""
    tables = []
    for channel in np.moveaxis(image, 2, 0):
        counts, _ = np.histogram(channel, bins=256, range=(0, 255))
        step = (counts.sum() - counts[counts > 0][-1]) // 255
        before = np.concatenate([[0], counts.cumsum()[:-1]])
        tables.append((before + step // 2) // step if step else np.arange(256))
    table = np.stack(tables, axis=-1).clip(0, 255).astype(np.uint8)
    return cv2.LUT(_cut(image, window).astype(np.uint8), table[None]).astype(np.float32)


def solarize_add(image: Image, window: Window, level: int) -> Part:
    """The darker half of the values made brighter."""
    part = _part(image, window)
    part[part <= 127.5] += level / 10 * MOST_SOLARIZED
    return part


def colour(image: Image, window: Window, level: int) -> Part:
    """Towards grey at low levels, away from it at high ones."""
    factor = _factor(level)
    mixing = factor * np.eye(3) + (1 - factor) * np.tile(GREY, (3, 1))
    return _limited(cv2.transform(_part(image, window), mixing.astype(np.float32)), factor)


def contrast(image: Image, window: Window, level: int) -> Part:
    """Towards the mean brightness of the whole image at low levels, away from it at high ones."""
    factor = _factor(level)
    mean = float(np.dot(cv2.mean(image)[:3], GREY))
    return _limited(_part(image, window) * np.float32(factor) + np.float32((1 - factor) * mean), factor)


def brightness(image: Image, window: Window, level: int) -> Part:
    """Darker at low levels, brighter at high ones."""
    factor = _factor(level)
    return _limited(_part(image, window) * np.float32(factor), factor)


def sharpness(image: Image, window: Window, level: int) -> Part:
    """Blurred at low levels, sharpened at high ones."""
    factor = _factor(level)
    x1, y1, x2, y2 = window
    left, top = min(x1, 1), min(y1, 1)
    wide = _part(image, (x1 - left, y1 - top, x2 + 1, y2 + 1))
    blurred = cv2.filter2D(wide, -1, BLUR, borderType=cv2.BORDER_REFLECT_101)
    mixed = cv2.addWeighted(wide, factor, blurred, 1 - factor, 0)
    return _limited(mixed[top : top + y2 - y1, left : left + x2 - x1], factor)


def _factor(level: int) -> float:
    """Share of the image itself, from 0.1 at level 0 to 1.9 at level 10."""
    return level / 10 * 1.8 + 0.1


def _limited(part: Part, factor: float) -> Part:
    """Only what is moved away from the neutral image can leave 0..255."""
    return part.clip(0, 255) if factor > 1 else part


COLOUR_OPS: dict[str, Callable[[Image, Window, int], Part]] = {
    "autocontrast": autocontrast,
    "equalize": equalize,
    "solarize_add": solarize_add,
    "colour": colour,
    "contrast": contrast,
    "brightness": brightness,
    "sharpness": sharpness,
}
"""Each gives a window of the changed image, 0..255, from the whole image and a level 0..10."""
GEOMETRIC_OPS = ("mirror", "rotate", "shear_x", "shear_y", "translate_x", "translate_y")


def change_geometry(
    sample: Sample, chosen: Sequence[int], name: str, level: int, rng: Random, clip_copies: bool = True
) -> Sample:
    """The sample with one of `GEOMETRIC_OPS` applied to the chosen boxes, all in the same direction.

    Crops are taken from the image as it was. Only the translations change boxes: they append copies.
    """
    direction = -1 if name != "mirror" and rng.random() < 0.5 else 1
    if name.startswith("translate"):
        shift = direction * level / 10 * MOST_SHIFT_PX
        shifts = (shift, 0.0) if name == "translate_x" else (0.0, shift)
        return _append_copies(sample, chosen, shifts, clip_copies)
    image = sample.image.copy()
    for box in sample.boxes[list(chosen)].tolist():
        window = _window(box)
        crop = _cut(sample.image, window)
        if crop.size == 0:
            continue
        changed = cv2.flip(crop, 1) if name == "mirror" else _turn(crop, name, direction * level / 10)
        _paste(_cut(image, window), changed)
    return replace(sample, image=image)


def _turn(crop: UInt8[np.ndarray, "h w 3"], name: str, amount: float) -> UInt8[np.ndarray, "h w 3"]:
    """The crop rotated or sheared around its middle, by a share of the most."""
    height, width = crop.shape[:2]
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    matrix = np.eye(3)
    if name == "rotate":
        matrix[:2] = cv2.getRotationMatrix2D(middle.tolist(), -amount * MOST_DEGREES, 1)
    else:
        position = (0, 1) if name == "shear_x" else (1, 0)
        matrix[position] = -math.tan(math.radians(amount * MOST_SHEAR_DEGREES))
        matrix[:2, 2] = middle - matrix[:2, :2] @ middle
    turned = warp(crop, matrix, (height, width))
    inside = np.ones((height, width), dtype=np.uint8)
    turned[cv2.warpAffine(inside, matrix[:2], (width, height), flags=cv2.INTER_NEAREST) == 0] = FILL
    return turned


def _append_copies(
    sample: Sample, chosen: Sequence[int], shift: tuple[float, float], clip_copies: bool
) -> Sample:
    """The sample with copies of boxes, that far (x, y) from the originals."""
    place = _place_clipped if clip_copies else _place_whole
    image, boxes, labels = sample.image.copy(), [], []
    for number in chosen:
        source, target, box = place(sample.boxes[number], shift, sample.size)
        if box is None:
            continue
        boxes.append(box)
        labels.append(sample.labels[number])
        if target[2] > target[0] and target[3] > target[1]:
            _paste(_cut(image, target), _cut(sample.image, source))
    if not boxes:
        return sample
    return replace(
        sample,
        image=image,
        boxes=np.concatenate([sample.boxes, np.stack(boxes)]),
        labels=np.concatenate([sample.labels, labels]),
    )


Place = tuple[Window, Window, Float32[np.ndarray, "xyxy=4"] | None]
"""Where a copy is taken from, where it goes, and its box; None where there is none to append."""


def _place_clipped(box: Float32[np.ndarray, "xyxy=4"], shift: tuple[float, float], size: Size) -> Place:
    """What of the shifted box lies in the image."""
    moved = clip((box + np.array(shift * 2, dtype=np.float32))[None], size)[0]
    target = _window(moved.tolist())
    x, y = round(shift[0]), round(shift[1])
    source = (target[0] - x, target[1] - y, target[2] - x, target[3] - y)
    empty = target[2] <= target[0] or target[3] <= target[1]
    return source, target, None if empty else moved


def _place_whole(box: Float32[np.ndarray, "xyxy=4"], shift: tuple[float, float], size: Size) -> Place:
    """The original's rule: the box keeps its size, and its far edges stay within the image."""
    height, width = size
    x1, y1, x2, y2 = _window(box.tolist())
    across, down = (
        _limit(far + by, side) - far for far, by, side in ((x2, shift[0], width), (y2, shift[1], height))
    )
    left, right = (int(_limit(edge + shift[0], width)) for edge in (x1, x2))
    top, bottom = (int(_limit(edge + shift[1], height)) for edge in (y1, y2))
    source = (x1, y1, x1 + right - left, y1 + bottom - top)
    moved = box + np.array([across, down] * 2, dtype=np.float32)
    return source, (left, top, right, bottom), moved if across or down else None


def _limit(value: float, most: int) -> float:
    return float(min(max(value, 0), most))


def _paste(part: UInt8[np.ndarray, "h w 3"], new: UInt8[np.ndarray, "h w 3"]) -> None:
    """Blend into a part of an image by a Gaussian whose area is that of the part."""
    height, width = part.shape[:2]
    sigma = math.sqrt(height * width / (2 * math.pi))
    left, across = _curve(float(width // 2), sigma, width)
    top, down = _curve(float(height // 2), sigma, height)
    seen = (left, top, left + len(across), top + len(down))
    _blend(_cut(part, seen), _cut(new, seen), np.outer(down, across))


def _blend(
    part: UInt8[np.ndarray, "h w 3"], new: UInt8[np.ndarray, "h w 3"], weights: Float32[np.ndarray, "h w"]
) -> None:
    """Move a part of an image towards `new`."""
    part[:] = cv2.blendLinear(part, new, 1 - weights, weights)


def _areas(sample: Sample) -> list[float]:
    areas: list[float] = (sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(axis=1).tolist()
    return areas


def _window(box: Sequence[float]) -> Window:
    """The box in whole pixels, truncated."""
    x1, y1, x2, y2 = (int(edge) for edge in box)
    return x1, y1, x2, y2


def _cut(image: np.ndarray, window: Window) -> np.ndarray:
    x1, y1, x2, y2 = window
    return image[y1:y2, x1:x2]


def _part(image: Image, window: Window) -> Part:
    return _cut(image, window).astype(np.float32)
