"""Labelling in several processes on this machine, each with its own model and range of rows."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing import (
    get_context,
    get_start_method,
    parent_process,
    resource_tracker,
    set_start_method,
)
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import torch

from st_adapter.common.interrupt import STOP_SIGNALS, deferred_interrupt, hold_back_signals
from st_adapter.common.provenance import as_command, command
from st_adapter.common.remarks import remarks_are_shown, show_remarks
from st_adapter.errors import LabellingError, StAdapterError
from st_adapter.labelling.labeller import Job, Labeller
from st_adapter.labelling.parts import Parts
from st_adapter.labelling.work import Batches, divide, label_ranges

_POLL_SECONDS = 0.1
"""Seconds between two checks for Ctrl-C."""

_GRACE_SECONDS = 60.0
"""Time for a process to finish its batch and write its rows after it was asked to stop."""


@dataclass(frozen=True, kw_only=True)
class _Share:
    """The work of one process, and the settings of its parent."""

    job: Job
    parts: Parts
    ranges: list[range]
    threads: int
    start_method: str | None
    shows_remarks: bool
    command: str


@dataclass(frozen=True)
class _Member:
    """A process that was started, and what it sends: numbers of rows, or an error."""

    process: SpawnProcess
    pipe: Connection


def label_in_processes(
    job: Job,
    ranges: Sequence[range],
    parts: Parts,
    count: int,
    advance: Callable[[int], None],
    should_stop: Callable[[], bool],
) -> None:
    """Label rows in new processes, which all end before this function returns.

    Args:
        job: What to label.
        ranges: The rows.
        parts: Where the processes write.
        count: Number of processes.
        advance: Told how many rows are done.
        should_stop: Asked every 0.1 seconds.

    Raises:
        StAdapterError: What the first process that failed raised.
        LabellingError: A process ended in another way, for example because it was killed.
    """
    members: list[_Member] = []
    shares = divide(ranges, count, job.batch_rows())
    # Starting the resource tracker unblocks signals, so it must run before they are blocked.
    resource_tracker.ensure_running()
    try:
        with hold_back_signals():
            for number, share in enumerate(shares):
                members.append(_start(job, share, parts, number, len(shares)))
        running = list(members)
        while running and not should_stop():
            for pipe in wait([member.pipe for member in running], _POLL_SECONDS):
                member = next(member for member in running if member.pipe is pipe)
                if not _receive(member, advance):
                    running.remove(member)
    finally:
        _end(members)


def _start(job: Job, ranges: list[range], parts: Parts, number: int, count: int) -> _Member:
    share = _Share(
        job=replace(job, settings=job.settings | {"device": _device(job, number)}),
        parts=parts,
        ranges=ranges,
        threads=max(1, torch.get_num_threads() // count),
        start_method=get_start_method(allow_none=True),
        shows_remarks=remarks_are_shown(),
        command=command(),
    )
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    # Not a daemon, which could not have dataloader workers. It watches its parent by itself.
    process = context.Process(target=_run_member, args=(sender, share), name=f"labelling {number}")
    process.start()
    sender.close()  # so that the end of the process is the end of the pipe
    return _Member(process, receiver)


def _device(job: Job, number: int) -> str:
    """Give each process a GPU of its own, as far as there are enough."""
    device: str = job.settings["device"]
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{number % torch.cuda.device_count()}"
    return device


def _receive(member: _Member, advance: Callable[[int], None]) -> bool:
    """Take one message of a process. Return False if it was the last one.

    Raises:
        StAdapterError: The process sent it, or it ended without a word.
    """
    try:
        message = member.pipe.recv()
    except (EOFError, OSError):
        member.process.join()
        if member.process.exitcode:
            raise _explained(member.process.exitcode, "") from None
        return False
    if isinstance(message, int):
        advance(message)
        return True
    if isinstance(message, StAdapterError):
        raise message
    raise _explained(1, str(message))


def _explained(code: int, text: str) -> LabellingError:
    reason = f"ended with code {code}"
    if code < 0:
        reason = f"was killed by signal {-code}, often because memory ran out"
    if text:
        reason = f"failed: {text.strip().splitlines()[-1]}"
    error = LabellingError(
        f"a process {reason}; what is labelled is kept, and the same command goes on from there"
    )
    error.add_note(text)  # the traceback, for --debug
    return error


def _end(members: Sequence[_Member]) -> None:
    """Ask all processes to stop, and wait until they have written their rows."""
    for member in members:
        if member.process.is_alive():
            member.process.terminate()
    try:
        for member in members:
            member.process.join(_GRACE_SECONDS)
    finally:  # also if a second Ctrl-C interrupts the waiting
        for member in members:
            if member.process.is_alive():
                member.process.kill()
                member.process.join()
            member.pipe.close()


def _run_member(pipe: Connection, share: _Share) -> None:
    """Label the rows of one process, and send how many are done."""
    # A terminal sends SIGINT to every process; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # This process was spawned; without this line, its dataloader workers would be spawned, too.
    set_start_method(share.start_method, force=True)
    torch.set_num_threads(share.threads)
    if share.shows_remarks:
        show_remarks()
    message: Any = None
    try:
        with as_command(share.command):
            labeller = Labeller(share.job)
            batches = Batches(share.ranges, share.job.batch_rows())
            with deferred_interrupt() as stop:
                label_ranges(labeller, batches, share.parts, pipe.send, stop.is_set)
    except StAdapterError as error:
        message = error
    except Exception:
        message = traceback.format_exc()
    if message is not None:
        pipe.send(message)
        sys.exit(1)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
