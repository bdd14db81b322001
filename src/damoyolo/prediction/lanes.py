"""Several images at a time, each by itself: more in all than all cores on one image after the other."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from damoyolo.detections import Detections
from damoyolo.prediction.detection import Finder, Image
from damoyolo.prediction.flow import batches


def in_lanes(finder: Finder, lanes: int, *, size: int = 1) -> Finder:
    """The same finder, which looks at the images of a list in so many threads at a time.

    On a CPU, a network hands work to all cores, and waits for all of them, at each of its layers. Lanes do
    not wait for one another; but each image takes longer. The results are the same, in the same order.

    Args:
        finder: may be called from several threads at the same time.
        lanes: such threads. PyTorch's own are shared out among them.
        size: images for one call of the finder.
    """
    if lanes == 1:
        return finder
    share = max(1, torch.get_num_threads() // lanes)
    pool = ThreadPoolExecutor(lanes, "lane", initializer=torch.set_num_threads, initargs=(share,))

    def find(images: Sequence[Image]) -> list[Detections]:
        return [each for found in pool.map(finder, batches(images, size)) for each in found]

    return find
