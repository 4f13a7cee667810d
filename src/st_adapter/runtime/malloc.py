"""What glibc's malloc does with the memory that passes free."""

import ctypes
from functools import cache

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of its malloc.h
_KEPT = 512 * 2**20  # bytes
_LARGEST_ON_HEAP = 32 * 2**20  # bytes, the most that it takes


def keep_freed_memory(device: torch.device) -> None:
    """Have this process keep up to 512 MB of what passes on a processor free.

    Left to itself malloc returns most of it to the system and takes it anew in the next pass, page
    by page (`benchmarks/malloc.py`). Tensors above 32 MB are returned all the same.
    Where the C library is another, nothing is changed.
    """
    if device.type == "cpu":
        _set()


@cache
def _set() -> None:
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_ON_HEAP)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_TOP_PAD, _KEPT)  # heaps of threads are kept by this alone
