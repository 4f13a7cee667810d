"""Paths of files on this machine, and addresses of files in object storage."""

import os
import re
from pathlib import Path

_REMOTE = re.compile(r"([a-z][a-z0-9+]+):/+(?=[^/])")

VIDEO_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("3g2", "3gp", "asf", "avi", "flv", "gif", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg"),
        *("mpg", "mts", "ogv", "ts", "vob", "webm", "wmv"),
    )
)
"""Endings of the names of video files."""


def is_video_name(name: str) -> bool:
    """Whether a name ends as those of video files do."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def is_remote(path: str | Path) -> bool:
    """Whether a path is an address such as s3://bucket/train-000.tar."""
    return _REMOTE.match(str(path)) is not None


def absolute(path: str | Path) -> str:
    """Return a path from the root, its symbolic links followed; an address stays as it is.

    >>> absolute(Path("s3://bucket/train-000.tar"))
    's3://bucket/train-000.tar'
    """
    if is_remote(path):
        return _REMOTE.sub(r"\1://", str(path), count=1)  # Path makes one slash of the two
    return str(Path(path).resolve())


def full_path(path: str | Path) -> str:
    """Return a path from the root, its symbolic links kept; an address stays as it is.

    >>> full_path(Path("s3://bucket/a.tar/b.mp4"))
    's3://bucket/a.tar/b.mp4'
    """
    return absolute(path) if is_remote(path) else os.path.abspath(path)
