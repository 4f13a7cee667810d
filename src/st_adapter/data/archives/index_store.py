"""A file beside the data that remembers what was found in it, safe for several processes."""

import json
import os
import sqlite3
import zlib
from functools import cache
from hashlib import sha256
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import psutil

from st_adapter.common.paths import full_path, is_remote
from st_adapter.common.remarks import say

STORE_NAME = ".st-adapter-index.sqlite3"
_TABLE = """
create table if not exists found_1 (
    kind text, path text, bytes integer, modified_ns integer, value blob,
    primary key (kind, path)
) without rowid
"""
_WAIT_SECONDS = 30.0

_NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "sshfs", "9p")
"""Parts of names of file systems that lie on other machines."""


class Store:
    """Values of some kind by path, as JSON. Where the file cannot be kept, none is remembered.

    Several processes may share the file; each writes a value as soon as it knows one.

    Args:
        folder: of the data. The file lies in it, or in the user's cache where the folder is
            read-only, an address, or on another machine (where SQLite's locks do not hold).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = full_path(folder)
        self._gave_up = False

    def read(self, kind: str, path: str, version: tuple[int, int]) -> Any:
        """What was found in a file; None if nothing was, or it has changed since."""
        connection = _connect(self.folder, os.getpid())
        if connection is None:
            return None
        try:
            row = connection.execute(
                "select value from found_1 where (kind, path, bytes, modified_ns) = (?, ?, ?, ?)",
                (kind, self._key(path), *version),
            ).fetchone()
        except sqlite3.Error:
            return None
        return json.loads(zlib.decompress(row[0])) if row else None

    def write(self, kind: str, path: str, version: tuple[int, int], value: Any) -> None:
        """Put a value in the place of any earlier one."""
        connection = _connect(self.folder, os.getpid())
        if connection is None or self._gave_up:
            return
        row = (kind, self._key(path), *version, zlib.compress(json.dumps(value).encode(), level=1))
        try:
            connection.execute("insert or replace into found_1 values (?, ?, ?, ?, ?)", row)
        except sqlite3.Error:  # the disk is full, say, or another process holds a lock too long
            self._gave_up = True

    def _key(self, path: str) -> str:
        """The path from the folder, so that both can move, where it lies in there."""
        inside = full_path(path).removeprefix(f"{self.folder}/")
        return os.fsencode(inside).decode("utf-8", "backslashreplace")


@cache
def _connect(folder: str, process: int) -> sqlite3.Connection | None:
    """Open the file of a data folder, once for each process; None where it cannot be kept.

    Connections stay open as long as their process. A forked process inherits those of its parent,
    which SQLite forbids it to use or to close: under its own number it opens its own, and the
    cache keeps the others referenced.
    """
    apart = is_remote(folder) or _is_network(folder)
    beside = [] if apart else [Path(folder, STORE_NAME)]
    for file in (*beside, _cache_file(folder)):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                file, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
            # No write-ahead log: its files would stay. A crash of the machine may damage the file,
            # which is then as good as none.
            connection.execute("pragma journal_mode = delete")
            connection.execute("pragma synchronous = off")
            connection.execute(_TABLE)
        except (sqlite3.Error, OSError):
            continue
        if beside and file not in beside and parent_process() is None:
            say(f"no index can be kept in {folder}; it is kept in {file}")
        return connection
    return None


def _cache_file(folder: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = sha256(os.fsencode(folder)).hexdigest()[:16]
    return cache / "st-adapter" / f"{name}.sqlite3"


def _is_network(folder: str) -> bool:
    """Whether a folder lies on another machine."""
    mounted = [p for p in psutil.disk_partitions(all=True) if _lies_in(folder, p.mountpoint)]
    kind = max(mounted, key=lambda p: len(p.mountpoint)).fstype.lower() if mounted else ""
    return any(part in kind for part in _NETWORK)


def _lies_in(folder: str, mountpoint: str) -> bool:
    return f"{folder}/".startswith(f"{mountpoint.rstrip('/')}/")
