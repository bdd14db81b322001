"""Batches for training, as a stream that can be taken up at any step.

Every sample depends on nothing but its `Key` and the seed, and the order of an epoch on (seed, epoch): the
stream is the same for any number of workers and of training processes, and wherever it was interrupted.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
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
from damoyolo.errors import RunError, UserError
from damoyolo.plan import Plan

MIN_AREA_PX = 4.0
PREFETCHED_BATCHES = 3


@dataclass(frozen=True)
class Key:
    """What a sample is made from: image `index` in an epoch, at that share of the run, plain or not."""

    epoch: int
    index: int
    progress: float
    plain: bool


@dataclass(frozen=True)
class Batch:
    """Network inputs, RGB 0..255 (in channels-last memory), their boxes in network pixels, and file names.

    `global_size` counts the images that all training processes see in this step, repeated ones as often as
    they are seen, so that the shares `len(names) / global_size` add up to 1.
    """

    images: UInt8[Tensor, "b 3 h w"]
    targets: Targets
    names: tuple[str, ...]
    global_size: int

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
        names = tuple(sample.name for sample in samples)
        return cls(images.permute(0, 3, 1, 2), targets, names, len(names))

    def split(self, parts: int) -> list[Batch]:
        """At most `parts` batches of consecutive images, none empty, whose sizes differ by at most one."""
        parts = min(parts, len(self.names))
        slices = (_share(len(self.names), part, parts) for part in range(parts))
        targets = self.targets
        return [
            Batch(
                self.images[part],
                Targets(targets.boxes[part], targets.labels[part], targets.mask[part]),
                self.names[part],
                self.global_size,
            )
            for part in slices
        ]


@dataclass(frozen=True)
class TrainingSet:
    """Training samples at network size by their keys."""

    source: Source
    resize: Resize
    augment: Augment
    seed: int

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key) -> Sample:
        rng = Random(f"{self.seed} {key.epoch} {key.index}")
        sample = self.augment(key.index, self.source, self.resize, rng, key.progress, key.plain)
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

    Args:
        dataset: what to load from.
        batch_size: images per step, of all training processes together.
        workers: processes that prepare batches ahead, each with one thread; 0 prepares them when asked for.
        rank: number of this training process.
        world: training processes. Each gets its contiguous share of every batch; the sizes differ by at most
            one, and together they are the batch of a single process. Where a batch has fewer images than
            there are processes, those left without one take images again from its start.
    """

    def __init__(
        self, dataset: TrainingSet, batch_size: int, workers: int, rank: int = 0, world: int = 1
    ) -> None:
        self._dataset = dataset
        self._batch_size = batch_size
        self._workers = workers
        self._rank = rank
        self._world = world

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one epoch."""
        return math.ceil(len(self._dataset) / self._batch_size)

    def stream(self, step: int, plan: Plan) -> Iterator[Batch]:
        """The batches from `step` of the run on, counted from 0, until the plan's last one.

        The plan is asked anew for every batch, so it may change meanwhile; batches that workers have prepared
        already keep the progress they were made for.

        Raises:
            UserError: if an image cannot be used.
            RunError: if a worker dies.
        """
        while step < plan.steps:
            for batch in self._prepare(step, plan):
                yield replace(batch, global_size=max(self._size(step), self._world))
                step += 1
                if step >= plan.steps:
                    return

    def _prepare(self, step: int, plan: Plan) -> Iterator[Batch]:
        """The batches of the plan as it is when their preparation begins, which with workers is ahead."""
        loader: DataLoader[Batch | UserError] = DataLoader(
            self._dataset,  # type: ignore[arg-type] # any map from keys to samples is one to DataLoader
            batch_sampler=self._keys(step, plan),
            num_workers=self._workers,
            collate_fn=_unchanged,
            worker_init_fn=_limit_worker,
            prefetch_factor=PREFETCHED_BATCHES if self._workers else None,
            generator=torch.Generator(),  # or else it would draw from the global one
        )
        others = multiprocessing.active_children()
        with _one_opencv_thread(), _deaths_unannounced():
            batches = iter(loader)
        workers = [child for child in multiprocessing.active_children() if child not in others]
        while (batch := _next(batches, workers)) is not None:
            if isinstance(batch, UserError):
                raise batch
            yield batch

    def _keys(self, step: int, plan: Plan) -> Iterator[list[Key]]:
        """The keys of this process's share of one batch after another."""
        epoch, order = -1, list(range(len(self._dataset)))
        while step < plan.steps:
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = self._order(epoch)
            first, size = step % self.steps_per_epoch * self._batch_size, self._size(step)
            share = _share(max(size, self._world), self._rank, self._world)
            progress, plain = plan.progress(step), plan.is_plain(step)
            yield [
                Key(epoch, order[first + number % size], progress, plain)
                for number in range(share.start, share.stop)
            ]
            step += 1

    def _order(self, epoch: int) -> list[int]:
        order = list(range(len(self._dataset)))
        Random(f"{self._dataset.seed} {epoch}").shuffle(order)
        return order

    def _size(self, step: int) -> int:
        """Images in the batch of a step, of all processes."""
        return min(self._batch_size, len(self._dataset) - step % self.steps_per_epoch * self._batch_size)


def _share(total: int, part: int, parts: int) -> slice:
    """Which of `total` things in a row are those of a part."""
    return slice(total * part // parts, total * (part + 1) // parts)


def _next(batches: Iterator[Batch | UserError], workers: list[BaseProcess]) -> Batch | UserError | None:
    """The next batch, None at the end; `RunError` if a worker is dead or had no memory for it."""
    dead = [worker for worker in workers if not worker.is_alive()]
    try:
        batch = None if dead else next(batches, None)
    except (RuntimeError, OSError, EOFError, MemoryError) as error:
        dead = [worker for worker in workers if not worker.is_alive()]
        if not (dead or isinstance(error, MemoryError) or "shared memory" in str(error)):
            raise
        raise RunError(_memory_advice(dead)) from error
    if dead:
        raise RunError(_memory_advice(dead))
    return batch


def _memory_advice(dead: list[BaseProcess]) -> str:
    code = dead[0].exitcode if dead else None
    if code is None:
        what = "ran out of memory"
    elif code == -getattr(signal, "SIGBUS", 0):
        what = "was ended by a bus error, as happens when shared memory (/dev/shm) is full"
    elif code == -getattr(signal, "SIGKILL", 0):
        what = "was killed, as the system does when memory runs out"
    else:
        what = f"ended with exit code {code}"
    return f"a data worker {what}; go on with --resume and fewer workers or a smaller cache_mb"


def _unchanged(batch: Any) -> Any:
    """`TrainingSet.__getitems__` yields whole batches already."""
    return batch


@contextmanager
def _deaths_unannounced() -> Iterator[None]:
    """Without the signal handler by which PyTorch raises a worker's death at any line of the training.

    The next batch tells it: no step and no file is left half done.
    """
    if sys.platform == "win32" or (before := signal.getsignal(signal.SIGCHLD)) is None:
        yield
        return
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)


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
