"""Find the problems of a data set before it is used for training."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path

import numpy as np

from st_adapter.common.paths import full_path
from st_adapter.common.progress import bar
from st_adapter.config import ClipConfig
from st_adapter.data.annotations import Annotations
from st_adapter.data.formats.listing import counted
from st_adapter.data.video.info import VideoInfo
from st_adapter.data.video.packets import Probe, count_frames
from st_adapter.data.videos import Video, VideoList
from st_adapter.errors import VideoError
from st_adapter.wording import switch

FAULTS = {
    "unreadable": ("file that cannot be read", "files that cannot be read"),
    "truncated": ("file that is cut off", "files that are cut off"),
    "no frame": ("segment without frames", "segments without frames"),
    "in both parts": (
        "training video that is also in the validation part",
        "training videos that are also in the validation part",
    ),
    "two labels": (
        "video listed with different labels",
        "videos listed with different labels",
    ),
    "untrained": ("class without training videos", "classes without training videos"),
}
"""Kinds of problems, with their names in singular and plural. Cleaned lists omit such videos."""


def remarks() -> dict[str, tuple[str, str]]:
    """Return the kinds of findings that do no harm, with their names in singular and plural."""
    corrects = f"{switch('square-pixels')} corrects this"
    return {
        "too short": (
            "video shorter than a clip; frames will be repeated",
            "videos shorter than a clip; frames will be repeated",
        ),
        "duplicate": ("duplicate within a part", "duplicates within a part"),
        "variable rate": (
            "video with unevenly spaced frames",
            "videos with unevenly spaced frames",
        ),
        "no times": ("video without time stamps", "videos without time stamps"),
        "rotated": (
            "video marked as rotated; it will be turned upright",
            "videos marked as rotated; they will be turned upright",
        ),
        "mirrored": (
            "video marked as mirrored; it will be mirrored as in players",
            "videos marked as mirrored; they will be mirrored as in players",
        ),
        "pixels": (
            f"video whose pixels are not square; {corrects}",
            f"videos whose pixels are not square; {corrects}",
        ),
        "unvalidated": ("class without validation videos", "classes without validation videos"),
    }


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding about a video or a class.

    Attributes:
        kind: A key of `FAULTS` or `remarks()`.
        path: Path of the video, or the name of the class.
        detail: What exactly was found; may be empty.
        example: Part and number of the example, or None for a finding about a file or a class.
    """

    kind: str
    path: str
    detail: str = ""
    example: tuple[str, int] | None = None


@dataclass(kw_only=True)
class Check:
    """The result of `check_data`.

    Lowest, median and highest values are those over all readable files. They are empty if no file
    can be read.

    Attributes:
        videos: Number of examples in each part.
        files: Number of different files.
        classes: Number of examples of each class in the training and in the validation part.
        durations_seconds: Lowest, median and highest length.
        frames: Lowest, median and highest number of frames.
        short_sides: Lowest, median and highest number of pixels along the short side.
        findings: All findings.
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
        """The findings that are problems."""
        return [finding for finding in self.findings if finding.kind in FAULTS]


Example = tuple[str, int]
"""Part, and number of the video in this part."""


def check_data(
    data: Annotations,
    clip: ClipConfig,
    probe: Probe,
    *,
    deep: bool = False,
    workers: int = 0,
) -> tuple[Check, Annotations]:
    """Probe every file, and look for problems in and between files.

    Args:
        data: The videos to check.
        clip: Clips that training would use, to find videos that are too short for them.
        probe: Reads the properties of a file without decoding it.
        deep: Also decode every file to its end, to find files that are cut off.
        workers: Worker processes; 0 works in the main process.

    Returns:
        The result, and the videos without those that have problems. Of a video that is in both
        parts, the one in the validation part is kept.
    """
    files: dict[str, list[Example]] = defaultdict(list)
    for part, videos in (("train", data.train), ("val", data.val)):
        for i, name in enumerate(videos.names()):
            files[name].append((part, i))
    digests: dict[str, str] = {}
    findings: list[Finding] = []
    seconds, frames, short_sides = [], [], []
    with bar("checking", len(files)) as progress:
        for name, info in zip(files, _probe_files(list(files), probe, deep, workers), strict=True):
            progress.advance()
            if isinstance(info, Finding):
                findings.append(info)
                continue
            digests[name] = info.digest
            seconds.append(float(info.start_seconds[-1]))
            frames.append(info.num_frames)
            short_sides.append(min(info.width, info.height))
            findings += _remark_on_file(name, info, clip)
            findings += _find_empty_segments(name, info, _videos(data, files[name]))
    findings += _find_copies(data, files, digests)
    classes = _count_classes(data)
    findings += _find_lone_classes(data, classes)
    check = Check(
        videos={"train": len(data.train), "val": len(data.val)},
        files=len(files),
        classes=classes,
        durations_seconds=_spread(seconds),
        frames=_spread(frames),
        short_sides=_spread(short_sides),
        findings=findings,
    )
    return check, _clean(data, findings)


def _probe_files(
    names: Sequence[str], probe: Probe, deep: bool, workers: int
) -> Iterator[VideoInfo | Finding]:
    """Yield the properties of each file, or the problem with it."""
    from st_adapter.data.loading import BatchLoader  # imports torch, which takes seconds

    loader = BatchLoader(_Files(names, probe, deep), itemgetter(0), workers)
    return loader.batches([[i] for i in range(len(names))])


class _Files:
    """A dataset of the properties of each file, or the problem with it."""

    def __init__(self, names: Sequence[str], probe: Probe, deep: bool) -> None:
        self._names, self._probe, self._deep = names, probe, deep

    def name(self, index: int) -> str:
        """Return the path of a file, for messages of BatchLoader."""
        return self._names[index]

    def __getitem__(self, index: int) -> VideoInfo | Finding:
        name = self._names[index]
        path = Path(name)
        try:
            info = self._probe(path)
            decoded = count_frames(path) if self._deep else info.num_frames
        except (VideoError, OSError) as error:
            return Finding(kind="unreadable", path=name, detail=_reason(error, path))
        if decoded < info.num_frames:
            detail = f"only {decoded} of {info.num_frames} frames can be decoded"
            return Finding(kind="truncated", path=name, detail=detail)
        return info


def _reason(error: Exception, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def _remark_on_file(name: str, info: VideoInfo, clip: ClipConfig) -> Iterator[Finding]:
    needed = (clip.frames - 1) * max(1, clip.stride) + 1
    if info.num_frames < needed:
        detail = f"{counted(info.num_frames, 'frame')}, but a clip spans {needed}"
        yield Finding(kind="too short", path=name, detail=detail)
    if info.rotation:
        yield Finding(kind="rotated", path=name, detail=f"by {info.rotation} degrees")
    if info.mirrored:
        yield Finding(kind="mirrored", path=name)
    if info.pixel_aspect != 1 and not clip.square_pixels:
        width, height = info.pixel_aspect.as_integer_ratio()
        yield Finding(kind="pixels", path=name, detail=f"pixel aspect ratio {width}:{height}")
    # 1.5 tolerates rounding to the time base, and catches a single missing frame (a step of 2).
    steps = np.diff(info.pts)
    if len(steps) and steps.max() > 1.5 * np.median(steps):
        longest = float(steps.max() * info.time_base)
        yield Finding(
            kind="variable rate", path=name, detail=f"up to {longest:.2f} s between frames"
        )
    if not info.stamped and not info.path.is_dir():
        yield Finding(kind="no times", path=name, detail="it is always decoded from the start")


def _videos(data: Annotations, examples: Sequence[Example]) -> dict[Example, Video]:
    return {(part, i): (data.train if part == "train" else data.val)[i] for part, i in examples}


def _find_empty_segments(
    name: str, info: VideoInfo, videos: Mapping[Example, Video]
) -> Iterator[Finding]:
    for example, video in videos.items():
        try:
            info.frame_range(video.start_seconds, video.end_seconds)
        except VideoError as error:
            detail = _reason(error, info.path)
            yield Finding(kind="no frame", path=name, detail=detail, example=example)


def _find_copies(
    data: Annotations, files: Mapping[str, Sequence[Example]], digests: Mapping[str, str]
) -> Iterator[Finding]:
    """Find the same content under two labels, twice in a part, or in both parts."""
    by_digest: dict[str, list[Example]] = defaultdict(list)
    for name, digest in digests.items():
        by_digest[digest] += files[name]
    for examples in by_digest.values():
        if len(examples) > 1:
            videos = _videos(data, sorted(examples))
            yield from _find_repeats(videos, data.labels)
            yield from _find_shared(videos)


def _find_repeats(videos: Mapping[Example, Video], labels: Sequence[str]) -> Iterator[Finding]:
    """Find examples of the same segment under two labels, or more than once in a part."""
    by_segment: dict[tuple[float | None, float | None], list[Example]] = defaultdict(list)
    for example, video in videos.items():
        by_segment[video.start_seconds, video.end_seconds].append(example)
    for copies in by_segment.values():
        differ = len({videos[copy].targets for copy in copies}) > 1
        seen: dict[str, str] = {}
        for copy in copies:
            part, path = copy[0], full_path(videos[copy].path)
            if differ:
                names = ", ".join(labels[target] for target in videos[copy].targets) or "nothing"
                detail = f"labelled {names}"
                yield Finding(kind="two labels", path=path, detail=detail, example=copy)
            elif part in seen:
                detail = f"same content as {seen[part]}"
                yield Finding(kind="duplicate", path=path, detail=detail, example=copy)
            seen[part] = path


def _find_shared(videos: Mapping[Example, Video]) -> Iterator[Finding]:
    """Find training examples that overlap in time with a validation example of the same file."""
    held = [video for (part, _), video in videos.items() if part == "val"]
    for example, video in videos.items():
        others = (other for other in held if _overlap(video, other))
        if example[0] == "train" and (other := next(others, None)):
            path, detail = full_path(video.path), f"same content as {full_path(other.path)}"
            yield Finding(kind="in both parts", path=path, detail=detail, example=example)


def _overlap(a: Video, b: Video) -> bool:
    return (a.start_seconds or 0) < (b.end_seconds or math.inf) and (b.start_seconds or 0) < (
        a.end_seconds or math.inf
    )


def _find_lone_classes(
    data: Annotations, classes: Mapping[str, tuple[int, int]]
) -> Iterator[Finding]:
    """Find classes without training videos or, if there is a validation part, without those."""
    for name, (trained, validated) in classes.items():
        if data.train and not trained:
            detail = "" if validated else "no videos in either part"
            yield Finding(kind="untrained", path=name, detail=detail)
        elif data.train and data.val and not validated:
            yield Finding(kind="unvalidated", path=name)


def _count_classes(data: Annotations) -> dict[str, tuple[int, int]]:
    train, val = (Counter(t for v in part for t in v.targets) for part in (data.train, data.val))
    return {label: (train[i], val[i]) for i, label in enumerate(data.labels)}


def _spread(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(np.percentile(values, (0, 50, 100)).tolist()) if values else ()


def _clean(data: Annotations, findings: Sequence[Finding]) -> Annotations:
    """Remove examples with problems. Of a video in both parts, the training example is removed."""
    faults = [finding for finding in findings if finding.kind in FAULTS]
    files = {f.path for f in faults if f.example is None}
    examples = {f.example for f in faults}

    def kept(part: str, videos: VideoList) -> VideoList:
        names = enumerate(videos.names())
        return videos.take([i for i, n in names if n not in files and (part, i) not in examples])

    return replace(data, train=kept("train", data.train), val=kept("val", data.val))
