"""Images per second from files to detections, and what post-processing costs, side by side in one run.

    python benchmarks/predict.py [--sizes Ns T] [--data FOLDER] [--threads 2] [--batch 8] [--keep FOLDER]

Everything counts: decoding, resizing, the network, suppression, scaling the boxes back. `loop` takes one
image after the other; `predict` is what `damoyolo predict` does, which decodes the next images meanwhile.
Weights are random, and the threshold is such that about 30 boxes an image pass it. Photographs are looked for
in DAMOYOLO_DATA. `--keep` keeps the exported files for the next run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from rich.console import Console
from rich.table import Table

from damoyolo.assemble import prepare
from damoyolo.boxes.select import select_boxes
from damoyolo.data.image_files import images_in
from damoyolo.data.images import read_image
from damoyolo.data.resize import Resize, to_original
from damoyolo.export.bench import describe_machine, time_calls
from damoyolo.export.card import ExportCard
from damoyolo.export.onnx import to_onnx
from damoyolo.export.runtime import Candidates, Runtime, open_runtime, suppress
from damoyolo.export.sessions import OpenVinoSession
from damoyolo.prediction import detect, predict_files
from plain_export import trained_like

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("DAMOYOLO_DATA", ROOT.parent / "shared" / "data"))
BOXES = 30
"""That pass the threshold in an image."""


def open_finders(size, images, threads, folder):
    """By name; all find what is above the same threshold."""
    detector = trained_like(size)
    model = prepare(detector, device="cpu")
    options = {"score": threshold(model, images[:8]), "max_detections": 300}
    file = folder / f"{size}.onnx"
    if not file.exists():
        card = detector.card
        facts = {"class_names": card.class_names, "image_size": card.image_size, "score_threshold": 0.0}
        onnx.save(to_onnx(detector, ExportCard(**facts, head="topk", max_detections=300)), file)
    openvino = partial(OpenVinoSession, file, threads)
    sessions = {"OpenVINO fp32": openvino("f32"), "OpenVINO bf16": openvino("bf16")}
    runtimes = {name: Runtime(session, session.card) for name, session in sessions.items()}
    runtimes["ONNX Runtime"] = open_runtime(file, threads=threads)
    finders = {name: partial(runtime.detect, **options) for name, runtime in runtimes.items()}
    return {"torch": partial(detect, model, **options), **finders}


@torch.inference_mode()
def threshold(model, images):
    """That about `BOXES` pass in each of the images."""
    resize = Resize(model.card.resize, model.card.image_size)
    batch = np.stack([resize.image(image) for image in images]).transpose(0, 3, 1, 2)
    scores = model(torch.from_numpy(batch).float()).scores
    return float(scores.flatten().topk(BOXES * len(images)).values[-1])


def loop(finder, paths, batch):
    return [finder([read_image(path)])[0] for path in paths]


def predict(finder, paths, batch):
    return [found.detections for found in predict_files(finder, paths, batch)]


def measure(finders, paths, batch, rounds):
    """The best images per second of each finder in each way, over rounds in shuffled order."""
    jobs = [(name, way) for name in finders for way in (loop, predict)]
    best, boxes = dict.fromkeys(jobs, 0.0), {}
    for finder in finders.values():
        loop(finder, paths[:3], 1)
    for _ in range(rounds):
        random.shuffle(jobs)
        for name, way in jobs:
            begin = time.perf_counter()
            found = way(finders[name], paths, batch)
            best[name, way] = max(best[name, way], len(paths) / (time.perf_counter() - begin))
            boxes[name, way] = np.mean([len(each) for each in found])
    return best, boxes


def post_processing_ms(candidates=300, classes=80):
    """Median ms of suppression and scaling back: of a runtime, and of the model."""
    random_numbers = np.random.default_rng(0)
    corners = random_numbers.uniform(0, 500, (candidates, 2)).astype(np.float32)
    boxes = np.hstack([corners, corners + random_numbers.uniform(10, 140, (candidates, 2))]).astype(
        np.float32
    )
    scores = np.sort(random_numbers.uniform(0.05, 1, candidates).astype(np.float32))[::-1].copy()
    labels = random_numbers.integers(0, classes, candidates)
    names, resize = tuple(map(str, range(classes))), Resize("stretch", (640, 640))

    def without_torch():
        kept = suppress(Candidates(boxes, scores, labels), 0.7, 300)
        return to_original(*kept, resize, (480, 640), names)

    table = torch.zeros(candidates, classes)
    table[torch.arange(candidates), torch.from_numpy(labels)] = torch.from_numpy(scores)
    tensor = torch.from_numpy(boxes)

    def with_torch():
        kept = select_boxes(table, tensor, 0.01, 0.7, 300)
        arrays = (each.numpy() for each in (kept.boxes, kept.scores, kept.labels))
        return to_original(*arrays, resize, (480, 640), names)

    assert len(without_torch()) == len(with_torch())
    return time_calls(without_torch).p50, time_calls(with_torch).p50


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="*", default=["Ns", "T"])
    parser.add_argument("--data", type=Path, default=DATA / "coco-slice")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8, help="images on their way at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    paths = images_in(args.data)[: args.images]
    if not paths:
        parser.error(f"no images in {args.data}; set DAMOYOLO_DATA")
    images = [read_image(path) for path in paths]
    pixels = np.mean([image.shape[0] * image.shape[1] for image in images]) / 1e6
    title = f"images/s over {len(paths)} photographs of {pixels:.2f} megapixels, {args.threads} threads"
    table = Table(
        "size", "engine", "loop", "predict", "gain", "boxes", title=f"{title}, {describe_machine()}"
    )
    with contextlib.ExitStack() as stack:
        folder = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for size in args.sizes:
            finders = open_finders(size, images, args.threads, folder)
            best, boxes = measure(finders, paths, args.batch, args.rounds)
            for name in finders:
                one, other = best[name, loop], best[name, predict]
                cells = f"{one:.1f}", f"{other:.1f}", f"{other / one:.2f}", f"{boxes[name, predict]:.0f}"
                table.add_row(size, name, *cells)
    console = Console(width=120)
    console.print(table)
    runtime_ms, model_ms = post_processing_ms()
    console.print(f"post-processing of 300 candidates: runtime {runtime_ms:.3f} ms, model {model_ms:.3f} ms")


if __name__ == "__main__":
    main()
