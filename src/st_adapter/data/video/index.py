"""What the packets of videos say, remembered beside the data, so that none is probed twice."""

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from st_adapter.common.paths import is_remote
from st_adapter.data.archives.index_store import Store
from st_adapter.data.archives.members import find
from st_adapter.data.archives.tar import Place, split_member, version
from st_adapter.data.video.info import VideoInfo
from st_adapter.data.video.packets import probe
from st_adapter.errors import UnreachableError, VideoError

_ASCENDING = ("pts", "keys")
_FRACTIONS = ("time_base", "pixel_aspect")


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
        known = self.store.read("video", str(path), state)
        if known is None:
            try:
                known = _to_json(probe(path, find(path, self.store)))
            except UnreachableError:
                raise
            except VideoError as error:
                known = {"error": str(error).removeprefix(str(path))}
            self.store.write("video", str(path), state, known)
        if "error" in known:
            raise VideoError(f"{path}{known['error']}")
        place = Place(member[0], *known["place"]) if member else None
        return _from_json(known | {"path": path, "place": place})


def _to_json(info: VideoInfo) -> dict[str, Any]:
    """What is remembered: nothing that says where the data lies, which may move."""
    # Differences of a steady frame rate are one number again and again, and compress well.
    steps = {name: np.diff(getattr(info, name), prepend=0).tolist() for name in _ASCENDING}
    fractions = {name: str(getattr(info, name)) for name in _FRACTIONS}
    place = info.place and info.place[1:]
    return vars(info) | steps | fractions | {"path": None, "place": place}


def _from_json(known: dict[str, Any]) -> VideoInfo:
    numbers = {name: np.cumsum(known[name], dtype=np.int64) for name in _ASCENDING}
    fractions = {name: Fraction(known[name]) for name in _FRACTIONS}
    return VideoInfo(**known | numbers | fractions)
