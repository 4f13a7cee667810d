"""What the packets of videos say, remembered beside the data, so that none is probed twice."""

import os
import sqlite3
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy import ndarray

from st_adapter.common.paths import is_remote
from st_adapter.data.archives.index_store import Store
from st_adapter.data.archives.members import find
from st_adapter.data.archives.tar import Place, split_member, version
from st_adapter.data.video.info import VideoInfo
from st_adapter.data.video.packets import probe
from st_adapter.errors import UnreachableError, VideoError

_TABLE = "videos_3"


def index_of(data: Path) -> "VideoIndex":
    """The index of a folder, or of the videos that a file there lists."""
    is_folder = data.is_dir() and not is_remote(data)
    return VideoIndex(data if is_folder else data.parent)


class VideoIndex:
    """What `probe` said of each video, until its size or time of change differs.

    Args:
        folder: of the data.
    """

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)

    def __call__(self, path: Path) -> VideoInfo:
        """What the packets of a video say.

        Raises:
            VideoError: as `probe`, at once where the file failed before and is the same.
        """
        member = split_member(path)
        try:
            state = version(member[0] if member else os.fspath(path))
        except (OSError, ValueError):  # a name may hold what no file name may
            return probe(path)  # says what is wrong
        row = self.store.read(_TABLE, str(path), state)
        if row is not None:
            return _info(path, member[0] if member else "", row)
        try:
            info = probe(path, find(path, self.store))
        except UnreachableError:
            raise
        except VideoError as error:
            reason = str(error).removeprefix(str(path))
            self.store.write(_TABLE, str(path), state, [reason, *[None] * 13])
            raise
        self.store.write(_TABLE, str(path), state, [None, *_columns(info)])
        return info


def _columns(info: VideoInfo) -> tuple[object, ...]:
    return (
        str(info.time_base),
        info.stamped,
        info.width,
        info.height,
        info.rotation,
        info.mirrored,
        str(info.pixel_aspect),
        info.codec,
        info.digest,
        _pack(info.pts),
        _pack(info.keys),
        *(info.place[1:] if info.place else (None, None)),
    )


def _info(path: Path, shard: str, row: sqlite3.Row) -> VideoInfo:
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
        mirrored=bool(row["mirrored"]),
        pixel_aspect=Fraction(row["pixel_aspect"]),
        codec=row["codec"],
        digest=row["digest"],
        place=Place(shard, row["first_byte"], row["num_bytes"]) if shard else None,
    )


def _pack(numbers: ndarray) -> bytes:
    """Ascending integers as compressed differences: a steady frame rate takes a few bytes."""
    return zlib.compress(np.diff(numbers, prepend=0).astype("<i8").tobytes(), level=1)


def _unpack(data: bytes) -> ndarray:
    return np.cumsum(np.frombuffer(zlib.decompress(data), dtype="<i8"))
