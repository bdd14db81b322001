"""What pnnx makes of a detector, run by ncnn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from damoyolo.assemble import Exported, export_model, verify
from damoyolo.errors import RunError, UserError
from damoyolo.export.formats import write
from damoyolo.export.mobile_sessions import NcnnSession
from damoyolo.export.runtime import open_runtime
from damoyolo.prediction import detect
from exportable import lively, photograph, quick_exports  # noqa: F401 (a fixture)

pnnx = pytest.importorskip("pnnx")
DETECTOR = lively(resize="letterbox")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_model(DETECTOR, tmp_path_factory.mktemp("ncnn") / "x.ncnn.param")


def test_the_files_are_equal_to_the_model_in_single_precision(exported: Exported) -> None:
    assert exported.proof.passed
    assert exported.proof.comparison.score < 1e-5
    assert exported.proof.comparison.box_px < 5e-3
    assert set(exported.proof.sha256) == {"x.ncnn.param", "x.ncnn.bin", "x.ncnn.param.card.json"}
    assert verify(exported.file).passed


def test_a_photograph_of_any_size_gives_what_torch_detects(exported: Exported) -> None:
    runtime = open_runtime(exported.file, threads=1)
    (expected,) = detect(DETECTOR, [photograph()], score=0.3)
    found = runtime(photograph(), score=0.3)
    assert len(expected) > 3
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-2)


def test_inputs_and_outputs_have_the_names_of_the_card(exported: Exported) -> None:
    lines = [line.split() for line in exported.file.read_text().splitlines()]
    assert lines[2][:2] == ["Input", "images"]
    assert {"output", "boxes"} <= {word for line in lines for word in line}
    assert not {"in0", "out0", "out1"} & {word for line in lines for word in line}


def test_half_precision_halves_the_weights(exported: Exported, tmp_path: Path) -> None:
    half = tmp_path / "x.ncnn.param"
    write("ncnn", DETECTOR, exported.card.model_copy(update={"precision": "fp16"}), half)
    sizes = [each.with_suffix(".bin").stat().st_size for each in (half, exported.file)]
    assert sizes[0] < 0.65 * sizes[1]
    images = photograph(64, 96)[None].transpose(0, 3, 1, 2).astype(np.float32)
    found, expected = (NcnnSession(each, threads=1).run(images) for each in (half, exported.file))
    assert 0 < np.abs(found[0] - expected[0]).max() < 0.05


@pytest.mark.parametrize(
    ("lost", "told"), [(".bin", "ncnn cannot load it with x.ncnn.bin"), (".param.card.json", "is missing")]
)
def test_a_lost_file_is_named(lost: str, told: str, exported: Exported, tmp_path: Path) -> None:
    for file in exported.file.parent.glob("x.ncnn.*"):
        if not file.name.endswith(lost):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=told):
        NcnnSession(tmp_path / "x.ncnn.param")


def test_a_converter_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pnnx, "EXEC_PATH", "false")
    with pytest.raises(RunError, match="pnnx failed, with code 1"):
        export_model(DETECTOR, tmp_path / "x.ncnn.param")
    assert not list(tmp_path.iterdir())
