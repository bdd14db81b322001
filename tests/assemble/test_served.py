"""Models as a server takes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from damoyolo.assemble import export_model, load
from damoyolo.assemble.serving import ServedModel, open_served
from damoyolo.detections import Detections
from damoyolo.errors import UserError
from damoyolo.zoo import coco_class_names, read_spec
from damoyolo.zoo.weights import save_weights
from exportable import CLASS_NAMES, lively, photograph, quick_exports

__all__ = ["quick_exports"]
OPTIONS: dict[str, Any] = {"score": 0.3, "nms_iou": None, "max_detections": 100}


def opened(folder: Path, name: str = "tiny.safetensors", **card: Any) -> ServedModel:
    save_weights(lively(**card), folder / name)
    return open_served(str(folder / name), device="cpu")


def not_thin(found: Detections) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and labels; what is left of a box at the border may be too thin for one of two roundings."""
    keep = (found.boxes[:, 2:] - found.boxes[:, :2]).min(axis=1) > 0.1
    return found.boxes[keep], found.labels[keep]


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_small_inputs_give_the_same_boxes_as_whole_photographs(
    tmp_path: Path, resize: Literal["stretch", "letterbox"]
) -> None:
    model = opened(tmp_path, resize=resize)
    images = [photograph(190, 130), photograph(30, 300, seed=1)]
    found = model.find([model.prepare(image) for image in images], **OPTIONS)
    for one, other in zip(found, model.detect(images, **OPTIONS), strict=True):
        (boxes, labels), (wanted, wanted_labels) = map(not_thin, (one, other))
        assert len(wanted) > 10
        np.testing.assert_allclose(boxes, wanted, atol=0.01)
        np.testing.assert_array_equal(labels, wanted_labels)


@pytest.mark.slow
def test_an_exported_file_is_served_as_its_model(tmp_path: Path) -> None:
    model = opened(tmp_path)
    file = tmp_path / "tiny.onnx"
    export_model(load(tmp_path / "tiny.safetensors"), file)
    exported = open_served(str(file), device="cpu")
    assert (exported.facts["engine"], exported.most, exported.own_nms) == ("Onnx", 1, False)
    image = photograph(90, 130)
    (one,), (other,) = (each.find([each.prepare(image)], **OPTIONS) for each in (model, exported))
    assert len(one) == len(other) > 0
    np.testing.assert_allclose(one.boxes, other.boxes, atol=0.05)


def test_the_ap_is_that_of_the_evaluation_the_weights_were_kept_for(tmp_path: Path) -> None:
    lineage = {"source": "trained", "data": "pets"}
    records = [{"ap": 0.3, "ap50": 0.6}, {"loss": 1.0}, {"ap": 0.2, "ap50": 0.7}, {"ap": 0.25, "ap50": 0.65}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)))
    for by, wanted in (("ap50", 0.2), ("ap", 0.3)):
        (tmp_path / "config.yaml").write_text(f"best_by: {by}\n")
        facts = opened(tmp_path, "best.safetensors", lineage=lineage).facts
        assert facts["ap"] == {"value": wanted, "of": "the validation split of pets"}
    assert opened(tmp_path, "other.safetensors", lineage=lineage).facts["ap"] is None
    (tmp_path / "metrics.jsonl").write_text("no json")
    assert opened(tmp_path, "best.safetensors", lineage=lineage).facts["ap"] is None


def test_published_weights_have_the_published_ap_only_for_its_classes(tmp_path: Path) -> None:
    published = read_spec("Ns").published
    lineage = {"source": "converted", "file": "ns.pth"}
    assert published is not None
    model = opened(tmp_path, lineage=lineage)
    assert model.facts["ap"] is None
    assert model.facts["licence"].startswith("Apache-2.0, if")
    assert model.class_names == CLASS_NAMES != coco_class_names()


def test_what_cannot_be_opened_is_told(tmp_path: Path) -> None:
    for name in ("x.safetensors", "x.onnx", "Xl"):
        with pytest.raises(UserError, match=r"x|Xl"):
            open_served(str(tmp_path / name) if "." in name else name)
