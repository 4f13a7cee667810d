"""Several processes of one run on this machine, started by torch's elastic launcher."""

import logging
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from multiprocessing import (
    active_children,
    get_context,
    get_start_method,
    parent_process,
    resource_tracker,
    set_start_method,
)
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, TypeVar
from uuid import uuid4

import torch
from torch import distributed

from st_adapter.common.interrupt import STOP_SIGNALS, deferred_interrupt
from st_adapter.common.provenance import as_command, command
from st_adapter.common.ranks import is_first_process, is_launched
from st_adapter.common.remarks import note, remarks_are_shown, show_remarks
from st_adapter.config import TrainConfig
from st_adapter.errors import ArgumentError, StAdapterError, TrainingError
from st_adapter.runtime.device import choose_device

_Result = TypeVar("_Result")

_POLL_SECONDS = 0.1

_REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}


def processes_to_start(config: TrainConfig) -> int:
    """How many processes to start here: as many as asked for, or one for each GPU."""
    if is_launched():
        return 1
    if choose_device(config.device).type != "cuda":
        return config.processes or 1
    gpus = 1 if ":" in config.device else torch.cuda.device_count()
    return min(config.processes or gpus, gpus)


def check_accelerate() -> None:
    """Say what of accelerate's configuration does not count here.

    Raises:
        ArgumentError: it asks for an engine that trains in another way.
    """
    for name, engine in _REFUSED.items():
        if os.environ.get(name, "").lower() == "true":
            raise ArgumentError(
                f"accelerate is set to {engine}, which is not used here; leave it out"
            )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision != "no" and is_first_process():
        note(f"accelerate's mixed precision ({precision}) is left aside; --precision counts")
    alone = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and not is_launched()
    if alone and "MASTER_ADDR" in os.environ:
        note(
            "accelerate started one process, not several: on processors it does so by MPI "
            "alone; use --processes N, or its --multi_gpu with --device cpu"
        )


def launch(count: int, function: Callable[..., _Result], *args: Any, **options: Any) -> _Result:
    """Call a function in `count` processes that find each other; return what the first returns.

    Ctrl-C and SIGTERM are passed on to all. The processes end when this one is killed.

    Args:
        function: that of a module, with arguments that can be pickled.

    Raises:
        what the function raises there, if it is a StAdapterError or a KeyboardInterrupt.
        TrainingError: a process failed in another way.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",  # the system chooses a free port
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=_POLL_SECONDS,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
    )
    theirs, ours = get_context("spawn").Pipe(duplex=False)
    before = {*active_children()}
    resource_tracker.ensure_running()  # its start would unblock the signals that are blocked next
    # In a thread, torch's agent leaves the signal handlers of this process alone. The thread
    # blocks signals, which its processes inherit, so that none is torn while it imports.
    with (
        TemporaryDirectory(prefix="st_adapter_") as folder,
        theirs,
        ours,
        _quiet(),
        ThreadPoolExecutor(
            1, "launch", signal.pthread_sigmask, (signal.SIG_BLOCK, STOP_SIGNALS)
        ) as agent,
        deferred_interrupt() as stop,
    ):
        begun = (get_start_method(allow_none=True), remarks_are_shown(), command())
        task = (function, args, options, *begun)
        future = agent.submit(elastic_launch(config, _run_member), task, Path(folder), theirs)
        try:
            while not wait([future], _POLL_SECONDS).done:
                if stop.is_set():
                    ours.close()  # asks the processes to stop
            result: _Result = future.result()[0]
        except KeyboardInterrupt:  # a second Ctrl-C
            for process in {*active_children()} - before:
                process.kill()
            raise
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            raise _read_error(Path(folder), rank, count, failure.exitcode) from error
    return result


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch's agent logs off the terminal: what matters of it is raised."""
    loggers = [
        logging.getLogger(f"torch.{name}") for name in ("distributed.elastic", "multiprocessing")
    ]
    before, silent = [logger.propagate for logger in loggers], logging.NullHandler()
    for logger in loggers:
        logger.addHandler(silent)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagate in zip(loggers, before, strict=True):
            logger.removeHandler(silent)
            logger.propagate = propagate
        os.environ.pop("TORCHELASTIC_SIGNALS_TO_HANDLE", None)  # which the agent sets


def _run_member(task: tuple[Any, ...], folder: Path, parent: Connection) -> Any:
    """Call a function in one of the processes; what it raises goes to a file in `folder`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
    signal.signal(signal.SIGTERM, _interrupt_once)
    function, args, options, start_method, shows_remarks, line = task
    if shows_remarks:
        show_remarks()
    set_start_method(start_method, force=True)  # or dataloader workers are spawned as this one was
    threads = max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    error: BaseException
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        threading.Thread(target=_stop_with, args=(parent,), daemon=True).start()
        with as_command(line):
            result = function(*args, **options)
        if distributed.is_initialized():
            distributed.destroy_process_group()
        return result if is_first_process() else None
    except (StAdapterError, KeyboardInterrupt) as caught:
        error = caught
    except Exception:
        error = RuntimeError(traceback.format_exc())
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the agent sends it when another has failed
    if isinstance(error, RuntimeError):
        time.sleep(10 * _POLL_SECONDS)  # if the cause is a peer that was killed, that ends first
    (folder / os.environ["RANK"]).write_bytes(pickle.dumps(error))
    sys.exit(1)


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    """Stop at the first SIGTERM; a group's signal, the parent and torch's agent all mean one."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _stop_with(parent: Connection) -> None:
    """Interrupt this process when the parent closes its end, and end when the parent does."""
    with suppress(EOFError):
        parent.recv()
    os.kill(os.getpid(), signal.SIGTERM)
    process = parent_process()
    assert process is not None
    process.join()
    os._exit(1)


def _read_error(folder: Path, rank: int, count: int, exit_code: int) -> BaseException:
    """What the process that failed first has raised, or a TrainingError about it."""
    file = folder / str(rank)
    error = pickle.loads(file.read_bytes()) if file.exists() else None
    if isinstance(error, StAdapterError | KeyboardInterrupt):
        return error
    reason = str(error).strip().splitlines()[-1] if error else "-9 is a kill, often out of memory"
    failed = TrainingError(
        f"process {rank} of {count} ended with code {exit_code} ({reason}); go on with --resume"
    )
    failed.add_note(str(error or ""))  # the traceback, for --debug
    return failed
