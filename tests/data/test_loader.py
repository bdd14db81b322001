from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from damoyolo.data.augment import Augment
from damoyolo.data.box_augment import BoxAugment
from damoyolo.data.formats import read_coco
from damoyolo.data.loader import Batch, Key, TrainingSet, TrainLoader
from damoyolo.data.resize import Resize
from damoyolo.data.sample import Sample
from damoyolo.data.shapes import write_shapes
from damoyolo.data.source import Source
from damoyolo.errors import RunError, UserError
from damoyolo.plan import Plan

AUGMENT = Augment(
    mosaic=1.0,
    mosaic_size=None,
    mixup=0.5,
    mixup_scale=(0.5, 1.5),
    degrees=10.0,
    translate=0.2,
    scale=(0.5, 1.5),
    shear=2.0,
    flip=0.5,
    flip_vertical=0.0,
    hue=0.1,
    saturation=0.1,
    value=0.1,
    boxes=BoxAugment(0.5),
)
COUNT, BATCH, EPOCHS, STEPS_PER_EPOCH = 7, 3, 4, 3
STEPS = EPOCHS * STEPS_PER_EPOCH
PLAN = Plan(steps=STEPS, steps_per_epoch=STEPS_PER_EPOCH, plain=6)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch looks after its workers every five seconds."""
    for module in (torch.utils.data._utils, torch.utils.data._utils.worker):
        monkeypatch.setattr(module, "MP_STATUS_CHECK_INTERVAL", 0.2)
    ask = torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(ask, "__defaults__", (0.2,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, train=COUNT, val=1, image_size=96)
    return folder


def training_set(folder: Path, seed: int = 0, augment: Augment = AUGMENT) -> TrainingSet:
    source = Source(read_coco(folder, "train").records, cache_mb=8)
    return TrainingSet(source, Resize("stretch", (64, 64)), augment, seed)


def loader(folder: Path, workers: int = 0, seed: int = 0, rank: int = 0, world: int = 1) -> TrainLoader:
    return TrainLoader(training_set(folder, seed), BATCH, workers, rank, world)


def key(epoch: int, index: int, plain: bool = False) -> Key:
    return Key(epoch, index, 0.5, plain)


def assert_equal(stream: Iterator[Batch], expected: list[Batch]) -> None:
    batches = list(stream)
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert batch.names == other.names
        assert torch.equal(batch.images, other.images)
        assert torch.equal(batch.targets.boxes, other.targets.boxes)
        assert torch.equal(batch.targets.labels, other.targets.labels)
        assert torch.equal(batch.targets.mask, other.targets.mask)


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> list[Batch]:
    return list(loader(folder).stream(0, PLAN))


def test_every_image_comes_once_per_epoch_in_changing_order_and_the_last_batch_is_smaller(
    folder: Path, uninterrupted: list[Batch]
) -> None:
    assert loader(folder).steps_per_epoch == STEPS_PER_EPOCH
    assert [len(batch.names) for batch in uninterrupted] == [3, 3, 1] * EPOCHS
    assert [batch.global_size for batch in uninterrupted] == [3, 3, 1] * EPOCHS
    epochs = [
        [name for batch in uninterrupted[start : start + STEPS_PER_EPOCH] for name in batch.names]
        for start in range(0, STEPS, STEPS_PER_EPOCH)
    ]
    assert all(sorted(names) == sorted(epochs[0]) and len(set(names)) == COUNT for names in epochs)
    assert len({tuple(names) for names in epochs}) > 1


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_stream(folder: Path, uninterrupted: list[Batch], workers: int) -> None:
    assert_equal(loader(folder, workers).stream(0, PLAN), uninterrupted)


@pytest.mark.parametrize(("step", "workers"), [(2, 0), (3, 0), (5, 1), (7, 0), (11, 0), (STEPS, 0)])
def test_the_stream_goes_on_from_any_step(
    folder: Path, uninterrupted: list[Batch], step: int, workers: int
) -> None:
    assert_equal(loader(folder, workers).stream(step, PLAN), uninterrupted[step:])


def test_the_last_epoch_may_be_cut_short(folder: Path, uninterrupted: list[Batch]) -> None:
    short = Plan(steps=5, steps_per_epoch=STEPS_PER_EPOCH)
    assert [each.names for each in loader(folder).stream(0, short)] == [
        each.names for each in uninterrupted[:5]
    ]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("steps", [4, 40])
def test_a_plan_that_changes_on_the_way_is_followed(folder: Path, workers: int, steps: int) -> None:
    plan = Plan(steps=9, steps_per_epoch=STEPS_PER_EPOCH)
    count = 0
    for _ in loader(folder, workers).stream(0, plan):
        count += 1
        if count == 3:
            plan.steps = steps
    assert count == steps


@pytest.mark.parametrize("world", [2, 3, 5])
def test_the_shares_of_several_processes_are_the_batches_of_one(
    folder: Path, uninterrupted: list[Batch], world: int
) -> None:
    streams = (loader(folder, rank=rank, world=world).stream(0, PLAN) for rank in range(world))
    for whole, *shares in zip(uninterrupted, *streams, strict=True):
        sizes = [len(share.names) for share in shares]
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1
        assert {share.global_size for share in shares} == {sum(sizes)}
        names = [name for share in shares for name in share.names]
        assert names == [whole.names[number % len(whole.names)] for number in range(len(names))]
        images = torch.cat([share.images for share in shares])
        assert torch.equal(images[: len(whole.names)], whole.images)


def test_progress_and_the_plain_phase_are_those_of_the_step(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[Key] = []
    sample = TrainingSet.__getitem__
    monkeypatch.setattr(
        TrainingSet, "__getitem__", lambda self, key: (keys.append(key), sample(self, key))[1]
    )
    steps = [number for number, batch in enumerate(loader(folder).stream(0, PLAN)) for _ in batch.names]
    assert [(each.progress, each.plain) for each in keys] == [(step / STEPS, step >= 6) for step in steps]


@pytest.mark.parametrize(("size", "parts", "sizes"), [(5, 2, [2, 3]), (3, 3, [1, 1, 1]), (2, 4, [1, 1])])
def test_a_batch_splits_into_consecutive_parts_that_are_never_empty(
    uninterrupted: list[Batch], size: int, parts: int, sizes: list[int]
) -> None:
    samples = [
        Sample(
            np.full((32, 32, 3), number, np.uint8), np.ones((number, 4), np.float32), np.arange(number), "a"
        )
        for number in range(size)
    ]
    batch = Batch.collate(samples)
    pieces = batch.split(parts)
    assert [len(piece.names) for piece in pieces] == sizes
    assert {piece.global_size for piece in pieces} == {size}
    assert torch.equal(torch.cat([piece.images for piece in pieces]), batch.images)
    assert torch.equal(torch.cat([piece.targets.boxes for piece in pieces]), batch.targets.boxes)
    assert torch.equal(torch.cat([piece.targets.labels for piece in pieces]), batch.targets.labels)
    assert torch.equal(torch.cat([piece.targets.mask for piece in pieces]), batch.targets.mask)


def test_another_seed_gives_another_stream(folder: Path, uninterrupted: list[Batch]) -> None:
    first = next(loader(folder, seed=1).stream(0, PLAN))
    assert first.names != uninterrupted[0].names or not torch.equal(first.images, uninterrupted[0].images)


def test_plain_samples_are_the_fitted_image_mirrored_half_of_the_time(folder: Path) -> None:
    data = training_set(folder, augment=replace(AUGMENT, hue=0.0, saturation=0.0, value=0.0))
    mirrored = []
    for epoch in range(20):
        for index in range(COUNT):
            plain = data.source.fitted(index, data.resize).image
            mirrored.append(not np.array_equal(data[key(epoch, index, plain=True)].image, plain))
            assert np.array_equal(
                data[key(epoch, index, plain=True)].image, plain[:, :: -1 if mirrored[-1] else 1]
            )
            changed = data[key(epoch, index)].image
            assert not any(np.array_equal(changed, each) for each in (plain, plain[:, ::-1]))
    assert 0.3 < np.mean(mirrored) < 0.7


def test_a_worker_that_is_killed_ends_the_run_with_a_sentence(folder: Path) -> None:
    others = multiprocessing.active_children()
    stream = loader(folder, workers=2).stream(0, Plan(steps=1000, steps_per_epoch=STEPS_PER_EPOCH))
    next(stream)
    worker = next(each for each in multiprocessing.active_children() if each not in others)
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join()
    with pytest.raises(RunError, match=r"data worker was killed, .* fewer workers or a smaller cache_mb$"):
        next(stream)


def test_a_worker_that_is_killed_while_its_batch_is_awaited_is_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingSet, "__getitem__", lambda *_: os.kill(os.getpid(), signal.SIGBUS))
    with pytest.raises(RunError, match=r"data worker was ended by a bus error, .*shared memory \(/dev/shm\)"):
        next(loader(folder, workers=1).stream(0, PLAN))


@pytest.mark.parametrize("error", [MemoryError("no"), RuntimeError("unable to allocate shared memory(shm)")])
def test_a_worker_without_memory_ends_the_run_with_a_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> Sample:
        raise error

    monkeypatch.setattr(TrainingSet, "__getitem__", fail)
    with pytest.raises(RunError, match="a data worker ran out of memory; "):
        next(loader(folder, workers=1).stream(0, PLAN))


def test_an_error_that_is_ours_stays_what_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Batch, "collate", lambda _: [][0])
    with pytest.raises(IndexError):
        next(loader(folder, workers=1).stream(0, PLAN))


def test_the_death_of_a_worker_interrupts_no_step(folder: Path) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    stream = loader(folder, workers=1).stream(0, PLAN)
    next(stream)
    assert signal.getsignal(signal.SIGCHLD) == before


def test_the_global_random_state_is_not_touched(folder: Path) -> None:
    before = torch.get_rng_state()
    next(loader(folder, workers=1).stream(0, PLAN))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_users_mistake_in_a_worker_arrives_as_the_same_sentence(tmp_path: Path, workers: int) -> None:
    write_shapes(tmp_path, train=COUNT, val=1, image_size=64)
    batches = loader(tmp_path, workers)
    broken = tmp_path / "images" / "train_0003.jpg"
    broken.write_bytes(broken.read_bytes()[:-50])
    with pytest.raises(UserError) as caught:
        list(batches.stream(0, PLAN))
    assert str(caught.value) == f"{broken}: is truncated, its end is missing; replace the file"


def test_a_stream_can_be_left_early(folder: Path) -> None:
    stream = loader(folder, workers=1).stream(0, Plan(steps=3000, steps_per_epoch=STEPS_PER_EPOCH))
    assert len(list(islice(stream, 2))) == 2
    stream.close()  # type: ignore[attr-defined]


def test_batches_are_network_inputs_in_channels_last_memory(uninterrupted: list[Batch]) -> None:
    batch = uninterrupted[0]
    assert batch.images.shape == (BATCH, 3, 64, 64)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_collate_pads_the_boxes_and_keeps_pixels_in_place() -> None:
    draw = np.random.default_rng(0)
    samples = [
        Sample(
            draw.integers(0, 256, (32, 64, 3), dtype=np.uint8),
            draw.uniform(0, 30, (count, 4)).astype(np.float32),
            np.arange(count),
            f"{count}.jpg",
        )
        for count in (2, 0, 1)
    ]
    batch = Batch.collate(samples)
    assert batch.targets.mask.tolist() == [[True, True], [False, False], [True, False]]
    assert batch.names == ("2.jpg", "0.jpg", "1.jpg")
    for number, sample in enumerate(samples):
        np.testing.assert_array_equal(batch.images[number].permute(1, 2, 0).numpy(), sample.image)
        np.testing.assert_array_equal(batch.targets.boxes[number, : len(sample.labels)].numpy(), sample.boxes)


def test_tiny_boxes_are_dropped_with_their_labels(folder: Path) -> None:
    data = training_set(folder, augment=replace(AUGMENT, flip=0.0))
    record = data.source.records[0]
    boxes = np.array([[0, 0, 3, 3], [10, 10, 20, 20], [30, 30, 33.1, 33.1]], dtype=np.float32)
    data.source.records = [replace(record, boxes=boxes, labels=np.array([0, 1, 2]))]
    kept = data[key(0, 0, plain=True)]  # 96 px become 64: 3 px become 2, an area of 4
    np.testing.assert_array_equal(kept.labels, [1, 2])


def test_letterboxed_samples_keep_their_aspect(folder: Path) -> None:
    data = replace(training_set(folder), resize=Resize("letterbox", (64, 128)))
    plain = data[key(0, 0, plain=True)]
    assert plain.size == (64, 128)
    assert np.ptp(plain.image[:, 64:].reshape(-1, 3), axis=0).max() == 0
    assert data[key(0, 0)].size == (64, 128)


def test_the_draws_of_a_sample_do_not_depend_on_those_before(folder: Path) -> None:
    data = training_set(folder)
    order = [key(epoch, index) for epoch in range(EPOCHS) for index in range(COUNT)]
    expected = {each: data[each].image for each in order}
    Random(1).shuffle(order)
    fresh = training_set(folder)
    assert all(np.array_equal(fresh[each].image, expected[each]) for each in order)
