"""Ctrl-C and SIGTERM, held back until a training step is whole."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What asks the command to stop."""

SIGTERM_CODE = 143
"""Of a loading worker that SIGTERM ended."""

SAME_SECONDS = 1.0
"""Within which two signals are one: `timeout` sends SIGTERM to its child, then to the group."""


class Interrupted(KeyboardInterrupt):
    """The user stopped a run or a comparison; what is done is saved, ready to go on."""


@contextmanager
def hold_back_signals() -> Iterator[None]:
    """Start processes that SIGINT and SIGTERM do not reach until they unblock them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_at_sigterm(worker: int) -> None:
    """For loading workers, which signals to all processes of a run reach, too.

    The main process decides what Ctrl-C means. SIGTERM ends a worker at once and without a word:
    the main process does without it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(SIGTERM_CODE))
    # What a worker raises in its work is sent to the main process. This is for its threads, which
    # would complain when the main process hangs up on them.
    sys.excepthook = lambda kind, error, traceback: None
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into an event, so that a step is never torn apart.

    Another one, a second or more after it, ends the process at once, except among several that
    torch's launcher started: there the terminal and the launcher both pass on the same Ctrl-C, and
    the launcher kills who does not stop.
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
            # What follows is saving the state: another signal must not tear that either.
            signal.signal(number, signal.SIG_IGN if launched and stop.is_set() else handler)
