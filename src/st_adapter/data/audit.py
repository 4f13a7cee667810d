"""What is wrong with a data set, found before it is trained on."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from st_adapter.common.interrupt import ignore_interrupt
from st_adapter.common.progress import bar
from st_adapter.config import ClipConfig
from st_adapter.data.annotations import Annotations
from st_adapter.data.video import decode
from st_adapter.data.video.info import VideoInfo
from st_adapter.data.video.packets import Probe
from st_adapter.data.videos import VideoList
from st_adapter.errors import VideoError

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
    files = _segments_by_file(parts)
    facts: dict[str, _Facts] = {}
    findings: list[Finding] = []
    tasks = [_Task(name, segments, probe, clip, deep) for name, segments in files.items()]
    with bar("checking", len(tasks)) as progress:
        for task, result in zip(tasks, _probe_all(tasks, workers), strict=True):
            if isinstance(result, _Facts):
                facts[task.name] = result
            findings += result.findings if isinstance(result, _Facts) else [result]
            progress.advance()
    findings += _of_copies(data, parts, facts)
    findings += _of_classes(data)
    check = Check(
        videos={part: len(videos) for part, videos in parts.items()},
        files=len(files),
        classes=_count_classes(data),
        durations_seconds=_spread(fact.seconds for fact in facts.values()),
        frames=_spread(fact.num_frames for fact in facts.values()),
        short_sides=_spread(fact.short_side for fact in facts.values()),
        findings=findings,
    )
    return check, _clean(data, findings)


Example = tuple[str, int]
"""Part, and number of the video in it."""


class _Task(NamedTuple):
    """A file to look at, and the examples that are segments of it."""

    name: str
    segments: list[tuple[Example, float | None, float | None]]
    probe: Probe
    clip: ClipConfig
    deep: bool


class _Facts(NamedTuple):
    """What is kept of a file that can be read."""

    digest: str
    num_frames: int
    seconds: float
    short_side: int
    findings: list[Finding]


def _segments_by_file(
    parts: dict[str, VideoList],
) -> dict[str, list[tuple[Example, float | None, float | None]]]:
    files: dict[str, list[tuple[Example, float | None, float | None]]] = {}
    for part, videos in parts.items():
        for i, video in enumerate(videos):
            segments = files.setdefault(str(video.path), [])
            if video.start_seconds is not None or video.end_seconds is not None:
                segments.append(((part, i), video.start_seconds, video.end_seconds))
    return files


def _probe_all(tasks: Sequence[_Task], workers: int) -> Iterator[_Facts | Finding]:
    """What each file holds, or what is wrong with it."""
    if not workers:
        yield from map(_probe, tasks)
        return
    context = get_context("forkserver")
    with ProcessPoolExecutor(workers, context, initializer=ignore_interrupt, initargs=(0,)) as pool:
        size = max(1, min(64, len(tasks) // (4 * workers)))
        yield from pool.map(_probe, tasks, chunksize=size)


def _probe(task: _Task) -> _Facts | Finding:
    name, path = task.name, Path(task.name)
    try:
        info = task.probe(path)
        decoded = decode.count_frames(path) if task.deep else info.num_frames
    except (VideoError, OSError) as error:
        return Finding(kind="unreadable", path=name, detail=str(error).removeprefix(f"{name}: "))
    if decoded < info.num_frames:
        detail = f"{decoded} of {info.num_frames} frames can be decoded"
        return Finding(kind="truncated", path=name, detail=detail)
    return _Facts(
        digest=info.digest,
        num_frames=info.num_frames,
        seconds=float(info.start_seconds[-1]),
        short_side=min(info.width, info.height),
        findings=[*_of_file(name, info, task.clip), *_of_segments(task, info)],
    )


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


def _of_segments(task: _Task, info: VideoInfo) -> Iterator[Finding]:
    for example, start, end in task.segments:
        try:
            info.frame_range(start, end)
        except VideoError as error:
            detail = str(error).removeprefix(f"{task.name}: ")
            yield Finding(kind="no frame", path=task.name, detail=detail, example=example)


def _of_copies(
    data: Annotations, parts: dict[str, VideoList], facts: dict[str, _Facts]
) -> Iterator[Finding]:
    """The same content in both parts, twice in one, or under two labels."""
    by_digest: dict[str, list[Example]] = defaultdict(list)
    for part, videos in parts.items():
        for i, name in enumerate(videos.names()):
            if name in facts:
                by_digest[facts[name].digest].append((part, i))
    for examples in by_digest.values():
        if len(examples) == 1:
            continue
        alike: dict[tuple[float | None, float | None], list[Example]] = defaultdict(list)
        for part, i in examples:
            video = parts[part][i]
            alike[video.start_seconds, video.end_seconds].append((part, i))
        for copies in alike.values():
            yield from _of_group(data, parts, copies)
        yield from _in_both(parts, examples)


def _of_group(
    data: Annotations, parts: dict[str, VideoList], copies: Sequence[Example]
) -> Iterator[Finding]:
    """Examples of the same content: under two labels, or more than once in a part."""
    paths = {copy: parts[copy[0]].name(copy[1]) for copy in copies}
    labels = {tuple(parts[part].targets(i).tolist()) for part, i in copies}
    if len(labels) > 1:
        for copy in copies:
            own = parts[copy[0]].targets(copy[1]).tolist()
            names = ", ".join(data.labels[target] for target in own) or "nothing"
            yield Finding(kind="two labels", path=paths[copy], detail=f"as {names}", example=copy)
        return
    for first, second in pairwise(copies):
        if first[0] == second[0]:
            detail = f"the same as {paths[first]}"
            yield Finding(kind="duplicate", path=paths[second], detail=detail, example=second)


def _in_both(parts: dict[str, VideoList], examples: Sequence[Example]) -> Iterator[Finding]:
    """Training examples of a content that overlap in time with a validation example of it."""
    held = [parts["val"][i] for part, i in examples if part == "val"]
    starts = np.array([video.start_seconds or 0.0 for video in held])
    ends = np.array([np.inf if v.end_seconds is None else v.end_seconds for v in held])
    for example in examples if held else ():
        if example[0] == "train":
            video = parts["train"][example[1]]
            last = np.inf if video.end_seconds is None else video.end_seconds
            shared = np.flatnonzero((starts < last) & (ends > (video.start_seconds or 0.0)))
            if len(shared):
                detail = f"the same as {held[shared[0]].path}"
                yield Finding(
                    kind="in both parts", path=str(video.path), detail=detail, example=example
                )


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
