from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from conftest import shared_data
from damoyolo.data.formats import read_coco
from damoyolo.detections import Detections
from damoyolo.errors import UserError
from damoyolo.evaluation.coco import ABSENT, ClassReport, Report, evaluate, evaluate_records

PAIRS = {
    "val2014_100 x fakebbox100 (all 100 images)": (
        "instances_val2014_100.json",
        "instances_val2014_fakebbox100_results.json",
    ),
    "val2014_100 x fakebbox100 class-agnostic": (
        "instances_val2014_100.json",
        "instances_val2014_fakebbox100_results.json",
    ),
    "gt_dataset.json x dt_dataset.json": ("gt_dataset.json", "dt_dataset.json"),
    "instances_val2017_128.json x fakedets_val2017_128.json": (
        "instances_val2017_128.json",
        "fakedets_val2017_128.json",
    ),
    "instances_train2017_258.json x fakedets_train2017_258.json": (
        "instances_train2017_258.json",
        "fakedets_train2017_258.json",
    ),
}

TRUTH: dict[str, Any] = {
    "images": [{"id": 7}, {"id": 3}],
    "categories": [{"id": 20, "name": "cell"}, {"id": 10, "name": "dust"}],
    "annotations": [
        {"image_id": 7, "category_id": 20, "bbox": [0, 0, 20, 20]},
        {"image_id": 7, "category_id": 20, "bbox": [40, 40, 50, 50]},
        {"image_id": 3, "category_id": 10, "bbox": [5, 5, 100, 120], "area": 9000.5, "iscrowd": 0},
    ],
}


def perfect(truth: dict[str, Any]) -> list[dict[str, Any]]:
    keys = ("image_id", "category_id", "bbox")
    return [{key: each[key] for key in keys} | {"score": 0.5} for each in truth["annotations"]]


def twelve(report: Report) -> list[float]:
    return [
        *(report.ap, report.ap50, report.ap75, report.ap_small, report.ap_medium, report.ap_large),
        *(report.ar1, report.ar10, report.ar100, report.ar_small, report.ar_medium, report.ar_large),
    ]


def by_pycocotools(truth: dict[str, Any], detections: list[dict[str, Any]]) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = truth
        reference.createIndex()
        oracle = COCOeval(reference, reference.loadRes(detections), "bbox")
        oracle.evaluate()
        oracle.accumulate()
        oracle.summarize()
    return [float(value) for value in oracle.stats]


@pytest.mark.parametrize("pair", PAIRS)
def test_the_twelve_numbers_equal_those_of_pycocotools_on_real_annotations(pair: str) -> None:
    folder = shared_data("coco-eval")
    expected = json.loads((folder / "expected.json").read_text())["results"][pair]
    truth, detections = (folder / name for name in PAIRS[pair])
    assert twelve(evaluate_records(truth, detections, class_agnostic="agnostic" in pair)) == expected


def test_every_expected_pair_is_tested() -> None:
    assert set(json.loads((shared_data("coco-eval") / "expected.json").read_text())["results"]) == set(PAIRS)


def test_detections_of_images_that_the_ground_truth_lacks_are_refused_by_name() -> None:
    folder = shared_data("coco-eval")
    with pytest.raises(UserError, match=r"dt_ignore_test\.json: image_id 2299 is not in the ground truth"):
        evaluate_records(folder / "gt_ignore_test.json", folder / "dt_ignore_test.json")


@st.composite
def small_data(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    corner, side = st.integers(0, 8), st.sampled_from([10, 16, 40, 100])
    box = st.tuples(corner, corner, side, side).map(
        lambda b: [b[0] * 10.0, b[1] * 10.0, b[2] * 1.0, b[3] * 1.0]
    )
    place = {"image_id": st.integers(1, 3), "category_id": st.integers(1, 2), "bbox": box}
    annotation = st.fixed_dictionaries({**place, "iscrowd": st.sampled_from([0, 0, 0, 1])})
    score = st.sampled_from([0.2, 0.4, 0.6, 0.8])
    annotations = draw(st.lists(annotation, min_size=1, max_size=12))
    for number, each in enumerate(annotations, start=1):
        each |= {"id": number, "area": each["bbox"][2] * each["bbox"][3]}
    truth = {
        "images": [{"id": number} for number in (1, 2, 3)],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": annotations,
    }
    return truth, draw(st.lists(st.fixed_dictionaries({**place, "score": score}), min_size=1, max_size=20))


@given(small_data())
@settings(max_examples=40, deadline=None)
def test_pycocotools_agrees_on_crowds_ties_and_empty_images(
    data: tuple[dict[str, Any], list[dict[str, Any]]],
) -> None:
    truth, detections = data
    ours = twelve(evaluate_records(truth, detections))
    assert ours == pytest.approx(by_pycocotools(truth, detections), abs=1e-12)


def test_a_perfect_detector_scores_one_and_missing_sizes_are_absent() -> None:
    report = evaluate_records(TRUTH, perfect(TRUTH))
    assert (report.ap, report.ap_small, report.ap_medium) == pytest.approx((1, 1, 1))
    assert report.ap_large == ABSENT
    assert [(each.name, each.boxes) for each in report.per_class] == [("dust", 1), ("cell", 2)]
    assert [(each.ap, each.ap50) for each in report.per_class] == [pytest.approx((1, 1))] * 2
    assert report.images == 2


def test_no_detections_give_zeros() -> None:
    report = evaluate_records(TRUTH, [])
    assert (report.ap, report.ar100, report.ap_large) == (0, 0, ABSENT)


def test_no_ground_truth_gives_absent_numbers() -> None:
    report = evaluate_records(TRUTH | {"annotations": []}, perfect(TRUTH))
    assert set(twelve(report)) == {ABSENT}


def test_class_agnostic_forgives_a_wrong_class() -> None:
    confused = [each | {"category_id": 10} for each in perfect(TRUTH)]
    assert evaluate_records(TRUTH, confused).ap < 0.5
    report = evaluate_records(TRUTH, confused, class_agnostic=True)
    assert report.ap == pytest.approx(1)
    assert report.per_class == ()


@pytest.mark.parametrize("area", [None, "big", float("nan"), -5])
def test_an_area_that_is_no_area_is_taken_from_the_box(area: Any) -> None:
    truth = TRUTH | {"annotations": [each | {"area": area} for each in TRUTH["annotations"]]}
    report = evaluate_records(truth, perfect(TRUTH))
    assert (report.ap_small, report.ap_medium, report.ap_large) == pytest.approx((1, 1, 1))


def test_texts_may_be_ids() -> None:
    def renamed(value: Any) -> Any:
        return json.loads(json.dumps(value).replace('_id": 7', '_id": "x7"').replace('"id": 7', '"id": "x7"'))

    assert evaluate_records(renamed(TRUTH), renamed(perfect(TRUTH))).ap == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": float("nan")}, r"^detections: 0\.score: .*finite"),
        ({"score": None}, r"^detections: 0\.score: .*number"),
        ({"bbox": [1, 2, 3]}, r"^detections: 0\.bbox\.3: Field required"),
        ({"bbox": [1, 2, -3, 4]}, r"^detections: 0\.bbox\.2: is -3; take 0 or more"),
        ({"bbox": [1, float("inf"), 3, 4]}, r"^detections: 0\.bbox\.1: .*finite"),
        ({"image_id": 99}, r"^detections: image_id 99 is not in the ground truth, which has 3, 7"),
        ({"category_id": 0}, r"^detections: category_id 0 is not in the ground truth, which has 10, 20"),
    ],
)
def test_a_wrong_record_is_named_with_its_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate_records(TRUTH, [perfect(TRUTH)[0] | change])


def test_wrong_files_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{"images": [')
    with pytest.raises(UserError, match=r"broken\.json: is not valid JSON"):
        evaluate_records(broken, [])
    with pytest.raises(UserError, match=r"absent\.json: cannot be read \(No such file"):
        evaluate_records(TRUTH, tmp_path / "absent.json")
    with pytest.raises(UserError, match=r"^ground truth: images: Field required"):
        evaluate_records({"categories": [], "annotations": []}, [])


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    evaluate_records(TRUTH, perfect(TRUTH))
    assert capfd.readouterr() == ("", "")


def test_the_report_reads_back_from_json_and_shows_absent_numbers_as_dashes() -> None:
    report = evaluate_records(TRUTH, perfect(TRUTH))
    content = json.loads(report.to_json())
    per_class = tuple(ClassReport(**each) for each in content.pop("per_class"))
    assert Report(**content, per_class=per_class) == report
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report.table())
    text = console.export_text()
    assert "–" in text
    assert "dust" in text
    assert "-1" not in text


@dataclass
class Oracle:
    """Finds the annotated boxes by recognising the image by its brightness."""

    boxes: dict[int, list[tuple[float, float, float, float]]]
    labels: dict[int, list[int]]
    class_names: tuple[str, ...]
    calls: list[int]

    def __call__(self, images: list[np.ndarray]) -> list[Detections]:
        self.calls.append(len(images))
        return [self._detect(int(image[0, 0, 0])) for image in images]

    def _detect(self, brightness: int) -> Detections:
        boxes = np.array(self.boxes.get(brightness, []), dtype=np.float32).reshape(-1, 4)
        labels = np.array(self.labels.get(brightness, []), dtype=np.int64)
        return Detections(boxes, np.full(len(boxes), 0.7, np.float32), labels, self.class_names)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images 10, 20 and 30 bright; the first with a cell, the second with dust and a crowd of cells."""
    images = []
    for image_id, brightness in ((5, 10), (6, 20), (9, 30)):
        name = f"{brightness}.png"
        assert cv2.imwrite(str(tmp_path / name), np.full((100, 120, 3), brightness, np.uint8))
        images.append({"id": image_id, "file_name": name, "width": 120, "height": 100})
    boxes = [(5, 20, [10, 10, 40, 40], 0), (6, 10, [50, 20, 30, 60], 0), (6, 20, [0, 0, 50, 100], 1)]
    annotations = [
        {"id": n, "image_id": image_id, "category_id": category, "bbox": box, "area": 1600, "iscrowd": crowd}
        for n, (image_id, category, box, crowd) in enumerate(boxes)
    ]
    categories = [{"id": 20, "name": "cell"}, {"id": 10, "name": "dust"}]
    content = {"images": images, "categories": categories, "annotations": annotations}
    (tmp_path / "val.json").write_text(json.dumps(content))
    return tmp_path


def oracle(*class_names: str) -> Oracle:
    boxes = {10: [(10.0, 10.0, 50.0, 50.0)], 20: [(50.0, 20.0, 80.0, 80.0), (5.0, 5.0, 30.0, 30.0)]}
    names = {10: ["cell"], 20: ["dust", "cell"]}
    labels = {key: [class_names.index(name) for name in value] for key, value in names.items()}
    return Oracle(boxes, labels, class_names, [])


def test_classes_are_matched_by_name_and_crowds_forgive(folder: Path) -> None:
    for class_names in (("dust", "cell"), ("cell", "dust")):
        report = evaluate(oracle(*class_names), read_coco(folder, "val"))
        assert (report.ap, report.ar100) == pytest.approx((1, 1))
        assert [(each.name, each.boxes) for each in report.per_class] == [("dust", 1), ("cell", 1)]
        assert report.images == 3


def test_images_come_in_batches_and_progress_is_told(folder: Path) -> None:
    detect, told = oracle("dust", "cell"), []
    evaluate(detect, read_coco(folder, "val"), batch_size=2, progress=told.append)
    assert detect.calls == [2, 1]
    assert told == [2, 3]


def test_a_class_that_the_data_lack_is_left_out(folder: Path) -> None:
    dataset = read_coco(folder, "val", class_names=("mite", "cell", "dust"))
    detect = oracle("mite", "cell", "dust")
    detect.boxes[30], detect.labels[30] = [(0.0, 0.0, 20.0, 20.0)], [0]
    report = evaluate(detect, dataset)
    assert report.ap == pytest.approx(1)
    assert [each.name for each in report.per_class] == ["dust", "cell"]


def test_a_false_alarm_costs_precision(folder: Path) -> None:
    detect = oracle("dust", "cell")
    detect.boxes[10].insert(0, (60.0, 60.0, 80.0, 80.0))
    detect.labels[10].insert(0, 1)
    report = evaluate(detect, read_coco(folder, "val"))
    assert [each.ap for each in report.per_class] == pytest.approx([1, 0.5])
    assert report.ar100 == pytest.approx(1)


def test_only_the_images_of_the_data_set_count(folder: Path) -> None:
    dataset = read_coco(folder, "val")
    report = evaluate(oracle("dust", "cell"), replace(dataset, records=dataset.records[:1]))
    assert report.images == 1
    assert [each.boxes for each in report.per_class] == [0, 1]


def test_annotations_skipped_as_bad_stay_out(folder: Path) -> None:
    content = json.loads((folder / "val.json").read_text())
    content["annotations"].append(content["annotations"][0] | {"id": 9, "bbox": [1, 2, float("nan"), 3]})
    content["annotations"].append(content["annotations"][0])
    (folder / "val.json").write_text(json.dumps(content))
    report = evaluate(oracle("dust", "cell"), read_coco(folder, "val", skip_bad=True))
    assert report.ar100 == pytest.approx(1)
    assert [each.boxes for each in report.per_class] == [1, 1]


def test_finding_nothing_gives_zeros(folder: Path) -> None:
    report = evaluate(Oracle({}, {}, ("dust", "cell"), []), read_coco(folder, "val"))
    assert (report.ap, report.ar100) == (0, 0)


def test_a_model_without_a_class_of_the_data_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"the model knows 'cat' but the data has 'dust', 'cell'"):
        evaluate(Oracle({}, {}, ("cat",), []), read_coco(folder, "val"))
