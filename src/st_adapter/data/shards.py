"""Videos inside tar files, WebDataset's shards, on a disk or in object storage.

A video in a shard has the path of the shard and its own name in there: `train-000.tar/00042.mp4`.
"""

import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import fsspec

from st_adapter.errors import DataError, VideoError

_MEMBER = re.compile(r"(.+?\.tar)/(.+)", re.DOTALL)
_REMOTE = re.compile(r"([a-z][a-z0-9+]+):/+(?=[^/])")
_KEPT_DIRECTORIES = 8
"""A process remembers what so many shards hold; an index remembers where each video lies."""


class Place(NamedTuple):
    """Where the bytes of a video lie."""

    shard: str
    first_byte: int
    num_bytes: int


def is_remote(path: str | Path) -> bool:
    """Whether a path is an address such as s3://bucket/train-000.tar."""
    return _REMOTE.match(str(path)) is not None


def absolute(path: str | Path) -> str:
    """A path as it reads from any folder; an address as it is.

    >>> absolute(Path("s3://bucket/train-000.tar"))
    's3://bucket/train-000.tar'
    """
    if is_remote(path):
        return _REMOTE.sub(r"\1://", str(path), count=1)  # Path takes one stroke away
    return str(Path(path).resolve())


def split_member(path: str | Path) -> tuple[str, str] | None:
    """Shard and name in it of a path that leads into a shard; None for any other.

    >>> split_member("data/train-000.tar/a/b.mp4")
    ('data/train-000.tar', 'a/b.mp4')
    """
    text = absolute(path) if is_remote(path) else str(path)
    match = _MEMBER.fullmatch(text)
    if match is None or os.path.isdir(match[1]):
        return None
    return match[1], match[2]


def version(shard: str) -> tuple[int, int]:
    """Bytes and time of change; a shard in object storage has its length alone.

    Raises:
        OSError: it is not there.
    """
    if is_remote(shard):
        return _remote_length(shard), 0
    state = os.stat(shard)
    return state.st_size, state.st_mtime_ns


@contextmanager
def open_shard(shard: str) -> Iterator[tarfile.TarFile]:
    """Open a shard to read its directory.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with _open(shard) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            yield tar
    except (OSError, ImportError, ValueError, tarfile.TarError) as error:
        raise DataError(f"{shard} cannot be read as a .tar: {error}") from None


def find(path: Path) -> Place:
    """Where a video in a shard lies.

    Raises:
        VideoError: it is not there.
    """
    member = split_member(path)
    assert member is not None
    shard, name = member
    try:
        place = _directory(shard, version(shard)).get(name)
    except (OSError, ImportError, DataError) as error:
        raise VideoError(f"{path}: {error}") from None
    if place is None:
        raise VideoError(f"{path}: no such file in the shard")
    return Place(shard, *place)


def read_bytes(place: Place) -> bytes:
    """The bytes of a video.

    Raises:
        OSError: the shard cannot be read.
    """
    shard, first, count = place
    if is_remote(shard):
        filesystem, name = fsspec.url_to_fs(shard)
        data: bytes = filesystem.cat_file(name, start=first, end=first + count)
        return data
    with open(shard, "rb") as file:
        file.seek(first)
        return file.read(count)


def _open(shard: str) -> Any:
    """A file that can be read and sought in."""
    return fsspec.open(shard, "rb").open() if is_remote(shard) else open(shard, "rb")


@lru_cache(maxsize=_KEPT_DIRECTORIES)
def _directory(shard: str, version: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Name to first byte and length of each file in a shard."""
    with open_shard(shard) as tar:
        return {member.name: (member.offset_data, member.size) for member in tar if member.isreg()}


@lru_cache
def _remote_length(shard: str) -> int:
    filesystem, name = fsspec.url_to_fs(shard)
    return int(filesystem.size(name) or 0)
