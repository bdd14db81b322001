"""The page of a model on the Hugging Face Hub: what its weights file says, for people."""

from __future__ import annotations

from typing import Any

import yaml

from damoyolo.spec import ModelCard
from damoyolo.zoo.known_ap import known_ap

REPOSITORY = "https://github.com/tinyvision/DAMO-YOLO"
PAPER = "https://arxiv.org/abs/2211.15444"


def hub_card(card: ModelCard, name: str, licence: str) -> str:
    """The README.md of a repository, with the header that the Hub sorts models by.

    Args:
        card: of the weights.
        name: what they are loaded by, such as hf://owner/name.
        licence: of the weights, as the Hub abbreviates it, such as apache-2.0.
    """
    header = {
        "license": licence,
        "library_name": "damoyolo",
        "pipeline_tag": "object-detection",
        "tags": ["object-detection", "damo-yolo"],
    }
    height, width = card.image_size
    rows = {
        "model": card.spec.name,
        "input": f"{height} x {width} pixels, {card.resize}",
        "classes": str(len(card.class_names)),
        "AP": _precision(card),
        "origin": _origin(card.lineage),
        "licence": licence,
    }
    table = "\n".join(f"| {key} | {_cell(value)} |" for key, value in rows.items())
    return f"""---
{yaml.safe_dump(header, sort_keys=False)}---

# {name.rpartition("/")[2]}

An object detector, DAMO-YOLO {card.spec.name} ([paper]({PAPER}), [original]({REPOSITORY})), as a
file of damoyolo.

| | |
|---|---|
{table}

Classes: {", ".join(map(_cell, card.class_names))}

## How to use it

    damoyolo predict 'photos/*.jpg' --weights {name}
    damoyolo train path/to/data --model {name} --output runs/mine

```python
import damoyolo as dy

model = dy.load("{name}")
found = dy.predict(model, "street.jpg")  # found.boxes (xyxy pixels), .scores, .names
```

Boxes with a low score are left out; which score to show depends on the use. The numbers above hold for
pictures like those that the model was validated on, and for no others.
"""


def _precision(card: ModelCard) -> str:
    """The AP that is known of the file, and on what."""
    known = known_ap(card)
    if known is None:
        return "not recorded in the file; measure it with `damoyolo evaluate`"
    more = "" if known.ap50 is None else f", AP50 {known.ap50:.3f}"
    return f"{known.ap:.3f}{more} on {known.of}"


def _origin(lineage: dict[str, Any]) -> str:
    """Where the weights come from, the latest first."""
    if lineage.get("source") == "converted":
        return f"converted from {lineage.get('file', 'a checkpoint of the original DAMO-YOLO')}"
    if lineage.get("source") != "trained":
        return "not recorded in the file"
    words = f"trained on {lineage.get('data')} for {lineage.get('epochs')} epochs, seed {lineage.get('seed')}"
    if teacher := lineage.get("teacher"):
        words += f", with {teacher} as its teacher"
    if isinstance(before := lineage.get("from"), dict):
        words += f", from weights {_origin(before)}"
    return words


def _cell(text: str) -> str:
    """On one line, with nothing that ends a cell of a table or begins HTML."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return plain.replace("|", "\\|")
