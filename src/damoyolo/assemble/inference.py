"""The one place that turns names, paths and options into objects."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from damoyolo.data.dataset import check_images
from damoyolo.data.formats import read_dataset
from damoyolo.detections import MAX_DETECTIONS, PICTURE_SCORE
from damoyolo.errors import UserError, nearest
from damoyolo.evaluation import coco
from damoyolo.export.runtime import Runtime, open_runtime
from damoyolo.export.sessions import ENGINES, IN_STREAMS, engine_of
from damoyolo.machine import usable_cores
from damoyolo.nn.detector import Detector, fuse
from damoyolo.prediction import OVERLAP, Finder, detect, flipped, in_lanes, tiled
from damoyolo.spec import given_image_size
from damoyolo.zoo import SIZES
from damoyolo.zoo.hub import is_hub_name
from damoyolo.zoo.mirrors import find_weights
from damoyolo.zoo.weights import load_any, load_reference, load_weights, save_weights

LONGEST_REASON = 100
"""Letters of what PyTorch says about a device that are passed on."""


def load(model: str | Path) -> Detector:
    """The trained detector, in eval mode on the CPU, of a size (Ns Nm Nl T S M L) or in a weights file.

    A size gives the published weights, from the cache folder or a mirror; a file is one of ours
    (.safetensors), also on the Hugging Face Hub (hf://owner/name), or a checkpoint of the reference (.pth).
    """
    name = str(model)
    if name.lower() in map(str.lower, SIZES):
        return load_weights(find_weights(name))
    if is_hub_name(name):
        return load_any(name)
    path = Path(model)
    if not path.exists() and not path.suffix:
        hint = nearest(name, SIZES) or f"; the sizes are {' '.join(SIZES)}"
        raise UserError(f"'{name}' is neither a model size nor a weights file{hint}")
    return load_any(path)


def prepare(model: Detector, *, device: str = "auto", image_size: int | str | None = None) -> Detector:
    """A copy for inference: RepConv fused, on the device, with inputs of `image_size` if given.

    Raises:
        UserError: if `model` is none, such as the path of one; or for a wrong device or size.
    """
    if not isinstance(model, Detector):
        raise UserError(f"model: a {type(model).__name__} is no detector; get one from damoyolo.load(...)")
    prepared = fuse(model)
    if image_size is not None:
        prepared.card = model.card.model_copy(update={"image_size": given_image_size(image_size)})
    return prepared.to(choose_device(device), memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def open_finder(
    weights: str,
    *,
    device: str = "auto",
    image_size: int | str | None = None,
    score: float = PICTURE_SCORE,
    nms_iou: float | None = None,
    max_detections: int = MAX_DETECTIONS,
    ensemble_flip: bool = False,
    tile: int | None = None,
    tile_overlap: float = OVERLAP,
    batch_size: int = 8,
    lanes: int = 1,
) -> Finder:
    """Ready to detect: a model, by size or weights file, or an exported file, by the suffix.

    Args:
        weights: which.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        image_size: of the network's input in pixels, a side or "HEIGHTxWIDTH"; default the model's own.
        score: lowest score, 0..1.
        nms_iou: two boxes of a class that overlap more are one thing; default the model's own.
        max_detections: the best so many are kept in each image.
        ensemble_flip: see each image also in the mirror (`prediction.flip`).
        tile: see each image also in tiles of this side in pixels (`prediction.tiles`),
        tile_overlap: of which neighbours share so much of their side, and
        batch_size: so many are detected at once.
        lanes: on a CPU, so many images of a list are looked at at the same time, each on its share of the
            cores (`prediction.lanes`). One is the quickest for an image, `usual_lanes` for many.
    """
    limits: dict[str, Any] = {"nms_iou": nms_iou, "max_detections": max_detections}
    limits["score"] = score / 2 if ensemble_flip else score
    model = open_model(weights, device=device, image_size=image_size, lanes=lanes)
    finder = _in_lanes(model, weights, device, lanes, limits)
    if ensemble_flip:
        finder = flipped(finder, score, most=max_detections)
    if tile is not None:
        finder = tiled(
            finder,
            tile,
            overlap=tile_overlap,
            batch_size=batch_size,
            most=max_detections,
            input_size=model.card.image_size,
        )
    return finder


def usual_lanes(batch_size: int) -> int:
    """One for each core that this process may use, as far as lists of so many images fill them."""
    return min(usable_cores(), batch_size)


def open_model(
    weights: str, *, device: str = "auto", image_size: int | str | None = None, lanes: int = 1
) -> Detector | Runtime:
    """A model ready for inference: a `Detector`, or the `Runtime` of an exported file, by the suffix.

    Args:
        weights: a size, a weights file or an exported file.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        image_size: of the network's input in pixels, a side or "HEIGHTxWIDTH"; default the model's own.
        lanes: threads that call a `Runtime` at the same time.
    """
    if not _is_exported(weights):
        return prepare(load(weights), device=device, image_size=image_size)
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device: '{device}' does not suit: an exported file runs on cpu or cuda")
    if lanes == 1 or not _runs_in_streams(weights, device):
        return open_runtime(weights, device="cuda" if device == "cuda" else "cpu", image_size=image_size)
    return open_runtime(weights, image_size=image_size, threads=usable_cores(), streams=lanes, batch_size=1)


def _in_lanes(
    model: Detector | Runtime, weights: str, device: str, lanes: int, limits: dict[str, Any]
) -> Finder:
    if isinstance(model, Runtime):
        lanes = lanes if _runs_in_streams(weights, device) else 1
        return in_lanes(partial(model.detect, **limits), lanes, size=model.batch_size)
    on_cpu = next(model.parameters()).device.type == "cpu"
    return in_lanes(partial(detect, model, **limits), lanes if on_cpu else 1)


def _is_exported(weights: str) -> bool:
    return not is_hub_name(weights) and Path(weights).suffix in ENGINES


def _runs_in_streams(exported: str, device: str) -> bool:
    return device != "cuda" and engine_of(Path(exported)) in IN_STREAMS


def evaluate(
    model: Detector,
    data: str | Path,
    split: str = "val",
    *,
    batch_size: int = 8,
    device: str = "auto",
    image_size: int | str | None = None,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> coco.Report:
    """The COCO numbers of a detector on one split of a data set; classes are matched by name.

    Args:
        model: any detector; a copy of it is fused and moved.
        data: a folder or YAML file of a data set: COCO JSON, YOLO text or Pascal VOC XML, found by looking.
        split: which annotations to compare with.
        batch_size: images detected at once.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        image_size: of the network's input in pixels, a side or "HEIGHTxWIDTH"; default the model's own.
        skip_bad: leave bad images and annotations out instead of stopping.
        progress: called with the numbers of images done and in all.
    """
    prepared = prepare(model, device=device, image_size=image_size)
    dataset = read_dataset(Path(data), split, class_names=model.card.class_names, skip_bad=skip_bad)
    if skip_bad:
        dataset = check_images(dataset, skip_bad=True)
    total = len(dataset)
    try:
        return coco.evaluate(
            partial(detect, prepared, score=model.card.spec.score_threshold),
            dataset,
            batch_size,
            progress=(lambda done: progress(done, total)) if progress else None,
        )
    except UserError:
        check_images(dataset)  # tells of all bad images
        raise


def convert(
    source: str | Path,
    output: str | Path,
    class_names: Sequence[str] | None = None,
    legacy_background: bool | None = None,
) -> Detector:
    """Write a checkpoint of the reference as weights of ours; see `zoo.weights.load_reference`."""
    if Path(output).suffix != ".safetensors":
        raise UserError(
            f"{output}: the output is written as safetensors; give it a name ending in .safetensors"
        )
    detector = load_reference(source, class_names, legacy_background)
    save_weights(detector, output)
    return detector


def choose_device(name: str) -> torch.device:
    """The device of that name, or with `auto` the best there is."""
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    available = [kind for kind, there in has.items() if there]
    if name == "auto":
        return torch.device(available[0])
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).tolist()  # asks for numbers, which the device `meta` has none of
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        clause = re.split(r"[.;] |\n", str(error))[0]
        if "device string" in clause:
            clause = "there is none of that name"
        reason = textwrap.shorten(clause, LONGEST_REASON, placeholder=" ...")
        raise UserError(
            f"device: '{name}' cannot be used ({reason}); take auto, or what is here: {', '.join(available)}"
        ) from error
    return device
