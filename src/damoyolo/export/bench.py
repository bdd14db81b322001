"""How long exported files take, side by side, and how much memory. No torch.

Every file lives in a process of its own, so that neither memory nor threads add up. The processes take turns
in short blocks of calls, in another order each round, so that whatever else the machine does hits all alike.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import multiprocessing
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from damoyolo.errors import RunError, UserError
from damoyolo.export.card import ExportCard
from damoyolo.export.proof import probe_images
from damoyolo.export.runtime import Runtime, open_runtime
from damoyolo.export.sessions import ENGINES, Engine, OpenVinoSession, why

PHOTOGRAPH = (1080, 1920)
"""Height and width of the image that pre- and post-processing are measured with."""
BLOCK = 8
"""Calls of one file in a row."""

Key = TypeVar("Key")


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: percentiles over `calls` of them."""

    p50: float
    p90: float
    p95: float
    p99: float
    calls: int

    @classmethod
    def of(cls, milliseconds: list[float]) -> Timing:
        """From single measurements."""
        p50, p90, p95, p99 = (round(float(np.percentile(milliseconds, q)), 3) for q in (50, 90, 95, 99))
        return cls(p50, p90, p95, p99, len(milliseconds))


@dataclass(frozen=True)
class Subject:
    """Something to measure: `open` is called in its own process, so it must be picklable.

    `precision` is what the engine was told to compute in; None leaves it to the file's card.
    """

    name: str
    engine: str
    open: Callable[[], Runtime]
    precision: str | None = None


@dataclass(frozen=True)
class BatchResult:
    """Of one batch size: the network alone, and from photographs to detections."""

    batch: int
    network_ms: Timing
    whole_ms: Timing

    @property
    def images_per_s(self) -> float:
        """What the network does in a second, at its median."""
        return round(1000 * self.batch / self.network_ms.p50, 1)


@dataclass(frozen=True)
class Result:
    """Of one file. `image_size` is (height, width); memory is the most its process ever held, in MiB."""

    name: str
    engine: str
    precision: str
    image_size: tuple[int, int]
    batches: tuple[BatchResult, ...]
    peak_memory_mib: int

    def to_record(self) -> dict[str, Any]:
        """JSON-ready."""
        record = asdict(self)
        for each, result in zip(record["batches"], self.batches, strict=True):
            each["images_per_s"] = result.images_per_s
        return record


def bench(
    subjects: Sequence[Subject], *, largest_batch: int = 1, calls: int = 80, seed: int = 0
) -> list[Result]:
    """Measure all subjects in one run.

    Args:
        subjects: files, as `file_subject` describes them, and others.
        largest_batch: of those that take any; 1, 2, 4 ... up to it are measured. Others have their own.
        calls: of every measurement, at least.
        seed: of the order.

    Raises:
        UserError: if a file cannot be opened.
        RunError: if a process dies.
    """
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Worker(subject, largest_batch)) for subject in subjects]
        blocks = {
            (number, what, batch): partial(worker.block, what, batch)
            for number, worker in enumerate(workers)
            for batch in worker.batches
            for what in ("network", "whole")
        }
        timings = {key: Timing.of(each) for key, each in in_turns(blocks, calls, seed=seed).items()}
        return [
            Result(
                name=worker.subject.name,
                engine=worker.subject.engine,
                precision=worker.precision,
                image_size=worker.card.image_size,
                batches=tuple(
                    BatchResult(batch, timings[number, "network", batch], timings[number, "whole", batch])
                    for batch in worker.batches
                ),
                peak_memory_mib=worker.peak_memory_mib(),
            )
            for number, worker in enumerate(workers)
        ]


def file_subject(
    path: Path,
    *,
    engine: Engine | None = None,
    precision: Literal["fp32", "bf16"] | None = None,
    threads: int | None = None,
) -> Subject:
    """An exported file.

    Args:
        path: any that `open_runtime` opens.
        engine: what runs it; by default the suffix tells.
        precision: that OpenVINO computes in; by default what the file was written for.
        threads: of the engine; default its own choice.

    Raises:
        UserError: for a precision that the engine, or this processor, does not offer.
    """
    chosen = engine or ENGINES.get(path.suffix)
    name = f"{chosen} {_version(chosen)}" if chosen else ""
    if precision is None:
        open_file = partial(open_runtime, path, engine=engine, threads=threads)
        return Subject(str(path), name, open_file)
    if chosen != "openvino":
        raise UserError(
            f"{path}: precision '{precision}' is OpenVINO's to choose; add --engine openvino, or export the "
            "file in that precision"
        )
    if precision == "bf16" and not _has_bf16():
        raise UserError(
            f"{path}: precision 'bf16': OpenVINO does not compute in it on this processor; take fp32"
        )
    return Subject(str(path), name, partial(_open_openvino, path, threads, precision), precision)


def in_turns(
    blocks: Mapping[Key, Callable[[int], list[float]]], calls: int = 80, *, block: int = BLOCK, seed: int = 0
) -> dict[Key, list[float]]:
    """Milliseconds of at least `calls` calls of each, in blocks, in another order every round.

    `blocks` are functions that make so many calls, such as `partial(time_block, call)`.
    """
    order, shuffle = list(blocks), random.Random(seed).shuffle
    measured: dict[Key, list[float]] = {key: [] for key in blocks}
    for _ in range(-(-calls // block)):
        shuffle(order)
        for key in order:
            measured[key] += blocks[key](block)
    return measured


def time_block(call: Callable[[], object], count: int) -> list[float]:
    """Milliseconds of so many calls, after one that does not count: it brings the caches back."""
    call()
    measured = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        measured.append((time.perf_counter() - start) * 1e3)
    return measured


def time_calls(call: Callable[[], object], seconds: float = 1.0, warm_up: int = 3, least: int = 5) -> Timing:
    """Call again and again for about so many seconds, after a few calls that do not count."""
    for _ in range(warm_up):
        call()
    measured: list[float] = []
    end = time.perf_counter() + seconds
    while len(measured) < least or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        measured.append((time.perf_counter() - start) * 1e3)
    return Timing.of(measured)


class Worker:
    """The process that a subject lives in, while the `with` block lasts."""

    card: ExportCard
    batches: tuple[int, ...]

    def __init__(self, subject: Subject, largest_batch: int = 1) -> None:
        self.subject = subject
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, subject, largest_batch), daemon=True)
        self._process.start()
        theirs.close()  # so that a dead process is noticed

    def __enter__(self) -> Worker:
        try:
            self.card, self.batches = self._answer()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()
        self._connection.close()

    @property
    def precision(self) -> str:
        """What is computed in; OpenVINO keeps float16 weights, but no float16 numbers, on a CPU."""
        widened = self.subject.engine.startswith("openvino") and self.card.precision == "fp16"
        return self.subject.precision or ("fp32" if widened else self.card.precision)

    def block(self, what: str, batch: int, calls: int) -> list[float]:
        """Milliseconds of so many calls of the `network`, or of the `whole`."""
        self._connection.send((what, batch, calls))
        milliseconds: list[float] = self._answer()
        return milliseconds

    def peak_memory_mib(self) -> int:
        """The most memory that the process has held so far."""
        self._connection.send(None)
        mib: int = self._answer()
        return mib

    def _answer(self) -> Any:
        try:
            answer = self._connection.recv()
        except EOFError as error:
            self._process.join()
            raise RunError(
                f"{self.subject.name}: its process ended with code {self._process.exitcode} while measured"
            ) from error
        if isinstance(answer, Exception):
            raise answer
        return answer


def _work(connection: Connection, subject: Subject, largest_batch: int) -> None:
    """The life of a worker: open, warm up, then answer until the other side has gone."""
    try:
        runtime = subject.open()
        batches = batch_sizes(runtime.card, largest_batch)
        (*_, photograph) = probe_images(PHOTOGRAPH)
        calls: dict[tuple[str, int], Callable[[], object]] = {}
        for batch in batches:
            photographs = [photograph] * batch
            calls["network", batch] = partial(runtime.session.run, runtime.batch(photographs))
            whole = Runtime(runtime.session, runtime.card, batch)
            calls["whole", batch] = partial(whole.detect, photographs)
        for call in calls.values():
            call()
        connection.send((runtime.card, batches))
        while True:
            request = connection.recv()
            if request is None:
                connection.send(_peak_memory_mib())
            else:
                what, batch, count = request
                connection.send(time_block(calls[what, batch], count))
    except EOFError:  # the other side has gone
        return
    except (UserError, RunError) as error:
        connection.send(error)
    except Exception as error:  # an engine's own
        connection.send(RunError(f"{subject.name}: {type(error).__name__}: {why(error)}"))


def batch_sizes(card: ExportCard, largest: int) -> tuple[int, ...]:
    """1, 2, 4 ... `largest` for a file that takes any; else its own."""
    if not card.dynamic:
        return (card.batch,)
    return (*(1 << power for power in range((largest - 1).bit_length())), largest)


def _peak_memory_mib() -> int:
    """Of this process; Linux's other counter knows the parent's, too."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _open_openvino(path: Path, threads: int | None, precision: Literal["fp32", "bf16"]) -> Runtime:
    session = OpenVinoSession(path, threads, "f32" if precision == "fp32" else "bf16")
    return Runtime(session, session.card)


def _has_bf16() -> bool:
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _version(engine: Engine) -> str:
    packages = {"tensorrt": ("tensorrt", "tensorrt-rtx-cu13"), "coreml": ("coremltools",)}
    for package in packages.get(engine, (engine,)):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    return ""
