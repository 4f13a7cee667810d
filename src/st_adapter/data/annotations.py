"""Which videos there are and what each shows, from the forms data sets come in."""

import csv
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from st_adapter.errors import DataError, did_you_mean

VIDEO_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("3g2", "3gp", "asf", "avi", "flv", "gif", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg"),
        *("mpg", "mts", "ogv", "ts", "vob", "webm", "wmv"),
    )
)
VALIDATION_NAMES = ("val", "validate", "validation", "test")
_COLUMNS = ("path", "label", "start_seconds", "end_seconds", "split")
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Video:
    """One labelled video, or a segment of one.

    Attributes:
        label: index of its class, or -1 where it is not known.
        start_seconds, end_seconds: the segment; None is the start or end of the file.
    """

    path: Path
    label: int = -1
    start_seconds: float | None = None
    end_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """The labelled videos of a data set; `val` may be empty."""

    labels: tuple[str, ...]
    train: tuple[Video, ...]
    val: tuple[Video, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One entry as written, its label still a name."""

    path: Path
    label: str
    start_seconds: float | None = None
    end_seconds: float | None = None
    split: str = "train"


def read_annotations(data: str | Path, labels: Sequence[str] | None = None) -> Annotations:
    """Read DATA: a folder of class folders, one with train/ and val/, a .csv, or a .txt list.

    Args:
        data: the folder or file. Paths inside a file are relative to it.
        labels: the classes to use, in order; unset takes those found, sorted.

    Raises:
        DataError: nothing usable is there; the message says what was found and what would do.
    """
    path = Path(data)
    if not path.exists():
        raise DataError(f"{path} does not exist; DATA is a folder, a .csv or a .txt list")
    names: Sequence[str] | None = None
    if path.is_dir():
        rows = _read_folder(path)
    elif path.suffix.lower() == ".csv":
        rows = _read_csv(path)
    elif path.suffix.lower() == ".txt":
        rows, names = _read_list(path)
    else:
        raise DataError(f"{path}: DATA is a folder, a .csv or a .txt list, not {path.suffix!r}")
    if not rows:
        raise DataError(f"{path} lists no video")
    validation = next((n for n in VALIDATION_NAMES if any(r.split == n for r in rows)), "val")
    labels = tuple(labels or names or sorted({row.label for row in rows}))
    _check_labels(path, rows, labels)
    return Annotations(
        labels=labels,
        train=_videos((r for r in rows if r.split not in VALIDATION_NAMES), labels),
        val=_videos((r for r in rows if r.split == validation), labels),
    )


def read_parts(
    data: Path, val: Path | None, val_fraction: float, seed: int, group: str | None = None
) -> Annotations:
    """Read DATA with a validation part: its own, that of `val`, or a fraction held out.

    Args:
        group: regular expression; files whose paths match it alike are held out together.

    Raises:
        DataError: fewer than two classes, no file that exists, or no validation part to be had.
    """
    annotations = read_annotations(data)
    if len(annotations.labels) < 2:
        raise DataError(
            f"{data} has one class only ({annotations.labels[0]}); a classifier needs two or more"
        )
    train, held_out = annotations.train, annotations.val
    if val is not None:
        given = read_annotations(val, annotations.labels)
        held_out = given.val or given.train
    elif not held_out:
        train, held_out = split_validation(train, val_fraction, seed, group)
    return checked_parts(data, annotations.labels, train, held_out)


def checked_parts(
    data: Path, labels: tuple[str, ...], train: tuple[Video, ...], held_out: tuple[Video, ...]
) -> Annotations:
    """Both parts, unless training on one and validating on the other makes no sense.

    Raises:
        DataError: a part is empty or none of its files exists, or a class is in the second alone.
    """
    untrained = {video.label for video in held_out} - {video.label for video in train}
    if untrained and train:
        names = ", ".join(labels[label] for label in sorted(untrained)[:_SHOWN])
        raise DataError(f"{data}: no training video of {len(untrained)} validated classes: {names}")
    for part, videos in (("training", train), ("validation", held_out)):
        if not videos:
            raise DataError(f"{data} has no {part} videos; give --val, or more videos a class")
        if not any(video.path.is_file() for video in videos):
            raise DataError(f"{data}: none of {len(videos)} {part} files exists: {videos[0].path}")
    return Annotations(labels=labels, train=train, val=held_out)


def split_validation(
    videos: Sequence[Video], fraction: float, seed: int, group: str | None = None
) -> tuple[tuple[Video, ...], tuple[Video, ...]]:
    """Hold out `fraction` of each class's files, at least one where a class has two or more.

    All segments of a file go to the same part. With `group`, whole groups are held out instead:
    `fraction` of them, whatever their classes.

    Raises:
        DataError: no group can be held out.
    """
    rng = random.Random(seed)
    if group is not None:
        return _split_groups(videos, fraction, rng, re.compile(group))
    class_of = {video.path: video.label for video in reversed(videos)}  # that of its first segment
    held: set[Path] = set()
    for label in sorted(set(class_of.values())):
        files = sorted(path for path, own in class_of.items() if own == label)
        count = min(len(files) - 1, max(1, round(fraction * len(files))))
        held.update(rng.sample(files, count))
    train = tuple(video for video in videos if video.path not in held)
    return train, tuple(video for video in videos if video.path in held)


def _split_groups(
    videos: Sequence[Video], fraction: float, rng: random.Random, group: re.Pattern[str]
) -> tuple[tuple[Video, ...], tuple[Video, ...]]:
    """Hold out whole groups of files; a file that does not match is a group of its own."""
    group_of = {}
    unmatched = 0
    for video in videos:
        match = group.search(str(video.path))
        group_of[video] = match.group() if match else str(video.path)
        unmatched += match is None
    if unmatched == len(videos):
        raise DataError(
            f"no path matches the group {group.pattern!r}; the first is {videos[0].path}"
        )
    names = sorted(set(group_of.values()))
    if len(names) < 2:
        raise DataError(
            f"all {len(videos)} paths match the group {group.pattern!r} alike, by {names[0]!r}; it "
            f"must match the part that tells groups apart, as _g\\d+ does in UCF101"
        )
    count = min(len(names) - 1, max(1, round(fraction * len(names))))
    held = set(rng.sample(names, count))
    train = tuple(video for video in videos if group_of[video] not in held)
    return train, tuple(video for video in videos if group_of[video] in held)


def find_videos(folder: Path) -> list[Path]:
    """All files below `folder` that look like videos, sorted."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _videos(rows: Iterable[_Row], labels: Sequence[str]) -> tuple[Video, ...]:
    index = {label: i for i, label in enumerate(labels)}
    return tuple(
        Video(
            path=row.path,
            label=index[row.label],
            start_seconds=row.start_seconds,
            end_seconds=row.end_seconds,
        )
        for row in rows
    )


def _check_labels(path: Path, rows: Sequence[_Row], labels: Sequence[str]) -> None:
    unknown = Counter(row.label for row in rows if row.label not in set(labels))
    if unknown:
        shown = ", ".join(repr(label) for label in list(unknown)[:_SHOWN])
        raise DataError(
            f"{path} has {len(unknown)} labels that are not among the {len(labels)} classes: "
            f"{shown}; the classes are {', '.join(labels[:_SHOWN])}"
            + (" ..." if len(labels) > _SHOWN else "")
        )


def _read_folder(folder: Path) -> list[_Row]:
    parts = {child.name.lower(): child for child in _subfolders(folder)}
    if "train" not in parts:
        return _read_class_folders(folder, "train")
    rows = _read_class_folders(parts["train"], "train")
    for name in VALIDATION_NAMES:
        if name in parts:
            return rows + _read_class_folders(parts[name], "val")
    return rows


def _read_class_folders(folder: Path, split: str) -> list[_Row]:
    classes = {child.name: find_videos(child) for child in _subfolders(folder)}
    rows = [
        _Row(path=path, label=label, split=split)
        for label, paths in classes.items()
        for path in paths
    ]
    if rows:
        return rows
    loose = len(find_videos(folder))
    lists = [p.name for base in (folder, folder.parent) for p in sorted(base.glob("*.csv"))]
    hint = f"; or give a list instead: {', '.join(lists)} lie beside it" if lists else ""
    raise DataError(
        f"{folder} holds {loose} videos but no folder per class{hint}"
        if loose
        else f"{folder} holds no video; DATA is a folder with one folder of videos per class{hint}"
    )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _read_csv(path: Path) -> list[_Row]:
    reader = csv.DictReader(_text(path).splitlines())
    columns = reader.fieldnames or []
    for column in columns:
        hint = did_you_mean(column, [*_COLUMNS])
        if column not in _COLUMNS and hint:
            raise DataError(f"{path} has an unknown column {column!r}{hint}")
    missing = [name for name in ("path", "label") if name not in columns]
    if missing:
        raise DataError(
            f"{path} has no column {' or '.join(missing)}; its header is {','.join(columns)!r}, "
            "it needs path,label and may have start_seconds,end_seconds,split"
        )
    rows = []
    for record in reader:
        line = reader.line_num
        if not record["path"] or not record["label"]:
            raise DataError(f"{path} line {line}: path or label is empty")
        start = _seconds(record.get("start_seconds"), path, line)
        end = _seconds(record.get("end_seconds"), path, line)
        if end is not None and end <= (start or 0.0):
            raise DataError(f"{path} line {line}: the segment {start} to {end} s has no length")
        split = (record.get("split") or "train").strip().lower()
        if split not in ("train", *VALIDATION_NAMES):
            raise DataError(f"{path} line {line}: split is train or val, not {split!r}")
        label = record["label"].strip()
        video = path.parent / record["path"].strip()
        rows.append(
            _Row(path=video, label=label, start_seconds=start, end_seconds=end, split=split)
        )
    return rows


def _read_list(path: Path) -> tuple[list[_Row], list[str] | None]:
    """Read "path label" lines. The label is the last field; with classes.txt it may be an index."""
    classes_file = path.parent / "classes.txt"
    names = [n.strip() for n in _text(classes_file).splitlines()] if classes_file.is_file() else []
    names = [name for name in names if name]
    rows = []
    for line, text in enumerate(_text(path).splitlines(), start=1):
        if not text.strip():
            continue
        *start, label = text.strip().rsplit(None, 1)
        if not start:
            raise DataError(
                f'{path} line {line}: a line is "path label", this has no label: {text}'
            )
        if names and label not in names:
            if not label.isdigit() or int(label) >= len(names):
                raise DataError(
                    f"{path} line {line}: label {label!r} is neither a name nor an index of the "
                    f"{len(names)} classes in {classes_file.name}"
                )
            label = names[int(label)]
        rows.append(_Row(path=path.parent / start[0], label=label))
    return rows, names or None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def _seconds(text: str | None, path: Path, line: int) -> float | None:
    if text is None or not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise DataError(f"{path} line {line}: {text!r} is no time in seconds")
    return value
