from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from damoyolo.assemble import demo, evaluate, load
from damoyolo.errors import UserError
from tiny_runs import SETTINGS

SMALL = {**SETTINGS, "epochs": 1}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The page of a very small demo, in a folder whose name is a pattern's, and what was said."""
    said: list[str] = []
    folder = tmp_path_factory.mktemp("demos") / "my [first] demo"
    return demo(folder, seed=3, settings=SMALL, say=said.append, images=(9, 12)), said


def test_it_leaves_data_a_run_pictures_and_a_page_and_tells_of_each_step(
    shown: tuple[Path, list[str]],
) -> None:
    page, said = shown
    folder = page.parent
    assert {path.name for path in folder.iterdir()} == {"data", "run", "pictures", "index.html"}
    assert (folder / "run" / "best.safetensors").exists()
    assert len(list((folder / "data" / "images").iterdir())) == 21
    assert [line[:2] for line in said] == ["1.", "2.", "3.", "4.", "5."]
    assert "9 training and 12 validation images" in said[0]
    assert str(page) in said[4]


def test_every_link_of_the_page_resolves_inside_the_folder(shown: tuple[Path, list[str]]) -> None:
    page, _ = shown
    links = re.findall(r'(?:src|href)="([^"]+)"', page.read_text())
    assert sorted(links) == [f"pictures/val_{number:04d}.jpg" for number in range(10)]
    assert all((page.parent / link).stat().st_size > 1000 for link in links)


def test_the_page_says_what_was_measured(shown: tuple[Path, list[str]]) -> None:
    page, said = shown
    report = evaluate(load(page.parent / "run" / "best.safetensors"), page.parent / "data", device="cpu")
    text = page.read_text()
    assert f"AP <b>{report.ap:.3f}</b>, AP50 <b>{report.ap50:.3f}</b> on 12 validation" in text
    assert f"AP {report.ap:.3f}, AP50 {report.ap50:.3f}" in said[2]
    for each in report.per_class:
        assert f"<td>{each.name}</td><td>{each.boxes}</td><td>{each.ap:.3f}</td>" in text
    first = json.loads((page.parent / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert f">{first['loss_total']:.2f}</text>" in text


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.json").write_text("precious")
    (tmp_path / "file").touch()
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match=f"output: {taken} exists and is not an empty folder"):
            demo(taken, settings=SMALL, images=(2, 2))
    assert (tmp_path / "data" / "train.json").read_text() == "precious"


def test_a_wrong_setting_is_told_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="epochs: is 0; take 1 or more"):
        demo(tmp_path / "demo", settings={"epochs": 0})
    assert not (tmp_path / "demo").exists()
