"""A database of what was found in data files, which several processes can share."""

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
"""Name of the database in a data folder."""
_TABLE = """
create table if not exists found_1 (
    kind text, path text, bytes integer, modified_ns integer, value blob,
    primary key (kind, path)
) without rowid
"""
"""The number in the table's name is the version of the format: other versions ignore the table."""
_WAIT_SECONDS = 30.0
"""Time to wait while another process writes."""

_NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "sshfs", "9p")
"""Parts of the names of network file systems."""


class Store:
    """A database of JSON values by type and path of a file.

    Several processes may use the same database; each writes a value as soon as it knows it. If no
    database can be created, nothing is stored and every read returns None.

    Args:
        folder: Folder of the data. The database is in this folder. It is in the user's cache
            instead if the folder is read-only, a URL, or on a network file system, where SQLite's
            locks are not reliable.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = full_path(folder)
        self._gave_up = False

    def read(self, kind: str, path: str, version: tuple[int, int]) -> Any:
        """Return the stored value, or None if nothing is stored or the file has changed since.

        Args:
            kind: Type of the value, "video" or "shard".
            path: Path of the file.
            version: State of the file, as returned by `tar.version`.
        """
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
        """Store a value, instead of any earlier one.

        Args:
            kind: Type of the value, "video" or "shard".
            path: Path of the file.
            version: State of the file, as returned by `tar.version`.
            value: Anything that `json` can write.
        """
        connection = _connect(self.folder, os.getpid())
        if connection is None or self._gave_up:
            return
        row = (kind, self._key(path), *version, zlib.compress(json.dumps(value).encode(), level=1))
        try:
            connection.execute("insert or replace into found_1 values (?, ?, ?, ?, ?)", row)
        except sqlite3.Error:  # for example, the disk is full or another process keeps its lock
            self._gave_up = True

    def _key(self, path: str) -> str:
        """Return the path relative to the folder if it is inside, so that both can be moved."""
        inside = full_path(path).removeprefix(f"{self.folder}/")
        return os.fsencode(inside).decode("utf-8", "backslashreplace")


@cache
def _connect(folder: str, process: int) -> sqlite3.Connection | None:
    """Open the database of a data folder, once per process; return None if that is impossible.

    Connections stay open until the process ends. A forked process inherits its parent's
    connections, which SQLite does not allow it to use or to close. It opens its own, because
    `process` differs, and this cache keeps the inherited ones from being closed.
    """
    elsewhere = is_remote(folder) or _is_network(folder)
    in_folder = [] if elsewhere else [Path(folder, STORE_NAME)]
    for file in (*in_folder, _cache_file(folder)):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                file, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
            # No write-ahead log, because its files would remain. Without synchronous writes a crash
            # of the machine can damage the database, which is then ignored.
            connection.execute("pragma journal_mode = delete")
            connection.execute("pragma synchronous = off")
            connection.execute(_TABLE)
        except (sqlite3.Error, OSError):
            continue
        if in_folder and file not in in_folder and parent_process() is None:
            say(f"cannot store the index of videos in {folder}; using {file} instead")
        return connection
    return None


def _cache_file(folder: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = sha256(os.fsencode(folder)).hexdigest()[:16]
    return cache / "st-adapter" / f"{name}.sqlite3"


def _is_network(folder: str) -> bool:
    """Return whether a folder is on a network file system."""
    mounted = [p for p in psutil.disk_partitions(all=True) if _lies_in(folder, p.mountpoint)]
    file_system = max(mounted, key=lambda p: len(p.mountpoint)).fstype.lower() if mounted else ""
    return any(part in file_system for part in _NETWORK)


def _lies_in(folder: str, mountpoint: str) -> bool:
    return f"{folder}/".startswith(f"{mountpoint.rstrip('/')}/")
