"""How long things take. No torch."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


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


def describe_machine() -> str:
    """Processor, cores this process may use, system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores, {platform.system()} {platform.machine()}"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
