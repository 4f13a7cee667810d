"""Work side by side on a processor, in lanes that each have their share of its threads."""

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def lanes_of(device: torch.device) -> int:
    """In how many lanes to score there: two on a processor of several threads.

    The threads of one operation wait for the last of them, which a decoding process may have put
    off. One lane where several processes score: their collectives must come in one order.
    """
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    return 2 if device.type == "cpu" and torch.get_num_threads() > 1 and alone else 1


def side_by_side(
    work: Callable[[Item, threading.Event], Result], items: Iterable[Item], lanes: int
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with what `work` makes of it, in order; one more is taken than lanes.

    In one lane the thread that calls does the work. Threads that start meanwhile have as many of
    torch's as a lane.

    Args:
        work: is given an event, too, which is set when nobody waits for the result any more.
    """
    dropped = threading.Event()
    if lanes == 1:
        for item in items:
            yield item, work(item, dropped)
        return
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(lanes, "lane", torch.set_num_threads, (math.ceil(threads / lanes),))
    begun: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            begun.append((item, pool.submit(work, item, dropped)))
            if len(begun) > lanes:
                first, result = begun.popleft()
                yield first, result.result()
        for last, result in begun:
            yield last, result.result()
    finally:
        dropped.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
