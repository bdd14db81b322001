from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from damoyolo.assemble import read_config, resolve, write_report
from damoyolo.assemble.settings import to_yaml
from damoyolo.errors import UserError
from damoyolo.nn.detector import build_detector
from damoyolo.spec import ModelCard
from damoyolo.zoo.weights import save_weights
from tiny_runs import SMALL_SPEC, tiny, write_data

RECORD = {"epoch": 1, "step": 3, "lr": 0.1, "loss_total": 2.0, "loss_quality": 2.0, "seconds": 1.0}
VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """Pictures, links and text of a page; unbalanced tags fail."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.text = ""
        self.open: list[str] = []
        self.feed(content)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.anchors |= {given["id"]} if "id" in given else set()
        if tag == "img":
            self.images.append(given["src"])
        if tag == "a":
            self.links.append(given["href"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


def finished(
    data: Path, folder: Path, records: list[dict[str, object]], sure: float | None = None, **changes: object
) -> Path:
    """What a run leaves: settings, records, and weights of an untrained detector, sure of itself or not."""
    names = tuple(each["name"] for each in json.loads((data / "val.json").read_text())["categories"])
    torch.manual_seed(0)
    detector = build_detector(ModelCard(spec=SMALL_SPEC, class_names=names, image_size=(64, 64))).eval()
    if sure is not None:
        with torch.no_grad():
            for layer in detector.head.classify:
                layer.bias.fill_(sure)
    save_weights(detector, folder / "best.safetensors")
    (folder / "config.yaml").write_text(to_yaml(tiny(data, folder, **changes)))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def change(data: Path, split: str, edit: Callable[[dict[str, list[dict[str, object]]]], None]) -> None:
    """Rewrite an annotation file."""
    path = data / f"{split}.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run that was evaluated once, in its folder."""
    folder = tmp_path_factory.mktemp("my runs")
    records = [RECORD, {**RECORD, "epoch": 2, "step": 6, "ap": 0.2, "ap50": 0.4}]
    return write_report(finished(write_data(folder / "data"), folder / "run", records), device="cpu")


def test_the_page_stands_alone_and_its_pictures_lie_beside_it(written: Path) -> None:
    assert written.name == "report.html"
    page = Page(written.read_text(encoding="utf-8"))
    files = {file.name: file.read_bytes() for file in (written.parent / "report").iterdir()}
    assert {
        "curves.png",
        "precision_recall.png",
        "confusion.png",
        "labels.png",
        "training.jpg",
    } < files.keys()
    inside = [base64.b64decode(image.split(",", 1)[1]) for image in page.images]
    assert sorted(inside) == sorted(files.values())
    for content in inside:
        assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) is not None
    assert all(link.startswith("#") and link[1:] in page.anchors for link in page.links)
    assert "http" not in written.read_text(encoding="utf-8")
    assert written.stat().st_size < 5e6


def test_the_page_says_what_was_trained_and_how(written: Path) -> None:
    text = Page(written.read_text(encoding="utf-8")).text
    assert "these weights are of epoch 2, the best by ap, 0.200" in text
    assert "10 training and 4 validation images" in text
    assert "no_augment_epochs: 1" in text


def test_its_command_trains_again_with_the_same_settings(written: Path) -> None:
    text, run = Page(written.read_text(encoding="utf-8")).text, written.parent
    (command,) = [line for line in text.splitlines() if line.startswith("damoyolo train")]
    _, _, _, recipe, _, output = shlex.split(command)
    again = resolve(recipe, {"output": Path(output)})
    assert again == read_config(run).model_copy(update={"output": Path(f"{run}-again")})


def test_a_second_report_says_the_same_and_tells_how_far_it_is(written: Path) -> None:
    first, seen = written.read_bytes(), list[tuple[int, int]]()
    path = write_report(
        written.parent, device="cpu", batch_size=3, progress=lambda done, total: seen.append((done, total))
    )
    assert path.read_bytes() == first
    assert seen == [(3, 4), (4, 4)]


def test_the_training_images_are_those_of_the_run_s_first_phase(data: Path, tmp_path: Path) -> None:
    def samples(name: str, **changes: object) -> bytes:
        run = finished(data, tmp_path / name, [RECORD], **changes)
        return (write_report(run, device="cpu").parent / "report" / "training.jpg").read_bytes()

    alone = samples("alone", augment={"mosaic": 0.0, "flip": 0.0})
    mosaic = {"augment": {"mosaic": 1.0, "flip": 0.0}}
    assert samples("plain", epochs=2, no_augment_epochs=2, **mosaic) == alone
    assert samples("limited", epochs=2, no_augment_epochs=2, max_minutes=1.0, **mosaic) != alone


@pytest.mark.parametrize("sure", [-20.0, 9.0])
def test_a_detector_that_finds_nothing_or_everything_gets_a_page(
    data: Path, tmp_path: Path, sure: float
) -> None:
    path = write_report(finished(data, tmp_path / "run", [{**RECORD, "ap": 0.0}], sure), device="cpu")
    page = Page(path.read_text(encoding="utf-8"))
    assert "Worst images" in page.text
    assert "right" in page.text
    if sure < 0:
        assert "Best images" not in page.text


def test_a_run_that_never_evaluated_a_box_gets_a_page_with_dashes(data: Path, tmp_path: Path) -> None:
    change(data, "val", lambda content: content["annotations"].clear())
    path = write_report(finished(data, tmp_path / "run", [], -20.0), device="cpu")
    page = Page(path.read_text(encoding="utf-8"))
    assert page.text.count("–") > 6
    assert "Worst images" not in page.text


def test_one_class_and_a_class_that_never_occurs_get_a_page(data: Path, tmp_path: Path) -> None:
    def only_one(content: dict[str, list[dict[str, object]]]) -> None:
        first = content["categories"][0]["id"]
        content["annotations"] = [each for each in content["annotations"] if each["category_id"] == first]

    for split in ("train", "val"):
        change(data, split, only_one)
    assert write_report(finished(data, tmp_path / "absent", [RECORD], 9.0), device="cpu").exists()
    for split in ("train", "val"):
        change(data, split, lambda content: content.update(categories=content["categories"][:1]))
    assert write_report(finished(data, tmp_path / "one", [RECORD], 9.0), device="cpu").exists()


def test_names_of_classes_and_files_are_shown_and_not_executed(data: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        change(data, split, lambda content: content["categories"][0].update(name="<script>alert(1)</script>"))
    path = write_report(finished(data, tmp_path / "run", [RECORD]), device="cpu")
    assert "<script" not in path.read_text(encoding="utf-8")
    assert "<script>alert(1)</script>" in Page(path.read_text(encoding="utf-8")).text


def test_a_folder_without_weights_is_the_user_s_mistake(data: Path, tmp_path: Path) -> None:
    run = finished(data, tmp_path / "run", [RECORD])
    (run / "best.safetensors").unlink()
    with pytest.raises(UserError, match=r"best\.safetensors: is not there; let the run evaluate"):
        write_report(run)
    with pytest.raises(UserError, match="holds no run"):
        write_report(tmp_path / "absent")
