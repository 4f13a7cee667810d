"""Videos inside tar files, WebDataset's shards, on a disk or in object storage.

A video in a shard has the path of the shard and its own name in there: `train-000.tar/00042.mp4`.
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
"""What stores call that which differs after a change."""


class Place(NamedTuple):
    """Where the bytes of a video lie."""

    shard: str
    first_byte: int
    num_bytes: int


def split_member(path: str | Path) -> tuple[str, str] | None:
    """Shard and name in it of a path that leads into a shard; None for any other.

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
    """A name in a shard as it stands in a path: tar writes ./a.mp4, too.

    >>> member_name("./a//b.mp4")
    'a/b.mp4'
    """
    return posixpath.normpath(f"/{name}").lstrip("/")


def version(shard: str) -> tuple[int, int]:
    """Length, and time of change or what stands for it.

    Raises:
        OSError: it is not there.
    """
    if is_remote(shard):
        return _remote_version(shard)
    state = os.stat(shard)
    return state.st_size, state.st_mtime_ns


@contextmanager
def open_shard(shard: str) -> Iterator[tarfile.TarFile]:
    """Open a shard to read its directory.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with _client_errors(), _open(shard) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            yield tar
    except (OSError, tarfile.TarError) as error:
        raise DataError(
            f"{shard} cannot be read as a .tar, which is not compressed: {error}"
        ) from error


def read_bytes(place: Place) -> bytes:
    """The bytes of a video.

    Raises:
        OSError: the shard cannot be read.
    """
    shard, first, count = place
    if is_remote(shard):
        with _client_errors():
            filesystem, name = fsspec.url_to_fs(shard)
            data: bytes = filesystem.cat_file(name, start=first, end=first + count)
        return data
    with open(shard, "rb") as file:
        file.seek(first)
        return file.read(count)


def matching(pattern: str) -> list[str]:
    """The files that a pattern with stars stands for.

    Raises:
        OSError: the store cannot be read.
    """
    with _client_errors():
        filesystem, name = fsspec.url_to_fs(pattern)
        found = sorted(filesystem.glob(name))
    return [filesystem.unstrip_protocol(f) if is_remote(pattern) else f for f in found]


def read_text(file: str) -> str | None:
    """The text of a small file beside shards; None where there is none."""
    try:
        with _client_errors(), _open(file) as stream:
            return str(stream.read().decode("utf-8-sig", "replace"))
    except OSError:
        return None


def _open(path: str) -> Any:
    """A file that can be read and sought in."""
    return fsspec.open(path, "rb").open() if is_remote(path) else open(path, "rb")


@contextmanager
def _client_errors() -> Iterator[None]:
    """Errors of the stores' clients come out as OSError: they have classes of their own."""
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
