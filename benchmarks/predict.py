"""Images per second from files to detections, and what post-processing costs, side by side in one run.

    python benchmarks/predict.py [--sizes Ns T] [--data FOLDER] [--threads 2] [--batch 8] [--keep FOLDER]

Everything counts: decoding, resizing, the network, suppression, scaling the boxes back. `loop` takes one
image after the other, each on all threads; `predict` is what `damoyolo predict` does with a folder: an image
for each thread at the same time, and the next ones decoded meanwhile. `network` is the network alone in the
same threads, with inputs that are ready, which no way of feeding it exceeds. The ways take turns, `--seconds`
for each size; the best turn of each counts, because whatever else the machine does only ever takes time.
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
from damoyolo.export.bench import time_calls
from damoyolo.export.card import ExportCard
from damoyolo.export.onnx import to_onnx
from damoyolo.export.runtime import Candidates, Runtime, open_runtime, suppress
from damoyolo.export.sessions import OpenVinoSession
from damoyolo.machine import describe_machine
from damoyolo.prediction import detect, in_lanes, predict_files
from plain_export import trained_like

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("DAMOYOLO_DATA", ROOT.parent / "shared" / "data"))
BOXES = 30
"""That pass the threshold in an image."""


def open_ways(size, images, paths, threads, batch, folder):
    """By engine and way: what looks at all images. All find what is above the same threshold."""
    detector = trained_like(size)
    model = prepare(detector, device="cpu")
    options = {"score": threshold(model, images[:8]), "max_detections": 300}
    file = folder / f"{size}.onnx"
    if not file.exists():
        card = detector.card
        facts = {"class_names": card.class_names, "image_size": card.image_size, "score_threshold": 0.0}
        onnx.save(to_onnx(detector, ExportCard(**facts, head="topk", max_detections=300)), file)
    inputs = np.stack([Resize(model.card.resize, model.card.image_size).image(image) for image in images])
    inputs = inputs.transpose(0, 3, 1, 2).astype(np.float32)[:, None]

    def openvino(precision, streams):
        session = OpenVinoSession(file, threads, precision, streams=streams)
        return Runtime(session, session.card)

    opened = {
        "OpenVINO fp32": partial(openvino, "f32"),
        "OpenVINO bf16": partial(openvino, "bf16"),
        "ONNX Runtime": lambda streams: open_runtime(file, threads=threads, streams=streams),
    }

    @torch.inference_mode()
    def network(image):
        return model(torch.from_numpy(image)).scores

    finder = partial(detect, model, **options)
    ways = {("torch", "loop"): partial(loop, finder, paths)}
    ways["torch", "predict"] = partial(predict, in_lanes(finder, threads), paths, batch)
    ways["torch", "network"] = partial(in_lanes(alone(network), threads), inputs)
    for name, engine in opened.items():
        finder, runtime = partial(engine(1).detect, **options), engine(threads)
        ways[name, "loop"] = partial(loop, finder, paths)
        ways[name, "predict"] = partial(
            predict, in_lanes(partial(runtime.detect, **options), threads), paths, batch
        )
        ways[name, "network"] = partial(in_lanes(alone(runtime.session.run), threads), inputs)
    return ways


@torch.inference_mode()
def threshold(model, images):
    """That about `BOXES` pass in each of the images."""
    resize = Resize(model.card.resize, model.card.image_size)
    batch = np.stack([resize.image(image) for image in images]).transpose(0, 3, 1, 2)
    scores = model(torch.from_numpy(batch).float()).scores
    return float(scores.flatten().topk(BOXES * len(images)).values[-1])


def loop(finder, paths):
    return [finder([read_image(path)])[0] for path in paths]


def predict(finder, paths, batch):
    return [found.detections for found in predict_files(finder, paths, batch)]


def alone(network):
    """As a finder, for inputs that are ready."""
    return lambda inputs: [network(image) for image in inputs]


def measure(ways, images, seconds, threads):
    """The best images per second of each engine in each way, in turns of a shuffled order."""
    best, found = {}, {}
    for way in ways.values():
        way()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for key in random.sample(list(ways), len(ways)):
            torch.set_num_threads(threads)
            begin = time.perf_counter()
            found[key] = ways[key]()
            best[key] = max(best.get(key, 0.0), images / (time.perf_counter() - begin))
    return best, {key: np.mean([len(each) for each in found[key]]) for key in found if key[1] == "predict"}


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
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8, help="images on their way at once")
    parser.add_argument("--seconds", type=float, default=90, help="for a size")
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    paths = images_in(args.data)[: args.images]
    if not paths:
        parser.error(f"no images in {args.data}; set DAMOYOLO_DATA")
    images = [read_image(path) for path in paths]
    pixels = np.mean([image.shape[0] * image.shape[1] for image in images]) / 1e6
    title = f"images/s over {len(paths)} photographs of {pixels:.2f} megapixels, {args.threads} threads"
    headings = "size", "engine", "loop", "predict", "gain", "network", "boxes"
    table = Table(*headings, title=f"{title}, {describe_machine()}")
    with contextlib.ExitStack() as stack:
        folder = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for size in args.sizes:
            ways = open_ways(size, images, paths, args.threads, args.batch, folder)
            best, boxes = measure(ways, len(paths), args.seconds, args.threads)
            for name in dict.fromkeys(name for name, _ in ways):
                one, other, most = (best[name, way] for way in ("loop", "predict", "network"))
                cells = (f"{one:.1f}", f"{other:.1f}", f"{other / one:.2f}", f"{most:.1f}")
                table.add_row(size, name, *cells, f"{boxes[name, 'predict']:.0f}")
    console = Console(width=120)
    console.print(table)
    runtime_ms, model_ms = post_processing_ms()
    console.print(f"post-processing of 300 candidates: runtime {runtime_ms:.3f} ms, model {model_ms:.3f} ms")


if __name__ == "__main__":
    main()
