"""Models as a server takes them."""

from __future__ import annotations

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


def test_the_ap_is_the_one_that_the_file_records(tmp_path: Path) -> None:
    lineage = {"source": "trained", "data": "pets", "validation": {"epoch": 3, "ap": 0.31234, "ap50": 0.6}}
    found = opened(tmp_path, lineage=lineage).facts["ap"]
    assert found == {"value": 0.3123, "of": "the validation images of pets"}
    nothing_to_find = {**lineage, "validation": {"epoch": 3, "ap": -1.0}}
    assert opened(tmp_path, lineage=nothing_to_find).facts["ap"] is None
    assert opened(tmp_path, lineage={"source": "trained"}).facts["ap"] is None


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
