"""Jobs in processes of their own, several at a time, that all end when the comparison does."""

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from st_adapter.common.interrupt import Interrupted, deferred_interrupt
from st_adapter.common.progress import bar, log
from st_adapter.common.provenance import command
from st_adapter.comparison import worker
from st_adapter.errors import TrainingError

_POLL_SECONDS = 0.1
_STOPPED = "stopped; the same command goes on"


def run_jobs(
    folder: Path, jobs: Mapping[str, dict[str, Any]], title: str, processes: int, done: int = 0
) -> None:
    """Run jobs, by name, in a process each, `processes` at a time.

    Raises:
        TrainingError: one failed; the others are stopped, ready to go on.
        Interrupted: Ctrl-C or SIGTERM came; all are stopped, ready to go on.
    """
    waiting = dict(jobs)
    processes = max(1, min(processes, len(jobs)))
    threads = max(1, torch.get_num_threads() // processes)  # each gets its share of the cores
    running: dict[str, subprocess.Popen[bytes]] = {}
    with deferred_interrupt() as stop, bar(title, done + len(jobs), done) as progress:
        try:
            while waiting or running:
                while waiting and len(running) < processes:
                    name = next(iter(waiting))
                    job = waiting.pop(name) | {"threads": threads}
                    running[name] = _start(job, _log(folder, name))
                progress.tell(*running)
                if stop.wait(_POLL_SECONDS):
                    raise Interrupted(_STOPPED)
                for name in [name for name, p in running.items() if p.poll() is not None]:
                    with running.pop(name) as ended:  # closes its stdin
                        _check(name, ended.returncode, _log(folder, name))
                    progress.advance()
                    log(f"{title}: {name} is done, {len(waiting) + len(running)} to go")
        finally:
            for process in running.values():
                process.stdin.close()  # type: ignore[union-attr]  # asks it to stop
            for process in running.values():
                process.wait()
    if stop.is_set():  # as the last one ended
        raise Interrupted(_STOPPED)


def _start(job: dict[str, Any], log: Path) -> subprocess.Popen[bytes]:
    """Start a job in a session of its own, where Ctrl-C does not reach it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    job = job | {"command": command()}
    # -P: what lies in the current folder is no part of Python's library.
    arguments = [sys.executable, "-P", "-m", worker.__name__, json.dumps(job)]
    with log.open("ab") as output:
        return subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
        )


def _log(folder: Path, job: str) -> Path:
    return folder / "logs" / f"{job.replace('/', '_')}.txt"


def _check(job: str, exit_code: int, log: Path) -> None:
    """Raise TrainingError with a job's own last word, unless it did what it should."""
    if exit_code in (worker.DONE, worker.DIVERGED):
        return
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    reason = lines[-1] if lines else f"exit code {exit_code}"
    if exit_code < 0:
        reason = f"it was ended by signal {-exit_code}; too little memory is a frequent cause"
    raise TrainingError(
        f"{job} failed: {reason.removeprefix('error: ')} (see {shlex.quote(str(log))}); "
        "the same command goes on with the rest once that is mended"
    )
