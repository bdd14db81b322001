"""Writing Core ML packages. Converting works everywhere, predicting on macOS only."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import torch
from torch import nn

from damoyolo.export.card import INPUT, METADATA_KEY, ExportCard
from damoyolo.export.extras import need, quietly


def save_coreml(graph: nn.Module, card: ExportCard, path: Path) -> None:
    """Write `path` (.mlpackage), a folder, for iOS 16, macOS 13 and later; the card is in its metadata.

    Args:
        graph: in float32; Core ML computes in float16 where the card says fp16.
        card: for images of a fixed size.
        path: must not exist.
    """
    ct = need("coremltools", "coreml")
    precision = ct.precision.FLOAT16 if card.precision == "fp16" else ct.precision.FLOAT32
    with quietly(), contextlib.redirect_stderr(io.StringIO()):  # where it draws progress bars
        program = torch.export.export(graph, (torch.zeros(card.input_shape),)).run_decompositions({})
        model = ct.convert(
            program,
            inputs=[ct.TensorType(name=INPUT, shape=card.input_shape)],
            outputs=[ct.TensorType(name=name) for name in card.outputs],
            convert_to="mlprogram",
            compute_precision=precision,
            minimum_deployment_target=ct.target.iOS16,
            skip_model_load=True,
        )
    model.short_description = f"Detects {', '.join(card.class_names[:10])}"
    model.user_defined_metadata[METADATA_KEY] = card.to_json()
    model.save(str(path))
    (path / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)  # 150 kB for a debugger
