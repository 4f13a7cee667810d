"""WebDataset shards: tar files of videos, with the label of each in a file of the same name."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from st_adapter.common.paths import absolute
from st_adapter.data.archives import tar
from st_adapter.data.archives.index_store import Store
from st_adapter.data.archives.members import LABEL_SUFFIXES, Sample, read_samples
from st_adapter.data.formats.folders import find_videos
from st_adapter.data.formats.listing import (
    SPLITS,
    Classes,
    Listing,
    check_segment,
    read_classes,
    seconds,
)
from st_adapter.errors import DataError


def matches(path: Path) -> bool:
    """Return whether DATA is a shard, a pattern of shards, or a folder with only shards."""
    if not path.is_dir():
        return path.suffix == ".tar"
    return any(_in_folder(path)) and not find_videos(path)


def read(path: Path, columns: Mapping[str, str]) -> Listing:
    """List the videos of all shards.

    The contents of each shard are kept in an index, so that each is scanned only once.

    Args:
        path: A shard, a pattern or address of shards, or a folder of them.
        columns: Maps "label", "labels" or "group" to the key that the .json files use for it.
    """
    folder = path if path.is_dir() else path.parent
    labels = columns.get("label", "label").split("+")
    classes = _read_classes(folder) if len(labels) == 1 else Classes()
    listing = Listing(heads=tuple(labels) if len(labels) > 1 else ())
    for shard, sample in _samples(path):
        _add(listing, shard, sample, labels, columns)
    classes.name_labels(listing, path, listing.paths)
    return listing


def read_unlabelled(path: Path) -> Listing:
    """List the videos of all shards, and the segments that their .json files give, without labels.

    Args:
        path: A shard, a pattern or address of shards, or a folder of them.
    """
    listing = Listing()
    for shard, sample in _samples(path):
        name = f"{shard}/{sample.name}"
        start, end = _segment(name, _record(name, sample.texts))
        listing.add(name, start_seconds=start, end_seconds=end)
    return listing


def _samples(path: Path) -> Iterator[tuple[str, Sample]]:
    """Yield each video of all shards with the shard that contains it."""
    names = list(_in_folder(path)) if path.is_dir() else _expand(absolute(path))
    store = Store(path if path.is_dir() else path.parent)
    for shard in names:
        try:
            samples = read_samples(shard, store)
        except OSError as error:
            raise DataError(f"{shard} cannot be read: {error}") from error
        yield from ((shard, sample) for sample in samples)


def _segment(path: str, record: Mapping[str, Any]) -> tuple[float, float]:
    """Return start and end of the segment that a record gives; NaN is that of the file."""
    start, end = (seconds(str(record.get(k, "")), path) for k in ("start_seconds", "end_seconds"))
    check_segment(start, end, path)
    return start, end


def _add(
    listing: Listing, shard: str, sample: Sample, labels: list[str], columns: Mapping[str, str]
) -> None:
    """Append a video with the label, segment and group that its text files give."""
    path = f"{shard}/{sample.name}"
    record = _record(path, sample.texts)
    many = columns.get("labels", "labels")
    listing.multi_label |= many in record
    given = record[many] if many in record else [record.get(key, "") for key in labels]
    if not isinstance(given, list) or "" in given:
        raise DataError(
            f"{path} has no label; add a .cls or .txt of the same name to the shard, or a .json "
            f"with the key {' and '.join(labels)}"
        )
    names = [str(name).strip() for name in given]
    start, end = _segment(path, record)
    group = str(record.get(columns.get("group", "group"), "")).strip()
    listing.add(
        path, *names, start_seconds=start, end_seconds=end, split=_split(shard), group=group
    )


def _in_folder(folder: Path) -> Iterator[str]:
    for place in (folder, *sorted(p for p in folder.iterdir() if p.name.lower() in SPLITS)):
        if place.is_dir():
            yield from (str(p.absolute()) for p in sorted(place.glob("*.tar")) if p.is_file())


def _expand(path: str) -> list[str]:
    """Expand a pattern such as train-{000..127}.tar or train-*.tar.

    >>> _expand("s3://b/train-{08..10}.tar")
    ['s3://b/train-08.tar', 's3://b/train-09.tar', 's3://b/train-10.tar']
    """
    if match := re.search(r"\{(\d+)\.\.(\d+)\}", path):
        before, after, (first, last) = path[: match.start()], path[match.end() :], match.groups()
        numbers = (str(i).zfill(len(first)) for i in range(int(first), int(last) + 1))
        return [name for number in numbers for name in _expand(f"{before}{number}{after}")]
    if "*" not in path:
        return [path]
    try:
        return tar.matching(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _split(shard: str) -> str:
    """Return the part that the name of a shard mentions, or else that of its folder."""
    folder, _, name = shard.lower().rpartition("/")
    words = [folder.rpartition("/")[2], *re.split(r"[^a-z]+", name)]
    return next((SPLITS[word] for word in reversed(words) if word in SPLITS), "train")


def _read_classes(folder: Path) -> Classes:
    text = tar.read_text(f"{absolute(folder)}/classes.txt") or ""
    return read_classes([line.strip() for line in text.splitlines() if line.strip()])


def _record(path: str, texts: dict[str, str]) -> dict[str, Any]:
    """Merge the text files of a video. Values in the .json take precedence."""
    plain = [texts[suffix].strip() for suffix in LABEL_SUFFIXES[1:] if suffix in texts]
    record: dict[str, Any] = {"label": plain[0]} if plain else {}
    if ".json" in texts:
        try:
            given = json.loads(texts[".json"])
        except ValueError as error:
            raise DataError(f"{path}: its .json file cannot be read: {error}") from error
        found = given if isinstance(given, dict) else {"label": given}
        record |= {key: value for key, value in found.items() if value is not None}
    return record
