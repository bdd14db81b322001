"""What Prometheus may ask: how many, how long, how full."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The numbers of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, CPU time, open files
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "damoyolo_requests", "Answers, by path and status.", ("path", "status"), registry=registry
        )
        self.request_s = Histogram(
            "damoyolo_request_seconds",
            "From the head of a request to the end of its answer.",
            ("path",),
            buckets=SECONDS,
            registry=registry,
        )
        self.stage_s = Histogram(
            "damoyolo_stage_seconds",
            "Of a request: upload, decode; of a batch: network.",
            ("stage",),
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_images = Histogram(
            "damoyolo_batch_images",
            "Images that the network got at once.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.refused = Counter(
            "damoyolo_refused", "Requests refused, by reason.", ("reason",), registry=registry
        )
        self.aborted = Counter(
            "damoyolo_aborted", "Requests whose client went away before the answer.", registry=registry
        )
        self.detections = Counter("damoyolo_detections", "Boxes in all answers.", registry=registry)
        self.inside = Gauge(
            "damoyolo_images_inside", "Images that are decoded, wait or are computed.", registry=registry
        )

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self._registry)
