"""Whole runs in two processes against the same runs in one: losses, weights, numbers and files.

Tolerances are shares of the largest value; what was seen is told where they are set.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from damoyolo.assemble import training
from damoyolo.config import TrainConfig
from damoyolo.data.dataset import Dataset
from damoyolo.data.formats import read_coco
from damoyolo.data.images import read_image
from damoyolo.data.shapes import write_shapes
from damoyolo.detections import Detections
from damoyolo.nn.detector import Detector, build_detector
from damoyolo.spec import ModelCard, ModelSpec
from damoyolo.training.distributed import World
from damoyolo.zoo.tensor_file import read_safetensors
from damoyolo.zoo.weights import save_weights
from tiny_runs import SMALL_SPEC, metrics, outcome, spec_in, tiny
from whole_runs import different, largest_difference, run, settle_norms
from worlds import in_worlds

pytestmark = pytest.mark.slow

IMAGES, BATCH = 11, 4
"""The last batch of an epoch has three images: one and two."""
NO_AUGMENT = {"augment": {"mosaic": 0.0, "flip": 0.0}, "no_augment_epochs": 2}
SGD = {"optim": {"name": "sgd", "lr": 0.04, "warmup_epochs": 0.5}}
CASES: dict[str, dict[str, Any]] = {
    "norms together": {**SGD, "sync_norm": True},
    "teacher": {**SGD, "sync_norm": True, "teacher": "teacher.safetensors"},
    "few boxes": {**SGD, **NO_AUGMENT, "sync_norm": True, "data": "few"},
    "bfloat16": {**SGD, "sync_norm": True, "precision": "bfloat16"},
    "in parts": {**SGD, "model": "settled.safetensors", "freeze": ("norms",), "accumulate": 2},
    "in parts, norms together": {**SGD, "sync_norm": True, "accumulate": 2},
    "norms apart": SGD,
}
"""What differs from a tiny run; paths are those in the folder of the data."""
EXACT = (1e-5, 1e-5)
"""Of losses and of weights; seen 2e-7 and 2e-6."""
LOOSER = {"teacher": (5e-5, 2e-4), "bfloat16": (3e-3, 1e-2)}
"""Seen (6e-6, 5e-5), a 2 x 2 map normalised by its own statistics; and (6e-4, 3e-3)."""
TOGETHER, APART = "norms together", "norms apart"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ordinary images; `few`, of which only one has boxes; a teacher with more channels; a beginner."""
    folder = tmp_path_factory.mktemp("data")
    write_shapes(folder, train=IMAGES, val=3, image_size=64)
    spec_in(folder).write_text(SMALL_SPEC.to_yaml())
    write_shapes(folder / "few", train=2 * BATCH, val=3, image_size=64)
    content = json.loads((folder / "few" / "train.json").read_text())
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] == 3]
    assert content["annotations"]
    (folder / "few" / "train.json").write_text(json.dumps(content))
    class_names = read_coco(folder, "train").class_names
    save_weights(new_detector(class_names, channels=24), folder / "teacher.safetensors")
    save_weights(settle_norms(new_detector(class_names)), folder / "settled.safetensors")
    return folder


def new_detector(class_names: tuple[str, ...], channels: int = 16) -> Detector:
    torch.manual_seed(5)
    spec = {**SMALL_SPEC.model_dump(), "neck": {**SMALL_SPEC.neck.model_dump(), "out": [channels] * 3}}
    return build_detector(
        ModelCard(spec=ModelSpec.model_validate(spec), class_names=class_names, image_size=(64, 64))
    )


def configuration(data: Path, output: Path, name: str, **changes: Any) -> TrainConfig:
    case = {**CASES[name], **changes}
    for each in ("data", "model", "teacher"):
        if each in case:
            case[each] = str(data / case[each])
    config = tiny(data, output, **{key: value for key, value in case.items() if key != "data"})
    return config.model_copy(update={"data": Path(case.get("data", data)), "report": False})


def guess(truth: Dataset, images: Sequence[np.ndarray]) -> list[Detections]:
    """Boxes near the true ones of images that are known by their pixels, with scores that are often equal."""
    known = {int(read_image(record.path).sum()): record for record in truth.records}
    found = []
    for image in images:
        record = known[int(image.sum())]
        rng = np.random.default_rng(int(image.sum()))
        boxes = np.concatenate([record.boxes, record.boxes[:1]]) + rng.normal(
            0, 3, (len(record.boxes) + 1, 4)
        )
        labels = np.concatenate([record.labels, record.labels[:1]])
        scores = rng.integers(1, 4, len(boxes)).astype(np.float32) / 4
        best = np.argsort(-scores, kind="stable")
        boxes = boxes.astype(np.float32)
        found.append(Detections(boxes[best], scores[best], labels[best], truth.class_names))
    return found


def evaluate(world: World, truth: Dataset) -> dict[str, float]:
    """What a run writes about weights that find what `guess` does."""
    before, training.detect = training.detect, lambda model, images, score: guess(truth, images)
    try:
        return training._numbers_on(truth, world, new_detector(truth.class_names).eval())
    finally:
        training.detect = before


def run_all(
    world: World, configs: Sequence[TrainConfig], truths: Sequence[Dataset]
) -> tuple[list[dict[str, dict[str, Tensor]]], list[dict[str, float]]]:
    """All cases in the same processes, which take longer to start than to train; the last is interrupted."""
    *whole, parts = configs
    ends = [run(world, config) for config in whole]
    with contextlib.suppress(KeyboardInterrupt):
        run(world, parts, stop_at=4)
    if world.is_first:
        shutil.copytree(parts.output, parts.output.with_name("resumed by one"))
    world.barrier()
    run(world, parts, resume=True)
    return ends, [evaluate(world, truth) for truth in truths]


@pytest.fixture(scope="module")
def truths(data: Path) -> list[Dataset]:
    """Validation images: three for two processes, and one."""
    dataset = read_coco(data, "val")
    return [dataset, replace(dataset, records=dataset.records[:1])]


@pytest.fixture(scope="module")
def pair(data: Path, truths: list[Dataset], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By case: what each of two processes ends with and their folder; and what they evaluate."""
    folder = tmp_path_factory.mktemp("pair")
    configs = [configuration(data, folder / name, name) for name in CASES]
    configs.append(configuration(data, folder / "interrupted", TOGETHER, checkpoint_minutes=0))
    (first, numbers), (second, others) = in_worlds(2, run_all, configs, truths)
    assert numbers == others
    cases = zip(CASES, first, second, strict=True)
    return {"numbers": numbers} | {name: (*ends, folder / name) for name, *ends in cases}


@pytest.mark.parametrize("name", ["norms together", "teacher", "few boxes", "bfloat16", "in parts"])
def test_two_processes_end_with_the_losses_and_weights_of_one(
    name: str, data: Path, tmp_path: Path, pair: dict[str, Any]
) -> None:
    loss_tolerance, weight_tolerance = LOOSER.get(name, EXACT)
    whole = run(World(), configuration(data, tmp_path, name, accumulate=1))
    assert largest_difference(whole["trained"], whole["begun"]) > 5e-4
    first, _, folder = pair[name]
    for record, wanted in zip(metrics(folder), metrics(tmp_path), strict=True):
        assert record == pytest.approx(wanted, rel=loss_tolerance)
        assert ("loss_distill" in record) == (name == "teacher")
    for part in ("trained", "average"):
        assert largest_difference(first[part], whole[part]) < weight_tolerance, part


@pytest.mark.parametrize("name", CASES)
def test_both_processes_end_with_the_same_which_is_what_is_written(name: str, pair: dict[str, Any]) -> None:
    first, second, folder = pair[name]
    apart = different(first["trained"], second["trained"])
    assert all("running" in key for key in apart)
    assert bool(apart) == (name == APART)
    assert not different(first["average"], second["average"])
    assert not different(read_safetensors(folder / "last.safetensors")[0], first["average"])
    state = torch.load(folder / "state.pt", weights_only=True)
    assert not different(state["objective"], first["trained"])
    assert not different(state["ema"], first["average"])


def test_with_norms_apart_a_process_s_own_share_is_what_it_normalises_by(
    data: Path, tmp_path: Path, pair: dict[str, Any]
) -> None:
    whole = run(World(), configuration(data, tmp_path, APART))
    together, apart = (metrics(pair[name][2])[0]["loss_total"] for name in (TOGETHER, APART))
    assert metrics(tmp_path)[0]["loss_total"] == pytest.approx(together, rel=1e-5)
    assert apart != pytest.approx(together, rel=1e-4)
    assert largest_difference(pair[APART][0]["trained"], whole["trained"]) > 1e-2


def test_every_process_computes_equally_many_parts(pair: dict[str, Any]) -> None:
    first, *_ = pair["in parts, norms together"]
    counts = [int(value) for key, value in first["trained"].items() if key.endswith("num_batches_tracked")]
    assert set(counts) == {2 * (2 + 2 + 1)}  # shares of 2 and 2, 2 and 2, 1 and 2 images


def test_an_interrupted_run_ends_as_if_it_were_not(pair: dict[str, Any]) -> None:
    folder = pair[TOGETHER][2]
    assert outcome(folder.with_name("interrupted")) == outcome(folder)


def test_an_interrupted_run_can_be_finished_by_one_process(data: Path, pair: dict[str, Any]) -> None:
    folder = pair[TOGETHER][2]
    alone = folder.with_name("resumed by one")
    run(World(), configuration(data, alone, TOGETHER, checkpoint_minutes=0), resume=True)
    for record, wanted in zip(metrics(alone), metrics(folder), strict=True):
        assert record == pytest.approx(wanted, rel=EXACT[0])


@pytest.mark.parametrize("number", [0, 1])
def test_a_shared_evaluation_gives_the_numbers_of_one_process(
    number: int, truths: list[Dataset], pair: dict[str, Any]
) -> None:
    alone = evaluate(World(), truths[number])
    assert 0.05 < alone["ap"] < 0.95
    assert pair["numbers"][number] == alone
