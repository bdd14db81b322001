"""The kinds of files there are: their names, what each can hold, and writing them."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from damoyolo.errors import UserError
from damoyolo.export.card import ExportCard, Head, Precision
from damoyolo.export.extras import need
from damoyolo.export.sessions import card_path
from damoyolo.files import locked, write_atomically
from damoyolo.nn.detector import Detector

Format = Literal["onnx", "openvino", "tensorrt", "ncnn", "coreml", "executorch"]
SUFFIXES: dict[Format, str] = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "tensorrt": ".engine",
    "ncnn": ".ncnn.param",
    "coreml": ".mlpackage",
    "executorch": ".pte",
}


@dataclass(frozen=True)
class Ability:
    """What files of a format can be: heads, precisions, and whether other than one image of one size."""

    heads: tuple[Head, ...]
    precisions: tuple[Precision, ...]
    preprocess: bool = False
    batch: bool = False
    dynamic: bool = False


ABILITIES: dict[Format, Ability] = {
    "onnx": Ability(("raw", "topk", "nms"), ("fp32", "fp16", "int8"), True, True, True),
    "openvino": Ability(("raw", "topk", "nms"), ("fp32", "fp16", "bf16", "int8"), True, True, True),
    "tensorrt": Ability(("raw", "topk", "nms"), ("fp32", "fp16", "int8"), True, True, True),
    "ncnn": Ability(("raw",), ("fp32", "fp16")),
    "coreml": Ability(("raw",), ("fp32", "fp16"), batch=True),
    "executorch": Ability(("raw", "topk"), ("fp32",), preprocess=True, batch=True),
}


@dataclass(frozen=True)
class Target:
    """What is written on this machine.

    `remark` is for people: what is missing here, and what to do about it. `runs` says whether the file can
    be run here, and so be compared with its model.
    """

    kind: Format
    path: Path
    card: ExportCard
    remark: str = ""
    runs: bool = True


def format_of(output: Path, given: Format | None = None) -> Format:
    """What the suffix of a file says; `UserError` if that is nothing known, or not what was asked for."""
    told = next((kind for kind, suffix in SUFFIXES.items() if output.name.endswith(suffix)), None)
    if told is None or given not in (None, told):
        wanted = SUFFIXES[given] if given else ", ".join(SUFFIXES.values())
        raise UserError(f"{output}: '{output.suffix}' does not end the name of such a file; take {wanted}")
    return told


def aim(kind: Format, output: Path, card: ExportCard) -> Target:
    """What can be done on this machine for a file of that kind.

    Where no TensorRT engine can be built, the ONNX meant for it is written instead, as `<output>.onnx`.

    Raises:
        UserError: if the format cannot hold what the card describes.
    """
    _check(kind, output, card)
    if kind == "tensorrt":
        return _aim_at_tensorrt(output, card)
    if kind == "coreml" and platform.system() != "Darwin":
        remark = (
            f"{output}: was not run, because Core ML predicts on macOS only; run damoyolo verify there, with "
            "the .proof.json beside it"
        )
        return Target(kind, output, card, remark, runs=False)
    return Target(kind, output, card)


def write(kind: Format, detector: Detector, card: ExportCard, path: Path) -> None:
    """Write the graph that `card` describes to `path`, and beside it where a format has several files.

    Raises:
        UserError: if a package that this needs is missing.
        RunError: if a converter refuses the graph.
    """
    need("onnxscript", "export")
    if kind in ("onnx", "openvino", "tensorrt"):
        from damoyolo.export.onnx import to_onnx

        write_from_onnx(kind, to_onnx(detector, card), card, path)
        return
    from damoyolo.export.graph import Graph

    graph = Graph(detector, card.model_copy(update={"precision": "fp32"})).eval()
    if kind == "ncnn":
        from damoyolo.export.ncnn import save_ncnn

        save_ncnn(graph, card, path)
    elif kind == "coreml":
        from damoyolo.export.coreml import save_coreml

        save_coreml(graph, card, path)
    else:
        from damoyolo.export.executorch import save_executorch

        save_executorch(graph, card, path)


def write_from_onnx(kind: Format, model: Any, card: ExportCard, path: Path) -> None:
    """Write an ONNX model (`onnx.ModelProto`), or what OpenVINO or TensorRT makes of it, to `path`."""
    if kind == "openvino":
        need("openvino", "openvino")
        from damoyolo.export.openvino import save_openvino, to_openvino

        save_openvino(to_openvino(model), path, half=card.precision == "bf16")
    elif path.suffix == SUFFIXES["tensorrt"]:
        from damoyolo.export.tensorrt import save_engine

        save_engine(model.SerializeToString(), card, path)
    else:
        write_atomically(path, model.SerializeToString())
        if kind == "tensorrt":  # for the engine that is built from it elsewhere
            write_atomically(card_path(path), card.to_json().encode())


@contextlib.contextmanager
def reserved(kind: Format, output: Path) -> Iterator[None]:
    """Keep other processes from writing the same file meanwhile; `UserError` if it cannot be written there.

    Only a Core ML package takes the place of a folder, which must be one, too.
    """
    folder_wanted = kind == "coreml"
    if folder_wanted and output.exists() and not (output / "Manifest.json").is_file():
        raise UserError(f"{output}: is there already and is no Core ML package; choose another name")
    weights = [output.with_suffix(".bin")] if kind in ("openvino", "ncnn") else []
    for place in (*weights, card_path(output), *([] if folder_wanted else [output])):
        if place.is_dir():
            raise UserError(f"{place}: is a folder; choose another name")
    fresh = [folder for folder in output.parents if not folder.exists()]
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, fresh)
        try:
            stack.enter_context(locked(output.with_name(f".{output.name}.export")))
        except UserError as error:
            if error.__cause__:  # it cannot be written
                raise UserError(f"{output}: {str(error).partition(': ')[2]}") from error
            raise UserError(f"{output}: is being written by another process; wait for it") from None
        yield


def put_in_place(part: Path, output: Path) -> None:
    """Copy what was written, a file or a folder, to where it belongs, whole or not at all."""
    if not part.is_dir():
        write_atomically(output, part.read_bytes())
        return
    fresh, old = (output.with_name(f".{output.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(part, fresh)
        if output.exists():
            output.rename(old)  # a folder cannot take the place of another in one step
        fresh.rename(output)
    except OSError as error:
        if old.exists() and not output.exists():
            old.rename(output)
        raise UserError(f"{output}: cannot be written ({error.strerror}); choose another place") from error
    finally:
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _remove_empty(folders: Sequence[Path]) -> None:
    """Innermost first."""
    for folder in folders:
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()


def _aim_at_tensorrt(output: Path, card: ExportCard) -> Target:
    from damoyolo.export.tensorrt import trtexec
    from damoyolo.export.tensorrt_session import obstacle

    if card.head == "nms":
        card = card.model_copy(update={"head": "trt_nms"})
    reason = obstacle()
    if not reason:
        return Target("tensorrt", output, card)
    onnx = output.with_name(output.name + SUFFIXES["onnx"])
    unproved = "" if card.head != "trt_nms" else ", not run because only TensorRT has its last operator"
    copy = shlex.join(["cp", str(card_path(onnx)), str(card_path(output))])
    remark = (
        f"{output}: was not built, because {reason}; {onnx} is the ONNX meant for it{unproved}: where there "
        f"is a GPU with TensorRT 10 or 11, run this, which also puts the engine's card beside it\n"
        f"  {trtexec(onnx, output, card)} && {copy}"
    )
    return Target("tensorrt", onnx, card, remark, runs=not unproved)


def _check(kind: Format, output: Path, card: ExportCard) -> None:
    """Whether files of that kind can be what the card says."""
    can = ABILITIES[kind]
    wrong = [
        f"the {name} '{value}'; it takes {' and '.join(known)}"
        for name, value, known in (
            ("head", card.head, can.heads),
            ("precision", card.precision, can.precisions),
        )
        if value not in known
    ]
    if card.preprocess and not can.preprocess:
        wrong.append("uint8 images; leave out --preprocess")
    if card.dynamic and not can.dynamic:
        wrong.append("dynamic shapes; leave out --dynamic and give --image-size")
    if card.dynamic and card.batch > 1:
        wrong.append(f"both dynamic shapes and a batch of {card.batch}; leave one of them out")
    if card.batch > 1 and not can.batch:
        wrong.append(f"a batch of {card.batch}; take 1")
    if wrong:
        raise UserError(f"{output}: {kind} cannot hold {wrong[0]}")
