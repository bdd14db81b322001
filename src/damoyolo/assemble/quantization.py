"""INT8 that keeps its accuracy: as few layers as needed stay in float, found by measurement."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from damoyolo.data.dataset import Dataset
from damoyolo.data.formats import read_dataset
from damoyolo.data.images import read_image
from damoyolo.errors import RunError, UserError
from damoyolo.evaluation import coco
from damoyolo.export.bench import Timing, in_turns, time_block
from damoyolo.export.card import ExportCard
from damoyolo.export.comparison import compare_raw
from damoyolo.export.extras import need
from damoyolo.export.formats import SUFFIXES, Format, write_from_onnx
from damoyolo.export.int8 import Measured, Quantization
from damoyolo.export.proof import raw_outputs
from damoyolo.export.runtime import Runtime, open_runtime
from damoyolo.export.sessions import Engine
from damoyolo.nn.detector import Detector

if TYPE_CHECKING:
    import onnx

    from damoyolo.export.quantize import Ranges, Style

Item = TypeVar("Item")

STYLES: dict[Format, Style] = {"onnx": "onnxruntime", "openvino": "openvino", "tensorrt": "tensorrt"}

LEAST_IMAGES = 8
"""From fewer, ranges are guesswork."""
RANKED_ON = 8
"""Images on which the parts of a network are compared."""


@dataclass(frozen=True)
class Int8:
    """What an INT8 file is made with, and what it may lose.

    `max_drop` is in AP points, hundredths of an AP from 0 to 1, on `split` of the data; ranges are measured
    on images of `train`.
    """

    data: str | Path
    split: str = "val"
    max_drop: float = 0.5
    calibration_images: int = 300


class Photographs:
    """The images of a data set that ranges are measured on, and those that the AP is measured on."""

    def __init__(self, settings: Int8, class_names: tuple[str, ...]) -> None:
        if not settings.max_drop >= 0:
            raise UserError(f"--max-drop {settings.max_drop}: is in AP points; give 0 or more, such as 0.5")
        train = read_dataset(Path(settings.data), "train", class_names=class_names)
        self.judged: Dataset = read_dataset(Path(settings.data), settings.split, class_names=class_names)
        count = min(settings.calibration_images, len(train.records))
        if count < LEAST_IMAGES:
            raise UserError(
                f"{settings.data}: {count} images of 'train' are too few to calibrate with; "
                f"use {LEAST_IMAGES} or more"
            )
        self._paths = [each.path for each in _spread(train.records, count)]

    def __len__(self) -> int:
        return len(self._paths)

    def inputs(self, runtime: Runtime) -> Iterator[np.ndarray]:
        """To calibrate with, one by one."""
        return (runtime.batch([read_image(path)]) for path in self._paths)

    def few(self, runtime: Runtime) -> list[np.ndarray]:
        """A few of them, as pixels of the network's size."""
        return [runtime.resize.image(read_image(path)) for path in _spread(self._paths, RANKED_ON)]

    def ap(self, runtime: Runtime) -> float:
        """Of the other images."""
        detect = partial(runtime.detect, score=runtime.card.score_threshold)
        return coco.evaluate(detect, self.judged).ap


class Trials:
    """One network with the head `raw`, quantised in different ways and run by the engine it is meant for."""

    def __init__(
        self,
        detector: Detector,
        card: ExportCard,
        kind: Format,
        photographs: Photographs,
        announce: Callable[[str], None],
    ) -> None:
        from damoyolo.export.onnx import to_onnx
        from damoyolo.export.quantize import measure_ranges, parts

        self.engine: Engine = "openvino" if kind == "openvino" else "onnxruntime"
        self.style = STYLES[kind]
        self.photographs, self.announce = photographs, announce
        self.card = card.model_copy(update={"head": "raw", "batch": 1, "dynamic": False})
        self.graph: onnx.ModelProto = to_onnx(detector, self.card)
        self.parts = parts(self.graph)
        self.fp32 = self._opened(self.graph)
        self.fp32_ap = photographs.ap(self.fp32)
        announce(f"float: AP {self.fp32_ap:.4f}")
        self.ranges: Ranges = measure_ranges(self.graph, photographs.inputs(self.fp32))
        announce(f"ranges measured on {len(photographs)} images")
        self.drops: dict[int, float] = {}

    def drop(self, count: int) -> float:
        """The AP lost, of 1, when the `count` most sensitive parts stay in float; measured once."""
        if count not in self.drops:
            in_float = self.ranking[:count] if count else []
            self.drops[count] = drop = self.fp32_ap - self.photographs.ap(self.leaving(in_float))
            left = f"all but {count} of {len(self.parts)} parts" if count else "all"
            self.announce(f"{left} in INT8: AP {self.fp32_ap - drop:.4f} ({-100 * drop:+.2f} points)")
        return self.drops[count]

    @cached_property
    def ranking(self) -> list[str]:
        """All parts, first the one that alone in INT8 changes the output most."""
        images = self.photographs.few(self.fp32)
        expected = raw_outputs(self.fp32, images)
        changes = {}
        for number, part in enumerate(self.parts, 1):
            others = [each for each in self.parts if each != part]
            alone = self._opened(self._quantized(others), converted=False)  # many, and this is quicker
            changes[part] = compare_raw(expected, raw_outputs(alone, images)).change
            moved = f"{part} alone in INT8 moves scores and boxes by {100 * changes[part]:.2g} %"
            self.announce(f"{moved} ({number} of {len(self.parts)})")
        return sorted(changes, key=changes.__getitem__, reverse=True)

    def measured(self, counts: Sequence[int]) -> list[Measured]:
        """The float network and those with so many parts in float, timed in turns."""
        runtimes = [self.fp32, *(self.leaving(self.ranking[:count] if count else []) for count in counts)]
        aps = [self.fp32_ap, *(self.fp32_ap - self.drop(count) for count in counts)]
        (image, *_) = self.photographs.few(self.fp32)
        given = self.fp32.batch([image])
        calls = [partial(runtime.session.run, given) for runtime in runtimes]
        milliseconds = in_turns({place: partial(time_block, call) for place, call in enumerate(calls)})
        timings = [Timing.of(each) for each in milliseconds.values()]
        return [Measured(ap=ap, p50=each.p50, p95=each.p95) for ap, each in zip(aps, timings, strict=True)]

    def leaving(self, in_float: Sequence[str]) -> Runtime:
        """In INT8 but for these parts, in the form that is written: a converted graph rounds otherwise."""
        return self._opened(self._quantized(in_float))

    def _quantized(self, in_float: Sequence[str]) -> onnx.ModelProto:
        from damoyolo.export.quantize import quantize

        return quantize(self.graph, self.ranges, self.style, in_float)

    def _opened(self, graph: onnx.ModelProto, *, converted: bool = True) -> Runtime:
        kind: Format = "openvino" if converted and self.engine == "openvino" else "onnx"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"trial{SUFFIXES[kind]}"
            write_from_onnx(kind, graph, self.card, path)
            return open_runtime(path, engine=self.engine)


def quantized(
    detector: Detector,
    card: ExportCard,
    kind: Format,
    settings: Int8,
    where: Path,
    announce: Callable[[str], None] | None = None,
) -> tuple[onnx.ModelProto, Quantization]:
    """The graph that `card` describes in INT8, and what that costs.

    Args:
        detector: in float.
        card: of the file to be written.
        kind: its format, whose engine runs the trials (for TensorRT, ONNX Runtime does).
        settings: data and limits.
        where: the file, for messages.
        announce: is told each step that was measured.

    Raises:
        UserError: if the data do not fit the model, or are too few.
        RunError: if half of the network in float does not keep the drop within the limit.
    """
    need("onnxscript", "export")
    need("onnxruntime.quantization", "export")
    from damoyolo.export.quantize import quantize

    photographs = Photographs(settings, card.class_names)
    trials = Trials(detector, card, kind, photographs, announce or (lambda _: None))
    count = fewest(lambda count: trials.drop(count) <= settings.max_drop / 100, len(trials.parts) // 2)
    if count is None:
        raise RunError(f"{where}: {_failure(trials)} {settings.max_drop}; raise --max-drop, or take fp16")
    in_float = trials.ranking[:count] if count else []
    fp32, whole, *rest = trials.measured([0, count] if count else [0])
    report = Quantization(
        data=Path(settings.data).name,
        split=settings.split,
        engine="OpenVINO" if trials.engine == "openvino" else "ONNX Runtime",
        stands_in=kind == "tensorrt",
        calibration_images=len(photographs),
        max_drop=settings.max_drop,
        in_float=tuple(part for part in trials.parts if part in in_float),
        fp32=fp32,
        whole=whole,
        partial=rest[0] if rest else None,
    )
    return quantize(*_wanted(detector, card, trials), trials.style, in_float), report


def fewest(enough: Callable[[int], bool], most: int) -> int | None:
    """The smallest count from 0 to `most` that is enough, found by doubling, then halving.

    None if none of those tried is. If more is not always better: a count that is enough when one less is not.
    """
    too_few, count = -1, 0
    while not enough(count):
        if count == most:
            return None
        too_few, count = count, min(max(1, 2 * count), most)
    while count - too_few > 1:
        middle = (too_few + count) // 2
        too_few, count = (too_few, middle) if enough(middle) else (middle, count)
    return count


def _wanted(detector: Detector, card: ExportCard, trials: Trials) -> tuple[onnx.ModelProto, Ranges]:
    """The float graph that `card` describes, and ranges for it."""
    if card == trials.card:
        return trials.graph, trials.ranges
    from damoyolo.export.onnx import to_onnx
    from damoyolo.export.quantize import measure_ranges

    graph = to_onnx(detector, card)
    if card.head != "topk":
        return graph, trials.ranges
    one = to_onnx(detector, card.model_copy(update={"batch": 1, "dynamic": False}))
    return graph, measure_ranges(one, trials.photographs.inputs(trials.fp32))  # its convolutions are others


def _failure(trials: Trials) -> str:
    """What was tried, in words."""
    best = min(trials.drops, key=trials.drops.__getitem__)
    return (
        f"was not written, because INT8 loses {100 * trials.drop(0):.2f} AP points, and at best, with {best} "
        f"of {len(trials.parts)} parts in float, {100 * trials.drop(best):.2f}, more than"
    )


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """So many of them, evenly."""
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[place] for place in places]
