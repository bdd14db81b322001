"""The golden numbers of the original search, as this project's structures and genomes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from conftest import SHIPPED
from damoyolo.search.space import Frame, Genome, genome_of
from damoyolo.spec import Structure

TYPES = {"SuperResK1KX": "k1kx", "SuperResKXKX": "kxkx", "SuperResK1KXK1": "k1kxk1"}


def golden_search(part: str) -> list[dict[str, Any]]:
    """The entries of one part (structures, latency_ops, mutations) of all golden files."""
    folder = Path(os.environ.get("DAMOYOLO_GOLDEN_NAS", SHIPPED))
    files = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [entry for content in files if isinstance(content, dict) for entry in content.get(part, [])]


def as_structure(blocks: list[dict[str, Any]]) -> Structure:
    """The structure of a list of blocks as the original writes it."""
    stem, *rest = blocks
    return Structure.model_validate(
        {
            "kind": "res",
            "stem": {"type": "focus" if stem["s"] == 1 else "conv", "out": stem["out"], "kernel": stem["k"]},
            "blocks": [
                {
                    "type": TYPES[block["class"]],
                    "out": block["out"],
                    "stride": block["s"],
                    "layers": block["L"],
                    "kernel": block["k"],
                    "bottleneck": block["btn"],
                }
                for block in rest
            ],
            "activation": "relu",
            "rep": True,
        }
    )


def as_genome(blocks: list[dict[str, Any]]) -> tuple[Frame, Genome]:
    """Its frame and genome."""
    structure = as_structure(blocks)
    return Frame(structure), genome_of(structure)


def image_size_of(entry: dict[str, Any]) -> int:
    """Side of the image: the original gives the side of what the stem sees, half of it after a Focus."""
    side: int = entry["image_size"]
    return side * (2 if entry.get("structure", entry.get("before"))[0]["s"] == 1 else 1)
