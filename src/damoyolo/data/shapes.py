"""A small data set to start with: textured shapes over textured backgrounds, drawn from a seed.

Nothing but the outline tells the classes apart: size, angle, colours and texture are drawn alike for all.
Shapes may overlap and leave the image a little, but at least 70 % of each stays visible. A box bounds the
whole drawn shape within the image, also where another shape hides a part of it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32

from damoyolo.data.sample import Sample
from damoyolo.files import write_atomically

CLASS_NAMES = ("circle", "square", "triangle", "star")
MAX_SHAPES = 6
EMPTY_SHARE = 0.03
"""Share of images without any shape."""
SMALLEST, LARGEST = 0.1, 0.55
"""Range of a shape's longer side, as a share of the image side; the small ones are the rarer."""
MIN_VISIBLE = 0.7
MOST_TURNED = math.radians(30)
"""Largest rotation, either way, from a shape standing upright."""
TRIES = 10
SUBPIXEL_BITS = 4
JPEG_QUALITY = 92

Image = Float32[np.ndarray, "h w 3"]
Field = Float32[np.ndarray, "h w"]
"""A value 0..1 per pixel: a mask with soft edges or the blend of two colours."""


def write_shapes(
    folder: str | Path, train: int = 600, val: int = 100, image_size: int = 160, seed: int = 0
) -> None:
    """Write `train` and `val` images to `folder` as train.json, val.json and images/, in COCO's format.

    An annotation file appears once all of its images are there.
    """
    folder = Path(folder)
    for number, (split, count) in enumerate((("train", train), ("val", val))):
        samples = []
        for index in range(count):
            rng = np.random.default_rng([seed, number, index])
            sample = draw_shapes(rng, image_size, f"{split}_{index:04d}.jpg")
            bgr = cv2.cvtColor(sample.image, cv2.COLOR_RGB2BGR)
            _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            write_atomically(folder / "images" / sample.name, jpeg.tobytes())
            samples.append(sample)
        write_atomically(folder / f"{split}.json", json.dumps(_annotations(samples)).encode())


def draw_shapes(rng: np.random.Generator, image_size: int = 160, name: str = "shapes") -> Sample:
    """One square picture with up to 6 shapes; labels index `CLASS_NAMES`."""
    image = _background(rng, image_size)
    owner = np.full((image_size, image_size), -1)
    areas: list[int] = []
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    count = 0 if rng.uniform() < EMPTY_SHARE else rng.integers(2, MAX_SHAPES + 1)
    for _ in range(count):
        label = int(rng.integers(len(CLASS_NAMES)))
        mask = _place(rng, label, owner, areas)
        if mask is None:
            continue
        drawn = mask > 0.5
        owner[drawn] = len(areas)
        areas.append(int(drawn.sum()))
        boxes.append(_bounds(drawn))
        labels.append(label)
        _paint(rng, image, mask)
    grain = rng.normal(0, 4, image.shape[:2]).astype(np.float32)[..., None]
    return Sample(
        image=np.clip(image + grain, 0, 255).astype(np.uint8),
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        labels=np.array(labels, dtype=np.int64),
        name=name,
    )


def _place(rng: np.random.Generator, label: int, owner: np.ndarray, areas: list[int]) -> Field | None:
    """The soft mask of a new shape that leaves enough of the others visible; None if there is no room."""
    side = owner.shape[0]
    for _ in range(TRIES):
        share = SMALLEST * (LARGEST / SMALLEST) ** np.sqrt(rng.uniform())
        outline = _outline(rng, label) * share * side
        margin = 0.42 * share * side
        outline += rng.uniform(margin, side - margin, 2)
        mask = np.zeros(owner.shape, dtype=np.uint8)
        points = np.round((outline - 0.5) * 2**SUBPIXEL_BITS).astype(np.int32)
        cv2.fillPoly(mask, [points], 255, cv2.LINE_AA, SUBPIXEL_BITS)
        drawn = mask > 127
        visible = np.bincount(owner[~drawn & (owner >= 0)], minlength=len(areas))
        if drawn.any() and (visible >= MIN_VISIBLE * np.array(areas)).all():
            return mask.astype(np.float32) / 255
    return None


def _outline(rng: np.random.Generator, label: int) -> Float[np.ndarray, "corners 2"]:
    """Corners (x, y) of a shape somewhat turned, around the origin, with a longer side of 1."""
    corners = {"circle": 48, "square": 4, "triangle": 3, "star": 10}[CLASS_NAMES[label]]
    radius = np.ones(corners)
    if CLASS_NAMES[label] == "star":
        radius[1::2] = 0.45
    upright = np.pi / corners if corners % 4 == 0 else -np.pi / 2
    angle = upright + rng.uniform(-MOST_TURNED, MOST_TURNED) + np.arange(corners) * 2 * np.pi / corners
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius[:, None]
    low, high = points.min(axis=0), points.max(axis=0)
    outline: Float[np.ndarray, "corners 2"] = (points - (low + high) / 2) / (high - low).max()
    return outline


def _bounds(drawn: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of the pixels that are True."""
    x, y, width, height = cv2.boundingRect(drawn.view(np.uint8))
    return x, y, x + width, y + height


def _background(rng: np.random.Generator, side: int) -> Image:
    """Two muted colours, blended by a texture on top of soft clouds."""
    first, second = (_colour(rng, saturation=(15, 80), value=(110, 225)) for _ in range(2))
    blend = 0.7 * _clouds(rng, side, side, cells=5) + 0.3 * _texture(rng, side, side)
    return _mix(first, second, blend)


def _paint(rng: np.random.Generator, image: Image, mask: Field) -> None:
    """Draw a textured shape with a dark rim and a soft shadow into `image`."""
    x1, y1, x2, y2 = _bounds(mask > 0)
    pad = 4 + max(x2 - x1, y2 - y1) // 12
    rows = slice(max(0, y1 - pad), min(len(image), y2 + pad))
    columns = slice(max(0, x1 - pad), min(len(image), x2 + pad))
    part, cover = image[rows, columns], mask[rows, columns]
    height, width = cover.shape
    shift = np.array([[1, 0, pad / 3], [0, 1, pad / 3]], dtype=np.float32)
    shadow = cv2.GaussianBlur(cv2.warpAffine(cover, shift, (width, height)), (0, 0), pad / 4)
    part *= 1 - 0.4 * shadow[..., None]
    first, second = (_colour(rng, saturation=(130, 255), value=(120, 255)) for _ in range(2))
    fill = _mix(first, 0.5 * first + 0.5 * second, _texture(rng, height, width))
    rim = max(1, (x2 - x1) // 24)
    inner = cv2.erode(cover, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * rim + 1,) * 2))
    fill *= 0.55 + 0.45 * inner[..., None]
    part += cover[..., None] * (fill - part)


def _texture(rng: np.random.Generator, height: int, width: int) -> Field:
    """Plain, stripes, checks, dots or clouds, at a random angle and scale."""
    angle, period = rng.uniform(0, np.pi), rng.uniform(5, 16)
    y, x = np.mgrid[:height, :width].astype(np.float32) * np.float32(2 * np.pi / period)
    u = np.sin(math.cos(angle) * x + math.sin(angle) * y)
    v = np.sin(math.cos(angle) * y - math.sin(angle) * x)
    blend: Field = (
        np.full_like(u, rng.uniform()),
        0.5 + 1.5 * u,
        0.5 + 3 * u * v,
        2 * (u + v) - 1.5,
        _clouds(rng, height, width, cells=6),
    )[rng.integers(5)]
    return blend.clip(0, 1)


def _clouds(rng: np.random.Generator, height: int, width: int, cells: int) -> Field:
    """Smooth noise of about `cells` x `cells` blobs."""
    grid = rng.uniform(0, 1, (cells, cells)).astype(np.float32)
    clouds: Field = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return clouds.clip(0, 1)


def _colour(
    rng: np.random.Generator, saturation: tuple[int, int], value: tuple[int, int]
) -> Float32[np.ndarray, "rgb=3"]:
    hsv = np.array([[[rng.integers(180), rng.integers(*saturation), rng.integers(*value)]]], dtype=np.uint8)
    rgb: Float32[np.ndarray, "rgb=3"] = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)
    return rgb


def _mix(first: np.ndarray, second: np.ndarray, blend: Field) -> Image:
    """From the colour `first`, where `blend` is 0, to `second`, where it is 1."""
    mixed: Image = first + blend[..., None] * (second - first)
    return mixed


def _annotations(samples: list[Sample]) -> dict[str, list[dict[str, Any]]]:
    """The samples as the content of a COCO file."""
    boxes = [
        (image_id, label, box)
        for image_id, sample in enumerate(samples, 1)
        for label, box in zip(sample.labels.tolist(), sample.boxes.tolist(), strict=True)
    ]
    return {
        "images": [
            {"id": number, "file_name": sample.name, "height": sample.size[0], "width": sample.size[1]}
            for number, sample in enumerate(samples, 1)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image_id,
                "category_id": label + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
            }
            for number, (image_id, label, (x1, y1, x2, y2)) in enumerate(boxes, 1)
        ],
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(CLASS_NAMES)],
    }
