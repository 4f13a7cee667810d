"""One job of a comparison, in a process of its own."""

import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import set_start_method
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from st_adapter.common.files import write_json
from st_adapter.common.progress import say
from st_adapter.comparison.costs import measure_costs
from st_adapter.config import TrainConfig
from st_adapter.errors import StAdapterError, TrainingError
from st_adapter.training.loop import train

DONE, FAILED, DIVERGED, STOPPED = 0, 2, 3, 130
_GRACE_SECONDS = 30


def train_cell(folder: Path, config: TrainConfig, videos: Path, temporal: bool) -> int:
    """Train into `folder`, or go on there; return an exit code."""
    resume = (folder / "config.json").exists()
    try:
        train(videos, folder, config, resume=resume, temporal=temporal)
    except TrainingError as error:
        write_json(folder / "diverged.json", {"reason": str(error)})
        say(str(error))
        return DIVERGED
    return DONE


def time_steps(file: Path, config: TrainConfig, methods: list[str], labels: list[str]) -> int:
    """Write what a step of each method costs; return an exit code."""
    write_json(file, measure_costs(config, methods, labels))
    return DONE


def run_job(
    task: Callable[..., int],
    arguments: dict[str, Any],
    log: Path,
    parent: Connection,
    start_method: str,
    processes: int,
) -> None:
    """Do one of the above in this process, one of `processes`, which ends with its exit code.

    Stops, ready to go on, when the other end of `parent` is closed: no job outlives the
    comparison, however that ends. Ctrl-C does not reach it; the comparison decides.
    """
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])  # blocked where jobs are forked
    set_start_method(start_method, force=True)  # of decoding workers, as if not in a comparison
    log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    fcntl.flock(file, fcntl.LOCK_EX)  # one that was asked to stop may still be about to
    os.dup2(file, 1)
    os.dup2(file, 2)
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    threading.Thread(target=_stop_with, args=(parent,), daemon=True).start()
    try:
        code = task(**arguments)
    except (StAdapterError, OSError) as error:
        say(f"error: {error}")
        code = FAILED
    except KeyboardInterrupt:
        code = STOPPED
    sys.exit(code)


def _stop_with(parent: Connection) -> None:
    """End this process when the other end is closed: after the step under way, but soon."""
    try:
        parent.recv()
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_SECONDS)
        os._exit(STOPPED)
