"""An index of videos in a file beside the data, so that none is probed twice."""

import os
import sqlite3
import zlib
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from st_adapter.data.decode import probe
from st_adapter.data.video_info import VideoInfo
from st_adapter.errors import VideoError

INDEX_NAME = ".st-adapter-index.sqlite3"
_TABLE = """
create table if not exists videos_1 (
    path text primary key,
    bytes integer, modified_ns integer, error text,
    time_base text, stamped integer, width integer, height integer, rotation integer, codec text,
    digest text, pts blob, keys blob
) without rowid
"""
_WAIT_SECONDS = 30.0


def index_of(data: Path) -> "VideoIndex":
    """The index of a folder, or of the videos that a file there lists."""
    return VideoIndex(data if data.is_dir() else data.parent)


class VideoIndex:
    """What `probe` said of each video, until its size or time of change differs.

    Several processes may share the file; each writes a row as soon as it knows one. Where the file
    cannot be kept, every video is probed.

    Args:
        folder: of the data. The file lies in it, or in the user's cache where that is read-only.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._connection: tuple[int, sqlite3.Connection | None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_connection": None}

    def __call__(self, path: Path) -> VideoInfo:
        """What the packets of a video say.

        Raises:
            VideoError: as `probe`, at once where the file failed before and is the same.
        """
        try:
            state = path.stat()
        except OSError:
            return probe(path)  # says what is wrong
        key = self._key(path)
        version = (state.st_size, state.st_mtime_ns)
        row = self._read(key)
        if row is not None and (row["bytes"], row["modified_ns"]) == version:
            return _info(path, row)
        try:
            info = probe(path)
        except VideoError as error:
            self._write(key, *version, str(error).removeprefix(str(path)), *[None] * 9)
            raise
        self._write(key, *version, None, *_columns(info))
        return info

    def _key(self, path: Path) -> str:
        """The path from the folder, so that both can move, where it lies in there."""
        absolute = os.path.abspath(path)
        root = f"{self.folder}{os.sep}"
        return os.fsencode(absolute.removeprefix(root)).decode("utf-8", "backslashreplace")

    def _read(self, key: str) -> sqlite3.Row | None:
        connection = self._connect()
        if connection is None:
            return None
        try:
            row: sqlite3.Row | None = connection.execute(
                "select * from videos_1 where path = ?", (key,)
            ).fetchone()
        except sqlite3.Error:
            return None
        return row

    def _write(self, *values: object) -> None:
        connection = self._connect()
        if connection is None:
            return
        marks = ",".join("?" * len(values))
        try:
            connection.execute(f"insert or replace into videos_1 values ({marks})", values)
        except sqlite3.Error:  # the disk is full, say: the next run probes again
            self._connection = (os.getpid(), None)

    def _connect(self) -> sqlite3.Connection | None:
        """This process's own connection, opened when it is first needed."""
        if self._connection is None or self._connection[0] != os.getpid():
            self._connection = (os.getpid(), _open(self.folder))
        return self._connection[1]


def _open(folder: Path) -> sqlite3.Connection | None:
    for file in (folder / INDEX_NAME, _cache_file(folder)):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(file, timeout=_WAIT_SECONDS, isolation_level=None)
            connection.row_factory = sqlite3.Row
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = normal")
            connection.execute(_TABLE)
        except (sqlite3.Error, OSError):
            continue
        return connection
    return None


def _cache_file(folder: Path) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = sha256(os.fsencode(folder)).hexdigest()[:16]
    return cache / "st-adapter" / f"{name}.sqlite3"


def _columns(info: VideoInfo) -> tuple[object, ...]:
    return (
        str(info.time_base),
        info.stamped,
        info.width,
        info.height,
        info.rotation,
        info.codec,
        info.digest,
        _pack(info.pts),
        _pack(info.keys),
    )


def _info(path: Path, row: sqlite3.Row) -> VideoInfo:
    if row["error"] is not None:
        raise VideoError(f"{path}{row['error']}")
    return VideoInfo(
        path=path,
        pts=_unpack(row["pts"]),
        time_base=Fraction(row["time_base"]),
        keys=_unpack(row["keys"]),
        stamped=bool(row["stamped"]),
        width=row["width"],
        height=row["height"],
        rotation=row["rotation"],
        codec=row["codec"],
        digest=row["digest"],
    )


def _pack(numbers: ndarray) -> bytes:
    """Ascending integers as compressed differences: a steady frame rate takes a few bytes."""
    return zlib.compress(np.diff(numbers, prepend=0).astype("<i8").tobytes(), level=1)


def _unpack(data: bytes) -> ndarray:
    return np.cumsum(np.frombuffer(zlib.decompress(data), dtype="<i8"))
