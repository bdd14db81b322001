"""Whether an exported file computes what its model computes. No torch.

What the model computes comes in as plain numbers, and a proof keeps a sample of them, so that it can be
repeated where neither torch nor the weights are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from pydantic import Field

from damoyolo.detections import Detections
from damoyolo.errors import UserError
from damoyolo.export.card import Precision
from damoyolo.export.int8 import Quantization
from damoyolo.export.runtime import Runtime
from damoyolo.spec import Frozen, parse

Image = UInt8[np.ndarray, "_ _ 3"]
Raw = tuple[Float32[np.ndarray, "p c"], Float32[np.ndarray, "p 4"]]
"""All scores and boxes of one image."""

SAMPLES = 500
"""Points of each image whose numbers a proof keeps."""
SAME_IOU = 0.9
"""Two detections of a class that overlap so much are the same one."""


class Tolerance(Frozen):
    """Largest differences that pass, and the share of detections that one side may have alone.

    None where a precision promises nothing.
    """

    score: float | None
    box_px: float | None
    alone: float | None


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(score=1e-4, box_px=0.01, alone=0.02),
    "fp16": Tolerance(score=0.02, box_px=2.0, alone=0.1),
    "bf16": Tolerance(score=0.1, box_px=16.0, alone=0.2),
    "int8": Tolerance(score=None, box_px=None, alone=None),
}


class Expected(Frozen):
    """What the model computes for one image: for a raw head some of its points, else the final detections.

    Boxes are xyxy in pixels. `points` counts all there are; those kept are evenly spread.
    """

    points: int | None = None
    scores: list[list[float]] | list[float]
    boxes: list[list[float]]
    labels: list[int] = Field(default_factory=list)


class Comparison(Frozen):
    """Largest differences, and how many final detections are in both, and on one side alone."""

    score: float = 0.0
    box_px: float = 0.0
    agree: int = 0
    only_model: int = 0
    only_file: int = 0

    def summary(self) -> str:
        """For people."""
        alone = self.only_model + self.only_file
        return (
            f"largest difference {self.score:.2g} in scores, {self.box_px:.2g} px in boxes; "
            f"{self.agree} of {self.agree + alone} detections agree"
        )

    def passes(self, tolerance: Tolerance) -> bool:
        """Whether nothing differs by more."""
        alone = max(self.only_model, self.only_file)
        pairs = (
            (self.score, tolerance.score),
            (self.box_px, tolerance.box_px),
            (alone / max(1, self.agree + alone), tolerance.alone),
        )
        return all(limit is None or value <= limit for value, limit in pairs)


class Proof(Frozen):
    """Beside an exported file, as `<file>.proof.json`."""

    file: str
    sha256: dict[str, str] = Field(description="of each file that belongs to it")
    weights_sha256: str
    made: str = Field(description="date and time")
    machine: str
    versions: dict[str, str]
    images_sha256: str
    tolerance: Tolerance
    comparison: Comparison
    passed: bool
    diverges_at: str | None = None
    latency_ms: dict[str, dict[str, float]]
    quantization: Quantization | None = Field(default=None, description="of an INT8 file")
    expected: list[Expected]

    def speed(self) -> str:
        """For people."""
        parts = (
            f"{name} {each['p50']:.1f} ms (p95 {each['p95']:.1f})" for name, each in self.latency_ms.items()
        )
        return f"network alone: {', '.join(parts)}"


class Verification(Frozen):
    """A proof repeated; AP as shares, where a data set was given."""

    comparison: Comparison
    tolerance: Tolerance
    passed: bool
    compared_with: str
    diverges_at: str | None = None
    ap: dict[str, float] = Field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people."""
        ap = ", ".join(f"{name} {value:.4f}" for name, value in self.ap.items())
        return [
            f"compared with {self.compared_with}: {self.comparison.summary()}",
            *([f"diverges first at {self.diverges_at}"] if self.diverges_at else []),
            *([f"AP: {ap}"] if ap else []),
        ]


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


def compare_raw(expected: Sequence[Raw], found: Sequence[Raw]) -> Comparison:
    """The largest differences over everything."""
    score = max(float(np.abs(a - b).max()) for (a, _), (b, _) in zip(expected, found, strict=True))
    box_px = max(float(np.abs(a - b).max()) for (_, a), (_, b) in zip(expected, found, strict=True))
    return Comparison(score=score, box_px=box_px)


def compare_detections(expected: Sequence[Detections], found: Sequence[Detections]) -> Comparison:
    """Pairs those of a class that overlap nearly wholly; differences are of the pairs."""
    total = Comparison()
    for mine, other in zip(expected, found, strict=True):
        pairs = _pairs(mine, other)
        scores = [abs(float(mine.scores[i] - other.scores[j])) for i, j in pairs]
        boxes = [float(np.abs(mine.boxes[i] - other.boxes[j]).max()) for i, j in pairs]
        total = Comparison(
            score=max([total.score, *scores]),
            box_px=max([total.box_px, *boxes]),
            agree=total.agree + len(pairs),
            only_model=total.only_model + len(mine) - len(pairs),
            only_file=total.only_file + len(other) - len(pairs),
        )
    return total


def raw_outputs(runtime: Runtime, images: Sequence[Image]) -> list[Raw]:
    """What a file with the head `raw` gives for each image."""
    found: list[Raw] = []
    for image in images:
        scores, boxes = runtime.session.run(runtime.batch([image] * runtime.card.batch))
        found.append((scores[0], boxes[0]))
    return found


def sample(raw: Raw) -> Expected:
    """Some points of an image, evenly spread."""
    scores, boxes = raw
    chosen = _spread(len(scores))
    return Expected(points=len(scores), scores=scores[chosen].tolist(), boxes=boxes[chosen].tolist())


def all_of(detections: Detections) -> Expected:
    """Every detection of an image."""
    return Expected(
        scores=detections.scores.tolist(),
        boxes=detections.boxes.tolist(),
        labels=detections.labels.tolist(),
    )


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


def _spread(count: int) -> np.ndarray:
    return np.linspace(0, count - 1, min(count, SAMPLES)).round().astype(np.int64)


def _pairs(mine: Detections, other: Detections) -> list[tuple[int, int]]:
    """Each of mine, best first, with the unused one of the other's of its class that it overlaps most."""
    free = set(range(len(other)))
    pairs = []
    for i, (box, label) in enumerate(zip(mine.boxes, mine.labels, strict=True)):
        overlaps = {j: _iou(box, other.boxes[j]) for j in free if other.labels[j] == label}
        best = max(overlaps, key=overlaps.__getitem__, default=None)
        if best is not None and overlaps[best] >= SAME_IOU:
            free.remove(best)
            pairs.append((i, best))
    return pairs


def _iou(first: np.ndarray, second: np.ndarray) -> float:
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    inter = float(np.prod(np.maximum(sides, 0)))
    areas = float(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2]))
    return inter / max(areas - inter, 1e-9)
