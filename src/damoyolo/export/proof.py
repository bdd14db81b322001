"""Whether an exported file computes what its model computes. No torch.

What the model computes comes in as plain numbers, and a proof keeps a sample of them, so that it can be
repeated where neither torch nor the weights are.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from pydantic import Field, ValidationError

from damoyolo.detections import PICTURE_SCORE, Detections
from damoyolo.errors import UserError
from damoyolo.export.card import ExportCard
from damoyolo.export.comparison import (
    Comparison,
    Outputs,
    Raw,
    Results,
    Tolerance,
    compare_outputs,
)
from damoyolo.export.int8 import Quantization
from damoyolo.export.runtime import Runtime
from damoyolo.export.sessions import parts_of
from damoyolo.spec import STRIDES, Frozen, first_mistake

Image = UInt8[np.ndarray, "_ _ 3"]

PROBES = 4
"""Images drawn of one size."""
SAMPLES = 500
"""Points of each image whose numbers a proof keeps."""
AP_MARGIN = 0.1
"""AP points that an INT8 file may lose beyond its limit, because other kernels round another way."""


class Expected(Frozen):
    """What is to come out for one image: for a raw head some of its points, else all but padding.

    Boxes are xyxy in pixels of the input. `points` counts all there are; those kept are evenly spread.
    """

    points: int | None = None
    scores: list[list[float]] | list[float]
    boxes: list[list[float]]
    labels: list[int] = Field(default_factory=list)


class Proof(Frozen):
    """Beside an exported file, as `<file>.proof.json`.

    `comparison` is of the model and the file, and without it, and `passed`, the file was not run there. What
    is `expected` of the file from then on is what the model computes, or, if it is of INT8, what it gave
    itself.
    """

    file: str
    sha256: dict[str, str] = Field(description="of each file that belongs to it")
    card: ExportCard
    made: str = Field(description="date and time")
    machine: str
    versions: dict[str, str]
    images_sha256: str
    tolerance: Tolerance
    comparison: Comparison | None
    passed: bool | None
    remark: str = Field(default="", description="why it was not run, or what else is to be done")
    diverges_at: str | None = None
    latency_ms: dict[str, dict[str, float]]
    quantization: Quantization | None = Field(default=None, description="of an INT8 file")
    expected: list[Expected]

    def lines(self) -> list[str]:
        """For people."""
        speeds = (
            f"{name} {each['p50']:.1f} ms (p95 {each['p95']:.1f})" for name, each in self.latency_ms.items()
        )
        run = (
            [f"  {self.comparison.summary()}", f"  network alone: {', '.join(speeds)}"]
            if self.comparison
            else []
        )
        int8 = [f"  {line}" for line in self.quantization.lines()] if self.quantization else []
        return [*run, *int8, *self._shown(), *([self.remark] if self.remark else [])]

    def _shown(self) -> list[str]:
        """Whether people see other things, which a threshold for the file may mend."""
        shown = self.comparison.shown if self.comparison else (0, 0)
        if shown[0] == shown[1]:
            return []
        return [
            f"  at a score of {PICTURE_SCORE} the model finds {shown[0]} things in these images, the file "
            f"{shown[1]}: choose your threshold with the file"
        ]


class Verification(Frozen):
    """A proof repeated; AP as shares, where a data set was given.

    `same_bytes` says whether the file is the one that was proved, where a proof is beside it. What INT8 adds:
    the difference from the model, if that was given, and the AP points that it may lose.
    """

    passed: bool
    compared_with: str
    comparison: Comparison
    tolerance: Tolerance
    diverges_at: str | None = None
    ap: dict[str, float] = Field(default_factory=dict)
    same_bytes: bool | None = None
    beside_model: Comparison | None = None
    max_drop: float | None = None

    def verdict(self, model: str) -> str:
        """In a few words."""
        asked = f"equal to {model}" if self.tolerance.change is None else "as good as when it was exported"
        return f"{'' if self.passed else 'NOT '}{asked}"

    def keeps_ap(self) -> bool:
        """Whether no more is lost than may be."""
        return not self.ap or self.max_drop is None or self._drop() <= self.max_drop + AP_MARGIN

    def lines(self) -> list[str]:
        """For people."""
        limit = self.tolerance.change
        allowed = "" if limit is None else f" (allowed {100 * limit:.2g} % all in all)"
        return [
            f"compared with {self.compared_with}: {self.comparison.summary()}{allowed}",
            *(["its bytes are not those that were proved"] if self.same_bytes is False else []),
            *([f"diverges first at {self.diverges_at}"] if self.diverges_at else []),
            *([f"beside the model: {self.beside_model.summary()}"] if self.beside_model else []),
            *([self._ap_line()] if self.ap else []),
        ]

    def _drop(self) -> float:
        """AP points lost."""
        return 100 * (self.ap["model"] - self.ap["file"])

    def _ap_line(self) -> str:
        told = ", ".join(f"{name} {value:.4f}" for name, value in self.ap.items())
        if self.max_drop is None:
            return f"AP: {told}"
        return f"AP: {told}; {self._drop():.2f} points lost, {self.max_drop} and {AP_MARGIN} allowed"


@dataclass(frozen=True)
class Trial:
    """Images to prove a file with, `batch` at once; `card` has the size of those that are drawn.

    They fill whole batches, so that every place in a batch sees an image, and its neighbour another.
    """

    card: ExportCard
    batch: int
    images: tuple[Image, ...]

    @property
    def count(self) -> int:
        """Of images that fill whole batches: some come again and again."""
        return -(-len(self.images) // self.batch) * self.batch

    def filled(self) -> list[Image]:
        """So many images."""
        return [self.images[number % len(self.images)] for number in range(self.count)]


def trials_of(card: ExportCard, images: Sequence[Image] = ()) -> list[Trial]:
    """Drawn images, and with the first others of any size; for a dynamic file two batches and sizes."""
    first = Trial(card, 1 if card.dynamic else card.batch, (*probe_images(card.image_size), *images))
    if not card.dynamic:
        return [first]
    height, width = card.image_size
    other = card.model_copy(update={"image_size": (height + STRIDES[-1], width + 2 * STRIDES[-1])})
    return [first, Trial(other, 2, tuple(probe_images(other.image_size)))]


def probe_images(size: tuple[int, int], seed: int = 0) -> list[Image]:
    """Four images of that (height, width): discs and bars over slopes, noise, and plain grey.

    Made of whole numbers only, so that they are equal everywhere.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width]
    images = [np.full((height, width, 3), 114, dtype=np.uint8)]
    images.append(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    for _ in range(PROBES - len(images)):
        slopes = rng.integers(1, 4, 3)
        picture = (slopes * (x + y)[..., None] // 4) % 200 + 30
        for _ in range(8):
            cx, cy = int(rng.integers(width)), int(rng.integers(height))
            radius = int(rng.integers(min(size) // 20, min(size) // 4))
            colour = rng.integers(0, 256, 3)
            inside = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
            if rng.integers(2):
                inside = (abs(x - cx) < radius) & (abs(y - cy) < radius // 2)
            picture[inside] = (picture[inside] + 3 * colour) // 4
        images.append(picture.astype(np.uint8))
    return images


def results_of(runtime: Runtime, trial: Trial) -> Results:
    """What a file gives in a trial."""
    card, images = trial.card, trial.filled()
    opened = Runtime(runtime.session, card, trial.batch)
    detections = opened.detect(images, score=card.score_threshold, max_detections=card.max_detections)
    inputs = [opened.resize.image(image) for image in images]
    return Results(detections, outputs_of(opened, inputs))


def outputs_of(runtime: Runtime, images: Sequence[Image]) -> Outputs:
    """What a file gives for each of some images of its size; they fill whole batches."""
    if runtime.card.head == "raw":
        return raw_outputs(runtime, images)
    return [_without_padding(each, runtime.card) for each in _outputs(runtime, images)]


def raw_outputs(runtime: Runtime, images: Sequence[Image]) -> list[Raw]:
    """What a file with the head `raw` gives for each image; they fill whole batches."""
    return [(scores, boxes) for scores, boxes in _outputs(runtime, images)]


def to_keep(parts: Sequence[Results]) -> list[Expected]:
    """Of the drawn images of every trial."""
    return [_sample(output) for part in parts for output in part.outputs[:PROBES]]


def compare_expected(expected: Sequence[Expected], runtime: Runtime, trials: Sequence[Trial]) -> Comparison:
    """A file with what an earlier proof kept of these trials, of drawn images only."""
    mine, found = [], []
    for number, trial in enumerate(trials):
        kept = expected[number * PROBES : (number + 1) * PROBES]
        outputs: Any = outputs_of(Runtime(runtime.session, trial.card, trial.batch), trial.filled())
        for place, output in enumerate(outputs):
            each = kept[place % PROBES]
            mine.append(_restored(each, runtime.card))
            found.append(_kept_of(output))
    return compare_outputs(mine, found)


def sha256_of_files(file: Path) -> dict[str, str]:
    """By name, of everything that belongs to an exported file, which may be a folder."""
    return {each.name: _sha256(each) for each in parts_of(file)}


def has_bytes_of(proof: Proof, file: Path) -> bool:
    """Whether a file, whatever its name is now, and what belongs to it, are what was proved."""
    stem = Path(proof.file).stem
    proved = {file.stem + name.removeprefix(stem): sha256 for name, sha256 in proof.sha256.items()}
    return proved == sha256_of_files(file)


def versions() -> dict[str, str]:
    """Of Python and the packages whose numbers these are."""
    found = {"python": platform.python_version()}
    engines = ("onnx", "onnxruntime", "openvino", "tensorrt", "ncnn", "coremltools", "executorch")
    for name in ("damoyolo", "torch", "numpy", *engines):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def sha256_of_images(images: Sequence[Image]) -> str:
    """One number for all pixels."""
    return hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()


def proof_path(file: Path) -> Path:
    """Where the proof of a file lies."""
    return file.with_name(f"{file.name}.proof.json")


def read_proof(file: Path) -> Proof:
    """The proof beside a file."""
    path = proof_path(file)
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); give --weights, or put the proof beside the file"
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error}); export the model again") from error
    try:
        return Proof.model_validate(value)
    except ValidationError as error:
        raise UserError(
            f"{path}: is no proof of this version ({first_mistake(Proof, error)}); export the model again"
        ) from None


def _outputs(runtime: Runtime, images: Sequence[Image]) -> Iterator[list[np.ndarray]]:
    """Of each image."""
    size = runtime.batch_size
    for start in range(0, len(images), size):
        part = images[start : start + size]
        outputs = runtime.run(part)
        yield from ([output[number] for output in outputs] for number in range(len(part)))


def _without_padding(outputs: list[np.ndarray], card: ExportCard) -> Detections:
    """In pixels of the input, whatever their score is."""
    _, boxes, scores, labels = outputs
    meant = ~(scores <= 0)  # NaN, too
    return Detections(
        boxes[meant].astype(np.float32),
        scores[meant].astype(np.float32),
        labels[meant].astype(np.int64),
        card.class_names,
    )


def _sample(output: Raw | Detections) -> Expected:
    if isinstance(output, Detections):
        boxes, labels = output.boxes.tolist(), output.labels.tolist()
        return Expected(scores=output.scores.tolist(), boxes=boxes, labels=labels)
    scores, boxes = _points_kept(output)
    return Expected(points=len(output[0]), scores=scores.tolist(), boxes=boxes.tolist())


def _restored(kept: Expected, card: ExportCard) -> Raw | Detections:
    boxes = np.array(kept.boxes, np.float32).reshape(-1, 4)
    scores = np.array(kept.scores, np.float32)
    if kept.points is not None:
        return scores, boxes
    return Detections(boxes, scores, np.array(kept.labels, np.int64), card.class_names)


def _kept_of(output: Raw | Detections) -> Raw | Detections:
    """What a proof keeps of an output."""
    return output if isinstance(output, Detections) else _points_kept(output)


def _points_kept(raw: Raw) -> Raw:
    scores, boxes = raw
    chosen = _spread(len(scores))
    return scores[chosen], boxes[chosen]


def _spread(count: int) -> np.ndarray:
    return np.linspace(0, count - 1, min(count, SAMPLES)).round().astype(np.int64)


def _sha256(file: Path) -> str:
    """Of a file, or of all files in a folder."""
    digest = hashlib.sha256()
    for part in sorted(each for each in (file, *file.rglob("*")) if each.is_file()):
        digest.update(part.read_bytes())
    return digest.hexdigest()
