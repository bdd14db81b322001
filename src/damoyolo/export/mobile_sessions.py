"""Running the files meant for phones and small boards: ncnn, Core ML, ExecuTorch.

Only ExecuTorch's own Python package needs torch.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from damoyolo.errors import UserError
from damoyolo.export.card import INPUT, METADATA_KEY
from damoyolo.export.extras import need, quietly, unheard
from damoyolo.export.sessions import card_beside, card_path, read_card, why


class NcnnSession:
    """ncnn, on the CPU; float32 throughout unless the card says fp16, which it then uses where it can."""

    def __init__(self, path: Path, threads: int | None = None, class_names: Sequence[str] = ()) -> None:
        ncnn = need("ncnn", "ncnn")
        card = card_beside(path)
        if card is None:
            raise UserError(f"{card_path(path)}: is missing; put it beside {path.name}, or export that again")
        self.card = read_card(card, {}, {}, class_names, str(path))
        self._mat = ncnn.Mat
        self._net = ncnn.Net()
        options = self._net.opt
        if threads:
            options.num_threads = threads
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
            setattr(options, name, self.card.precision == "fp16")
        options.use_bf16_storage = False
        weights = path.with_suffix(".bin")
        with unheard():
            failed = self._net.load_param(str(path)) or not weights.is_file()
            failed = failed or self._net.load_model(str(weights))
        if failed:
            raise UserError(f"{path}: ncnn cannot load it with {weights.name}; export it again")

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """See `Session`."""
        return [np.stack(each) for each in zip(*map(self._run_one, images), strict=True)]

    def _run_one(self, image: np.ndarray) -> list[np.ndarray]:
        extractor = self._net.create_extractor()
        extractor.input(INPUT, self._mat(image))
        return [np.array(extractor.extract(name)[1]) for name in self.card.outputs]


class CoreMlSession:
    """Core ML, on macOS."""

    def __init__(self, path: Path, class_names: Sequence[str] = ()) -> None:
        if platform.system() != "Darwin":
            raise UserError(
                f"{path}: cannot be run here, because Core ML predicts on macOS only; open it there"
            )
        ct = need("coremltools", "coreml")
        try:
            with quietly():
                self._model = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit.ALL)
        except Exception as error:  # its classes share no other base
            raise UserError(f"{path}: Core ML cannot load it ({why(error)}); export it again") from error
        text = self._model.user_defined_metadata.get(METADATA_KEY)
        self.card = read_card(text, {}, {}, class_names, str(path))

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """See `Session`."""
        results = self._model.predict({INPUT: images})
        return [np.asarray(results[name]) for name in self.card.outputs]


class ExecuTorchSession:
    """ExecuTorch, on the CPU."""

    def __init__(self, path: Path, class_names: Sequence[str] = ()) -> None:
        self._torch = need("torch", "executorch")
        try:
            with unheard():
                runtime: Any = need("executorch.runtime", "executorch").Runtime.get()
                self._program = runtime.load_program(path)  # must outlive its methods
                (text,) = self._program.load_method(METADATA_KEY).execute(())
                self._forward = self._program.load_method("forward")
        except UserError:
            raise
        except Exception as error:  # its classes share no other base
            raise UserError(f"{path}: ExecuTorch cannot load it ({why(error)}); export it again") from error
        self.card = read_card(text, {}, {}, class_names, str(path))

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """See `Session`."""
        outputs = self._forward.execute((self._torch.from_numpy(images),))
        return [output.numpy().copy() for output in outputs]
