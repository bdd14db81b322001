"""Writing ExecuTorch programs, with XNNPACK doing the work on a CPU."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from damoyolo.export.card import METADATA_KEY, ExportCard
from damoyolo.export.extras import need, quietly
from damoyolo.files import write_atomically


def save_executorch(graph: nn.Module, card: ExportCard, path: Path) -> None:
    """Write `path` (.pte); its method `forward` is the graph, its method `damoyolo` gives the card.

    Args:
        graph: in float32.
        card: for images of a fixed size.
        path: of the program.
    """
    exir = need("executorch.exir", "executorch")
    xnnpack = need("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
    images = torch.zeros(card.input_shape, dtype=torch.uint8 if card.preprocess else torch.float32)
    with quietly():
        program = exir.to_edge_transform_and_lower(
            torch.export.export(graph, (images,)),
            partitioner=[xnnpack.XnnpackPartitioner()],
            constant_methods={METADATA_KEY: card.to_json()},
        ).to_executorch()
    write_atomically(path, bytes(program.buffer))
