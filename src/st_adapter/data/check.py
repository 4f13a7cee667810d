"""What is wrong with a data set, found before it is trained on."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from st_adapter.config import ClipConfig
from st_adapter.data import decode
from st_adapter.data.annotations import Annotations
from st_adapter.data.decode import Probe
from st_adapter.data.video_info import VideoInfo
from st_adapter.data.video_list import VideoList
from st_adapter.errors import VideoError
from st_adapter.interrupt import ignore_interrupt
from st_adapter.progress import bar

FAULTS = {
    "unreadable": "files that cannot be read",
    "truncated": "files that end before they say",
    "no frame": "segments that hold no frame",
    "in both parts": "videos of the training part that are in the validation part, too",
    "two labels": "videos that stand under two labels",
    "untrained": "classes without a training video",
}
"""What is wrong and leaves the cleaned list."""

REMARKS = {
    "too short": "videos with fewer frames than a clip, which repeat some",
    "duplicate": "videos that are in a part more than once",
    "variable rate": "videos whose frames are not evenly spaced in time",
    "no times": "videos that do not say when a frame is shown",
    "rotated": "videos that are stored on their side, and turned upright",
    "unvalidated": "classes without a validation video",
}
"""What is worth knowing and does no harm."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something about a video or a class.

    Attributes:
        kind: key of FAULTS or REMARKS.
        path: of the video; a class's name where it is about a class.
        detail: what exactly.
        example: part and number in it, where it is about one example, not about a file.
    """

    kind: str
    path: str
    detail: str = ""
    example: tuple[str, int] | None = None


@dataclass(kw_only=True)
class Check:
    """What `check` found.

    Attributes:
        videos: examples of each part.
        files: different files among them.
        classes: examples of each class, in the training and the validation part.
        durations_seconds, frames, short_sides: lowest, median and highest over readable files.
    """

    videos: dict[str, int]
    files: int
    classes: dict[str, tuple[int, int]]
    durations_seconds: tuple[float, ...] = ()
    frames: tuple[float, ...] = ()
    short_sides: tuple[float, ...] = ()
    findings: list[Finding] = field(default_factory=list)

    @property
    def faults(self) -> list[Finding]:
        """What is wrong."""
        return [finding for finding in self.findings if finding.kind in FAULTS]

    def to_json(self) -> dict[str, Any]:
        """The record as plain values."""
        return asdict(self)


def check_data(
    data: Annotations,
    clip: ClipConfig,
    probe: Probe,
    *,
    deep: bool = False,
    workers: int = 0,
) -> tuple[Check, Annotations]:
    """Probe every file, compare them, and return what was found, with the list cleaned of faults.

    Args:
        clip: what training would draw; shorter videos are remarked on.
        deep: decode every file to its end.
        workers: processes; 0 works in this one.
    """
    parts = {"train": data.train, "val": data.val}
    names = list(dict.fromkeys(name for part in parts.values() for name in part.names()))
    infos: dict[str, VideoInfo] = {}
    findings: list[Finding] = []
    with bar("checking", len(names)) as progress:
        for name, result in _probe_all(names, probe, deep, workers):
            if isinstance(result, VideoInfo):
                infos[name] = result
            else:
                findings.append(result)
            progress.advance()
    for name, info in infos.items():
        findings += _of_file(name, info, clip)
    findings += _of_segments(parts, infos)
    findings += _of_copies(parts, infos)
    findings += _of_classes(data)
    check = Check(
        videos={part: len(videos) for part, videos in parts.items()},
        files=len(names),
        classes=_count_classes(data),
        durations_seconds=_spread(i.start_seconds[-1] for i in infos.values()),
        frames=_spread(i.num_frames for i in infos.values()),
        short_sides=_spread(min(i.width, i.height) for i in infos.values()),
        findings=findings,
    )
    return check, _clean(data, findings)


def _probe_all(
    names: Sequence[str], probe: Probe, deep: bool, workers: int
) -> Iterator[tuple[str, VideoInfo | Finding]]:
    """Each file with what its packets say, or what is wrong with it."""
    tasks = ((name, probe, deep) for name in names)
    if not workers:
        yield from ((name, _probe(task)) for name, task in zip(names, tasks, strict=True))
        return
    context = get_context("forkserver")
    with ProcessPoolExecutor(workers, context, initializer=ignore_interrupt, initargs=(0,)) as pool:
        size = max(1, min(64, len(names) // (4 * workers)))
        yield from zip(names, pool.map(_probe, tasks, chunksize=size), strict=True)


def _probe(task: tuple[str, Probe, bool]) -> VideoInfo | Finding:
    name, probe, deep = task
    path = Path(name)
    try:
        info = probe(path)
        decoded = decode.count_frames(path) if deep else info.num_frames
    except (VideoError, OSError) as error:
        return Finding(kind="unreadable", path=name, detail=str(error).removeprefix(f"{name}: "))
    if decoded < info.num_frames:
        detail = f"{decoded} of {info.num_frames} frames can be decoded"
        return Finding(kind="truncated", path=name, detail=detail)
    return info


def _of_file(name: str, info: VideoInfo, clip: ClipConfig) -> Iterator[Finding]:
    needed = (clip.frames - 1) * max(1, clip.stride) + 1
    if info.num_frames < needed:
        detail = f"{info.num_frames} frames, a clip spans {needed}"
        yield Finding(kind="too short", path=name, detail=detail)
    if info.rotation:
        yield Finding(kind="rotated", path=name, detail=f"by {info.rotation} degrees")
    steps = np.diff(info.pts)
    if len(steps) and steps.max() > 1.5 * np.median(steps):
        longest = float(steps.max() * info.time_base)
        yield Finding(kind="variable rate", path=name, detail=f"up to {longest:.2f} s a frame")
    if not info.stamped and not Path(name).is_dir():
        yield Finding(kind="no times", path=name, detail="it is decoded from its start")


def _of_segments(parts: dict[str, VideoList], infos: dict[str, VideoInfo]) -> Iterator[Finding]:
    for part, videos in parts.items():
        for i, video in enumerate(videos):
            info, path = infos.get(str(video.path)), str(video.path)
            if info is not None:
                try:
                    info.frame_range(video.start_seconds, video.end_seconds)
                except VideoError as error:
                    detail = str(error).removeprefix(f"{path}: ")
                    yield Finding(kind="no frame", path=path, detail=detail, example=(part, i))


def _of_copies(parts: dict[str, VideoList], infos: dict[str, VideoInfo]) -> Iterator[Finding]:
    """The same content, by digest and segment, in both parts, twice in one, or under two labels."""
    seen: dict[tuple[object, ...], list[tuple[str, int]]] = defaultdict(list)
    for part, videos in parts.items():
        for i, video in enumerate(videos):
            info = infos.get(str(video.path))
            if info is not None:
                seen[info.digest, video.start_seconds, video.end_seconds].append((part, i))
    for copies in seen.values():
        if len(copies) > 1:
            yield from _of_group(parts, copies)


def _of_group(parts: dict[str, VideoList], copies: Sequence[tuple[str, int]]) -> Iterator[Finding]:
    """Examples of the same content: what is wrong with each of them."""
    paths = {copy: parts[copy[0]].name(copy[1]) for copy in copies}
    labels = {tuple(parts[part].targets(i).tolist()) for part, i in copies}
    held = next((paths[copy] for copy in copies if copy[0] == "val"), None)
    for copy in copies:
        if len(labels) > 1:
            yield Finding(kind="two labels", path=paths[copy], example=copy)
        elif copy[0] == "train" and held is not None:
            detail = f"the same as {held}"
            yield Finding(kind="in both parts", path=paths[copy], detail=detail, example=copy)
    for first, second in pairwise(copies):
        if len(labels) == 1 and first[0] == second[0]:
            detail = f"the same as {paths[first]}"
            yield Finding(kind="duplicate", path=paths[second], detail=detail, example=second)


def _of_classes(data: Annotations) -> Iterator[Finding]:
    for kind, missing, there in (
        ("untrained", data.train, data.val),
        ("unvalidated", data.val, data.train),
    ):
        if missing and there:
            for label in sorted(there.classes() - missing.classes()):
                yield Finding(kind=kind, path=data.labels[label])


def _count_classes(data: Annotations) -> dict[str, tuple[int, int]]:
    train, val = (Counter(t for v in part for t in v.targets) for part in (data.train, data.val))
    return {label: (train[i], val[i]) for i, label in enumerate(data.labels)}


def _spread(values: Iterable[float]) -> tuple[float, ...]:
    given = [float(value) for value in values]
    return (min(given), statistics.median(given), max(given)) if given else ()


def _clean(data: Annotations, findings: Sequence[Finding]) -> Annotations:
    """Without what is at fault; of a video in both parts, the validation part keeps it."""
    faults = [finding for finding in findings if finding.kind in FAULTS]
    files = {f.path for f in faults if f.example is None}
    examples = {f.example for f in faults}

    def kept(part: str, videos: VideoList) -> VideoList:
        names = enumerate(videos.names())
        return videos.take([i for i, n in names if n not in files and (part, i) not in examples])

    return replace(data, train=kept("train", data.train), val=kept("val", data.val))
