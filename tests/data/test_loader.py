from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from damoyolo.data.augment import Augment
from damoyolo.data.formats import read_coco
from damoyolo.data.loader import Batch, TrainingSet, TrainLoader
from damoyolo.data.resize import Resize
from damoyolo.data.sample import Sample
from damoyolo.data.shapes import write_shapes
from damoyolo.data.source import Source
from damoyolo.errors import UserError

AUGMENT = Augment(
    mosaic=1.0,
    mosaic_size=64,
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
)
COUNT, BATCH, EPOCHS, PLAIN_FROM = 7, 3, 4, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, train=COUNT, val=1, image_size=96)
    return folder


def training_set(folder: Path, seed: int = 0, augment: Augment = AUGMENT) -> TrainingSet:
    source = Source(read_coco(folder, "train").records, cache_mb=8)
    return TrainingSet(source, Resize("stretch", (64, 64)), augment, PLAIN_FROM, seed)


def loader(folder: Path, workers: int = 0, seed: int = 0) -> TrainLoader:
    return TrainLoader(training_set(folder, seed), BATCH, workers)


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
    return list(loader(folder).stream(0, 0, EPOCHS))


def test_every_image_comes_once_per_epoch_in_changing_order_and_the_last_batch_is_smaller(
    folder: Path, uninterrupted: list[Batch]
) -> None:
    steps = loader(folder).steps_per_epoch
    assert steps == 3
    assert [len(batch.names) for batch in uninterrupted] == [3, 3, 1] * EPOCHS
    epochs = [
        [name for batch in uninterrupted[start : start + steps] for name in batch.names]
        for start in range(0, steps * EPOCHS, steps)
    ]
    assert all(sorted(names) == sorted(epochs[0]) and len(set(names)) == COUNT for names in epochs)
    assert len({tuple(names) for names in epochs}) > 1


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_stream(folder: Path, uninterrupted: list[Batch], workers: int) -> None:
    assert_equal(loader(folder, workers).stream(0, 0, EPOCHS), uninterrupted)


@pytest.mark.parametrize(("epoch", "step"), [(0, 2), (1, 0), (2, 1), (3, 2)])
def test_the_stream_goes_on_from_any_position(
    folder: Path, uninterrupted: list[Batch], epoch: int, step: int
) -> None:
    assert_equal(loader(folder).stream(epoch, step, EPOCHS), uninterrupted[3 * epoch + step :])


def test_a_resumed_worker_goes_on_as_well(folder: Path, uninterrupted: list[Batch]) -> None:
    assert_equal(loader(folder, workers=1).stream(1, 2, EPOCHS), uninterrupted[5:])


def test_nothing_is_left_after_the_last_epoch(folder: Path) -> None:
    assert list(loader(folder).stream(EPOCHS, 0, EPOCHS)) == []


def test_another_seed_gives_another_stream(folder: Path, uninterrupted: list[Batch]) -> None:
    first = next(loader(folder, seed=1).stream(0, 0, EPOCHS))
    assert first.names != uninterrupted[0].names or not torch.equal(first.images, uninterrupted[0].images)


def test_augmentation_ends_exactly_at_its_epoch_and_mirrors_remain(folder: Path) -> None:
    data = training_set(folder, augment=replace(AUGMENT, hue=0.0, saturation=0.0, value=0.0))
    for index in range(COUNT):
        plain = data.source.fitted(index, data.resize).image
        versions = [plain, plain[:, ::-1]]
        for epoch in range(EPOCHS):
            image = data[epoch, index].image
            assert any(np.array_equal(image, each) for each in versions) == (epoch >= PLAIN_FROM)
    mirrored = [
        not np.array_equal(data[epoch, 0].image, data.source.fitted(0, data.resize).image)
        for epoch in range(PLAIN_FROM, PLAIN_FROM + 20)
    ]
    assert any(mirrored)
    assert not all(mirrored)


def test_the_global_random_state_is_not_touched(folder: Path) -> None:
    before = torch.get_rng_state()
    next(loader(folder, workers=1).stream(0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_users_mistake_in_a_worker_arrives_as_the_same_sentence(tmp_path: Path, workers: int) -> None:
    write_shapes(tmp_path, train=COUNT, val=1, image_size=64)
    batches = loader(tmp_path, workers)
    broken = tmp_path / "images" / "train_0003.jpg"
    broken.write_bytes(broken.read_bytes()[:-50])
    with pytest.raises(UserError) as caught:
        list(batches.stream(0, 0, 1))
    assert str(caught.value) == f"{broken}: is truncated, its end is missing; replace the file"


def test_a_stream_can_be_left_early(folder: Path) -> None:
    stream = loader(folder, workers=1).stream(0, 0, 1000)
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
    record = data.source._records[0]
    boxes = np.array([[0, 0, 3, 3], [10, 10, 20, 20], [30, 30, 33.1, 33.1]], dtype=np.float32)
    data.source._records = [replace(record, boxes=boxes, labels=np.array([0, 1, 2]))]
    kept = data[PLAIN_FROM, 0]  # 96 px become 64: 3 px become 2, an area of 4
    np.testing.assert_array_equal(kept.labels, [1, 2])


def test_letterboxed_samples_keep_their_aspect(folder: Path) -> None:
    data = replace(training_set(folder), resize=Resize("letterbox", (64, 128)))
    plain = data[PLAIN_FROM, 0]
    assert plain.size == (64, 128)
    assert np.ptp(plain.image[:, 64:].reshape(-1, 3), axis=0).max() == 0
    assert data[0, 0].size == (64, 128)


def test_the_draws_of_a_sample_do_not_depend_on_those_before(folder: Path) -> None:
    data = training_set(folder)
    order = [(epoch, index) for epoch in range(EPOCHS) for index in range(COUNT)]
    expected = {key: data[key].image for key in order}
    Random(1).shuffle(order)
    fresh = training_set(folder)
    assert all(np.array_equal(fresh[key].image, expected[key]) for key in order)
