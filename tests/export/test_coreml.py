"""What coremltools makes of a detector: its interface and its numbers; it runs on macOS only."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from damoyolo.assemble import Exported, export_model, verify
from damoyolo.errors import UserError
from damoyolo.export.card import METADATA_KEY, ExportCard
from damoyolo.export.proof import Proof, proof_path
from damoyolo.export.rewrite import Network
from damoyolo.export.runtime import Runtime
from exportable import CLASS_NAMES, lively, quick_exports  # noqa: F401 (a fixture)

ct = pytest.importorskip("coremltools", exc_type=ImportError)
DETECTOR = lively()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_model(DETECTOR, tmp_path_factory.mktemp("coreml") / "x.mlpackage", batch=2)


class Mac:
    """Core ML as it should compute, times a factor."""

    card = ExportCard(class_names=CLASS_NAMES, image_size=(64, 96))

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            found = DETECTOR(torch.from_numpy(images))
        return [self.factor * found.scores.numpy(), found.boxes.numpy()]


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
    proof = exported.proof
    assert (proof.passed, proof.comparison, proof.latency_ms) == (None, None, {})
    assert "run damoyolo verify there" in proof.remark
    assert proof == Proof.model_validate_json(proof_path(exported.file).read_bytes())
    with pytest.raises(
        UserError, match=r"x\.mlpackage: cannot be run here, because Core ML predicts on macOS"
    ):
        verify(exported.file)


def test_its_proof_keeps_what_a_mac_compares_with(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("damoyolo.assemble.shipping.open_runtime", lambda _: Runtime(Mac(1.0), exported.card))
    assert verify(exported.file).passed
    monkeypatch.setattr(
        "damoyolo.assemble.shipping.open_runtime", lambda _: Runtime(Mac(1.001), exported.card)
    )
    assert not verify(exported.file).passed


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS runs it")
def test_half_precision_halves_the_weights(exported: Exported, tmp_path: Path) -> None:
    half = export_model(DETECTOR, tmp_path / "x.mlpackage", precision="fp16")
    sizes = [next(each.file.rglob("weight.bin")).stat().st_size for each in (half, exported)]
    assert sizes[0] < 0.65 * sizes[1]
