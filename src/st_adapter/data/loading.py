"""Batches that worker processes load, whatever becomes of these processes."""

import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from multiprocessing import Semaphore, active_children
from multiprocessing.process import BaseProcess
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from st_adapter.common.interrupt import end_at_sigterm, hold_back_signals
from st_adapter.common.remarks import note

_SHARED_MEMORY = "/dev/shm"
"""Where Linux keeps what processes share; a Docker container has 64 MB of it."""


class BatchLoader:
    """Loads the batches of a dataset in worker processes, ahead of the time they are needed.

    A worker can be killed (by the system, when memory is short), and what it hands over needs
    shared memory, of which a container has little. torch's DataLoader then raises an error at some
    later line of this process, or waits for ever. Here the batches that are missing are loaded
    anew: by new workers, and if that fails, in this process. A note says so.

    Args:
        dataset: its items depend on their keys alone, so that a batch can be loaded again.
        collate: from the items of a batch to the batch.
        workers: processes; 0 loads in this one.
        pin_memory: copy batches to where a GPU reads them quickest.
        persistent: keep the workers from one call of `batches` to the next.
    """

    _is_short = False
    """Whether there was too little shared memory before, in this process."""

    def __init__(
        self,
        dataset: Dataset[Any],
        collate: Callable[[list[Any]], Any],
        workers: int,
        *,
        pin_memory: bool = False,
        persistent: bool = False,
    ) -> None:
        self._dataset, self._collate = dataset, collate
        self._workers = 0 if BatchLoader._is_short else workers
        self._pin_memory, self._persistent = pin_memory, persistent
        self._loader: DataLoader[Any] | None = None
        self._processes: set[BaseProcess] = set()
        self._keys = _Keys()

    def batches(self, keys: Iterable[list[Any]]) -> Iterator[Any]:
        """Yield a batch for each list of keys, in order; `keys` may be gone through again."""
        done = failures = 0
        while True:
            self._keys.left = islice(keys, done, None)
            try:
                for batch in self._load():
                    done, failures = done + 1, 0
                    yield batch
                return
            except (RuntimeError, OSError, EOFError) as error:
                if not self._workers or not _is_of_workers(error):
                    raise
                failures += 1
                self._give_up_workers(str(error), for_good=failures > 1)

    def _load(self) -> Iterator[Any]:
        loaded = self._start()
        while True:
            with _told_of_ends(self._processes):
                batch = next(loaded, None)
            if batch is None:  # no collate function returns it
                return
            yield batch

    def _start(self) -> Iterator[Any]:
        """Begin with the keys that are left."""
        if self._loader is None:
            self._loader = DataLoader(
                self._dataset,
                batch_sampler=self._keys,
                num_workers=self._workers,
                persistent_workers=self._persistent and self._workers > 0,
                collate_fn=_Shared(self._collate) if self._workers else self._collate,
                pin_memory=self._pin_memory,
                worker_init_fn=end_at_sigterm,
                generator=torch.Generator(),  # the global one belongs to dropout, and to resuming
            )
        if self._workers and not _can_make_semaphores(10 + 4 * self._workers):
            raise OSError("no semaphore can be made")
        before = {*active_children()}
        with hold_back_signals(), _unchanged(signal.SIGCHLD):
            loaded = iter(self._loader)
        self._processes |= {*active_children()} - before
        return loaded

    def _give_up_workers(self, reason: str, *, for_good: bool) -> None:
        """Leave the workers that there are; the next ones, or this process, load what is left."""
        count, self._loader, self._processes = self._workers, None, set()
        is_short = any(word in reason for word in ("shared memory", "No space", "semaphore"))
        BatchLoader._is_short |= is_short
        if not is_short and not for_good:
            note("a loading worker ended, killed perhaps as memory was short; others go on")
            return
        self._workers = 0
        why = "loading workers end again and again"
        if is_short:
            room = psutil.disk_usage(_SHARED_MEMORY).free if os.path.isdir(_SHARED_MEMORY) else 0
            why = (
                f"{_SHARED_MEMORY} has {room / 2**20:.0f} MB free, too little for what {count} "
                "loading workers hand over (docker run --shm-size=1g gives more)"
            )
        note(f"{why}; this process decodes the videos, as with --workers 0")


def _can_make_semaphores(count: int) -> bool:
    """Whether there is room for what queues need. A DataLoader that fails half-way complains."""
    try:
        _ = [Semaphore() for _ in range(count)]
    except OSError:
        return False
    return True


class _Keys:
    """The keys of the batches to load, as DataLoader takes them: it asks anew for each epoch."""

    left: Iterable[list[Any]] = ()

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self.left)


@dataclasses.dataclass(frozen=True)
class _Shared:
    """Puts what a worker has collated into shared memory.

    DataLoader would do so in a thread of the worker, where an error loses the batch.
    """

    collate: Callable[[list[Any]], Any]

    def __call__(self, items: list[Any]) -> Any:
        batch = self.collate(items)
        _share_memory(batch)
        return batch


def _share_memory(value: Any) -> None:
    if isinstance(value, Tensor):
        value.share_memory_()
    elif isinstance(value, list | tuple):
        for item in value:
            _share_memory(item)
    elif dataclasses.is_dataclass(value):
        _share_memory([*vars(value).values()])


def _is_of_workers(error: Exception) -> bool:
    """Whether an error is of the processes, not of what the dataset or its collation does."""
    text = str(error)
    if text.startswith("Caught "):  # in a worker, which reports it
        return "shared memory" in text
    # A worker that has ended can no longer be asked for the memory that it shares.
    return "worker" in text or isinstance(error, OSError | EOFError)


class _WorkerEndedError(RuntimeError):
    """A loading worker has ended while this process waits for it."""


@contextmanager
def _told_of_ends(processes: set[BaseProcess]) -> Iterator[None]:
    """Raise _WorkerEndedError when one of the processes ends, in the main thread at once.

    A worker that is killed in the middle of a message leaves the rest of it to be waited for. In
    other threads DataLoader notices the end of a worker, unless it is such a one, after 5 seconds.
    """
    if not processes or threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_child(number: int, frame: object) -> None:
        if any(process.exitcode for process in processes):  # those that are done end with 0
            raise _WorkerEndedError("a loading worker has ended")

    with _unchanged(signal.SIGCHLD):
        signal.signal(signal.SIGCHLD, on_child)
        yield


@contextmanager
def _unchanged(number: signal.Signals) -> Iterator[None]:
    """Put the handler of a signal back afterwards.

    That of DataLoader, for SIGCHLD, raises an error in whatever line this process is at.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if before is not None:  # None was not set from Python
            signal.signal(number, before)
