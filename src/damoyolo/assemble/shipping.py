"""From a detector to a file that is proved equal to it, and proving it again."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from damoyolo.assemble.model_outputs import computed, detected, floats, reference_of
from damoyolo.assemble.quantization import Int8, quantized
from damoyolo.data.formats import read_dataset
from damoyolo.errors import RunError, UserError
from damoyolo.evaluation import coco
from damoyolo.export.bench import time_calls
from damoyolo.export.card import ColourOrder, ExportCard, Head, Precision
from damoyolo.export.comparison import Comparison, Results, compare, joined, tolerance_of
from damoyolo.export.formats import (
    Format,
    Target,
    aim,
    format_of,
    put_in_place,
    reserved,
    write,
    write_from_onnx,
)
from damoyolo.export.proof import (
    PROBES,
    Image,
    Proof,
    Trial,
    Verification,
    compare_expected,
    has_bytes_of,
    proof_path,
    read_proof,
    results_of,
    sha256_of_files,
    sha256_of_images,
    to_keep,
    trials_of,
    versions,
)
from damoyolo.export.rewrite import Network
from damoyolo.export.runtime import Runtime, check_images, open_runtime
from damoyolo.files import write_atomically
from damoyolo.machine import describe_machine
from damoyolo.nn.detector import Detector
from damoyolo.spec import given_image_size


@dataclass(frozen=True)
class Exported:
    """What was written, and its proof; `file` is not the one asked for if that needs another machine."""

    file: Path
    card: ExportCard
    proof: Proof


def export_model(
    model: Detector,
    output: str | Path,
    *,
    format: Format | None = None,  # noqa: A002 (the word every exporter uses)
    head: Head = "raw",
    precision: Precision = "fp32",
    int8: Int8 | None = None,
    preprocess: ColourOrder | None = None,
    dynamic: bool = False,
    batch: int = 1,
    image_size: int | str | None = None,
    score_threshold: float | None = None,
    nms_iou: float | None = None,
    max_detections: int = 300,
    images: Sequence[Image] = (),
    announce: Callable[[str], None] | None = None,
) -> Exported:
    """Write a detector as a file that runs without torch, and prove it equal before it takes its place.

    An export that fails leaves an older file and its proof as they were.

    Args:
        model: any detector; a copy of it is rewritten into fewer steps (`export.rewrite`).
        output: the file; its suffix tells the format.
        format: where the suffix does not.
        head: `raw` (scores and boxes of all points), `topk` (the best of them), `nms` (after suppression).
        precision: of the numbers inside.
        int8: make them INT8, with these data and within this loss.
        preprocess: colour order of a graph that takes uint8 images (b h w 3); default float RGB (b 3 h w).
        dynamic: any number of images of any size that is a multiple of 32.
        batch: images at once, without `dynamic`.
        image_size: a side or "HEIGHTxWIDTH" in pixels; default the model's own.
        score_threshold: default the model's own, as
        nms_iou: is; both are inside a graph with suppression.
        max_detections: of the heads `topk` and `nms`.
        images: to compare with, beside some that are drawn.
        announce: is told each step of the search for layers that stay in float.

    Raises:
        UserError: for what cannot be exported so, or proved, or written there; a missing package is named.
        RunError: if the file does not compute the same; `<file>.failed.json` then tells how.
    """
    output = Path(output)
    kind = format_of(output, format)
    if int8 and precision not in ("fp32", "int8"):
        raise UserError(f"--precision {precision}: is not INT8; give one of the two")
    if precision == "int8" and not int8:
        raise UserError("precision int8: needs photographs to measure ranges on; give --int8 and --data")
    wanted = ExportCard(
        spec=model.card.spec,
        class_names=model.card.class_names,
        image_size=model.card.image_size if image_size is None else given_image_size(image_size),
        resize=model.card.resize,
        head=head,
        precision="int8" if int8 else precision,
        preprocess=preprocess,
        dynamic=dynamic,
        batch=batch,
        score_threshold=model.card.spec.score_threshold if score_threshold is None else score_threshold,
        nms_iou=model.card.spec.nms_iou if nms_iou is None else nms_iou,
        max_detections=max_detections,
        weights_sha256=sha256_of_weights(model),
        version=importlib.metadata.version("damoyolo"),
    )
    check_images(images)
    target = aim(kind, output, wanted)
    with reserved(target.kind, target.path), tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / target.path.name
        proof = _written(model, target, part, int8, images, announce)
        failed = target.path.with_name(f"{target.path.name}.failed.json")
        if proof.comparison and not proof.passed:
            write_atomically(failed, proof.model_dump_json(indent=1).encode())
            failure = _failure(proof.comparison, proof)
            raise RunError(f"{target.path}: {failure}; it was not written, {failed} tells more")
        others = [each for each in Path(folder).iterdir() if each != part]
        for file in (*others, part):  # the one to open comes last
            put_in_place(file, target.path.with_name(file.name))
        write_atomically(proof_path(target.path), proof.model_dump_json(indent=1).encode())
        failed.unlink(missing_ok=True)
    return Exported(target.path, target.card, proof)


def _written(
    model: Detector,
    target: Target,
    part: Path,
    int8: Int8 | None,
    images: Sequence[Image],
    announce: Callable[[str], None] | None,
) -> Proof:
    """Write the file to `part`, and prove it; first of all comes what would make that be in vain."""
    trials = trials_of(target.card, images)
    reference = reference_of(model)
    expected = [computed(reference, trial) for trial in trials]
    _check_provable(target.card, expected)
    quantization = None
    if int8:
        graph, quantization = quantized(model, target.card, target.kind, int8, target.path, announce)
        write_from_onnx(target.kind, graph, target.card, part)
    else:
        write(target.kind, model, target.card, part)
    runtime = open_runtime(part) if target.runs else None
    proof = _prove(model, part, target.card, trials, expected, runtime)
    latency = _latency(reference, runtime, trials[0].images[PROBES - 1]) if runtime else {}
    about = {"latency_ms": latency, "remark": target.remark, "quantization": quantization}
    return proof.model_copy(update=about)


def _check_provable(card: ExportCard, expected: Sequence[Results]) -> None:
    if card.head != "raw" and not any(len(output) for part in expected for output in part.outputs):
        raise UserError(
            f"score_threshold {card.score_threshold}: the model finds nothing so sure in what is drawn, so "
            "that nothing would be proved; lower it (--score), or give photographs (--images)"
        )


def _prove(
    model: Detector,
    file: Path,
    card: ExportCard,
    trials: Sequence[Trial],
    expected: Sequence[Results],
    runtime: Runtime | None,
) -> Proof:
    """Compare a file with what is expected of it.

    Of one that does not run here, the proof has only what the model computes.
    """
    tolerance = tolerance_of(card)
    kept, comparison, passed, diverges_at = expected, None, None, None
    if runtime:
        found = [results_of(runtime, trial) for trial in trials]
        comparison = compare(joined(expected), joined(found))
        passed = comparison.sound if card.precision == "int8" else comparison.passes(tolerance)
        diverges_at = None if passed else _divergence(model, file, runtime, trials)
        kept = found if card.precision == "int8" else expected
    return Proof(
        file=file.name,
        sha256=sha256_of_files(file),
        card=card,
        made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=describe_machine(),
        versions=versions(),
        images_sha256=_sha256_of_probes(card),
        tolerance=tolerance,
        comparison=comparison,
        passed=passed,
        diverges_at=diverges_at,
        latency_ms={},
        expected=to_keep(kept) if runtime or card.precision != "int8" else [],
    )


def verify(
    file: str | Path, model: Detector | None = None, data: str | Path | None = None, split: str = "val"
) -> Verification:
    """Compare a file with its model or, without one, with the numbers that its proof keeps.

    Where there is a proof, the file must have the bytes that were proved. One of INT8 is always compared with
    its numbers, which are its own, and may lose no more AP on a data set than it was allowed when it was
    exported.

    Raises:
        UserError: if the file is none of ours, does not run here, has no proof to go by, came from other
            weights, or says of itself other things than the model.
    """
    file = Path(file)
    runtime = open_runtime(file)
    card = runtime.card
    if model is None and data is not None:
        raise UserError("--data: comparing the AP needs the model, too; give --weights")
    if model is None:
        return _as_proved(file, runtime)
    _check_origin(file, card, model)
    ap = _aps(model, runtime, data, split) if data is not None else {}
    reference, trials = reference_of(model), trials_of(card)
    expected = joined([computed(reference, trial) for trial in trials])
    comparison = compare(expected, joined([results_of(runtime, trial) for trial in trials]))
    _check_compared(file, comparison)
    if card.precision == "int8":
        again = _as_proved(file, runtime).model_copy(update={"beside_model": comparison, "ap": ap})
        return again.model_copy(update={"passed": again.passed and again.keeps_ap()})
    tolerance = tolerance_of(card)
    passed = comparison.passes(tolerance)
    proof = _proof_of(file, card) if proof_path(file).exists() else None
    same_bytes = has_bytes_of(proof, file) if proof else None
    return Verification(
        passed=passed and same_bytes is not False,
        compared_with="the model",
        comparison=comparison,
        tolerance=tolerance,
        diverges_at=None if passed else _divergence(model, file, runtime, trials),
        ap=ap,
        same_bytes=same_bytes,
    )


def _check_origin(file: Path, card: ExportCard, model: Detector) -> None:
    """`UserError` unless a file says of itself what its model does."""
    if sha256_of_weights(model) != card.weights_sha256:
        raise UserError(f"{file}: was not made from these weights; give those it came from")
    for field in ("class_names", "resize", "spec"):
        if getattr(card, field) != getattr(model.card, field):
            raise UserError(f"{file}: its '{field}' is not the model's; export it again")


def _check_compared(file: Path, comparison: Comparison) -> None:
    if not comparison.compared:
        raise UserError(
            f"{file}: finds nothing in the drawn images, so that there is nothing to compare; export it "
            "with a lower --score"
        )


def _proof_of(file: Path, card: ExportCard) -> Proof:
    """The one beside a file; `UserError` if it is of another."""
    proof = read_proof(file)
    if proof.card != card or Path(proof.file).suffix != file.suffix:
        raise UserError(
            f"{proof_path(file)}: is of another file; put the proof of {file.name} beside it, or export again"
        )
    return proof


def _sha256_of_probes(card: ExportCard) -> str:
    """Of all images that are drawn for such a file."""
    return sha256_of_images([image for trial in trials_of(card) for image in trial.images])


def _as_proved(file: Path, runtime: Runtime) -> Verification:
    """A file and what its proof keeps."""
    card, path = runtime.card, proof_path(file)
    proof, trials = _proof_of(file, card), trials_of(card)
    if _sha256_of_probes(card) != proof.images_sha256 or len(proof.expected) != PROBES * len(trials):
        raise UserError(f"{path}: has no numbers for the images that are drawn here; export the model again")
    tolerance = tolerance_of(card)
    comparison = compare_expected(proof.expected, runtime, trials)
    _check_compared(file, comparison)
    same_bytes = has_bytes_of(proof, file)
    max_drop = proof.quantization.max_drop if proof.quantization else None
    return Verification(
        passed=comparison.passes(tolerance) and same_bytes,
        compared_with=f"the numbers kept in {path.name}",
        comparison=comparison,
        tolerance=tolerance,
        same_bytes=same_bytes,
        max_drop=max_drop,
    )


def _aps(model: Detector, runtime: Runtime, data: str | Path, split: str) -> dict[str, float]:
    """Of a model, detecting as the file is to, and of the file."""
    card, reference = runtime.card, reference_of(model)
    dataset = read_dataset(Path(data), split, class_names=card.class_names)
    mine = coco.evaluate(lambda images: [detected(reference, image, card) for image in images], dataset)
    return {"model": mine.ap, "file": evaluate_runtime(runtime, data, split).ap}


def evaluate_runtime(runtime: Runtime, data: str | Path, split: str = "val") -> coco.Report:
    """The COCO numbers of an exported file on one split of a data set; classes are matched by name."""
    card = runtime.card
    dataset = read_dataset(Path(data), split, class_names=card.class_names)
    return coco.evaluate(partial(runtime.detect, score=card.score_threshold), dataset, batch_size=card.batch)


def sha256_of_weights(model: Detector) -> str:
    """Of all parameters and buffers with their names; a file of weights and what it loads as agree."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _latency(reference: Detector, runtime: Runtime, picture: Image) -> dict[str, dict[str, float]]:
    """Of the networks alone, one batch."""
    images = [picture] * runtime.card.batch
    tensors, given = torch.from_numpy(floats(images)), runtime.batch(images)
    with torch.inference_mode():
        torch_ms = time_calls(lambda: reference(tensors))
    file_ms = time_calls(lambda: runtime.session.run(given))
    return {
        name: {"p50": each.p50, "p95": each.p95} for name, each in (("torch", torch_ms), ("file", file_ms))
    }


def _divergence(model: Detector, file: Path, runtime: Runtime, trials: Sequence[Trial]) -> str:
    """Of the first batch in which any layer differs."""
    if file.suffix not in (".onnx", ".xml"):
        return "a place unknown, because only .onnx and .xml show their inside"
    from damoyolo.export.divergence import LAST, first_divergence

    card = runtime.card
    network = Network(model, sparse=card.head == "topk")
    for trial in trials:
        opened, images = Runtime(runtime.session, trial.card, trial.batch), trial.filled()
        for start in range(0, len(images), trial.batch):
            batch = [opened.resize.image(image) for image in images[start : start + trial.batch]]
            place = first_divergence(network, file, floats(batch), opened.batch(batch), card.precision)
            if place != LAST:
                return place
    return LAST


def _failure(differs: Comparison, proof: Proof) -> str:
    """What differs too much, in words."""
    allowed = proof.tolerance
    if differs.not_finite:
        return f"gives {differs.not_finite} numbers that are not finite, first at {proof.diverges_at}"
    alone = differs.only_model + differs.only_file
    return (
        f"does not compute what the model does: scores differ by up to {differs.score:.2g} (allowed "
        f"{allowed.score}), boxes by {differs.box_px:.2g} px (allowed {allowed.box_px}), and {alone} of "
        f"{differs.agree + alone} detections are on one side only; it diverges first at {proof.diverges_at}"
    )
