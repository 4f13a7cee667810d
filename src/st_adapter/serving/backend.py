"""What an application holds while it serves: models, processes, a folder, and what is going on."""

import atexit
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from st_adapter.errors import ArgumentError
from st_adapter.serving.answers import Health
from st_adapter.serving.decoding import DecoderPool
from st_adapter.serving.limits import Limits
from st_adapter.serving.metrics import Metrics
from st_adapter.serving.refusals import Refusal
from st_adapter.serving.service import Service
from st_adapter.serving.tasks import Tasks
from st_adapter.serving.uploads import upload_folder

_RETRY_SECONDS = 2
"""When to try again if too many requests wait."""


class Backend:
    """Everything behind the routes. It starts at once and ends with `close`, or with the program.

    Args:
        runs: Run folders or adapter folders.
        runs_folder: Folder whose runs are served as long as they are in it.
        limits: Limits of requests.
        settings: Keyword arguments of `Predictor`.

    Attributes:
        limits: Limits of requests.
        metrics: Measurements.
        tasks: The classifiers.
        service: Answers requests.
        folder: Where uploads are kept until they are answered.
        threads: Run requests.
        is_stopping: Whether new requests are refused.
        waiting: Number of requests that wait or are being answered.

    Raises:
        CheckpointError, ArgumentError, MemoryShortError: As for `Predictor`.
    """

    def __init__(
        self,
        runs: Sequence[str | Path],
        runs_folder: Path | None,
        limits: Limits,
        settings: dict[str, Any],
    ) -> None:
        if not runs and runs_folder is None:
            raise ArgumentError("no run was given; give run folders, or a folder of runs")
        self.limits, self.is_stopping, self.waiting = limits, False, 0
        with ExitStack() as stack:
            self.metrics = Metrics(lambda: self.waiting, lambda: decoders.pids())
            self.tasks = Tasks(settings, self.metrics.scored)
            stack.callback(self.tasks.close)
            self.tasks.add_all(runs)
            if runs_folder is not None:
                from st_adapter.serving.runs_folder import RunsFolder  # imports torch

                watched = RunsFolder(runs_folder, self.tasks)
                stack.callback(watched.close)
            self.folder = stack.enter_context(upload_folder())
            decoders = DecoderPool(limits)
            stack.callback(decoders.close)
            self.threads = ThreadPoolExecutor(limits.queue, "request")
            stack.callback(self.threads.shutdown, wait=False)
            self.service = Service(self.tasks, decoders, self.metrics)
            self._stack = stack.pop_all()
        atexit.register(self.close)

    def close(self) -> None:
        """End processes and threads, and remove the folder. Can be called again."""
        self.is_stopping = True
        atexit.unregister(self.close)
        self._stack.close()

    def health(self) -> Health:
        """Say whether requests are answered."""
        return Health(
            status="stopping" if self.is_stopping else "ok",
            tasks=len(self.tasks),
            waiting=self.waiting,
        )

    def check_room(self) -> None:
        """Raise Refusal if a request would not be answered now."""
        if self.is_stopping:
            raise Refusal(503, "the server is stopping", _RETRY_SECONDS)
        if self.waiting >= self.limits.queue:
            raise Refusal(503, "too many requests are waiting; try again", _RETRY_SECONDS)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Count a request in this block. Only for the thread of the event loop.

        Raises:
            Refusal: Too many requests are waiting, or the server is stopping.
        """
        self.check_room()
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1
