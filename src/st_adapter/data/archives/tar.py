"""Tar files of videos (WebDataset shards), on disk or in object storage.

The path of a video in a shard is the path of the shard followed by the name of the video in it,
such as `train-000.tar/00042.mp4`.
"""

import hashlib
import os
import posixpath
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import fsspec

from st_adapter.common.paths import absolute, is_remote
from st_adapter.errors import DataError

_CHANGES = ("ETag", "etag", "LastModified", "Last-Modified", "last_modified", "mtime", "updated")
"""Keys that object stores use for a property that differs when a file has changed."""


class Place(NamedTuple):
    """Position of the bytes of a video.

    Attributes:
        shard: Path or URL of the file.
        first_byte: Position in the file.
        num_bytes: Size of the video.
        content: Bytes of the file if they are in memory; it is then not opened.
    """

    shard: str
    first_byte: int
    num_bytes: int
    content: bytes | None = None


def split_member(path: str | Path) -> tuple[str, str] | None:
    """Split a path that leads into a shard into shard and name; return None for other paths.

    >>> split_member("data/train-000.tar/a/b.mp4")
    ('data/train-000.tar', 'a/b.mp4')
    """
    text = absolute(path) if is_remote(path) else str(path)
    for match in re.finditer(r"\.tar/", text):
        shard, name = text[: match.end() - 1], text[match.end() :]
        if name and not os.path.isdir(shard):
            return shard, name
    return None


def member_name(name: str) -> str:
    """Normalise a name in a shard, because tar can also write it as ./a.mp4.

    >>> member_name("./a//b.mp4")
    'a/b.mp4'
    """
    return posixpath.normpath(f"/{name}").lstrip("/")


def version(shard: str) -> tuple[int, int]:
    """Return a pair of numbers that changes when a file changes.

    These are its size in bytes, and its modification time in nanoseconds or, in object storage, a
    digest of its ETag or time.

    Raises:
        OSError: If the file does not exist.
    """
    if is_remote(shard):
        return _remote_version(shard)
    state = os.stat(shard)
    return state.st_size, state.st_mtime_ns


@contextmanager
def open_shard(shard: str) -> Iterator[tarfile.TarFile]:
    """Open a shard to read its directory.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        with _client_errors(), _open(shard) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            yield tar
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{shard} cannot be read as an uncompressed .tar file: {error}") from error


def read_bytes(place: Place) -> bytes:
    """Return the bytes of a video.

    Raises:
        OSError: If the shard cannot be read.
    """
    shard, first, count, content = place
    if content is not None:
        return content[first : first + count]
    if is_remote(shard):
        with _client_errors():
            filesystem, name = fsspec.url_to_fs(shard)
            data: bytes = filesystem.cat_file(name, start=first, end=first + count)
        return data
    with open(shard, "rb") as file:
        file.seek(first)
        return file.read(count)


def read_url(url: str) -> bytes:
    """Return all bytes of a file in object storage or on a web server.

    Raises:
        OSError: If it cannot be read.
    """
    with _client_errors():
        filesystem, name = fsspec.url_to_fs(url)
        data: bytes = filesystem.cat_file(name)
    return data


def matching(pattern: str) -> list[str]:
    """Return the files that match a pattern with wildcards, sorted.

    Raises:
        OSError: If the store cannot be read.
    """
    with _client_errors():
        filesystem, name = fsspec.url_to_fs(pattern)
        found = sorted(filesystem.glob(name))
    return [filesystem.unstrip_protocol(f) if is_remote(pattern) else f for f in found]


def read_text(file: str) -> str | None:
    """Return the text of a small file next to shards, or None if it cannot be read."""
    try:
        with _client_errors(), _open(file) as stream:
            return str(stream.read().decode("utf-8-sig", "replace"))
    except OSError:
        return None


def _open(path: str) -> Any:
    """Open a file that can be read from any position."""
    return fsspec.open(path, "rb").open() if is_remote(path) else open(path, "rb")


@contextmanager
def _client_errors() -> Iterator[None]:
    """Turn the errors of object stores, which have classes of their own, into OSError."""
    try:
        yield
    except (OSError, DataError, tarfile.TarError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


@cache
def _remote_version(shard: str) -> tuple[int, int]:
    with _client_errors():
        filesystem, name = fsspec.url_to_fs(shard)
        info = filesystem.info(name)
    change = repr([str(info[key]) for key in _CHANGES if info.get(key)] or info.get("created"))
    return int(info["size"] or 0), int(hashlib.sha256(change.encode()).hexdigest()[:15], 16)
