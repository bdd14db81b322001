"""A small world in which the documentation's commands run as they are written, and what makes them quick.

Paths that the pages mention exist in it. What is made smaller or stands in for something else is in the
tables below.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import cv2
from torch import nn

from clips import moving_red, write_clip
from conftest import ROOT
from damoyolo.assemble import export_model, load, train
from damoyolo.zoo import SIZES
from damoyolo.zoo.weights import save_weights
from doc_pages import Step
from reference_files import checkpoint
from tiny_runs import spec_in, tiny, write_data

TINY = "tiny.yaml"
"""Trained in place of the seven sizes."""
V100 = "latency/v100-fp16-bs32.txt"
"""Latencies in the form of the original's table."""
WEIGHTS = "runs/mine/best.safetensors"
QUICK: dict[str, dict[str, str]] = {
    "train": {
        "--epochs": "1",
        "--image-size": "64",
        "--batch-size": "4",
        "--workers": "0",
        "--device": "cpu",
        "--precision": "float32",
        "--no-augment-epochs": "0",
        "--optim.warmup-epochs": "0.5",
        "--no-report": "",
    },
    "bench": {"--calls": "2", "--threads": "1"},
    "search": {"--candidates": "300", "--measured": "1"},
    "profile": {"--seconds": "0.1", "--detectors": "3"},
    "app": {"--port": "0"},
    "benchmarks/assign.py": {"--images": "1", "--size": "64", "--repeats": "1"},
    "benchmarks/data.py": {"--data": "bccd", "--images": "4", "--size": "64"},
    "benchmarks/depthwise.py": {"--batch-size": "1", "--repeats": "1"},
    "benchmarks/finetune.py": {
        "--class-name": "circle",
        "--model": TINY,
        "--epochs": "1",
        "--image-size": "64",
    },
    "benchmarks/latency.py": {"--sizes": TINY, "--calls": "1"},
    "benchmarks/latency_model.py": {"--seconds": "0.1", "--structures": "3"},
    "benchmarks/looks.py": {"--tile": "64"},
    "benchmarks/predict.py": {"--sizes": TINY, "--data": "photos", "--seconds": "0.1"},
    "benchmarks/proxy.py": {
        "--latency-ms": "3",
        "--layers": "15",
        "--sets": "'equal latency'",
        "--epochs": "1",
        "--train-size": "64",
    },
    "benchmarks/rewrites.py": {"--sizes": TINY, "--forms": "pools", "--calls": "1"},
    "benchmarks/search.py": {"--candidates": "300"},
    "benchmarks/serve.py": {"--clients": "4", "--rude": "3", "--seconds": "1", "--weights": WEIGHTS},
    "benchmarks/train_step.py": {
        "--models": "Ns",
        "--forms": "plain float32",
        "--image-size": "64",
        "--batch-size": "2",
        "--repeats": "1",
    },
}
"""Options of verbs and scripts, and what they are set to so that little is done and no port is taken."""
SMALLER = {
    "train=600, val=100, image_size=160": "train=10, val=4, image_size=64",
    "image_size=320": "image_size=64",
    'for size in ("Ns", "T")': 'for size in ("Ns",)',
    "max_layers=19, image_size=416": "max_layers=19, image_size=416, candidates=300",
    "COUNT = 12": "COUNT = 2",
    "STEPS = 6_000": "STEPS = 600",
    "np.geomspace(500, 2500, 40)": "np.geomspace(650, 900, 8)",
}
"""Likewise, in snippets and scripts."""
CHECKED_ONLY = {
    "damoyolo predict 0 ": "needs a camera",
    "damoyolo predict rtsp:": "needs a stream",
    "damoyolo export mine.engine ": "needs a GPU and TensorRT",
    "torchrun ": "needs several machines",
    "make ": "the targets are checked by test_readme.py",
    "pip ": "would change this environment; extras and files are checked",
}
"""What cannot run here, by how it begins."""
ONCE = {
    " bench ": ("tutorial.md", "starts a process for every file"),
    " export mine.onnx ": ("deploy/onnx.md", "is the same on many pages"),
    " export mine.xml ": ("deploy/openvino.md", "is the same on many pages"),
    " --int8 ": ("deploy/int8.md", "measures accuracy and speed of many files"),
}
"""What takes seconds even so, by a word in it, and the page where it is run; elsewhere it is checked."""


def why_not(page: str, step: Step) -> str:
    """Why something is not run; empty if it is."""
    reasons = [why for start, why in CHECKED_ONLY.items() if step.text.startswith(start)]
    if step.text.startswith("curl ") and shutil.which("curl") is None:
        reasons.append("there is no curl here")
    reasons += [why for word, (only, why) in ONCE.items() if word in step.text and page != only]
    return step.not_run or next(iter(reasons), "")


def furnish(folder: Path) -> Path:
    """Everything that pages take for granted: data, photographs, videos, weights, exported files."""
    data = write_data(folder / "path" / "to" / "data")
    shutil.copy(spec_in(data), folder / TINY)
    bccd = shutil.copytree(data, folder / "bccd")
    shutil.copy(bccd / "val.json", bccd / "test.json")
    images = sorted((data / "images").glob("val_*.jpg"))
    (folder / "photos").mkdir()
    for image in images[:2]:
        shutil.copy(image, folder / "photos")
    shutil.copy(images[2], folder / "street.jpg")
    (folder / "aerial").mkdir()
    cv2.imwrite(str(folder / "aerial" / "field.tif"), cv2.resize(cv2.imread(str(images[3])), (700, 700)))
    for name, size in (("holiday.mp4", (64, 96)), ("door.mp4", (480, 640))):
        write_clip(folder / name, moving_red(4, size), codec="mp4v")
    checkpoint(folder / "x.pth")
    model = load(train(tiny(data, folder / "runs" / "first", epochs=1)).best)
    for classify in model.head.classify:  # scores about .5, so that there are detections
        nn.init.zeros_(classify.bias)
        nn.init.normal_(classify.weight, std=0.1)
    for path in (WEIGHTS, "runs/large/best.safetensors"):
        save_weights(model, folder / path)
    (folder / V100).parent.mkdir()
    (folder / V100).write_text("\n".join(_latencies()))
    for name in ("mine.onnx", "mine.xml"):
        export_model(model, folder / name)
    for name in ("examples", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def _latencies() -> Iterator[str]:
    """Of convolutions, in proportion to their work and something for starting."""
    for kernel, stride, fused in product((1, 3), (1, 2), (0, 1)):
        for cout, ratio, side in product((16, 128, 2048), (0.25, 1, 4), (10, 80, 640)):
            cin = int(ratio * cout)
            ms = 0.01 + 2e-10 * cin * cout * (kernel * side / stride) ** 2
            yield f"{{Regular,32,{cin},{side},{side},{cout},{kernel},{stride},{fused}}} {ms}"


def quickened(command: str) -> list[str]:
    """The words after `damoyolo` or `python`, with what makes the verb or script quick in place."""
    verb, *words = shlex.split(command)[1:]
    for option, value in QUICK.get(verb, {}).items():
        words = [*_without(words, option), option, *shlex.split(value)]
    if verb == "train" and "--resume" not in words:
        words = [TINY if before == "--model" and word in SIZES else word for before, word in _pairs(words)]
        if "--model" not in words:
            words += ["--model", TINY]
    if verb in ("train", "search") and "--resume" not in words:  # begins anew, whatever pages did before
        output = words[words.index("--output") + 1] if "--output" in words else f"runs/{verb}"
        shutil.rmtree(output, ignore_errors=True)
    return [verb, *words]


def reduced(python: str) -> str:
    """A snippet with less to do."""
    for much, little in SMALLER.items():
        python = python.replace(much, little)
    return python


def _pairs(words: list[str]) -> list[tuple[str, str]]:
    return list(zip(["", *words], words, strict=False))


def _without(words: list[str], option: str) -> list[str]:
    """The words but for an option and its values."""
    kept, inside = [], False
    for word in words:
        inside = word == option or (inside and not word.startswith("--"))
        if not inside:
            kept.append(word)
    return kept
