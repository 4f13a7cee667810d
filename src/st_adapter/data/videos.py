"""Labelled videos: one, and a great many in a few arrays."""

import os
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
        path: a file, or a folder of pictures.
        targets: indices of its classes: one, or any number where labels are many, or one of each
            head; none where it is not known.
        start_seconds, end_seconds: the segment; None is the start or end of the file.
    """

    path: Path
    targets: tuple[int, ...] = ()
    start_seconds: float | None = None
    end_seconds: float | None = None


class VideoList(Sequence[Video]):
    """Videos of a data set, in arrays: processes that share them do not copy them by reading.

    Python counts who uses an object inside the object, so that a list of a million of them is
    copied, page by page, to every worker that looks at it.

    Args:
        paths: absolute, or from the working directory now.
        targets: of each video.
        start_seconds, end_seconds: of each video, NaN or None for the start or end of the file;
            empty where all are whole files.
    """

    def __init__(
        self,
        paths: Sequence[str],
        targets: Sequence[Sequence[int]],
        start_seconds: Sequence[float | None] = (),
        end_seconds: Sequence[float | None] = (),
    ) -> None:
        encoded = [os.fsencode(_absolute(path)) for path in paths]
        self._names: _Ragged = _ragged(b"".join(encoded), np.uint8, map(len, encoded))
        flat = np.array([index for one in targets for index in one], dtype=np.int32)
        self._targets: _Ragged = _ragged(flat.tobytes(), np.int32, map(len, targets))
        self._times: Float64[ndarray, "2 n"] = np.full((2, len(paths)), np.nan)
        for row, given in zip(self._times, (start_seconds, end_seconds), strict=True):
            row[: len(given)] = np.array(given, dtype=np.float64)

    @classmethod
    def of(cls, videos: Iterable[Video]) -> "VideoList":
        """The same videos, as a VideoList."""
        if isinstance(videos, cls):
            return videos
        given = list(videos)
        return cls(
            [str(video.path) for video in given],
            [video.targets for video in given],
            [video.start_seconds for video in given],
            [video.end_seconds for video in given],
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
        )

    def name(self, index: int) -> str:
        """Path of a video, as text."""
        return os.fsdecode(self._names.row(index).tobytes())

    def names(self) -> list[str]:
        """Path of every video, as text."""
        data = self._names.flat.tobytes()
        ends = self._names.ends.tolist()
        return [os.fsdecode(data[a:b]) for a, b in zip([0, *ends], ends, strict=False)]

    def targets(self, index: int) -> Int32[ndarray, " k"]:
        """Classes of a video."""
        return self._targets.row(index)

    def first_targets(self) -> Int32[ndarray, " n"]:
        """The first class of each video, -1 where it has none."""
        flat, ends = self._targets
        counts = np.diff(ends, prepend=0)
        padded = np.append(flat, np.int32(-1))
        return np.where(counts > 0, padded[ends - counts], -1).astype(np.int32)

    def classes(self) -> set[int]:
        """Indices of the classes that occur."""
        return set(np.unique(self._targets.flat).tolist())

    def missing(self) -> list[int]:
        """Numbers of the videos that are not there; each folder is listed once."""
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
        """The videos with these numbers, in their order."""
        chosen = np.asarray(indices, dtype=np.int64)
        taken = VideoList((), ())
        taken._names = self._names.take(chosen)
        taken._targets = self._targets.take(chosen)
        taken._times = self._times[:, chosen]
        return taken

    def digest(self) -> str:
        """SHA-256 over paths, targets and segments."""
        sha = sha256()
        for array in (*self._names, *self._targets, self._times):
            sha.update(np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()


def _absolute(path: str) -> str:
    return path.rstrip(os.sep) if path.startswith(os.sep) else full_path(path)


def _listed(folder: str) -> set[str] | None:
    """Names in a folder; None where all are taken to be there: of a shard, its list is its own."""
    member = split_member(f"{folder}/_") if ".tar" in folder else None
    if is_remote(folder) or (member and os.path.isfile(member[0])):
        return None
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


class _Ragged(NamedTuple):
    """Rows of different lengths, one after another, and where each ends."""

    flat: ndarray
    ends: Int64[ndarray, " n"]

    def row(self, index: int) -> ndarray:
        return self.flat[self.ends[index - 1] if index else 0 : self.ends[index]]

    def take(self, chosen: Int64[ndarray, " m"]) -> "_Ragged":
        lengths = np.diff(self.ends, prepend=0)[chosen]
        ends = np.cumsum(lengths)
        starts = self.ends[chosen] - lengths
        places = np.arange(lengths.sum()) + np.repeat(starts - ends + lengths, lengths)
        return _Ragged(self.flat[places], ends)


def _ragged(data: bytes, kind: type[np.generic], lengths: Iterable[int]) -> _Ragged:
    return _Ragged(np.frombuffer(data, kind), np.cumsum([*lengths], dtype=np.int64))
