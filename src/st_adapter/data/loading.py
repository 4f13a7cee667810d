"""Batch loading in worker processes that copes with the loss of workers."""

import dataclasses
import os
import signal
import sys
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
from st_adapter.wording import setting

_SHARED_MEMORY = "/dev/shm"
"""Where Linux keeps the memory that processes share. A Docker container has 64 MB by default."""

_SHORT = ("shared memory", "No space", "semaphore", "Too many open files", "ancillary data")
"""Words in errors that occur when a worker cannot hand over a batch."""

_CRASHES = {
    -getattr(signal, name)
    for name in ("SIGSEGV", "SIGABRT", "SIGILL", "SIGFPE", "SIGBUS")
    if hasattr(signal, name)  # Windows has no SIGBUS
}
"""Exit codes of a worker that crashed, usually in a decoder."""

_SHOWN = 5
"""Maximum number of videos to name in an error."""
_ABANDONED: list[Any] = []
"""Iterators whose workers died. See `BatchLoader._replace_workers` for why they are kept."""


class BatchLoader:
    """Load batches ahead of time in worker processes, and carry on if workers die.

    The operating system can kill a worker when memory runs out. A worker also needs shared memory
    to hand over a batch, and containers have little of it. In both cases, torch's DataLoader raises
    an error at an arbitrary line of the main process, or waits forever. This class loads the
    missing batches again: first with new workers and, if that fails, in the main process. A note is
    logged.

    Args:
        dataset: The dataset. An item must depend on its key alone, so that a batch can be loaded
            again. Its method `name` returns the name of the video for a key.
        collate: Makes a batch from a list of items.
        workers: Number of worker processes; 0 loads in the calling process.
        persistent: Keep the workers between calls of `batches`.
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
        self._one_by_one = False  # one worker at a time, to find the batch that crashes it
        self._loader: DataLoader[Any] | None = None
        self._iterator: Iterator[Any] | None = None
        self._processes: set[BaseProcess] = set()
        self._keys = _Keys()

    def batches(self, keys: Iterable[list[Any]]) -> Iterator[Any]:
        """Yield a batch for each list of keys, in order.

        Args:
            keys: Keys of the items of each batch. Iterated again from the start after a failure.

        Raises:
            DataError: If a worker crashes again and again on a video of the same batch.
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
            finally:
                self._iterator = None  # its destructor ends the workers, if they do not persist

    def _load(self) -> Iterator[Any]:
        with _raise_when_one_dies(self._processes):
            loaded = self._start()
        while True:
            with _raise_when_one_dies(self._processes):
                batch = next(loaded, None)
            if batch is None:  # the end: collate functions never return None
                return
            yield batch

    def _start(self) -> Iterator[Any]:
        """Start loading the batches that have not been yielded yet."""
        if self._workers and not _can_make_semaphores(10 + 4 * self._workers):
            raise OSError("cannot create a semaphore")
        if self._loader is None:
            self._loader = DataLoader(
                self._dataset,
                batch_sampler=self._keys,
                num_workers=1 if self._one_by_one else self._workers,
                prefetch_factor=1 if self._one_by_one else None,
                persistent_workers=self._persistent and self._workers > 0,
                collate_fn=_Shared(self._collate) if self._workers else self._collate,
                worker_init_fn=end_at_sigterm,
                # The global one is left to dropout, so that resumed runs repeat its draws.
                generator=torch.Generator(),
            )
        before = {*active_children()}
        with hold_back_signals(), _restore_handler("SIGCHLD"):
            self._iterator = iter(self._loader)
        self._processes |= {*active_children()} - before
        return self._iterator

    def _replace_workers(self, reason: str, failures: int, keys: list[Any]) -> None:
        """Remove all workers and decide who loads the rest: new workers, or this process.

        Args:
            reason: Message of the error.
            failures: Number of failures in a row without a batch in between.
            keys: Keys of the first batch that is missing.
        """
        ending = wait([process.sentinel for process in self._processes], timeout=1)
        for process in self._processes:
            if process.sentinel in ending:
                process.join(timeout=1)  # the exit code is known slightly later than the death
        codes = {process.exitcode or 0 for process in self._processes}
        for process in self._processes:
            process.kill()
            process.join()
        # Its destructor would wait for locks that a killed worker may hold, and close queues while
        # their threads close them, too.
        _ABANDONED.append(self._iterator)
        count, self._loader, self._processes = self._workers, None, set()
        crashes = codes & _CRASHES
        if crashes and self._one_by_one:
            names = [self._dataset.name(key) for key in keys]
            which = "" if len(names) == 1 else f"one of {len(names)} videos: "
            raise DataError(
                f"dataloader workers crash (signal {-min(crashes)}) on {which}"
                f"{', '.join(names[:_SHOWN])}{' ...' if len(names) > _SHOWN else ''};"
                " remove the broken video from the data"
            )
        self._one_by_one |= bool(crashes)
        is_short = any(word in reason for word in _SHORT)
        if failures == 1 and not is_short:
            if SIGTERM_CODE not in codes:  # SIGTERM also reaches the main process, which reports it
                note("a dataloader worker died, possibly because memory ran out; it was replaced")
            return
        self._workers, self._one_by_one = 0, False
        why = "dataloader workers keep dying"
        if is_short:
            room = psutil.disk_usage(_SHARED_MEMORY).free if os.path.isdir(_SHARED_MEMORY) else 0
            why = (
                f"{_SHARED_MEMORY} has {room / 2**20:.0f} MB free, too little for the batches of "
                f"{count} dataloader worker{'' if count == 1 else 's'} (docker run --shm-size=1g "
                "provides more)"
            )
            if "open files" in reason or "ancillary" in reason:
                why = "dataloader workers need more open files than `ulimit -n` allows"
        as_with = setting("workers", 0)
        note(f"{why}; the main process decodes the videos instead, as with {as_with}")


def _can_make_semaphores(count: int) -> bool:
    """Return whether the queues of a DataLoader can be created.

    A DataLoader that finds out by itself prints tracebacks.
    """
    try:
        _ = [Semaphore() for _ in range(count)]
    except OSError:
        return False
    return True


class _Keys:
    """Batch sampler for DataLoader, which iterates it once per epoch: the keys that are left."""

    left: Iterable[list[Any]] = ()

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self.left)


@dataclasses.dataclass(frozen=True)
class _Shared:
    """Collate items and move the batch to shared memory.

    DataLoader does the latter in a thread of the worker, where an error would lose the batch.
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
    """Return whether the workers failed, rather than the dataset or `collate`."""
    text = str(error)
    if text.startswith("Caught "):  # DataLoader's prefix for an error raised in a worker
        return any(word in text for word in _SHORT)
    # OSError and EOFError: the worker has ended and can no longer send the memory it shared.
    return "worker" in text or isinstance(error, OSError | EOFError) or "ancillary" in text


def _raise_interrupt(error: BaseException) -> None:
    """Raise the KeyboardInterrupt during which an error occurred, if any.

    Ctrl-C can reach workers too, so the main process may notice the end of a worker at the same
    time.
    """
    context = error.__context__
    while context is not None:
        if isinstance(context, KeyboardInterrupt):
            raise context
        context = context.__context__


class _WorkerDiedError(RuntimeError):
    """A worker died while this process was waiting for it."""


@contextmanager
def _raise_when_one_dies(processes: set[BaseProcess]) -> Iterator[None]:
    """Raise _WorkerDiedError inside this block as soon as one of the processes dies.

    If a worker is killed while it writes a message, DataLoader waits for the rest of it forever.
    Signals are handled in the main thread only. In other threads, DataLoader itself notices most
    deaths within 5 seconds, but not that one.
    """
    if threading.current_thread() is not threading.main_thread() or os.name != "posix":
        yield
        return

    def look(*_: object) -> None:
        # A signal that ends the workers too is on its way out already. A second error would cut off
        # what the first one runs, such as the release of a lock for which the exit then waits.
        if isinstance(sys.exception(), KeyboardInterrupt | SystemExit):
            return
        if any(process.exitcode for process in processes):  # workers that have finished exit with 0
            raise _WorkerDiedError("a dataloader worker died")

    with _restore_handler("SIGCHLD"):
        signal.signal(signal.SIGCHLD, look)
        look()  # one may have died before the handler was set
        yield


@contextmanager
def _restore_handler(name: str) -> Iterator[None]:
    """Restore the handler of a signal at the end of this block.

    DataLoader sets one for SIGCHLD that would raise an error at any line of this process.
    """
    number = getattr(signal, name, None)  # Windows has no SIGCHLD
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if before is not None:  # None: it was not set from Python
            signal.signal(number, before)
