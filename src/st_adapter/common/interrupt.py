"""Ctrl-C and SIGTERM, held back until a training step is whole."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_GRACE_SECONDS = 3
"""From SIGTERM to the end of a loading worker, which programs that close no loader wait for."""


class Interrupted(KeyboardInterrupt):
    """The user stopped a run or a comparison; what is done is saved, ready to go on."""


def ignore_interrupt(worker: int) -> None:
    """Ctrl-C reaches every process of the terminal; the main one decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def leave_signals_to_main(worker: int) -> None:
    """For loading workers: SIGTERM, too, may reach every process of a run.

    They go on for a while, as the step that the main one ends may need their clips; it takes a
    worker that ends with success for no error.
    """
    ignore_interrupt(worker)

    def end_later(number: int, frame: FrameType | None) -> None:
        timer = threading.Timer(_GRACE_SECONDS, os._exit, (0,))
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, end_later)


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into an event, so that a step is never torn apart.

    A second one ends the process at once, except among several that torch's launcher started:
    there the terminal and the launcher both pass on the same Ctrl-C, and the launcher kills who
    does not stop.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {n: handler for n, handler in before.items() if handler is not signal.SIG_IGN}
    launched = "TORCHELASTIC_RUN_ID" in os.environ

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()
        if not launched:
            signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            # What follows is saving the state: another signal must not tear that either.
            signal.signal(number, signal.SIG_IGN if launched and stop.is_set() else handler)
