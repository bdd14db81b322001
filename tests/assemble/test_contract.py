"""One image gives the same numbers wherever it goes: training's evaluation, `predict`, and exported files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from damoyolo.assemble import open_finder, prepare, training
from damoyolo.data.formats import read_dataset
from damoyolo.data.images import read_image
from damoyolo.detections import Detections
from damoyolo.evaluation import coco
from damoyolo.export import onnx as export_onnx
from damoyolo.export.card import ExportCard
from damoyolo.export.comparison import compare_detections
from damoyolo.export.formats import write_from_onnx
from damoyolo.export.runtime import open_runtime
from damoyolo.prediction import detect, predict
from damoyolo.training.distributed import World
from exportable import CLASS_NAMES, lively, photograph, quick_exports  # noqa: F401 (a fixture)
from tiny_runs import SMALL_SPEC

SCORE = 0.6
DETECTOR = lively(SMALL_SPEC.model_copy(update={"score_threshold": SCORE}), resize="letterbox")
SIZES = ((64, 96), (31, 333), (201, 20), (480, 640), (50, 70), (97, 63), (33, 65), (640, 480))
BOX_PX, SCORES = 0.01, 1e-4


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photographs of odd sizes, one of them grey, in a data set for training's evaluation."""
    folder = tmp_path_factory.mktemp("contract")
    (folder / "images").mkdir()
    images = []
    for number, (height, width) in enumerate(SIZES):
        pixels = photograph(height, width, seed=number)
        pixels = np.full_like(pixels, 114) if number == 4 else pixels
        name = f"{number}.png"
        cv2.imwrite(str(folder / "images" / name), pixels[..., ::-1])
        images.append({"id": number, "file_name": name, "width": width, "height": height})
    box = {"id": 0, "image_id": 0, "category_id": 0, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASS_NAMES)]
    truth = {"images": images, "annotations": [box], "categories": categories}
    (folder / "val.json").write_text(json.dumps(truth))
    return [folder / "images" / str(image["file_name"]) for image in images]


@pytest.fixture(scope="module")
def trained(paths: list[Path]) -> list[Detections]:
    """What the evaluation after an epoch of training finds."""
    dataset = read_dataset(paths[0].parents[1], "val", class_names=CLASS_NAMES)
    with pytest.MonkeyPatch.context() as patch:
        seen: list[Any] = []
        find = coco.find
        patch.setattr(coco, "find", lambda *args: seen.append(find(*args)) or seen[-1])
        training._numbers_on(dataset, World(), DETECTOR)
    (found,) = seen
    results = []
    for number in range(len(paths)):
        mine = np.array(found.image_ids) == number
        boxes = found.boxes[mine]
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float32)
        labels = np.array(found.category_ids)[mine].astype(np.int64)
        results.append(Detections(corners, found.scores[mine].astype(np.float32), labels, CLASS_NAMES))
    return results


def assert_equal(expected: list[Detections], found: list[Detections]) -> None:
    comparison = compare_detections(expected, found)
    assert comparison.only_model == comparison.only_file == comparison.not_finite == 0
    assert comparison.score <= SCORES
    assert comparison.box_px <= BOX_PX


def test_predict_finds_what_training_s_evaluation_does(paths: list[Path], trained: list[Detections]) -> None:
    assert sum(map(len, trained)) > 50
    assert_equal(trained, [predict(DETECTOR, path, score=SCORE) for path in paths])


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_exported_files_find_what_training_s_evaluation_does(
    paths: list[Path], trained: list[Detections], tmp_path: Path, suffix: str, batch: int
) -> None:
    known = DETECTOR.card
    about = {"class_names": known.class_names, "image_size": known.image_size, "resize": known.resize}
    card = ExportCard(spec=known.spec, batch=batch, **about)
    kind: Any = "onnx" if suffix == ".onnx" else "openvino"
    file = tmp_path / f"m{suffix}"
    write_from_onnx(kind, export_onnx.to_onnx(DETECTOR, card), card, file)
    assert_equal(trained, open_runtime(file, threads=1)(paths, score=SCORE))
    in_two_lanes = open_finder(str(file), device="cpu", score=SCORE, lanes=2)
    assert_equal(trained, in_two_lanes([read_image(path) for path in paths]))


def test_the_fused_model_finds_it_in_a_batch_too(paths: list[Path], trained: list[Detections]) -> None:
    pixels = [cv2.imread(str(path))[..., ::-1].copy() for path in paths]
    assert_equal(trained, detect(prepare(DETECTOR, device="cpu"), pixels, score=SCORE))
