"""Labelling on a Ray cluster: actors on all machines label, and this process writes the parts."""

import json
import logging
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from numpy import ndarray

from st_adapter.common.interrupt import NATIVE_THREAD
from st_adapter.common.remarks import say
from st_adapter.data.formats.listing import counted
from st_adapter.errors import ArgumentError, LabellingError, StAdapterError
from st_adapter.labelling.formats import to_line
from st_adapter.labelling.labeller import Job, Labeller
from st_adapter.labelling.parts import Parts, PartWriter
from st_adapter.labelling.work import Batches, divide, say_skipped

_TASK_ROWS = 64
"""About how many rows an actor labels before it hands them over. A lost machine loses as many."""

_BLOCKS = 1000
"""Most blocks of a Ray data set, each of which costs the scheduler some time and memory."""

_POLL_SECONDS = 0.1
"""Seconds between two checks for Ctrl-C."""


def label_on_ray(
    job: Job,
    ranges: Sequence[range],
    parts: Parts,
    address: str,
    advance: Callable[[int], None],
    should_stop: Callable[[], bool],
) -> None:
    """Label rows on a Ray cluster.

    Ray repeats the work of a machine that is lost on the others, and starts actors on machines that
    join. Each actor builds the model once and decodes by itself.

    Args:
        job: What to label. All machines must see its runs and videos under the same paths.
        ranges: The rows.
        parts: Where this process writes.
        address: Address of the cluster, or "auto".
        advance: Told how many rows are done.
        should_stop: Asked every 0.1 seconds.

    Raises:
        ArgumentError: Ray is not installed, or no cluster answers at the address.
        StAdapterError: What an actor raised.
        LabellingError: Ray gave up.
    """
    tasks = _tasks(ranges, job.batch_rows())
    writer = PartWriter(parts)
    with _connected(address) as ray:
        try:
            for start, lines in _until(should_stop, _labelled(ray, job, tasks)):
                for line in lines:
                    say_skipped(json.loads(line))
                writer.add(range(start, start + len(lines)), lines)
                advance(len(lines))
        except ray.exceptions.RayError as error:
            raise _explained(error) from error
        finally:
            writer.flush()


def _tasks(ranges: Sequence[range], batch_rows: int) -> list[dict[str, int]]:
    """Divide ranges into pieces of whole batches, about as long as a task should be."""
    pieces = divide(ranges, 1, batch_rows)[0]
    step = batch_rows * max(1, _TASK_ROWS // batch_rows)
    return [
        {"start": start, "stop": min(start + step, piece.stop)}
        for piece in pieces
        for start in range(piece.start, piece.stop, step)
    ]


def _until(should_stop: Callable[[], bool], labelled: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield the first row of each task and its lines, in the order in which tasks end.

    Ray waits without end while a cluster has nothing free, so it waits in a thread of its own. That
    thread is left behind after a stop; it ends with the connection, or after the next task.

    Args:
        should_stop: Asked every 0.1 seconds.
        labelled: The data set of labelled tasks.
    """
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()
    left = threading.Event()
    threading.Thread(
        target=_collect, args=(labelled, results, left), name=NATIVE_THREAD, daemon=True
    ).start()
    try:
        while not should_stop():
            try:
                result = results.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if result is None:
                return
            if isinstance(result, BaseException):
                raise result
            yield int(result["start"]), str(result["lines"]).splitlines(keepends=True)
    finally:
        left.set()


def _collect(labelled: Any, results: "queue.SimpleQueue[Any]", left: threading.Event) -> None:
    """Put all rows of a data set into a queue, and at last None, or the error that ended them."""
    try:
        for row in labelled.iter_rows():
            if left.is_set():
                return
            results.put(row)
        results.put(None)
    except BaseException as error:  # raised again in the thread that reads the queue
        results.put(error)


def _labelled(ray: Any, job: Job, tasks: list[dict[str, int]]) -> Any:
    """Return the Ray data set of the tasks' lines, which are computed during iteration."""
    resources = ray.cluster_resources()
    gpus = 0 if job.settings["device"] == "cpu" else int(resources.get("GPU", 0))
    most = gpus or max(1, int(resources.get("CPU", 1)))
    machines = counted(sum(node["Alive"] for node in ray.nodes()), "machine")
    say(f"Ray: {machines}, up to {counted(most, 'GPU' if gpus else 'CPU core')}")
    blocks = min(len(tasks), _BLOCKS)
    return ray.data.from_items(tasks, override_num_blocks=blocks).map_batches(
        RayLabeller,
        fn_constructor_kwargs={"job": replace(job, workers=0)},
        batch_size=1,
        num_cpus=1,
        num_gpus=1 if gpus else None,
        # Not a fixed number of actors, which could not go on while a lost machine is missing.
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
    )


class RayLabeller:
    """Labels tasks on a machine of the cluster with a model that is built once.

    Args:
        job: What to label.
    """

    def __init__(self, job: Job) -> None:
        self._labeller, self._batch_rows = Labeller(job), job.batch_rows()

    def __call__(self, tasks: Mapping[str, ndarray]) -> dict[str, list[Any]]:
        """Label the rows `start` to `stop` of each task; return their lines as one text."""
        texts = []
        for start, stop in zip(tasks["start"].tolist(), tasks["stop"].tolist(), strict=True):
            batches = Batches([range(start, stop)], self._batch_rows)
            labelled = self._labeller.label(batches)
            texts.append("".join(to_line(record) for records in labelled for record in records))
        return {"start": tasks["start"].tolist(), "lines": texts}


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Connect to a cluster inside this block, quietly, and leave this process unchanged.

    Raises:
        ArgumentError: Ray is not installed, or no cluster answers at the address.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ArgumentError(
            "labelling on Ray needs the package ray; pip install 'st-adapter[ray]'"
        ) from error
    was_connected = ray.is_initialized()
    loggers = [logging.getLogger(name) for name in ("ray", "ray.data")]
    levels = [logger.level for logger in loggers]
    context = ray.data.DataContext.get_current()
    shows_bars = context.enable_progress_bars
    try:
        if not was_connected:
            _connect(ray, address)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        context.enable_progress_bars = False
        yield ray
    finally:
        context.enable_progress_bars = shows_bars
        if not was_connected:
            ray.shutdown()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _connect(ray: Any, address: str) -> None:
    # Ray replaces the handler of SIGTERM by one that ends the process.
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ArgumentError(
            f"no Ray cluster was found at {address!r} ({reason}); start one with `ray start --head`"
        ) from error
    finally:
        if in_main and before is not None:
            signal.signal(signal.SIGTERM, before)


def _explained(error: BaseException) -> StAdapterError:
    """Return the error of an actor if it is one of ours, otherwise one that names the last line."""
    cause: BaseException | None = error
    while cause is not None:
        inner = getattr(cause, "cause", None)
        for found in (cause, inner):
            if isinstance(found, StAdapterError):
                return found
        cause = cause.__cause__
    line = str(error).strip().splitlines()[-1]
    failed = LabellingError(
        f"Ray gave up: {line}; what is labelled is kept, and the same command goes on from there"
    )
    failed.add_note(str(error))  # the traceback, for --debug
    return failed
