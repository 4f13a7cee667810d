"""Labelled videos: single ones, and compact lists of millions."""

import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, Int64
from numpy import ndarray

from st_adapter.common.paths import full_path, is_remote
from st_adapter.data.archives.tar import split_member


@dataclass(frozen=True, kw_only=True)
class Video:
    """One labelled video, or a segment of one.

    Attributes:
        path: A file, or a folder of pictures.
        targets: Indices of its classes: one, any number in a multi-label task, or one per head.
            Empty if they are not known.
        start_seconds: Start of the segment; None is the start of the file.
        end_seconds: End of the segment; None is the end of the file.
        group: What the video was taken from, such as a film, a camera or a person. Groups are
            never divided between training and validation. None if the data have no groups.
    """

    path: Path
    targets: tuple[int, ...] = ()
    start_seconds: float | None = None
    end_seconds: float | None = None
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A video that could not be read.

    Attributes:
        path: The video.
        reason: What was wrong. Starts with the path.
    """

    path: str
    reason: str


class VideoList(Sequence[Video]):
    """The videos of a data set, stored in arrays that dataloader workers share.

    A list of Python objects would be copied into every worker: reading an object changes its
    reference count, which makes the operating system copy the memory page around it. Arrays are
    read without being changed.

    Args:
        paths: Paths that are absolute or relative to the current working directory.
        targets: Indices of the classes of each video.
        start_seconds: Start of each segment; NaN or None is the start of the file. Empty if all
            videos are whole files.
        end_seconds: End of each segment, in the same way.
        groups: What each video was taken from, such as a film. Empty without groups.
    """

    def __init__(
        self,
        paths: Sequence[str],
        targets: Sequence[Sequence[int]],
        start_seconds: Sequence[float | None] = (),
        end_seconds: Sequence[float | None] = (),
        groups: Sequence[str | None] = (),
    ) -> None:
        encoded = [os.fsencode(_absolute(path)) for path in paths]
        self._names: _Ragged = _ragged(b"".join(encoded), np.uint8, map(len, encoded))
        flat = np.array([index for one in targets for index in one], dtype=np.int32)
        self._targets: _Ragged = _ragged(flat.tobytes(), np.int32, map(len, targets))
        self._times: Float64[ndarray, "2 n"] = np.full((2, len(paths)), np.nan)
        for row, given in zip(self._times, (start_seconds, end_seconds), strict=True):
            row[: len(given)] = np.array(given, dtype=np.float64)
        named = [os.fsencode(group or "") for group in groups or [""] * len(paths)]
        self._groups: _Ragged = _ragged(b"".join(named), np.uint8, map(len, named))

    @classmethod
    def of(cls, videos: Iterable[Video]) -> "VideoList":
        """Convert any videos to a VideoList."""
        if isinstance(videos, cls):
            return videos
        given = list(videos)
        return cls(
            [str(video.path) for video in given],
            [video.targets for video in given],
            [video.start_seconds for video in given],
            [video.end_seconds for video in given],
            [video.group for video in given],
        )

    def __len__(self) -> int:
        return len(self._names.ends)

    def __getitem__(self, index: int) -> Video:  # type: ignore[override]  # several: `take`
        start, end = (None if np.isnan(t) else float(t) for t in self._times[:, index])
        return Video(
            path=Path(self.name(index)),
            targets=tuple(self.targets(index).tolist()),
            start_seconds=start,
            end_seconds=end,
            group=_text(self._groups.row(index)) or None,
        )

    def name(self, index: int) -> str:
        """Return the path of one video as text."""
        return _text(self._names.row(index))

    def names(self) -> list[str]:
        """Return the paths of all videos as text."""
        return self._names.texts()

    def groups(self) -> list[str]:
        """Return the group of each video, or [] if the data have no groups."""
        return self._groups.texts() if self._groups.flat.size else []

    def targets(self, index: int) -> Int32[ndarray, " k"]:
        """Return the indices of the classes of one video."""
        return self._targets.row(index)

    def first_targets(self) -> Int32[ndarray, " n"]:
        """Return the first class of each video, or -1 for a video without classes."""
        flat, ends = self._targets
        counts = np.diff(ends, prepend=0)
        padded = np.append(flat, np.int32(-1))
        return np.where(counts > 0, padded[ends - counts], -1).astype(np.int32)

    def classes(self) -> set[int]:
        """Return the indices of the classes that occur."""
        return set(np.unique(self._targets.flat).tolist())

    def missing(self) -> list[int]:
        """Return the numbers of the videos whose files do not exist.

        Each folder is listed once, which is much faster than looking for each file.
        """
        listed: dict[str, set[str] | None] = {}
        gone = []
        for i, path in enumerate(self.names()):
            folder, _, name = path.rpartition(os.sep)
            if folder not in listed:
                listed[folder] = _listed(folder or os.sep)
            names = listed[folder]
            if names is not None and name not in names:
                gone.append(i)
        return gone

    def take(self, indices: Sequence[int] | ndarray) -> "VideoList":
        """Return the videos with these numbers, in the given order."""
        chosen = np.asarray(indices, dtype=np.int64)
        taken = VideoList((), ())
        taken._names = self._names.take(chosen)
        taken._targets = self._targets.take(chosen)
        taken._times = self._times[:, chosen]
        taken._groups = self._groups.take(chosen)
        return taken

    def sample(self, most: int) -> "VideoList":
        """Return at most so many of the videos, in order: always the same for the same list."""
        if len(self) <= most:
            return self
        return self.take(sorted(random.Random(0).sample(range(len(self)), most)))

    def digest(self) -> str:
        """Return the SHA-256 of all paths, targets and segments.

        Groups do not count: they matter only by which videos are held out.
        """
        sha = sha256()
        for array in (*self._names, *self._targets, self._times):
            sha.update(np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()


def _text(row: ndarray) -> str:
    return os.fsdecode(row.tobytes())


def _absolute(path: str) -> str:
    return path.rstrip(os.sep) if path.startswith(os.sep) else full_path(path)


def _listed(folder: str) -> set[str] | None:
    """Return the names in a folder, or None if they cannot be listed cheaply.

    These are folders in object storage and shards, whose contents are known from their own index.
    """
    member = split_member(f"{folder}/_") if ".tar" in folder else None
    if is_remote(folder) or (member and os.path.isfile(member[0])):
        return None
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


class _Ragged(NamedTuple):
    """Rows of different lengths in one flat array, with the position at which each ends."""

    flat: ndarray
    ends: Int64[ndarray, " n"]

    def row(self, index: int) -> ndarray:
        return self.flat[self.ends[index - 1] if index else 0 : self.ends[index]]

    def texts(self) -> list[str]:
        data, ends = self.flat.tobytes(), self.ends.tolist()
        return [os.fsdecode(data[a:b]) for a, b in zip([0, *ends], ends, strict=False)]

    def take(self, chosen: Int64[ndarray, " m"]) -> "_Ragged":
        # Copies all rows at once: each place is the start of its row plus its offset in the row.
        lengths = np.diff(self.ends, prepend=0)[chosen]
        ends = np.cumsum(lengths)
        starts = self.ends[chosen] - lengths
        places = np.arange(lengths.sum()) + np.repeat(starts - ends + lengths, lengths)
        return _Ragged(self.flat[places], ends)


def _ragged(data: bytes, dtype: type[np.generic], lengths: Iterable[int]) -> _Ragged:
    return _Ragged(np.frombuffer(data, dtype), np.cumsum([*lengths], dtype=np.int64))
