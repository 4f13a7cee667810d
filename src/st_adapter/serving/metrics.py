"""What a server counts and measures, in the text format of Prometheus."""

from collections.abc import Callable

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Measurements of one application, in a registry of its own.

    Args:
        waiting: Returns how many requests wait or are being answered.
        pids: Returns the numbers of the processes that decode.
    """

    def __init__(self, waiting: Callable[[], int], pids: Callable[[], list[int]]) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "st_adapter_requests_total",
            "Requests by path and status.",
            ("path", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "st_adapter_request_seconds",
            "Time from the header of a request to the end of its answer.",
            ("path",),
            registry=registry,
            buckets=_SECONDS,
        )
        self._decode = Histogram(
            "st_adapter_decode_seconds",
            "Time in which the video of a request was decoded.",
            registry=registry,
            buckets=_SECONDS,
        )
        self._model = Histogram(
            "st_adapter_model_seconds",
            "Time in which a batch was scored.",
            registry=registry,
            buckets=_SECONDS,
        )
        self._batch = Histogram(
            "st_adapter_batch_videos",
            "Videos in a batch.",
            registry=registry,
            buckets=(1, 2, 4, 8, 16, 32, 64),
        )
        gauge = Gauge(
            "st_adapter_waiting", "Requests that wait or are being answered.", registry=registry
        )
        gauge.set_function(waiting)
        memory = Gauge(
            "st_adapter_memory_bytes",
            "Resident memory of the server and of the processes that decode.",
            ("process",),
            registry=registry,
        )
        memory.labels("server").set_function(lambda: _resident([psutil.Process().pid]))
        memory.labels("decoders").set_function(lambda: _resident(pids()))

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request. `path` must be one of a few: of a route, not of a URL."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def decoded(self, seconds: float) -> None:
        """Record how long the decoding of a video took."""
        self._decode.observe(seconds)

    def scored(self, videos: int, seconds: float) -> None:
        """Record the size of a batch, and how long it took."""
        self._batch.observe(videos)
        self._model.observe(seconds)

    def text(self) -> bytes:
        """Return all measurements."""
        return generate_latest(self._registry)


def _resident(pids: list[int]) -> int:
    total = 0
    for pid in pids:
        try:
            total += psutil.Process(pid).memory_info().rss
        except psutil.NoSuchProcess:  # it was replaced meanwhile
            continue
    return total
