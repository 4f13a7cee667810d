"""Locks that keep other processes out of a folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from st_adapter.errors import ArgumentError
from st_adapter.wording import setting

LOCK_FILE = ".lock"
"""Exists in a folder while a process works there. A killed process leaves the file behind, but the
operating system has released its lock.
"""

_held: set[tuple[int, Path]] = set()
"""Process and folder of each lock that is held. The operating system refuses a lock only to other
processes, so this process must check its own calls.
"""


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock a folder inside this block, so that no other process works in it.

    The folder is created if needed, and removed afterwards if it is empty. The lock is released
    when this process ends, however it ends; processes that it starts do not hold it. On Windows and
    on file systems without locks, other processes are not kept out.

    Args:
        folder: The folder to lock.

    Raises:
        ArgumentError: If another process, or another call in this one, has locked the folder.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    file, key = folder / LOCK_FILE, (os.getpid(), folder.resolve())
    handle = None if key in _held else _open_locked(file)
    if handle is None:
        raise ArgumentError(
            f"another process is working in {folder}; wait for it, "
            f"or choose another {setting('out')}"
        )
    _held.add(key)
    try:
        yield
    finally:
        _held.remove(key)
        with suppress(OSError):  # the folder was removed; or Windows, which keeps open files
            file.unlink()
        os.close(handle)
        with suppress(OSError):  # not empty
            for place in made:
                place.rmdir()


def lock(handle: int, *, wait: bool) -> bool:
    """Lock an open file until it is closed or this process ends.

    Args:
        handle: Descriptor of the file.
        wait: Wait until the lock is free.

    Returns:
        False if another process holds the lock and `wait` is False, otherwise True.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        # Not flock: dataloader workers would inherit that lock, and they can outlive a killed run.
        fcntl.lockf(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # the file system does not support locks
        pass
    return True


def _open_locked(file: Path) -> int | None:
    """Create or open a file and lock it; return None if another process has locked it."""
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)  # another process may just have removed it
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        if not lock(handle, wait=False):
            os.close(handle)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(file)):
                return handle
        os.close(handle)  # its owner removed it after we opened it: try again
