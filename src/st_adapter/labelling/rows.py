"""The videos to label, as one compact list: from files, folders, lists, tables, shards and URLs."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from st_adapter.common.paths import absolute, is_remote, is_video_name
from st_adapter.data.archives import tar
from st_adapter.data.formats import lists, shards, tables
from st_adapter.data.formats.folders import find_videos
from st_adapter.data.formats.listing import Listing, Root, read_lines
from st_adapter.data.video.picture_folders import holds_pictures
from st_adapter.data.videos import VideoList
from st_adapter.errors import ArgumentError, DataError

_LISTS = (".txt", ".csv", ".tsv", ".parquet")
"""Suffixes of files that name videos."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The videos to label, one for each row of the table.

    Attributes:
        videos: The videos or segments, in the order of the inputs.
        has_segments: Whether any of all videos is a segment, so that the table states times. It is
            the same for every shard of a table.
    """

    videos: VideoList
    has_segments: bool

    def __len__(self) -> int:
        return len(self.videos)

    def shard(self, number: int, count: int) -> "Rows":
        """Return one of `count` parts of nearly equal size, which follow each other in order.

        Args:
            number: Number of the part, from 1.
            count: Number of parts.
        """
        start, stop = (len(self) * i // count for i in (number - 1, number))
        return Rows(videos=self.videos.take(range(start, stop)), has_segments=self.has_segments)


def read_rows(inputs: Sequence[str | Path], videos: str | Path | None = None) -> Rows:
    """List the videos to label. They are not opened and may be missing.

    Args:
        inputs: Video files, folders of them, lists (.txt), tables (.csv, .tsv, .parquet), shards
            (.tar), and URLs. Labels in lists and tables are ignored.
        videos: Folder that the paths in lists and tables are relative to. By default the folder of
            the list.

    Raises:
        ArgumentError: An input does not exist (a video may be missing unless all are), or an input
            folder or all of the inputs have no video.
        DataError: A list, a table or a shard cannot be read.
    """
    given = [Path(item) for item in inputs]
    shown = ", ".join(map(str, given))
    if not any(
        item.exists() or is_remote(item) or "*" in item.name or _is_shard(item) for item in given
    ):
        raise ArgumentError(f"{shown}: no such file or folder")
    found = Listing()
    for item in given:
        if not (item.exists() or is_remote(item) or _is_shard(item) or is_video_name(item.name)):
            raise ArgumentError(f"{item}: no such file or folder")
        listing = _read(item, None if videos is None else Path(videos))
        found.paths += listing.paths
        found.start_seconds += listing.start_seconds
        found.end_seconds += listing.end_seconds
    if not found.paths:
        raise ArgumentError(f"{shown}: no videos found")
    times = (found.start_seconds, found.end_seconds)
    # A start or an end of NaN, which is not equal to itself, is that of the file.
    has_segments = any(time == time for column in times for time in column)
    return Rows(
        videos=VideoList(found.paths, [()] * len(found.paths), *times),
        has_segments=has_segments,
    )


def _read(item: Path, videos: Path | None) -> Listing:
    """List the videos that one input names."""
    if item.is_dir():
        return _read_folder(item)
    if _is_shard(item):
        return shards.read_unlabelled(item)
    if item.suffix.lower() in _LISTS:
        return _read_list(item, Root(videos or item.parent, item))
    if is_remote(item) and "*" in item.name:
        try:
            return _listed(tar.matching(absolute(item)))
        except OSError as error:
            raise DataError(f"{item} cannot be read: {error}") from error
    return _listed([str(item)])


def _read_folder(folder: Path) -> Listing:
    if found := find_videos(folder):
        return _listed([str(path) for path in found])
    if holds_pictures(os.listdir(folder)):
        return _listed([str(folder)])
    if shards.matches(folder):
        return shards.read_unlabelled(folder)
    raise ArgumentError(f"{folder}: no videos found; if it is a run, it is not finished")


def _read_list(file: Path, root: Root) -> Listing:
    if is_remote(file):
        raise DataError(f"{file}: lists and tables must be local files; download it first")
    table = tables.read_segments(file, root)
    if table is not None:
        return table
    if file.suffix.lower() == ".txt" or _is_list(file):
        return lists.read_paths(file, root)
    raise DataError(
        f"{file} has no column 'path'; its header must contain path, and may contain "
        "start_seconds,end_seconds"
    )


def _is_list(file: Path) -> bool:
    """Return whether a .csv or .tsv has no header, but starts with a video."""
    if file.suffix.lower() == ".parquet":
        return False
    _, first = next(iter(read_lines(file)), ("", ""))
    return is_video_name(first) or lists.is_list(first)


def _is_shard(item: Path) -> bool:
    return item.suffix.lower() == ".tar"


def _listed(paths: Sequence[str]) -> Listing:
    listing = Listing()
    for path in paths:
        listing.add(path)
    return listing
