"""Whether an exported file computes what its model computes. No torch.

What the model computes comes in as plain numbers, and a proof keeps a sample of them, so that it can be
repeated where neither torch nor the weights are.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from pydantic import Field

from damoyolo.detections import Detections
from damoyolo.errors import UserError
from damoyolo.export.card import ExportCard
from damoyolo.export.comparison import (
    Comparison,
    Raw,
    Results,
    Tolerance,
    compare_detections,
    compare_raw,
)
from damoyolo.export.int8 import Quantization
from damoyolo.export.runtime import Runtime
from damoyolo.spec import Frozen, parse

Image = UInt8[np.ndarray, "_ _ 3"]

SAMPLES = 500
"""Points of each image whose numbers a proof keeps."""
AP_MARGIN = 0.1
"""AP points that an INT8 file may lose beyond its limit, because other kernels round another way."""


class Expected(Frozen):
    """What is to come out for one image: for a raw head some of its points, else the final detections.

    Boxes are xyxy in pixels. `points` counts all there are; those kept are evenly spread.
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
        return [*run, *int8, *([self.remark] if self.remark else [])]


class Verification(Frozen):
    """A proof repeated; AP as shares, where a data set was given.

    What INT8 adds: whether the bytes are those that were proved, the difference from the model, if that was
    given, and the AP points that it may lose.
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
        asked = f"equal to {model}" if self.same_bytes is None else "as good as when it was exported"
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


def probe_images(size: tuple[int, int], seed: int = 0) -> list[Image]:
    """Four images of that (height, width): discs and bars over slopes, noise, and plain grey.

    Made of whole numbers only, so that they are equal everywhere.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width]
    images = [np.full((height, width, 3), 114, dtype=np.uint8)]
    images.append(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    for _ in range(2):
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


def raw_outputs(runtime: Runtime, images: Sequence[Image]) -> list[Raw]:
    """What a file with the head `raw` gives for each image."""
    found: list[Raw] = []
    for image in images:
        scores, boxes = runtime.session.run(runtime.batch([image] * runtime.card.batch))
        found.append((scores[0], boxes[0]))
    return found


def results_of(runtime: Runtime, images: Sequence[Image]) -> Results:
    """What a file gives for images of any size; raw numbers are of the images as it takes them."""
    card = runtime.card
    detections = runtime.detect(images, score=card.score_threshold, max_detections=card.max_detections)
    if card.head != "raw":
        return Results(detections)
    return Results(detections, raw_outputs(runtime, [runtime.resize.image(image) for image in images]))


def to_keep(results: Results, count: int) -> list[Expected]:
    """Of the first `count` images some points, evenly spread, or else all detections."""
    if results.raw is not None:
        return [_sample(raw) for raw in results.raw[:count]]
    return [
        Expected(scores=each.scores.tolist(), boxes=each.boxes.tolist(), labels=each.labels.tolist())
        for each in results.detections[:count]
    ]


def compare_expected(expected: Sequence[Expected], runtime: Runtime, images: Sequence[Image]) -> Comparison:
    """A file with what an earlier proof kept."""
    if runtime.card.head != "raw":
        names = runtime.card.class_names
        kept = [
            Detections(
                np.array(each.boxes, np.float32).reshape(-1, 4),
                np.array(each.scores, np.float32),
                np.array(each.labels, np.int64),
                names,
            )
            for each in expected
        ]
        return compare_detections(kept, runtime.detect(images, score=runtime.card.score_threshold))
    chosen = [_spread(each.points or 0) for each in expected]
    found = [
        (scores[some], boxes[some])
        for (scores, boxes), some in zip(raw_outputs(runtime, images), chosen, strict=True)
    ]
    kept_raw = [(np.array(each.scores, np.float32), np.array(each.boxes, np.float32)) for each in expected]
    return compare_raw(kept_raw, found)


def sha256_of_files(file: Path) -> dict[str, str]:
    """By name, of everything that belongs to an exported file, which may be a folder."""
    return {each.name: _sha256(each) for each in sorted(file.parent.glob(f"{file.stem}.*"))}


def has_bytes_of(proof: Proof, file: Path) -> bool:
    """Whether a file, whatever its name is now, and what belongs to it, are what was proved."""
    stem = Path(proof.file).stem
    parts = {file.with_name(file.stem + name.removeprefix(stem)): each for name, each in proof.sha256.items()}
    return all(part.exists() and _sha256(part) == sha256 for part, sha256 in parts.items())


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
    return parse(Proof, value, where=str(path))


def _sample(raw: Raw) -> Expected:
    scores, boxes = raw
    chosen = _spread(len(scores))
    return Expected(points=len(scores), scores=scores[chosen].tolist(), boxes=boxes[chosen].tolist())


def _spread(count: int) -> np.ndarray:
    return np.linspace(0, count - 1, min(count, SAMPLES)).round().astype(np.int64)


def _sha256(file: Path) -> str:
    """Of a file, or of all files in a folder."""
    digest = hashlib.sha256()
    for part in sorted(each for each in (file, *file.rglob("*")) if each.is_file()):
        digest.update(part.read_bytes())
    return digest.hexdigest()
