"""Engines that run an exported file, all behind one face. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np

from damoyolo.errors import RunError, UserError
from damoyolo.export.card import METADATA_KEY, ExportCard
from damoyolo.export.extras import need

Device = Literal["cpu", "cuda", "tensorrt"]
Engine = Literal["onnxruntime", "openvino", "tensorrt", "ncnn", "coreml", "executorch"]
ENGINES: dict[str, Engine] = {
    ".onnx": "onnxruntime",
    ".xml": "openvino",
    ".engine": "tensorrt",
    ".param": "ncnn",
    ".mlpackage": "coreml",
    ".pte": "executorch",
}
"""What runs a file of that suffix unless one says otherwise."""
IN_STREAMS: tuple[Engine, ...] = ("onnxruntime", "openvino")
"""Engines that several threads may call at the same time, each for an image of its own."""
PLUGIN = "EfficientNMS_TRT"
"""What TensorRT calls its own suppression; see `export.suppress`."""


@runtime_checkable
class Session(Protocol):
    """A loaded file."""

    card: ExportCard

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """The outputs, in the card's order, for a batch as the card describes it."""


def open_session(
    path: Path,
    engine: Engine | None = None,
    device: Device = "cpu",
    threads: int | None = None,
    class_names: Sequence[str] = (),
    streams: int = 1,
) -> Session:
    """Load a file with its engine; see `runtime.open_runtime`."""
    if not path.exists():
        raise UserError(f"{path}: no such file; check the path")
    chosen = engine_of(path, engine)
    if device not in get_args(Device):
        raise UserError(f"device '{device}': is none of {', '.join(get_args(Device))}")
    if chosen == "onnxruntime":
        return OnnxSession(path, threads, device, class_names, streams)
    if device != "cpu":
        raise UserError(f"device '{device}': is for ONNX Runtime, not {chosen}; take cpu, or an .onnx file")
    if chosen == "openvino":
        return OpenVinoSession(path, threads, class_names=class_names, streams=streams)
    if chosen == "tensorrt":
        from damoyolo.export.tensorrt_session import TensorRtSession

        return TensorRtSession(path, class_names)
    from damoyolo.export.mobile_sessions import CoreMlSession, ExecuTorchSession, NcnnSession

    if chosen == "ncnn":
        return NcnnSession(path, threads, class_names)
    return (CoreMlSession if chosen == "coreml" else ExecuTorchSession)(path, class_names)


def engine_of(path: Path, given: Engine | None = None) -> Engine:
    """What runs a file; `UserError` if nothing does."""
    if given is None:
        if path.suffix in ENGINES:
            return ENGINES[path.suffix]
        whole = next((each for each in (".xml", ".param") if path.with_suffix(each).is_file()), None)
        remedy = f"; name {path.with_suffix(whole).name}" if path.suffix == ".bin" and whole else ""
        raise UserError(
            f"{path}: '{path.suffix}' is none of {', '.join(ENGINES)}, the suffixes of exported files{remedy}"
        )
    known = {"onnxruntime": (".onnx",), "openvino": (".xml", ".onnx")}
    fitting = known.get(given) or tuple(suffix for suffix, engine in ENGINES.items() if engine == given)
    if not fitting:
        raise UserError(f"engine '{given}': is none of {', '.join(get_args(Engine))}")
    if path.suffix not in fitting:
        raise UserError(f"{path}: {given} runs {' and '.join(fitting)}; leave the engine out")
    return given


class OnnxSession:
    """ONNX Runtime. Each of several callers at a time brings a thread of its own."""

    def __init__(
        self,
        path: Path,
        threads: int | None = None,
        device: Device = "cpu",
        class_names: Sequence[str] = (),
        streams: int = 1,
    ) -> None:
        onnxruntime = need("onnxruntime", "export")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads:
            options.intra_op_num_threads = max(1, threads - streams + 1)  # the caller's is one of them
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=_providers(device))
        except Exception as error:  # its classes share no other base
            if PLUGIN in str(error):
                raise UserError(
                    f"{path}: cannot be run here, because it ends with TensorRT's operator {PLUGIN}; build "
                    "an engine from it where there is an NVIDIA GPU"
                ) from error
            raise UserError(f"{path}: ONNX Runtime cannot load it ({why(error)}); export it again") from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        inputs = {each.name: each.shape for each in self._session.get_inputs()}
        outputs = {each.name: each.shape for each in self._session.get_outputs()}
        self.card = read_card(metadata.get(METADATA_KEY), inputs, outputs, class_names, str(path))
        self._path, self._input = path, next(iter(inputs))

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """See `Session`; `RunError` if the engine fails."""
        try:
            outputs: list[np.ndarray] = self._session.run(None, {self._input: images})
        except Exception as error:  # its classes share no other base
            raise RunError(
                f"{self._path}: ONNX Runtime failed on images {images.shape} ({why(error)})"
            ) from error
        return outputs


class OpenVinoSession:
    """OpenVINO, for its own .xml and for ONNX. More callers at a time than `streams` wait."""

    def __init__(
        self,
        path: Path,
        threads: int | None = None,
        precision: Literal["f32", "bf16"] | None = None,
        class_names: Sequence[str] = (),
        streams: int = 1,
    ) -> None:
        openvino = need("openvino", "openvino")
        if path.suffix == ".xml" and not path.with_suffix(".bin").is_file():
            raise UserError(
                f"{path.with_suffix('.bin')}: is missing; put it beside {path.name}, or export again"
            )
        try:
            model = openvino.Core().read_model(path)
        except RuntimeError as error:
            raise UserError(f"{path}: OpenVINO cannot load it ({why(error)}); export it again") from error
        text = _card_text(model, path)
        inputs = {each.any_name: _shape(each) for each in model.inputs}
        outputs = {each.any_name: _shape(each) for each in model.outputs}
        self.card = read_card(text, inputs, outputs, class_names, str(path))
        hint = precision or ("bf16" if self.card.precision == "bf16" else "f32")
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        if streams > 1:
            settings |= {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": streams}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            compiled = openvino.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise UserError(f"{path}: OpenVINO cannot compile it ({why(error)}); export it again") from error
        self._free: SimpleQueue[Any] = SimpleQueue()
        for _ in range(streams):
            self._free.put(compiled.create_infer_request())
        self._path = path

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """See `Session`; `RunError` if the engine fails."""
        request = self._free.get()
        try:
            return [np.array(each) for each in request.infer([images]).values()]
        except RuntimeError as error:
            raise RunError(
                f"{self._path}: OpenVINO failed on images {images.shape} ({why(error)})"
            ) from error
        finally:
            self._free.put(request)


def parts_of(file: Path) -> list[Path]:
    """An exported file, and before it what lies beside it because it has no room for it."""
    parts = {".xml": [file.with_suffix(".bin")], ".param": [file.with_suffix(".bin"), card_path(file)]}
    parts[".engine"] = [card_path(file)]
    return [each for each in (*parts.get(file.suffix, ()), file) if each.exists()]


def card_path(file: Path) -> Path:
    """Where the card of a file lies that has no room for it."""
    return file.with_name(f"{file.name}.card.json")


def card_beside(file: Path) -> str | None:
    """The card of such a file, if it is there."""
    path = card_path(file)
    return path.read_text(encoding="utf-8") if path.is_file() else None


def read_card(
    text: str | None,
    inputs: dict[str, list[Any]],
    outputs: dict[str, list[Any]],
    class_names: Sequence[str],
    where: str,
) -> ExportCard:
    """The card in a file's metadata; for a file of the reference, which has none, what its shapes tell.

    Raises:
        UserError: if the file is of neither kind, or its own card or `class_names` do not fit it.
    """
    card = ExportCard.from_json(text, where) if text else _card_of_reference(inputs, outputs, where)
    wrong = card.mismatch(next(iter(inputs.values())), outputs) if inputs else ""
    if wrong:
        raise UserError(f"{where}: what it says of itself does not fit it: {wrong}; export it again")
    if isinstance(class_names, str):
        raise UserError(f"class_names '{class_names}': is one string; give a list of names")
    if not class_names:
        return card
    if len(class_names) != len(card.class_names):
        raise UserError(
            f"{where}: {len(class_names)} class names were given, but the model has {len(card.class_names)} "
            "classes; give one name per class"
        )
    return card.model_copy(update={"class_names": tuple(class_names)})


def _card_of_reference(inputs: dict[str, list[Any]], outputs: dict[str, list[Any]], where: str) -> ExportCard:
    """Images in, scores (b p c) and boxes (b p 4) out, in this order, as DAMO-YOLO's converter wrote."""
    shapes = list(outputs.values())
    images = next(iter(inputs.values())) if len(inputs) == 1 else []
    plain = len(images) == 4 and images[1] == 3 and all(isinstance(side, int) for side in images[1:])
    if not plain or len(shapes) != 2 or any(len(shape) != 3 for shape in shapes) or shapes[1][2] != 4:
        told = ", ".join(f"{name} {shape}" for name, shape in outputs.items()) or "unknown"
        raise UserError(
            f"{where}: is no file of damoyolo's and does not give scores (b p c) and boxes (b p 4) for "
            f"images (b 3 h w) as DAMO-YOLO does; its outputs are {told}; give a file of `damoyolo export`"
        )
    classes = shapes[0][2]
    return ExportCard(
        class_names=tuple(f"class{number}" for number in range(classes)),
        image_size=(images[2], images[3]),
        batch=images[0] if isinstance(images[0], int) else 1,
    )


def _providers(device: Device) -> list[str]:
    import onnxruntime

    wanted = {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "Tensorrt"}[device] + "ExecutionProvider"
    if wanted not in onnxruntime.get_available_providers():
        raise UserError(
            f"device '{device}': this ONNX Runtime has no {wanted}; install onnxruntime-gpu, or take cpu"
        )
    return [wanted, "CPUExecutionProvider"] if device != "cpu" else [wanted]


def _card_text(model: Any, path: Path) -> str | None:
    """What `openvino.describe` wrote, or ONNX's metadata, which OpenVINO does not read."""
    if path.suffix == ".onnx":
        onnx = need("onnx", "export")
        properties = onnx.load(path, load_external_data=False).metadata_props
        return next((each.value for each in properties if each.key == METADATA_KEY), None)
    return str(model.get_rt_info(METADATA_KEY).value) if model.has_rt_info(METADATA_KEY) else None


def _shape(port: Any) -> list[Any]:
    return [size.get_length() if size.is_static else None for size in port.partial_shape]


def why(error: Exception) -> str:
    """What a library says is wrong, in short: not the places in its source, which OpenVINO begins with."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(("Exception from ", "Check '"))]
    return (telling or [type(error).__name__])[0][:200]
