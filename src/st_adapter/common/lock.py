"""A folder that one process works in at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from st_adapter.errors import ArgumentError


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Work in a folder, which is made, as the only process that does.

    Ends with this process at the latest; those that it starts hold nothing. Where there are no
    locks, others are let in.

    Raises:
        ArgumentError: another process is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    _HELD.add(handle)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArgumentError(
                f"another process is at work on {folder}; wait for it, or give another --out"
            ) from None
        except OSError:
            pass  # the file system has no locks
        yield
    finally:
        if handle in _HELD:
            _HELD.remove(handle)
            os.close(handle)


_HELD: set[int] = set()
"""Open folders of `alone_in`. What is forked would hold them on, and decoders outlive a kill."""


def _let_go() -> None:
    while _HELD:
        os.close(_HELD.pop())


os.register_at_fork(after_in_child=_let_go)
