"""A file beside the data that remembers what was found in it, safe for several processes."""

import os
import sqlite3
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from weakref import WeakSet

import psutil

from st_adapter.common.paths import full_path, is_remote

STORE_NAME = ".st-adapter-index.sqlite3"
_TABLES = """
create table if not exists videos_2 (
    path text primary key,
    bytes integer, modified_ns integer, error text,
    time_base text, stamped integer, width integer, height integer, rotation integer, codec text,
    digest text, pts blob, keys blob, first_byte integer, num_bytes integer
) without rowid;
create table if not exists shards_2 (
    path text primary key, bytes integer, modified_ns integer, samples blob
) without rowid;
"""
_WAIT_SECONDS = 30.0


_NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "sshfs", "9p")
"""Parts of names of file systems that lie on other machines."""

_STORES: "WeakSet[Store]" = WeakSet()


def _close_all() -> None:
    for store in list(_STORES):
        store.close()


os.register_at_fork(before=_close_all)  # SQLite forbids to carry a connection into a child


class Store:
    """Rows by path. Where the file cannot be kept, nothing is remembered.

    Several processes may share the file; each writes a row as soon as it knows one.

    Args:
        folder: of the data. The file lies in it, or in the user's cache where that is read-only,
            on another machine (where SQLite's locks do not hold) or an address.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = full_path(folder)
        self._connection: tuple[int, sqlite3.Connection | None] | None = None
        _STORES.add(self)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_connection": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _STORES.add(self)

    def close(self) -> None:
        """Give the file back; it is opened again when it is needed."""
        if self._connection is not None and self._connection[1] is not None:
            self._connection[1].close()
        self._connection = None

    def read(self, table: str, path: str, version: tuple[int, int]) -> sqlite3.Row | None:
        """The row of a path, unless the file has changed since."""
        connection = self._connect()
        if connection is None:
            return None
        try:
            row: sqlite3.Row | None = connection.execute(
                f"select * from {table} where path = ?", (self._key(path),)
            ).fetchone()
        except sqlite3.Error:
            return None
        return row if row and (row["bytes"], row["modified_ns"]) == version else None

    def write(
        self, table: str, path: str, version: tuple[int, int], values: Sequence[object]
    ) -> None:
        """Put a row in the place of any earlier one."""
        connection = self._connect()
        if connection is None:
            return
        row = (self._key(path), *version, *values)
        try:
            marks = ",".join("?" * len(row))
            connection.execute(f"insert or replace into {table} values ({marks})", row)
        except sqlite3.Error:  # the disk is full, say: the next run finds out again
            self._connection = (os.getpid(), None)

    def _key(self, path: str) -> str:
        """The path from the folder, so that both can move, where it lies in there."""
        inside = full_path(path).removeprefix(f"{self.folder}/")
        return os.fsencode(inside).decode("utf-8", "backslashreplace")

    def _connect(self) -> sqlite3.Connection | None:
        """This process's own connection, opened when it is first needed."""
        if self._connection is None or self._connection[0] != os.getpid():
            self._connection = (os.getpid(), self._open())
        return self._connection[1]

    def _open(self) -> sqlite3.Connection | None:
        apart = is_remote(self.folder) or _is_network(self.folder)
        beside = [] if apart else [Path(self.folder, STORE_NAME)]
        for file in (*beside, self._cache_file()):
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                connection = sqlite3.connect(file, timeout=_WAIT_SECONDS, isolation_level=None)
                connection.row_factory = sqlite3.Row
                connection.execute("pragma journal_mode = wal")
                connection.execute("pragma synchronous = normal")
                connection.executescript(_TABLES)
            except (sqlite3.Error, OSError):
                continue
            return connection
        return None

    def _cache_file(self) -> Path:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        name = sha256(os.fsencode(self.folder)).hexdigest()[:16]
        return cache / "st-adapter" / f"{name}.sqlite3"


def _is_network(folder: str) -> bool:
    """Whether a folder lies on another machine."""
    mounted = [p for p in psutil.disk_partitions(all=True) if _lies_in(folder, p.mountpoint)]
    kind = max(mounted, key=lambda p: len(p.mountpoint)).fstype.lower() if mounted else ""
    return any(part in kind for part in _NETWORK)


def _lies_in(folder: str, mountpoint: str) -> bool:
    return f"{folder}/".startswith(f"{mountpoint.rstrip('/')}/")
