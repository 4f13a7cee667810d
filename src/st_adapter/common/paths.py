"""Paths of local files, and URLs of files in object storage."""

import os
import re
from pathlib import Path

_REMOTE = re.compile(r"([a-z][a-z0-9+]+):/+(?=[^/])")
"""Matches the scheme of a URL. One slash is enough, because Path reduces two to one."""

VIDEO_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("3g2", "3gp", "asf", "avi", "flv", "gif", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg"),
        *("mpg", "mts", "ogv", "ts", "vob", "webm", "wmv"),
    )
)
"""Suffixes of video files, in lower case."""


def is_video_name(name: str) -> bool:
    """Return whether a file name has a suffix of video files."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def is_remote(path: str | Path) -> bool:
    """Return whether a path is a URL such as s3://bucket/train-000.tar."""
    return _REMOTE.match(str(path)) is not None


def absolute(path: str | Path) -> str:
    """Return the absolute path with symbolic links resolved; return a URL unchanged.

    >>> absolute(Path("s3://bucket/train-000.tar"))
    's3://bucket/train-000.tar'
    >>> absolute(Path("file:///data/train-000.tar"))
    'file:///data/train-000.tar'
    """
    if is_remote(path):
        slashes = ":///" if str(path).startswith("file:") else "://"  # Path has kept only one
        return _REMOTE.sub(rf"\1{slashes}", str(path), count=1)
    return str(Path(path).resolve())


def full_path(path: str | Path) -> str:
    """Return the absolute path with symbolic links kept; return a URL unchanged.

    >>> full_path(Path("s3://bucket/a.tar/b.mp4"))
    's3://bucket/a.tar/b.mp4'
    """
    return absolute(path) if is_remote(path) else os.path.abspath(path)
