"""WebDataset shards: tar files of videos, each with its label in a file of the same name."""

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec

from st_adapter.data import shards
from st_adapter.data.formats.folders import VIDEO_SUFFIXES
from st_adapter.data.formats.listing import (
    SPLITS,
    Listing,
    beside,
    class_name,
    read_text,
    seconds,
)
from st_adapter.data.store import Store
from st_adapter.errors import DataError

_LABEL_SUFFIXES = (".json", ".cls", ".label", ".txt")
_MOST_BYTES = 1 << 16
"""Of a label's file."""

Sample = tuple[str, dict[str, str]]
"""Name of a video in its shard, and suffix to text of the files beside it that hold labels."""


def matches(path: Path) -> bool:
    """Whether DATA is a shard, a pattern or an address of shards, or a folder of them alone."""
    if path.suffix == ".tar":
        return True
    if not path.is_dir() or not any(_in_folder(path)):
        return False
    parts = [path, *(p for p in path.iterdir() if p.is_dir() and p.name.lower() in SPLITS)]
    folders = (p for part in parts for p in part.iterdir() if p.is_dir())
    return not any(file.suffix.lower() in VIDEO_SUFFIXES for p in folders for file in p.iterdir())


def read(path: Path, columns: Mapping[str, str]) -> Listing:
    """Read the directories of all shards; those read before are remembered.

    Args:
        columns: our name of a label to the key in the .json beside a video.
    """
    names = list(_in_folder(path)) if path.is_dir() else _expand(shards.absolute(path))
    store = Store(path if path.is_dir() else path.parent)
    file = beside(path / "x" if path.is_dir() else path, "classes.txt")
    classes = [line for line in read_text(file).splitlines() if line.strip()] if file else None
    labels = columns.get("label", "label").split("+")
    listing = Listing(heads=tuple(labels) if len(labels) > 1 else ())
    for shard in names:
        split = _split(shard)
        for video, texts in _samples(shard, store):
            where = f"{shard}/{video}"
            record = _record(where, texts)
            many = record.get(columns.get("labels", "labels"))
            listing.multi_label |= many is not None
            given = [str(record.get(key, "")).strip() for key in labels] if many is None else many
            if not isinstance(given, list) or "" in given:
                raise DataError(
                    f"{where} has no label; it takes a .cls, .txt or .json of the same name beside "
                    f"it, the last with the key {' and '.join(labels)}"
                )
            if classes is not None:
                given = [
                    class_name(str(name), classes, Path(where), 1)
                    if str(name) not in classes
                    else name
                    for name in given
                ]
            start, end = (
                seconds(str(record.get(key, "")), Path(where), 1)
                for key in ("start_seconds", "end_seconds")
            )
            listing.add(where, *map(str, given), start_seconds=start, end_seconds=end, split=split)
    if classes is not None and not listing.heads:
        listing.classes = (classes,)
    return listing


def _in_folder(folder: Path) -> Iterator[str]:
    for place in (folder, *sorted(p for p in folder.iterdir() if p.name.lower() in SPLITS)):
        if place.is_dir():
            yield from (str(p.resolve()) for p in sorted(place.glob("*.tar")) if p.is_file())


def _expand(path: str) -> list[str]:
    """Every shard of a pattern such as train-{000..127}.tar or train-*.tar.

    >>> _expand("s3://b/train-{08..10}.tar")
    ['s3://b/train-08.tar', 's3://b/train-09.tar', 's3://b/train-10.tar']
    """
    match = re.search(r"\{(\d+)\.\.(\d+)\}", path)
    if match:
        first, last = match.groups()
        numbers = (str(i).zfill(len(first)) for i in range(int(first), int(last) + 1))
        return [
            name
            for number in numbers
            for name in _expand(f"{path[: match.start()]}{number}{path[match.end() :]}")
        ]
    if "*" not in path:
        return [path]
    try:
        filesystem, name = fsspec.url_to_fs(path)
        found = sorted(filesystem.glob(name))
    except (OSError, ImportError, ValueError) as error:
        raise DataError(f"{path}: {error}") from None
    return [filesystem.unstrip_protocol(f) if shards.is_remote(path) else f for f in found]


def _split(shard: str) -> str:
    """The part that a shard's name tells, or else that of its folder."""
    folder, _, name = shard.lower().rpartition("/")
    words = [folder.rpartition("/")[2], *re.split(r"[^a-z]+", name)]
    return next((SPLITS[word] for word in reversed(words) if word in SPLITS), "train")


def _samples(shard: str, store: Store) -> list[Sample]:
    """The videos of a shard, from its directory or as remembered.

    Raises:
        DataError: it cannot be read.
    """
    try:
        version = shards.version(shard)
    except (OSError, ImportError, ValueError) as error:
        raise DataError(f"{shard} cannot be read: {error}") from None
    row = store.read("shards_1", shard, version)
    if row is not None:
        return [(name, texts) for name, texts in json.loads(zlib.decompress(row["samples"]))]
    samples = list(_scan(shard))
    packed = zlib.compress(json.dumps(samples).encode(), level=1)
    store.write("shards_1", shard, version, [packed])
    return samples


def _scan(shard: str) -> Iterator[Sample]:
    videos: dict[str, str] = {}
    texts: dict[str, dict[str, str]] = {}
    with shards.open_shard(shard) as tar:
        for member in tar:
            folder, _, base = member.name.rpartition("/")
            key, _, rest = base.partition(".")  # as WebDataset: up to the first point
            key, suffix = f"{folder}/{key}", f".{rest.rpartition('.')[2].lower()}"
            if not member.isreg():
                continue
            if suffix in VIDEO_SUFFIXES:
                videos[key] = member.name
            elif suffix in _LABEL_SUFFIXES and member.size <= _MOST_BYTES:
                file = tar.extractfile(member)
                text = file.read().decode("utf-8", "replace") if file else ""
                texts.setdefault(key, {})[suffix] = text
    return ((name, texts.get(key, {})) for key, name in videos.items())


def _record(where: str, texts: dict[str, str]) -> dict[str, Any]:
    """What the files beside a video say."""
    record: dict[str, Any] = {}
    for suffix in reversed(_LABEL_SUFFIXES):
        if suffix in texts and suffix != ".json":
            record["label"] = texts[suffix].strip()
    if ".json" in texts:
        try:
            given = json.loads(texts[".json"])
        except ValueError as error:
            raise DataError(f"{where}: the .json beside it cannot be read: {error}") from None
        record |= given if isinstance(given, dict) else {"label": given}
    return record
