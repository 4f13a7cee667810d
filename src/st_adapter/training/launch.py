"""Start several processes of one run on this machine, with torch's elastic launcher."""

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
from typing import TYPE_CHECKING, Any, TypeVar
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
from st_adapter.wording import setting, switch

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

_Result = TypeVar("_Result")

_POLL_SECONDS = 0.1
"""Seconds between two checks for Ctrl-C and for processes that have ended."""

_UNSUPPORTED_ENGINES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
"""The variables by which `accelerate launch` asks for an engine with a training loop of its own."""


def processes_to_start(config: TrainConfig) -> int:
    """Return how many processes to start on this machine.

    This is `config.processes`, by default one per GPU, or one on the CPU. It is never more than
    one per GPU, and it is 1 if a launcher such as torchrun has already started this process.
    """
    if is_launched():
        return 1
    if choose_device(config.device).type != "cuda":
        return config.processes or 1
    gpus = 1 if ":" in config.device else torch.cuda.device_count()
    return min(config.processes or gpus, gpus)


def check_accelerate() -> None:
    """Print a note about each setting of `accelerate launch` that has no effect here.

    Raises:
        ArgumentError: Accelerate is set to use DeepSpeed, FSDP or Megatron-LM.
    """
    for name, engine in _UNSUPPORTED_ENGINES.items():
        if os.environ.get(name, "").lower() == "true":
            raise ArgumentError(
                f"accelerate is set to use {engine}, which st-adapter does not support; "
                "turn it off in accelerate's configuration"
            )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision != "no" and is_first_process():
        ours = setting("precision")
        note(f"accelerate's mixed precision ({precision}) is ignored; {ours} decides")
    alone = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and not is_launched()
    if alone and "MASTER_ADDR" in os.environ:
        note(
            "accelerate started only one process, because on the CPU it needs MPI to start "
            f"several; use {setting('processes', 'N')}, or accelerate's --multi_gpu with "
            f"{setting('device', 'cpu')}"
        )


def launch(count: int, function: Callable[..., _Result], *args: Any, **options: Any) -> _Result:
    """Call a function in `count` new processes that form one process group.

    Ctrl-C and SIGTERM are passed on to every process. All of them end if this process is killed.

    Args:
        count: How many processes to start.
        function: A function at the top level of a module, so that it can be pickled.
        args: Positional arguments of the function; they must be picklable.
        options: Keyword arguments of the function; they must be picklable.

    Returns:
        What the function returned in the first process.

    Raises:
        StAdapterError, KeyboardInterrupt: What the function raised in the process that failed
            first.
        TrainingError: A process failed in any other way, for example because it was killed.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    theirs, ours = get_context("spawn").Pipe(duplex=False)
    before = {*active_children()}
    # Starting the resource tracker unblocks signals, so it must run before they are blocked below.
    resource_tracker.ensure_running()
    # Outside the main thread, torch's agent cannot replace the signal handlers of this process.
    # The thread blocks signals. The new processes inherit that, so that a signal cannot
    # interrupt them while they import.
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
        inherited = (get_start_method(allow_none=True), remarks_are_shown(), command())
        task = (function, args, options, *inherited)
        future = agent.submit(
            elastic_launch(_launch_config(count), _run_member), task, Path(folder), theirs
        )
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


def _launch_config(count: int) -> "LaunchConfig":
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",  # port 0: the operating system picks a free one
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=_POLL_SECONDS,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the log of torch's agent off the terminal; its errors are raised anyway."""
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
        os.environ.pop("TORCHELASTIC_SIGNALS_TO_HANDLE", None)  # set by the agent


def _run_member(task: tuple[Any, ...], folder: Path, parent: Connection) -> Any:
    """Call the function in one of the processes; write what it raises to a file in `folder`.

    The agent passes on exceptions as text only, so the exception itself is pickled.
    """
    # A terminal sends SIGINT to every process; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt_once)
    function, args, options, start_method, shows_remarks, line = task
    if shows_remarks:
        show_remarks()
    # This process was spawned; without this line, its dataloader workers would be spawned, too.
    set_start_method(start_method, force=True)
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
    # The agent sends SIGTERM when another process has failed; the error must still be written.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if isinstance(error, RuntimeError):
        # The cause may be that another process was killed. The wait lets the agent see that one
        # end first, so that it is the one that the message names.
        time.sleep(10 * _POLL_SECONDS)
    (folder / os.environ["RANK"]).write_bytes(pickle.dumps(error))
    sys.exit(1)


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    """Stop at the first SIGTERM and ignore the rest.

    A signal to the process group, the parent and torch's agent each send one for the same stop.
    """
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _stop_with(parent: Connection) -> None:
    """Interrupt this process when the parent closes the pipe; exit when the parent exits."""
    with suppress(EOFError):
        parent.recv()
    os.kill(os.getpid(), signal.SIGTERM)
    process = parent_process()
    assert process is not None
    process.join()
    os._exit(1)


def _read_error(folder: Path, rank: int, count: int, exit_code: int) -> BaseException:
    """Return what the process that failed first raised, or a TrainingError that describes it."""
    file = folder / str(rank)
    error = pickle.loads(file.read_bytes()) if file.exists() else None
    if isinstance(error, StAdapterError | KeyboardInterrupt):
        return error
    reason = "no error was recorded; code -9 often means that memory ran out"
    if error:
        reason = str(error).strip().splitlines()[-1]
    failed = TrainingError(
        f"process {rank} of {count} ended with code {exit_code} ({reason}); "
        f"continue the run with {switch('resume')}"
    )
    failed.add_note(str(error or ""))  # the traceback, for --debug
    return failed
