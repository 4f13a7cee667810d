"""Train one cell of a comparison in this process.

`run_jobs` starts it as `python -m st_adapter.comparison.worker JOB`, where JOB is JSON.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from st_adapter.common.files import write_json
from st_adapter.common.lock import lock
from st_adapter.common.provenance import as_command
from st_adapter.common.remarks import say, show_remarks
from st_adapter.config import TrainConfig
from st_adapter.errors import DivergedError, StAdapterError
from st_adapter.training.loop import train

DONE, FAILED, DIVERGED, STOPPED = 0, 2, 3, 130
"""Exit codes of a job."""

_GRACE_SECONDS = 30
"""Time for the step under way and for saving, after which a job that should stop exits."""


def main(job: dict[str, Any]) -> int:
    """Train a cell, or continue to train it.

    The job saves its state and stops when its stdin is closed. The system closes it when the
    comparison's process ends, so that no job outlives the comparison, not even a killed one.

    Args:
        job: `folder` of the cell, `config` as plain values, `videos`, `temporal`, and the number
            of `threads`.

    Returns:
        One of the exit codes above.
    """
    show_remarks()
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        threading.Thread(target=_stop_with_stdin, daemon=True).start()
        # stdout is the log of the cell. A job of a killed comparison may still be stopping; it
        # holds this lock until it has saved its state.
        lock(sys.stdout.fileno(), wait=True)
        torch.set_num_threads(job["threads"])
        config = TrainConfig.from_json(job["config"], "the job")
        return _train_cell(Path(job["folder"]), config, Path(job["videos"]), job["temporal"])
    except (StAdapterError, OSError) as error:
        say(f"error: {error}")
        return FAILED
    except KeyboardInterrupt:
        return STOPPED


def _train_cell(folder: Path, config: TrainConfig, videos: Path, temporal: bool) -> int:
    resume = (folder / "config.json").exists()
    try:
        train(videos, folder, config, resume=resume, temporal=temporal, diagnose=False)
    except DivergedError as error:
        write_json(folder / "diverged.json", {"reason": str(error)})
        say(str(error))
        return DIVERGED
    return DONE


def _stop_with_stdin() -> None:
    """Wait for stdin to be closed, then stop training; exit if that takes too long."""
    # Reading sys.stdin would hold its lock, which a forked dataloader worker would inherit.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(STOPPED)


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    with as_command(job["command"]):  # each run records the command of the comparison
        sys.exit(main(job))
