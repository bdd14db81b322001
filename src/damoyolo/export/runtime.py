"""Detections from an exported file, with NumPy, OpenCV and the file's engine only; no torch.

runtime = open_runtime("s.onnx")
found = runtime("street.jpg")          # the same `Detections` that `damoyolo.predict` gives
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import cv2
import numpy as np
from jaxtyping import Float32, Int64, UInt8

from damoyolo.data.images import read_image
from damoyolo.data.resize import PAD, Resize, size_of, to_original
from damoyolo.detections import MAX_DETECTIONS, PICTURE_SCORE, Detections
from damoyolo.errors import RunError, UserError
from damoyolo.export.card import ExportCard
from damoyolo.export.sessions import Device, Engine, Session, open_session
from damoyolo.spec import given_image_size

Image = UInt8[np.ndarray, "_ _ 3"]

BATCH = 8
"""Images at once, at most, of a file that takes any number."""
TOP_K = 30_000
FIRST_LOOK = 4096
"""Candidates that suppression looks at, at most and at first; see `boxes.select`."""


def open_runtime(
    path: str | Path,
    *,
    engine: Engine | None = None,
    device: Device = "cpu",
    threads: int | None = None,
    class_names: Sequence[str] = (),
    image_size: int | str | None = None,
    batch_size: int = BATCH,
    streams: int = 1,
) -> Runtime:
    """A file that `damoyolo export`, or the reference's converter, wrote, ready to detect.

    Args:
        path: .onnx, .xml (OpenVINO) and what else `sessions.ENGINES` names.
        engine: what runs it; by default the suffix tells.
        device: of ONNX Runtime: `cpu`, `cuda` or `tensorrt`.
        threads: of the engine; default its own choice.
        class_names: instead of those in the file; a file of the reference has none.
        image_size: a side or "HEIGHTxWIDTH" in pixels, for files with dynamic sizes.
        batch_size: how many images of a list such a file gets at once, at most.
        streams: how many Python threads call it at the same time and share its `threads`, in ONNX Runtime and
            OpenVINO. One is the quickest for an image, one for each core for many images.
    """
    session = open_session(Path(path), engine, device, threads, class_names, streams)
    card = session.card if image_size is None else _resized(session.card, image_size, path)
    return Runtime(session, card, batch_size)


class Candidates(NamedTuple):
    """Boxes of one image in pixels of the network's input, before suppression; best first."""

    boxes: Float32[np.ndarray, "n 4"]
    scores: Float32[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"]


class Runtime:
    """Images in, `Detections` out. `card` says what the file is, `batch_size` how many it gets at once."""

    def __init__(self, session: Session, card: ExportCard, batch_size: int = BATCH) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size {batch_size}: give 1 or more")
        self.session, self.card = session, card
        self.resize = Resize(card.resize, card.image_size)
        self.batch_size = batch_size if card.dynamic else card.batch

    @overload
    def __call__(self, images: Image | str | Path, **options: Any) -> Detections: ...
    @overload
    def __call__(self, images: Sequence[Image | str | Path], **options: Any) -> list[Detections]: ...
    def __call__(
        self, images: Image | str | Path | Sequence[Image | str | Path], **options: Any
    ) -> Detections | list[Detections]:
        """What is in an image, or in each of several, as RGB pixels or files; options as for `detect`."""
        if isinstance(images, np.ndarray | str | Path):
            return self([images], **options)[0]
        pixels = [read_image(image) if isinstance(image, str | Path) else image for image in images]
        return self.detect(pixels, **options)

    def warm_up(self, calls: int = 3) -> None:
        """Run full batches of grey, so that no real image waits for what engines do at their first calls."""
        grey = np.full((*self.card.image_size, 3), PAD, dtype=np.uint8)
        for _ in range(calls):
            self.run([grey] * self.batch_size)

    def detect(
        self,
        images: Sequence[Image],
        *,
        score: float = PICTURE_SCORE,
        nms_iou: float | None = None,
        max_detections: int = MAX_DETECTIONS,
    ) -> list[Detections]:
        """What is in each image (RGB 0..255, any sizes), as `prediction.detect` finds it.

        A file with suppression inside has its own `nms_iou`, and knows nothing under its own threshold. What
        is no image, or no threshold, is a `UserError`.
        """
        check_limits(score, nms_iou, max_detections)
        check_images(images)
        if self.card.head in ("nms", "trt_nms") and nms_iou not in (None, self.card.nms_iou):
            raise UserError(
                f"nms_iou {nms_iou}: this file suppresses by itself, at {self.card.nms_iou}; export it with "
                "another, or with the head raw or topk"
            )
        iou = self.card.nms_iou if nms_iou is None else nms_iou
        found = []
        for candidates, image in zip(self._candidates(images, score), images, strict=True):
            boxes, scores, labels = suppress(candidates, iou, max_detections)
            found.append(
                to_original(boxes, scores, labels, self.resize, size_of(image), self.card.class_names)
            )
        return found

    def batch(self, images: Sequence[Image]) -> np.ndarray:
        """The images as the file takes them."""
        resized = [self.resize.image(image) for image in images]
        if self.card.preprocess == "rgb":
            return np.stack(resized)
        if self.card.preprocess == "bgr":
            return np.stack([image[..., ::-1] for image in resized])
        batch = np.empty((len(images), 3, *self.card.image_size), dtype=np.float32)
        for planes, image in zip(batch, resized, strict=True):
            for plane, channel in zip(planes, cv2.split(image), strict=True):  # twice as quick as transposing
                plane[:] = channel
        return batch

    def run(self, images: Sequence[Image]) -> list[np.ndarray]:
        """The outputs for a batch, as the card describes them; `RunError` if they are others."""
        outputs = self.session.run(self.batch(images))
        wrong = self.card.mismatch(
            (), {name: each.shape for name, each in zip(self.card.outputs, outputs, strict=False)}
        )
        if wrong or len(outputs) != len(self.card.outputs):
            raise RunError(
                f"the file does not give what it says: {wrong or 'other outputs'}; export it again"
            )
        return outputs

    def _candidates(self, images: Sequence[Image], score: float) -> Iterator[Candidates]:
        size = self.batch_size
        for start in range(0, len(images), size):
            part = list(images[start : start + size])
            missing = 0 if self.card.dynamic else size - len(part)  # a fixed batch is always full
            outputs = self.run(part + part[-1:] * missing)
            for image in range(len(part)):
                yield self._read([output[image] for output in outputs], score)

    def _read(self, outputs: list[np.ndarray], score: float) -> Candidates:
        """Those of one image."""
        if self.card.head == "raw":
            scores, boxes = outputs
            return raw_candidates(scores, boxes, score)
        count, boxes, scores, labels = outputs
        return final_candidates(count, boxes, scores, labels, score)


def raw_candidates(
    scores: Float32[np.ndarray, "p c"], boxes: Float32[np.ndarray, "p 4"], threshold: float
) -> Candidates:
    """Every class of every point whose score exceeds the threshold."""
    hopeful = np.flatnonzero(scores > threshold)
    values = scores.ravel()[hopeful]
    order = np.argsort(-values, kind="stable")[:TOP_K]
    points, labels = np.divmod(hopeful[order], scores.shape[1])
    return Candidates(boxes[points].astype(np.float32), values[order].astype(np.float32), labels)


def final_candidates(
    count: np.ndarray,
    boxes: Float32[np.ndarray, "k 4"],
    scores: Float32[np.ndarray, " k"],
    labels: np.ndarray,
    threshold: float,
) -> Candidates:
    """Those of the k that are meant and exceed the threshold."""
    meant = int((scores[: int(count[0])] > threshold).sum())
    return Candidates(boxes[:meant], scores[:meant], labels[:meant].astype(np.int64))


def suppress(candidates: Candidates, iou: float, most: int) -> Candidates:
    """Non-maximum suppression within each class; the best `most`. As `boxes.select.select_boxes`."""
    boxes, scores, labels = candidates
    corners_and_sizes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float64)
    nms: Any = cv2.dnn.NMSBoxesBatched  # its stubs know no arrays
    kept = np.empty(0, dtype=np.int64)
    for count in (FIRST_LOOK, TOP_K):  # what the best few already fill is final
        found = nms(corners_and_sizes[:count], scores[:count], labels[:count], 0.0, iou)
        kept = np.sort(np.asarray(found, dtype=np.int64).ravel())[:most]
        if len(kept) == most or count >= len(scores):
            break
    return Candidates(boxes[kept], scores[kept], labels[kept])


def check_images(images: Sequence[Any]) -> None:
    """`UserError` unless all are RGB pixels as `read_image` gives them."""
    for number, image in enumerate(images):
        what = "image" if len(images) == 1 else f"image {number + 1} of {len(images)}"
        if not isinstance(image, np.ndarray):
            raise UserError(f"{what}: is a {type(image).__name__}; give RGB pixels as a NumPy array")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise UserError(
                f"{what}: is {image.dtype} {image.shape}; give RGB as uint8 (height, width, 3), 0 to 255"
            )


def check_limits(score: float, nms_iou: float | None, max_detections: int) -> None:
    """`UserError` for a threshold that is none, or a count below 1."""
    if not 0 <= score <= 1:
        raise UserError(f"score {score}: is a threshold from 0 to 1")
    if nms_iou is not None and not 0 <= nms_iou <= 1:
        raise UserError(f"nms_iou {nms_iou}: is an overlap from 0 to 1")
    if max_detections < 1:
        raise UserError(f"max_detections {max_detections}: give 1 or more")


def _resized(card: ExportCard, image_size: int | str, where: str | Path) -> ExportCard:
    """The card of a dynamic file for inputs of another size."""
    size = given_image_size(image_size)
    if size != card.image_size and not card.dynamic:
        height, width = card.image_size
        raise UserError(
            f"{where}: takes images of {height}x{width} only; export it again with --image-size, or --dynamic"
        )
    return card.model_copy(update={"image_size": size})
