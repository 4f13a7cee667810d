"""Handling of Ctrl-C and SIGTERM, in the main process and in dataloader workers."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that ask the command to stop."""

SIGTERM_CODE = 143
"""Exit code of a dataloader worker that was ended by SIGTERM: 128 + 15, as in a shell."""

SAME_SECONDS = 1.0
"""Two signals within this time count as one, because `timeout` sends SIGTERM to its child and then
again to the whole process group.
"""


NATIVE_THREAD = "in native code"
"""Name of a daemon thread that may be waiting inside a native library when the process ends."""


class Interrupted(KeyboardInterrupt):
    """The user stopped a run or a comparison. Its state is saved, so it can be resumed."""


def leave(code: int) -> NoReturn:
    """End the process with an exit code.

    If a native library still waits for something in a thread, this skips Python's own shutdown.
    That would take away what the library uses, and now and then the process would crash.
    """
    if any(thread.name == NATIVE_THREAD for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


@contextmanager
def hold_back_signals() -> Iterator[None]:
    """Block SIGINT and SIGTERM in this thread and in the processes started inside this block.

    Started processes stay protected until they unblock the signals themselves, so that none is
    interrupted before its handlers are set.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_at_sigterm(worker: int) -> None:
    """Set up signals in a dataloader worker: ignore Ctrl-C, and exit silently on SIGTERM.

    A terminal sends Ctrl-C to all processes of a run, but only the main process decides what to do.
    It loads the batches of a worker that SIGTERM has ended again.

    Args:
        worker: Number of the worker; DataLoader passes it, and it is not used.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(SIGTERM_CODE))
    # Errors in a worker's own work are sent to the main process. This hides tracebacks of its
    # helper threads, which fail when the main process closes their connection.
    sys.excepthook = lambda error_type, error, traceback: None
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C or SIGTERM sets, so that a step can be completed.

    A second signal, a second or more later, ends the process at once. Processes started by torch's
    launcher ignore further signals instead: terminal and launcher both pass on the same Ctrl-C, and
    the launcher kills processes that do not stop. Outside the main thread, which is the only one
    that may handle signals, the event is never set.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    before = {n: handler for n, handler in before.items() if handler is not signal.SIG_IGN}
    launched = "TORCHELASTIC_RUN_ID" in os.environ
    first = float("inf")

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        stop.set()
        first = min(first, now)
        if now - first > SAME_SECONDS and not launched:
            signal.signal(number, before[signal.Signals(number)])
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            # The caller saves its state next, which another signal must not interrupt either.
            signal.signal(number, signal.SIG_IGN if launched and stop.is_set() else handler)
