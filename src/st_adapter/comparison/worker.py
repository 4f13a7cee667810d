"""One cell of a comparison: `python -m st_adapter.comparison.worker JOB`, where JOB is JSON."""

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
_GRACE_SECONDS = 30


def main(job: dict[str, Any]) -> int:
    """Train a cell; return an exit code.

    The job stops, ready to go on, when stdin is closed: it never outlives the comparison, however
    that ends.
    """
    show_remarks()
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        threading.Thread(target=_stop_with_stdin, daemon=True).start()
        # Of the log: a job that a killed comparison left may be about to stop.
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
        train(videos, folder, config, resume=resume, temporal=temporal)
    except DivergedError as error:
        write_json(folder / "diverged.json", {"reason": str(error)})
        say(str(error))
        return DIVERGED
    return DONE


def _stop_with_stdin() -> None:
    """End this process when stdin is closed: after the step under way, but soon."""
    while os.read(0, 1):  # not sys.stdin, whose lock a forked dataloader worker would inherit
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(STOPPED)


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    with as_command(job["command"]):  # the comparison's, which its runs record as theirs
        sys.exit(main(job))
