"""Index of videos: remembers what was read from their packets, so that each is probed only once."""

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
"""Arrays that are stored as differences."""
_FRACTIONS = ("time_base", "pixel_aspect")
"""Fractions, which are stored as text."""


def index_of(data: Path) -> "VideoIndex":
    """Return the index for a data folder, or for a file, which uses the index of its folder."""
    is_folder = data.is_dir() and not is_remote(data)
    return VideoIndex(data if is_folder else data.parent)


class VideoIndex:
    """A `probe` that remembers its results, including failures, until the file changes.

    Args:
        folder: Folder of the data.
    """

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)

    def __call__(self, path: Path) -> VideoInfo:
        """Return the description of a video.

        Args:
            path: Path of a video.

        Raises:
            VideoError: As for `probe`. A file that failed before is opened again only if it has
                changed.
        """
        member = split_member(path)
        try:
            state = version(member[0] if member else os.fspath(path))
        except (OSError, ValueError):  # ValueError: the name contains a null character
            return probe(path)  # which raises an error that explains it
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
    """Return the values to store, without paths, because the data can be moved."""
    # With a constant frame rate, all differences are equal, so they compress well.
    steps = {name: np.diff(getattr(info, name), prepend=0).tolist() for name in _ASCENDING}
    fractions = {name: str(getattr(info, name)) for name in _FRACTIONS}
    place = info.place and info.place[1:3]
    return vars(info) | steps | fractions | {"path": None, "place": place}


def _from_json(known: dict[str, Any]) -> VideoInfo:
    numbers = {name: np.cumsum(known[name], dtype=np.int64) for name in _ASCENDING}
    fractions = {name: Fraction(known[name]) for name in _FRACTIONS}
    return VideoInfo(**known | numbers | fractions)
