"""Mosaic and affine map in the straightforward way: four images on a canvas, and the canvas warped."""

from __future__ import annotations

import cv2
import numpy as np

from damoyolo.data.affine import affine_matrix, still_visible, transform_boxes
from damoyolo.data.mosaic import tile_windows
from damoyolo.data.resize import PAD, Resize
from damoyolo.data.sample import Sample


def plain_mosaic(augment, index, source, resize, rng):
    """What `Augment` makes of a mosaic without mixup, up to pixels; boxes to the last bit."""
    frame = (augment.mosaic_size,) * 2 if augment.mosaic_size else resize.size
    height, width = frame
    y = int(rng.uniform(0.5 * height, 1.5 * height))
    x = int(rng.uniform(0.5 * width, 1.5 * width))
    tiles = [
        source.fitted(each, Resize(resize.rule, frame))
        for each in (index, *(rng.randrange(len(source)) for _ in range(3)))
    ]
    canvas = (2 * height, 2 * width)
    image = np.full((*canvas, 3), PAD, dtype=np.uint8)
    boxes = []
    for number, tile in enumerate(tiles):
        (x1, y1, x2, y2), (u1, v1, u2, v2) = tile_windows(number, (x, y), tile.size, canvas)
        image[y1:y2, x1:x2] = tile.image[v1:v2, u1:u2]
        boxes.append(tile.boxes + np.array([x1 - u1, y1 - v1] * 2, dtype=np.float32))
    before = np.clip(np.concatenate(boxes), 0, np.array([2 * width, 2 * height] * 2, dtype=np.float32))
    matrix, zoom = affine_matrix(
        rng, canvas, frame, augment.degrees, augment.translate, augment.scale, augment.shear
    )
    after = transform_boxes(before, matrix, frame)
    image = cv2.warpAffine(image, matrix[:2], frame[::-1], borderValue=(PAD,) * 3)
    labels = np.concatenate([tile.labels for tile in tiles])
    sample = Sample(image, after.astype(np.float32), labels, tiles[0].name)
    return sample.select(still_visible(before, after, zoom)).resized(resize)
