"""Several processes of one run on this machine: starting them, ending them together."""

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import (
    connection,
    get_context,
    get_start_method,
    parent_process,
    set_start_method,
)
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

import torch
from accelerate.utils.other import get_free_port
from torch import distributed

from st_adapter.common.interrupt import deferred_interrupt
from st_adapter.common.progress import say
from st_adapter.errors import ArgumentError, StAdapterError, TrainingError

_Result = TypeVar("_Result")

_GRACE_SECONDS = 10.0
"""How long the others may take to end when one has failed."""


_COUNTS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where torchrun and the kinds of MPI, accelerate's ways to start processes, tell their number."""

_REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}


def is_launched() -> bool:
    """Whether a launcher (this one, torchrun, accelerate) started this process among others."""
    return any(int(os.environ.get(name, "1")) > 1 for name in _COUNTS)


def is_first() -> bool:
    """Whether this process speaks for all, once they have met."""
    return int(os.environ.get("RANK", "0")) == 0


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
    if precision != "no" and is_first():
        say(f"note: accelerate's mixed precision ({precision}) is left aside; --precision counts")
    alone = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and not is_launched()
    if alone and "MASTER_ADDR" in os.environ:
        say(
            "note: accelerate started one process, not several: on processors it does so by MPI "
            "alone; use --processes N, or its --multi_gpu with --device cpu"
        )


def launch(count: int, function: Callable[..., _Result], *args: Any, **options: Any) -> _Result:
    """Call a function in `count` processes that find each other; return what the first returns.

    Ctrl-C and SIGTERM are passed on to all. The processes end when this one is killed.

    Args:
        function: that of a module, with arguments that can be pickled.

    Raises:
        what the function raises there, if it is a user's to mend or an interrupt.
        TrainingError: a process failed otherwise.
    """
    context = get_context("spawn")
    port = get_free_port()
    members: list[tuple[SpawnProcess, Connection]] = []
    for rank in range(count):
        receiver, sender = context.Pipe(duplex=False)
        environment = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": count,
            "LOCAL_WORLD_SIZE": count,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        process = context.Process(
            target=_member,
            args=(sender, environment, get_start_method(), function, args, options),
        )
        process.start()
        sender.close()
        members.append((process, receiver))
    result: _Result = _outcome(members)
    return result


def _member(
    sender: Connection,
    environment: dict[str, object],
    start_method: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    """The life of one process: call the function, send what it returns or raises."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; one decides
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_start_method(start_method, force=True)  # else its workers were started as it was
    os.environ |= {name: str(value) for name, value in environment.items()}
    threads = max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    outcome: tuple[bool, Any]
    try:
        outcome = True, function(*args, **options)
    except (StAdapterError, KeyboardInterrupt) as error:
        outcome = False, error
    except Exception:
        outcome = False, traceback.format_exc()
    sender.send(outcome)
    if outcome[0] and distributed.is_initialized():
        distributed.destroy_process_group()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _outcome(members: list[tuple[SpawnProcess, Connection]]) -> Any:
    """Wait for all; when one fails or a signal comes, end the rest."""
    outcomes: dict[int, tuple[bool, Any]] = {}
    waiting = {receiver: rank for rank, (_, receiver) in enumerate(members)}
    failed_at: float | None = None
    told = False
    with deferred_interrupt() as stop:
        while waiting:
            for receiver in connection.wait(list(waiting), timeout=0.2):
                rank = waiting.pop(receiver)  # type: ignore[call-overload]
                try:
                    outcomes[rank] = members[rank][1].recv()
                except EOFError:
                    outcomes[rank] = False, None
                if not outcomes[rank][0]:
                    failed_at = failed_at or time.monotonic()
            late = failed_at is not None and time.monotonic() - failed_at > _GRACE_SECONDS
            if late or (stop.is_set() and not told):
                told = True
                for rank in waiting.values():
                    process = members[rank][0]
                    process.kill() if late else process.terminate()
    for process, _ in members:
        process.join()
    return _settle([outcomes[rank] for rank in range(len(members))], [p for p, _ in members])


def _settle(outcomes: list[tuple[bool, Any]], processes: list[SpawnProcess]) -> Any:
    """Return what the first process returned, or raise what tells most about a failure."""
    values = [value for succeeded, value in outcomes if not succeeded]
    if not values:
        return outcomes[0][1]
    for value in values:
        if isinstance(value, BaseException):
            raise value
    for rank, ((_, value), process) in enumerate(zip(outcomes, processes, strict=True)):
        if value is None:
            raise TrainingError(
                f"process {rank} of {len(processes)} ended with code {process.exitcode} "
                "(-9 is a kill, often for want of memory); go on with --resume"
            )
    raise RuntimeError(f"a process failed:\n{values[0]}")
