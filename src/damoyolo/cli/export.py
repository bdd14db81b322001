"""`damoyolo export`."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from damoyolo.cli.ranges import Count, Share


def export(
    output: Path,
    /,
    *,
    weights: str,
    format: Literal[  # noqa: A002 (the word every exporter uses)
        "onnx", "openvino", "tensorrt", "ncnn", "coreml", "executorch"
    ]
    | None = None,
    head: Literal["raw", "topk", "nms"] = "raw",
    precision: Literal["fp32", "fp16", "bf16"] = "fp32",
    int8: Annotated[bool, Parameter(negative="")] = False,
    data: Path | None = None,
    split: str = "val",
    max_drop: float = 0.5,
    calibration_images: Count = 300,
    preprocess: Literal["rgb", "bgr"] | None = None,
    dynamic: Annotated[bool, Parameter(negative="")] = False,
    batch: Count = 1,
    image_size: str | None = None,
    score: Share | None = None,
    iou: Annotated[Share | None, Parameter(alias="--nms-iou")] = None,
    max_detections: Count = 300,
    images: str | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Write a model as a file that runs without PyTorch, and prove that it computes the same.

    Exit code 0: it is written; 1: it computes something else, or only what an engine is built from elsewhere
    was written; 2: it cannot be written so.

    Parameters
    ----------
    output
        The file: .onnx, .xml (OpenVINO), .engine (TensorRT), .ncnn.param, .mlpackage (Core ML) or .pte
        (ExecuTorch). Its proof is written beside it, as OUTPUT.proof.json.
    weights
        A model size (Ns Nm Nl T S M L) or a weights file (.safetensors, .pth, hf://owner/name).
    format
        Where the suffix of the file does not tell.
    head
        raw: scores and boxes of all points; topk: the best of them; nms: what suppression leaves.
    precision
        Of the numbers inside.
    int8
        Numbers of eight bits, measured on --data; layers that lose too much stay in float and are named.
    data
        For --int8: a data set of the model's classes; its train split gives the images to calibrate with.
    split
        For --int8: what the AP is measured on.
    max_drop
        For --int8: AP points that may be lost; 0.5 is .005 of an AP from 0 to 1.
    calibration_images
        For --int8: how many, at most.
    preprocess
        Take uint8 images (height, width, 3) in this order of colours, not float RGB planes.
    dynamic
        Any number of images of any size that is a multiple of 32.
    batch
        Images at once; not with --dynamic.
    image_size
        Network input in pixels, a side or HEIGHTxWIDTH, multiples of 32; default the model's own.
    score
        Lowest score that counts, 0 to 1; default the model's own.
    iou
        Two boxes of a class that overlap more than this are one thing; default the model's own.
    max_detections
        Most boxes of the heads topk and nms.
    images
        An image, a folder or a pattern in quotes, to compare with, beside drawn ones.
    as_json
        Print the proof as JSON and nothing else, nor any progress.
    """
    from damoyolo import assemble
    from damoyolo.assemble.quantization import Int8
    from damoyolo.data.images import read_image
    from damoyolo.errors import UserError
    from damoyolo.prediction import find_images

    if int8 != (data is not None):
        raise UserError("--int8 and --data: go together; --data is the data set that INT8 is measured on")
    exported = assemble.export_model(
        assemble.load(weights),
        output,
        format=format,
        head=head,
        precision=precision,
        int8=Int8(data, split, max_drop, calibration_images) if data else None,
        preprocess=preprocess,
        dynamic=dynamic,
        batch=batch,
        image_size=image_size,
        score_threshold=score,
        nms_iou=iou,
        max_detections=max_detections,
        images=[read_image(path) for path in find_images(images)] if images else (),
        announce=None if as_json else partial(print, file=sys.stderr, flush=True),
    )
    proof, code = exported.proof, int(exported.file != output)
    if as_json:
        print(json.dumps(proof.model_dump(mode="json"), indent=1))
        return code
    height, width = exported.card.image_size
    print(f"{exported.file}: {height}x{width} px, head {exported.card.head}, {exported.card.precision}")
    for line in proof.lines():
        print(line)
    return code
