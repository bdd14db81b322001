"""What coremltools makes of a detector: its interface and its numbers; it runs on macOS only."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from damoyolo.assemble import Exported, export_model
from damoyolo.errors import UserError
from damoyolo.export.card import METADATA_KEY, ExportCard
from damoyolo.export.proof import proof_path
from damoyolo.export.rewrite import Network
from damoyolo.export.sessions import open_session
from exportable import lively

ct = pytest.importorskip("coremltools", exc_type=ImportError)
DETECTOR = lively()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    output = tmp_path_factory.mktemp("coreml") / "x.mlpackage"
    proof_path(output).write_text("of an older file")
    return export_model(DETECTOR, output, batch=2)


@pytest.fixture(scope="module")
def model(exported: Exported) -> Any:
    return ct.models.MLModel(str(exported.file), skip_model_load=True)


def test_inputs_and_outputs_are_those_of_the_card_in_single_precision(model: Any) -> None:
    description = model.get_spec().description
    told = {each.name: each.type.multiArrayType for each in (*description.input, *description.output)}
    assert {name: list(each.shape) for name, each in told.items()} == {
        "images": [2, 3, 64, 96],
        "output": [2, 126, 3],
        "boxes": [2, 126, 4],
    }
    assert {each.dataType for each in told.values()} == {65568}  # float32


def test_the_metadata_hold_the_card(exported: Exported, model: Any) -> None:
    assert ExportCard.from_json(model.user_defined_metadata[METADATA_KEY], "x") == exported.card
    assert exported.card.batch == 2


def test_every_weight_of_the_network_is_inside(exported: Exported) -> None:
    (weights,) = exported.file.rglob("weight.bin")
    inside = weights.read_bytes()
    large = [each for each in Network(DETECTOR).parameters() if each.numel() > 100]
    assert len(large) > 20
    missing = [
        each.shape for each in large if each.detach().numpy().astype(np.float32).tobytes() not in inside
    ]
    assert not missing


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS runs it")
def test_elsewhere_than_on_macos_it_is_written_but_not_proved(exported: Exported) -> None:
    assert exported.proof is None
    assert "macOS" in exported.remark
    assert [each.name for each in exported.file.parent.iterdir()] == ["x.mlpackage"]
    with pytest.raises(UserError, match=r"x\.mlpackage: Core ML predicts on macOS only"):
        open_session(exported.file)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS runs it")
def test_half_precision_halves_the_weights(exported: Exported, tmp_path: Path) -> None:
    half = export_model(DETECTOR, tmp_path / "x.mlpackage", precision="fp16")
    sizes = [next(each.file.rglob("weight.bin")).stat().st_size for each in (half, exported)]
    assert sizes[0] < 0.65 * sizes[1]
