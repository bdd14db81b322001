"""Batches for training, as a stream that can be taken up at any position.

Every sample depends on nothing but (seed, epoch, index), and the order of an epoch on (seed, epoch): the
stream is the same for any number of workers and wherever it was interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from damoyolo.boxes.types import Targets
from damoyolo.data.augment import Augment
from damoyolo.data.resize import Resize
from damoyolo.data.sample import Sample
from damoyolo.data.source import Source
from damoyolo.errors import UserError

MIN_AREA_PX = 4.0
PREFETCHED_BATCHES = 3

Key = tuple[int, int]
"""(epoch, index of the image in the data set)."""


@dataclass(frozen=True)
class Batch:
    """Network inputs, RGB 0..255 (in channels-last memory), their boxes in network pixels, and file names."""

    images: UInt8[Tensor, "b 3 h w"]
    targets: Targets
    names: tuple[str, ...]

    @classmethod
    def collate(cls, samples: list[Sample]) -> Batch:
        """From samples of equal size; a worker writes the images where the training process can read them."""
        images = torch.empty((len(samples), *samples[0].image.shape), dtype=torch.uint8)
        if get_worker_info() is not None:
            images.share_memory_()
        np.stack([sample.image for sample in samples], out=images.numpy())
        targets = Targets.pad(
            [torch.from_numpy(sample.boxes) for sample in samples],
            [torch.from_numpy(sample.labels) for sample in samples],
        )
        return cls(images.permute(0, 3, 1, 2), targets, tuple(sample.name for sample in samples))


@dataclass(frozen=True)
class TrainingSet:
    """Training samples at network size by (epoch, index); plain images from epoch `plain_from_epoch` on."""

    source: Source
    resize: Resize
    augment: Augment
    plain_from_epoch: int
    seed: int

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        rng = Random(f"{self.seed} {epoch} {index}")
        if epoch < self.plain_from_epoch:
            sample = self.augment(index, self.source, self.resize, rng)
        else:
            sample = self.source.fitted(index, self.resize)
        sample = self.augment.finish(sample, rng).resized(self.resize)
        sides = sample.boxes[:, 2:] - sample.boxes[:, :2]
        return sample.select(sides.prod(axis=1) > MIN_AREA_PX)

    def __getitems__(self, keys: list[Key]) -> Batch | UserError:
        """A batch; the user's mistake travels back from the worker as a value, so that its text stays."""
        try:
            return Batch.collate([self[key] for key in keys])
        except UserError as error:
            return error


class TrainLoader:
    """Batches of a training set in a random order per epoch; the last batch of an epoch may be smaller.

    `workers` processes prepare them ahead, each with one thread; 0 prepares them when they are asked for.
    """

    def __init__(self, dataset: TrainingSet, batch_size: int, workers: int) -> None:
        self._dataset = dataset
        self._batch_size = batch_size
        self._workers = workers

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one epoch."""
        return math.ceil(len(self._dataset) / self._batch_size)

    def stream(self, epoch: int, step: int, epochs: int) -> Iterator[Batch]:
        """The batches from `step` of `epoch` on, through the last of `epochs` epochs; both count from 0."""
        loader: DataLoader[Batch | UserError] = DataLoader(
            self._dataset,  # type: ignore[arg-type] # any map from keys to samples is one to DataLoader
            batch_sampler=self._keys(epoch, step, epochs),
            num_workers=self._workers,
            collate_fn=_unchanged,
            worker_init_fn=_limit_worker,
            prefetch_factor=PREFETCHED_BATCHES if self._workers else None,
            generator=torch.Generator(),  # or else it would draw from the global one
        )
        with _one_opencv_thread():
            batches = iter(loader)
        for batch in batches:
            if isinstance(batch, UserError):
                raise batch
            yield batch

    def _keys(self, epoch: int, step: int, epochs: int) -> Iterator[list[Key]]:
        """The keys of one batch after another."""
        for current in range(epoch, epochs):
            order = list(range(len(self._dataset)))
            Random(f"{self._dataset.seed} {current}").shuffle(order)
            first = step * self._batch_size if current == epoch else 0
            for start in range(first, len(order), self._batch_size):
                yield [(current, index) for index in order[start : start + self._batch_size]]


def _unchanged(batch: Any) -> Any:
    """`TrainingSet.__getitems__` yields whole batches already."""
    return batch


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Workers forked in here have one OpenCV thread; to set that in a forked worker would wait forever."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _limit_worker(_: int) -> None:
    """One OpenCV thread also where workers are not forked; torch limits its own threads in workers."""
    if cv2.getNumThreads() > 1:
        cv2.setNumThreads(1)
