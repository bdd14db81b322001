"""Names of files, what each format refuses, and how files take their place."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from typing import Any

import pytest

from damoyolo.errors import UserError
from damoyolo.export.card import ExportCard
from damoyolo.export.extras import need
from damoyolo.export.formats import ABILITIES, SUFFIXES, aim, format_of, put_in_place
from damoyolo.export.sessions import ENGINES


def card(**changes: Any) -> ExportCard:
    return ExportCard(**{"class_names": ("a", "b"), "image_size": (64, 96), **changes})


@pytest.mark.parametrize("kind", SUFFIXES)
def test_the_suffix_tells_the_format_and_what_runs_it(kind: Any) -> None:
    path = Path(f"model.v2{SUFFIXES[kind]}")
    assert format_of(path) == format_of(path, kind) == kind
    assert ENGINES[path.suffix] == {"onnx": "onnxruntime"}.get(kind, kind)


@pytest.mark.parametrize(
    ("name", "given", "remedy"),
    [
        ("x.trt", None, ".onnx, .xml, .engine, .ncnn.param, .mlpackage, .pte"),
        ("x.param", None, ".ncnn.param"),
        ("x.onnx", "tensorrt", "take .engine"),
        ("x.param", "ncnn", "take .ncnn.param"),
    ],
)
def test_another_suffix_is_refused_with_those_that_are_known(name: str, given: Any, remedy: str) -> None:
    with pytest.raises(UserError, match=remedy):
        format_of(Path(name), given)


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        ("onnx", {"precision": "bf16"}, "onnx cannot hold the precision 'bf16'; it takes fp32 and fp16"),
        ("ncnn", {"head": "topk"}, "ncnn cannot hold the head 'topk'; it takes raw"),
        ("ncnn", {"batch": 2}, "ncnn cannot hold a batch of 2; take 1"),
        ("ncnn", {"preprocess": "rgb"}, "ncnn cannot hold uint8 images; leave out --preprocess"),
        ("coreml", {"head": "nms"}, "coreml cannot hold the head 'nms'; it takes raw"),
        ("coreml", {"dynamic": True}, "coreml cannot hold dynamic shapes; leave out --dynamic"),
        ("executorch", {"precision": "fp16"}, "executorch cannot hold the precision 'fp16'; it takes fp32"),
        ("tensorrt", {"precision": "bf16"}, "tensorrt cannot hold the precision 'bf16'; it takes fp32 and"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_with_what_it_can(
    kind: Any, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=r"^y: ") as refusal:
        aim(kind, Path("y"), card(**changes))
    assert sentence in str(refusal.value)


@pytest.mark.parametrize("kind", ABILITIES)
def test_every_format_holds_scores_and_boxes_in_float32(kind: Any) -> None:
    target = aim(kind, Path(f"x{SUFFIXES[kind]}"), card())
    assert (target.kind, target.card) == (kind, card())


def test_core_ml_is_run_on_macos_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    elsewhere = aim("coreml", Path("x.mlpackage"), card())
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    there = aim("coreml", Path("x.mlpackage"), card())
    assert (elsewhere.runs, there.runs, there.remark) == (False, True, "")
    assert "run damoyolo verify there" in elsewhere.remark


def test_a_missing_package_is_named_with_the_extra_that_brings_it() -> None:
    with pytest.raises(UserError, match=r"nowhere_to_be_found .* pip install 'damoyolo\[ncnn\]'"):
        need("nowhere_to_be_found", "ncnn")


def package(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(file)
    return folder


def contents(folder: Path) -> list[str]:
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file())


def test_a_folder_takes_the_place_of_an_older_one_whole(tmp_path: Path) -> None:
    output = package(tmp_path / "there" / "x.mlpackage", "old", "both")
    put_in_place(package(tmp_path / "part", "both", "data/new"), output)
    assert contents(output) == ["both", "data/new"]
    assert [each.name for each in output.parent.iterdir()] == ["x.mlpackage"]


@pytest.mark.parametrize("step", ["copy", "rename"])
def test_an_older_folder_stays_where_the_new_one_cannot_be_written(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, part = package(tmp_path / "there" / "x.mlpackage", "old"), package(tmp_path / "part", "new")
    rename = Path.rename

    def fail(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    def fail_with_the_new(path: Path, target: Path) -> Any:
        return fail() if path.suffix == ".part" else rename(path, target)

    if step == "copy":
        monkeypatch.setattr(shutil, "copytree", fail)
    else:
        monkeypatch.setattr(Path, "rename", fail_with_the_new)
    with pytest.raises(UserError, match="No space left on device"):
        put_in_place(part, output)
    assert contents(output) == ["old"]
    assert [each.name for each in output.parent.iterdir()] == ["x.mlpackage"]
