"""Ways of doing the same work in turns, in this process or each in one of its own."""

import statistics
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context, get_start_method, set_start_method
from typing import Any, TypeVar

import torch

from st_adapter.runtime.device import seconds_of

Way = TypeVar("Way")
_work: Callable[[], Any]


def take_turns(
    prepare: Callable[..., Callable[[], Any]], ways: Mapping[str, tuple[Any, ...]], rounds: int
) -> dict[str, list[Any]]:
    """What each way's work returns, round by round.

    Args:
        prepare: makes the work in its process; a function of a module.
        ways: what `prepare` is given, by name.
    """
    with ExitStack() as stack:
        processes = {
            way: stack.enter_context(
                ProcessPoolExecutor(
                    1,
                    get_context("spawn"),
                    initializer=_prepare,
                    initargs=(get_start_method(), prepare, *given),
                )
            )
            for way, given in ways.items()
        }
        found: dict[str, list[Any]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, process in processes.items():
                found[way].append(process.submit(_take_turn).result())
        return found


def medians_in_turns(
    ways: Mapping[Way, Callable[[], object]], rounds: int, device: torch.device
) -> dict[Way, float]:
    """Median seconds of calls that take turns in this process, after a round that is not timed."""
    seconds: dict[Way, list[float]] = {way: [] for way in ways}
    for _ in range(1 + rounds):
        for way, run in ways.items():
            seconds[way].append(seconds_of(run, device))
    return {way: statistics.median(times[1:]) for way, times in seconds.items()}


def median_seconds(run: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Median seconds of a call, after one that is not timed."""
    return medians_in_turns({"": run}, rounds, device)[""]


def _prepare(method: str, prepare: Callable[..., Callable[[], Any]], *given: Any) -> None:
    global _work
    set_start_method(method, force=True)  # of decoding processes; a spawned one would spawn them
    _work = prepare(*given)


def _take_turn() -> Any:
    return _work()
