"""`damoyolo predict`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

if TYPE_CHECKING:
    from damoyolo.detections import Detections

Share = Annotated[float, Parameter(validator=Number(gte=0, lte=1))]
Count = Annotated[int, Parameter(validator=Number(gte=1))]


def predict(
    source: str,
    /,
    *,
    weights: str,
    output: Path = Path("runs/predict"),
    score: Share = 0.4,
    iou: Share | None = None,
    max_detections: Count = 500,
    image_size: str | None = None,
    batch_size: Count = 8,
    device: str = "auto",
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Detect things in images and draw them.

    Parameters
    ----------
    source
        An image, a folder, or a pattern in quotes such as 'photos/**/*.jpg'.
    weights
        A model size (Ns Nm Nl T S M L), a weights file (.safetensors, .pth) or an exported one (.onnx, .xml).
    output
        Folder for the pictures, detections.json and detections.csv.
    score
        Lowest score shown, 0 to 1.
    iou
        Two boxes of a class that overlap more than this are one thing; default the model's own.
    max_detections
        Most boxes in one image.
    image_size
        Network input in pixels, a side or HEIGHTxWIDTH, multiples of 32; default the model's own.
    batch_size
        Images detected at once.
    device
        auto, cpu, cuda, cuda:1 or mps.
    as_json
        Print the detections as JSON and nothing else.
    """
    from damoyolo import assemble
    from damoyolo.prediction import Found, predict_into

    finder = assemble.open_finder(
        weights,
        device=device,
        image_size=image_size,
        score=score,
        nms_iou=iou,
        max_detections=max_detections,
    )
    results = predict_into(finder, source, output, batch_size)
    records, good = [], 0
    for result in results:
        records.append(result.to_record())
        if not isinstance(result, Found):
            print(f"error: {result.error}", file=sys.stderr)
            continue
        good += 1
        if not as_json:
            print(f"{result.path}: {_summary(result.detections)}")
    if as_json:
        print(json.dumps(records, indent=1))
    else:
        bad = f"; {len(records) - good} could not be read" if good < len(records) else ""
        print(f"{good} pictures, detections.json and detections.csv in {output}{bad}")
    return 0 if good else 2


def _summary(detections: Detections) -> str:
    """Such as `3 person, 1 dog`; the most frequent first."""
    counts = Counter(detections.names).most_common()
    return ", ".join(f"{count} {name}" for name, count in counts) or "nothing found"
