from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
import torch

from damoyolo.assemble.inspection import assign_images, inspect_assignment
from damoyolo.boxes.types import Targets
from damoyolo.data.formats import read_coco
from damoyolo.data.images import read_image
from damoyolo.data.resize import Resize
from damoyolo.errors import UserError
from damoyolo.losses.criterion import Criterion
from damoyolo.nn.detector import Detector, build_detector
from damoyolo.spec import ModelCard
from tiny_runs import SMALL_SPEC, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("inspection"))


@pytest.fixture(scope="module")
def model(data: Path) -> Detector:
    names = tuple(each["name"] for each in json.loads((data / "train.json").read_text())["categories"])
    torch.manual_seed(0)
    return build_detector(ModelCard(spec=SMALL_SPEC, class_names=names, image_size=(96, 96))).eval()


def test_the_assignment_is_the_criterion_s_own_on_the_network_s_input(data: Path, model: Detector) -> None:
    records = [record for record in read_coco(data, "train").records if len(record.labels)][:2]
    for record, assigned in zip(records, assign_images(model, records), strict=True):
        resize = Resize("stretch", (96, 96))
        boxes = torch.from_numpy(resize.boxes(record.boxes, record.size))
        image = torch.from_numpy(resize.image(read_image(record.path))).permute(2, 0, 1)[None].float()
        targets = Targets.pad([boxes], [torch.from_numpy(record.labels)])
        with torch.no_grad():
            expected = Criterion().match(model(image), targets).assignment
        assert assigned.owner.tolist() == expected.gt_index[0].tolist()
        assert assigned.iou.tolist() == pytest.approx(expected.iou[0].tolist())
        assert (assigned.counts.sum(axis=1) > 0).any()


def test_pictures_and_numbers_are_written(data: Path, model: Detector, tmp_path: Path) -> None:
    summaries = inspect_assignment(model, data, tmp_path / "out", images=3, device="cpu")
    assert [each.size for each in summaries] == ["small", "medium", "large", "all"]
    content = json.loads((tmp_path / "out" / "assignment.json").read_text())
    assert len(content["images"]) == 3
    objects = [each for image in content["images"] for each in image["objects"]]
    assert content["summary"][3]["objects"] == summaries[3].objects == len(objects)
    assert sum(summaries[3].points_per_level) == sum(sum(each["points"]) for each in objects)
    pictures = list((tmp_path / "out").glob("*.jpg"))
    assert len(pictures) == 3
    assert all(cv2.imread(str(path)) is not None for path in pictures)


def test_fewer_images_into_the_same_folder_leave_no_old_pictures(
    data: Path, model: Detector, tmp_path: Path
) -> None:
    (tmp_path / "mine.jpg").touch()
    for images in (3, 1):
        inspect_assignment(model, data, tmp_path, images=images, device="cpu")
    content = json.loads((tmp_path / "assignment.json").read_text())
    (picture,) = (image["picture"] for image in content["images"])
    assert {path.name for path in tmp_path.iterdir()} == {"assignment.json", "mine.jpg", picture}


@pytest.mark.parametrize("name", ["../mine.jpg", "mine.txt", 3, None])
def test_an_earlier_summary_that_is_none_removes_nothing(
    name: object, data: Path, model: Detector, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    mine = [tmp_path / "mine.jpg", tmp_path / "out" / "mine.txt"]
    for path in mine:
        path.touch()
    (tmp_path / "out" / "assignment.json").write_text(json.dumps({"images": [{"picture": name}]}))
    inspect_assignment(model, data, tmp_path / "out", images=1, device="cpu")
    assert all(path.exists() for path in mine)


def test_more_images_than_there_are_give_all(data: Path, model: Detector, tmp_path: Path) -> None:
    inspect_assignment(model, data, tmp_path, split="val", images=99, device="cpu")
    labelled = sum(len(record.labels) > 0 for record in read_coco(data, "val").records)
    assert len(list(tmp_path.glob("*.jpg"))) == labelled


def test_a_split_without_boxes_is_the_user_s_mistake(data: Path, model: Detector, tmp_path: Path) -> None:
    content = json.loads((data / "val.json").read_text())
    (data / "test.json").write_text(json.dumps({**content, "annotations": []}))
    with pytest.raises(UserError, match=r"test\.json: has no boxes; take another --split"):
        inspect_assignment(model, data, tmp_path / "out", split="test", device="cpu")
    assert not (tmp_path / "out").exists()
