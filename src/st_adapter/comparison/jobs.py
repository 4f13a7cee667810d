"""Run the training runs of a comparison in processes, which end when the comparison ends."""

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
"""Seconds between two checks for Ctrl-C and for jobs that have ended."""

_STOPPED = "stopped; run the same command again to continue"


def run_jobs(
    folder: Path, jobs: Mapping[str, dict[str, Any]], title: str, processes: int, done: int = 0
) -> None:
    """Run each job in a process of its own, several at a time.

    Args:
        folder: The folder of the comparison, in which `logs/` gets the output of each job.
        jobs: The jobs by name, as `worker.main` takes them.
        title: What the jobs do, for the progress bar.
        processes: Most jobs at a time; they share the CPU cores equally.
        done: Number of jobs that were done before, for the progress bar.

    Raises:
        TrainingError: A job failed. The others were stopped and can be resumed.
        Interrupted: Ctrl-C or SIGTERM came. All jobs were stopped and can be resumed.
    """
    waiting = dict(jobs)
    processes = max(1, min(processes, len(jobs)))
    threads = max(1, torch.get_num_threads() // processes)
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
                    log(f"{title}: {name} is done, {len(waiting) + len(running)} remaining")
        finally:
            for process in running.values():
                process.stdin.close()  # type: ignore[union-attr]  # tells the job to stop
            for process in running.values():
                process.wait()
    if stop.is_set():  # the signal came while the last job ended
        raise Interrupted(_STOPPED)


def _start(job: dict[str, Any], log: Path) -> subprocess.Popen[bytes]:
    """Start a job in a session of its own, so that Ctrl-C in the terminal does not reach it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    job = job | {"command": command()}
    # -P: a file in the current folder, such as random.py, must not replace a module of Python.
    arguments = [sys.executable, "-P", "-m", worker.__name__, json.dumps(job)]
    with log.open("ab") as output:
        return subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
        )


def _log(folder: Path, job: str) -> Path:
    return folder / "logs" / f"{job.replace('/', '_')}.txt"


def _check(job: str, exit_code: int, log: Path) -> None:
    """Raise TrainingError with the last line of a job's log, unless the job succeeded."""
    if exit_code in (worker.DONE, worker.DIVERGED):
        return
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    reason = lines[-1] if lines else f"exit code {exit_code}"
    if exit_code < 0:
        reason = f"it was killed by signal {-exit_code}, often because memory runs out"
    raise TrainingError(
        f"{job} failed: {reason.removeprefix('error: ')} (see {shlex.quote(str(log))}); "
        "fix the cause, then run the same command again to continue"
    )
