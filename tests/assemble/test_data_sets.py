from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny_runs
from damoyolo.assemble import as_coco, as_yolo, build, convert_data, evaluate, train
from damoyolo.data.shapes import write_shapes
from damoyolo.errors import UserError


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.write_data(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def yolo(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("yolo") / "data"
    as_yolo(shapes, folder)
    return folder


def test_a_run_on_yolo_data_learns_what_it_learns_on_coco_data(
    shapes: Path, yolo: Path, tmp_path: Path
) -> None:
    spec = str(tiny_runs.spec_in(shapes))
    results = [
        train(tiny_runs.tiny(data, tmp_path / name, model=spec, epochs=1), quiet=True)
        for name, data in (("coco", shapes), ("yolo", yolo))
    ]
    coco_metrics, yolo_metrics = (tiny_runs.metrics(result.folder)[-1] for result in results)
    assert yolo_metrics["loss_total"] == pytest.approx(coco_metrics["loss_total"], rel=1e-3)
    assert yolo_metrics["ap"] == pytest.approx(coco_metrics["ap"], abs=1e-3)


def test_an_evaluation_has_the_same_numbers_of_boxes_in_every_format(
    shapes: Path, yolo: Path, tmp_path: Path
) -> None:
    as_coco(yolo, tmp_path / "coco")
    model = build(tiny_runs.spec_in(shapes), num_classes=4)
    model.card = model.card.model_copy(update={"class_names": ("circle", "square", "triangle", "star")})
    reports = [evaluate(model, data, device="cpu") for data in (shapes, yolo, tmp_path / "coco")]
    boxes = [{each.name: each.boxes for each in report.per_class} for report in reports]
    assert boxes[0] == boxes[1] == boxes[2]
    assert sum(boxes[0].values()) > 4


def test_data_without_val_become_data_with_one(tmp_path: Path) -> None:
    write_shapes(tmp_path / "in", train=10, val=1, image_size=64)
    (tmp_path / "in" / "val.json").unlink()
    done: list[tuple[int, int]] = []
    written = convert_data(
        tmp_path / "in", tmp_path / "out", "coco", seed=1, progress=lambda *each: done.append(each)
    )
    assert {split: len(dataset) for split, dataset in written.items()} == {"train": 8, "val": 2}
    assert done[-1] == (10, 10)
    content = json.loads((tmp_path / "out" / "val.json").read_text())
    names = {image["file_name"] for image in content["images"]}
    assert names == {path.name for path in (tmp_path / "out" / "images" / "val").iterdir()}


def test_a_folder_with_something_in_it_is_left_alone(shapes: Path, yolo: Path) -> None:
    before = sorted(yolo.rglob("*"))
    with pytest.raises(UserError, match="is there already and not an empty folder"):
        as_yolo(shapes, yolo)
    assert sorted(yolo.rglob("*")) == before


def test_splits_with_different_classes_get_the_same(tmp_path: Path) -> None:
    write_shapes(tmp_path / "in", train=3, val=3, image_size=64)
    file = tmp_path / "in" / "val.json"
    content = json.loads(file.read_text())
    content["categories"][0]["name"] = "disc"
    file.write_text(json.dumps(content))
    written = as_coco(tmp_path / "in", tmp_path / "out")
    assert written["train"].class_names == written["val"].class_names
    assert set(written["val"].class_names) == {"circle", "square", "triangle", "star", "disc"}
