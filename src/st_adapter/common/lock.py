"""A folder that one process works in at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from st_adapter.errors import ArgumentError

LOCK_FILE = ".lock"
"""Lies in a folder while a process works there; a killed process leaves it, unlocked."""

_held: set[tuple[int, Path]] = set()
"""Process and folder: the system refuses a lock to other processes only."""


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Work in a folder, which is made if needed, as the only process that does.

    A folder that was made, and is empty in the end, is removed. The lock ends with this process at
    the latest. Processes that it starts do not hold it. Where the system or the file system has no
    locks, nobody is kept out.

    Raises:
        ArgumentError: another process, or another call in this one, is at work there.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    file, key = folder / LOCK_FILE, (os.getpid(), folder.resolve())
    handle = None if key in _held else _open_locked(file)
    if handle is None:
        raise ArgumentError(
            f"another process is at work on {folder}; wait for it, or give another --out"
        )
    _held.add(key)
    try:
        yield
    finally:
        _held.remove(key)
        with suppress(OSError):  # the folder is gone, or Windows deletes no open file
            file.unlink()
        os.close(handle)
        with suppress(OSError):  # something is in it
            for place in made:
                place.rmdir()


def lock(handle: int, *, wait: bool) -> bool:
    """Lock an open file until it is closed or this process ends.

    Returns:
        False if another process holds the lock and `wait` is False.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        # Not flock: that one is inherited by dataloader workers, which can outlive a killed run.
        fcntl.lockf(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # the file system has no locks
        pass
    return True


def _open_locked(file: Path) -> int | None:
    """Open and lock a file, which is made if needed; None if another process has locked it."""
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)  # another may have removed it just now
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        if not lock(handle, wait=False):
            os.close(handle)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(file)):
                return handle
        os.close(handle)  # whoever held it removed it after we had opened it
