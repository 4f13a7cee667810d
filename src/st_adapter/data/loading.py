"""Batches that worker processes load, whatever becomes of these processes."""

import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from multiprocessing import Semaphore, active_children
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from st_adapter.common.interrupt import SIGTERM_CODE, end_at_sigterm, hold_back_signals
from st_adapter.common.remarks import note
from st_adapter.errors import DataError

_SHARED_MEMORY = "/dev/shm"
"""Where Linux keeps what processes share; a Docker container has 64 MB of it."""

_SHORT = ("shared memory", "No space", "semaphore", "Too many open files", "ancillary data")
"""Words of the errors that say that nothing can be handed over."""

_CRASHES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGILL, -signal.SIGFPE, -signal.SIGBUS}
"""Exit codes of a process in which a decoder failed."""

_SHOWN = 5
_ABANDONED: list[Any] = []
"""Loaders whose workers died."""


class BatchLoader:
    """Loads the batches of a dataset in worker processes, ahead of the time they are needed.

    A worker can be killed (by the system, when memory is short), and what it hands over needs
    shared memory, of which a container has little. torch's DataLoader then raises an error at some
    later line of this process, or waits for ever. Here the batches that are missing are loaded
    anew: by new workers, and if that fails, in this process. A note says so.

    Args:
        dataset: its items depend on their keys alone, so that a batch can be loaded again; its
            method `name` says of which video the item of a key is.
        collate: from the items of a batch to the batch.
        workers: processes; 0 loads in this one.
        persistent: keep the workers from one call of `batches` to the next.
    """

    def __init__(
        self,
        dataset: Any,
        collate: Callable[[list[Any]], Any],
        workers: int,
        *,
        persistent: bool = False,
    ) -> None:
        self._dataset, self._collate = dataset, collate
        self._workers, self._persistent = workers, persistent
        self._one_by_one = False  # to tell which batch crashes a worker
        self._loader: DataLoader[Any] | None = None
        self._processes: set[BaseProcess] = set()
        self._keys = _Keys()

    def batches(self, keys: Iterable[list[Any]]) -> Iterator[Any]:
        """Yield a batch for each list of keys, in order.

        Args:
            keys: iterated again after a failure.

        Raises:
            DataError: workers crash on one of the videos of a batch.
        """
        done = failures = 0
        while True:
            self._keys.left = islice(keys, done, None)
            try:
                for batch in self._load():
                    done, failures = done + 1, 0
                    yield batch
                return
            except (RuntimeError, OSError, EOFError) as error:
                _raise_interrupt(error)
                if not self._workers or not _is_worker_failure(error):
                    raise
                failures += 1
                self._replace_workers(str(error), failures, next(islice(keys, done, None), []))

    def _load(self) -> Iterator[Any]:
        with _raise_when_one_dies(self._processes):
            loaded = self._start()
        while True:
            with _raise_when_one_dies(self._processes):
                batch = next(loaded, None)
            if batch is None:  # no collate function returns it
                return
            yield batch

    def _start(self) -> Iterator[Any]:
        """Begin with the keys that are left."""
        if self._workers and not _can_make_semaphores(10 + 4 * self._workers):
            raise OSError("no semaphore can be made")
        if self._loader is None:
            self._loader = DataLoader(
                self._dataset,
                batch_sampler=self._keys,
                num_workers=1 if self._one_by_one else self._workers,
                prefetch_factor=1 if self._one_by_one else None,
                persistent_workers=self._persistent and self._workers > 0,
                collate_fn=_Shared(self._collate) if self._workers else self._collate,
                worker_init_fn=end_at_sigterm,
                generator=torch.Generator(),  # the global one belongs to dropout, and to resuming
            )
        before = {*active_children()}
        with hold_back_signals(), _restore_handler(signal.SIGCHLD):
            loaded = iter(self._loader)
        self._processes |= {*active_children()} - before
        return loaded

    def _replace_workers(self, reason: str, failures: int, keys: list[Any]) -> None:
        """Let new workers load what is left, from the batch with these keys on, or this process."""
        ending = wait([process.sentinel for process in self._processes], timeout=1)
        for process in self._processes:
            if process.sentinel in ending:
                process.join(timeout=1)  # its exit code is known a little later
        codes = {process.exitcode or 0 for process in self._processes}
        for process in self._processes:
            process.kill()
            process.join()
        # Not to be shut down as usual: that waits for locks which a killed worker may hold.
        _ABANDONED.append(self._loader)
        count, self._loader, self._processes = self._workers, None, set()
        crashes = codes & _CRASHES
        if crashes and self._one_by_one:
            names = [self._dataset.name(key) for key in keys]
            raise DataError(
                f"loading workers crash (signal {-min(crashes)}) on one of {len(names)} videos: "
                f"{', '.join(names[:_SHOWN])}{' ...' if len(names) > _SHOWN else ''}; leave it out"
            )
        self._one_by_one |= bool(crashes)
        is_short = any(word in reason for word in _SHORT)
        if failures == 1 and not is_short:
            if SIGTERM_CODE not in codes:  # or the main process is about to stop, too
                note("a loading worker died, possibly for lack of memory; it was replaced")
            return
        self._workers, self._one_by_one = 0, False
        why = "loading workers keep dying"
        if is_short:
            room = psutil.disk_usage(_SHARED_MEMORY).free if os.path.isdir(_SHARED_MEMORY) else 0
            why = (
                f"{_SHARED_MEMORY} has {room / 2**20:.0f} MB free, too little for what {count} "
                "loading workers hand over (docker run --shm-size=1g gives more)"
            )
            if "open files" in reason or "ancillary" in reason:
                why = "loading workers need more open files than `ulimit -n` allows"
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


def _is_worker_failure(error: Exception) -> bool:
    """Whether an error is of the processes, not of what the dataset or its collation does."""
    text = str(error)
    if text.startswith("Caught "):  # in a worker, which reports it
        return any(word in text for word in _SHORT)
    # A worker that has ended can no longer be asked for the memory that it shares.
    return "worker" in text or isinstance(error, OSError | EOFError) or "ancillary" in text


def _raise_interrupt(error: BaseException) -> None:
    """Raise the KeyboardInterrupt that an error came in the middle of.

    A signal to all processes ends workers, too, and both are noticed at the same time.
    """
    context = error.__context__
    while context is not None:
        if isinstance(context, KeyboardInterrupt):
            raise context
        context = context.__context__


class _WorkerDiedError(RuntimeError):
    """A loading worker died while this process waits for it."""


@contextmanager
def _raise_when_one_dies(processes: set[BaseProcess]) -> Iterator[None]:
    """Raise _WorkerDiedError when one of the processes dies, in the main thread at once.

    A worker that is killed in the middle of a message leaves the rest of it to be waited for. In
    other threads DataLoader notices a death, unless it is such a one, after 5 seconds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def look(*_: object) -> None:
        if any(process.exitcode for process in processes):  # workers that finish exit with 0
            raise _WorkerDiedError("a loading worker died")

    with _restore_handler(signal.SIGCHLD):
        signal.signal(signal.SIGCHLD, look)
        look()  # it may have died since the last time
        yield


@contextmanager
def _restore_handler(number: signal.Signals) -> Iterator[None]:
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
