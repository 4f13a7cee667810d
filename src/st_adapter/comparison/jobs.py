"""Jobs in processes of their own, some at a time, that all end when the comparison does."""

import shlex
import signal
from collections.abc import Callable, Sequence
from multiprocessing import get_all_start_methods, get_context, get_start_method, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from st_adapter.common.interrupt import deferred_interrupt
from st_adapter.common.progress import bar, log
from st_adapter.comparison.worker import DIVERGED, DONE, run_job
from st_adapter.errors import TrainingError

_POLL_SECONDS = 0.2


class Interrupted(KeyboardInterrupt):
    """The user stopped the comparison; all that is done is kept."""


class Job(NamedTuple):
    """Something for `run_job` to do in a process of its own."""

    name: str
    task: Callable[..., int]
    arguments: dict[str, Any]


class _Running(NamedTuple):
    """A job under way; closing the connection asks it to stop."""

    process: BaseProcess
    connection: Connection


def run_jobs(folder: Path, jobs: Sequence[Job], title: str, processes: int, done: int = 0) -> None:
    """Run each job in a process of its own, `processes` at a time.

    Raises:
        TrainingError: one failed; the others are stopped, ready to go on.
    """
    context = _preloaded()
    waiting = list(jobs)
    processes = max(1, min(processes, len(jobs)))  # each gets its share of the cores
    running: dict[str, _Running] = {}
    with deferred_interrupt() as stop, bar(title, done + len(jobs), done) as progress:
        try:
            while waiting or running:
                while waiting and len(running) < processes:
                    job = waiting.pop(0)
                    running[job.name] = _start(context, folder, job, processes)
                progress.tell(*running)
                wait([r.process.sentinel for r in running.values()], timeout=_POLL_SECONDS)
                for name, (process, _) in list(running.items()):
                    if not process.is_alive():
                        del running[name]
                        _check(folder, name, process.exitcode)
                        progress.advance()
                        log(f"{title}: {name} is done, {len(waiting) + len(running)} to go")
                if stop.is_set():
                    raise Interrupted("stopped; the same command goes on")
        finally:
            for _, connection in running.values():
                connection.close()
            for process, _ in running.values():
                process.join()


def _preloaded() -> BaseContext:
    """Processes that have imported what a job needs, but have not begun to compute."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["st_adapter.comparison.worker"])
    resource_tracker.ensure_running()  # which would unblock what is blocked next
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    try:
        ensure_running()  # it inherits that they do not reach it, of a whole group either
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _start(context: BaseContext, folder: Path, job: Job, processes: int) -> _Running:
    theirs, ours = context.Pipe(duplex=False)
    log = _log(folder, job.name)
    arguments = (job.task, job.arguments, log, theirs, get_start_method(), processes)
    process = context.Process(target=run_job, args=arguments)  # type: ignore[attr-defined]
    process.start()
    theirs.close()
    return _Running(process, ours)


def _log(folder: Path, job: str) -> Path:
    return folder / "logs" / f"{job.replace('/', '_')}.txt"


def _check(folder: Path, job: str, exit_code: int | None) -> None:
    """Raise StAdapterError with a job's own last word, unless it did what it should."""
    if exit_code in (DONE, DIVERGED):
        return
    log = _log(folder, job)
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    lines = text.strip().splitlines()
    reason = lines[-1] if lines else f"exit code {exit_code}"
    if exit_code is not None and exit_code < 0:
        reason = f"it was ended by signal {-exit_code}; too little memory is a frequent cause"
    raise TrainingError(
        f"{job} failed: {reason.removeprefix('error: ')} (see {shlex.quote(str(log))}); "
        "the same command goes on with the rest once that is mended"
    )
