"""Which videos there are and what each shows, from any of the forms data sets come in."""

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from st_adapter.common.files import atomic_path
from st_adapter.common.paths import full_path
from st_adapter.common.remarks import note
from st_adapter.common.task import Task
from st_adapter.config import DataConfig, TrainConfig
from st_adapter.data.formats import read_listing
from st_adapter.data.formats.listing import Listing, examples
from st_adapter.data.formats.tables import SEPARATOR
from st_adapter.data.holdout import split_validation
from st_adapter.data.videos import Video, VideoList
from st_adapter.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """The labelled videos of a data set; `val` may be empty.

    Attributes:
        labels: names of the classes, those of one head after those of another.
        task: how the classes belong together.
    """

    labels: tuple[str, ...]
    train: VideoList
    val: VideoList
    task: Task = Task()

    def digest(self) -> str:
        """SHA-256 over labels, and path, label and segment of each video."""
        parts = (self.labels, self.train.digest(), self.val.digest())
        return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()


def read_annotations(
    data: str | Path,
    labels: Sequence[str] | None = None,
    options: DataConfig = DataConfig(),
    task: Task = Task(),
) -> Annotations:
    """Read DATA: a folder of class folders, a table, or a list as data sets are published.

    Args:
        data: the folder or file.
        labels: the classes to use, in order; unset takes those of the data set, or those found,
            sorted.
        options: where the videos are and what columns are called.
        task: how `labels` belong together, where they are given.

    Raises:
        DataError: nothing usable is there; the message says what was found and what would do.
    """
    path = Path(data)
    listing = read_listing(path, options)
    if not listing.paths:
        raise DataError(f"{path} lists no video")
    names, found = _classes(listing)
    if labels:
        _check_task(path, found, task)
        names, found = tuple(labels), task
    targets = _targets(path, listing, names, found)
    validation = "val" if "val" in listing.splits else "test"
    splits = np.array(listing.splits)
    videos = VideoList(listing.paths, targets, listing.start_seconds, listing.end_seconds)
    return Annotations(
        labels=names,
        train=videos.take(np.flatnonzero(splits == "train")),
        val=videos.take(np.flatnonzero(splits == validation)),
        task=found,
    )


def both_parts(data: Path, val: Path | None, options: DataConfig = DataConfig()) -> Annotations:
    """Read DATA as it is: a validation part only where there is one."""
    given = read_annotations(data, options=options)
    return given if val is None else replace(given, val=_read_val(val, given, options))


def _read_val(val: Path, data: Annotations, options: DataConfig) -> VideoList:
    """The validation part that lies elsewhere, with the classes of `data`."""
    given = read_annotations(val, data.labels, options, data.task)
    return given.val or given.train


def read_parts(data: Path, config: TrainConfig) -> Annotations:
    """Read DATA in the two parts that a configuration trains and validates on.

    The validation part is DATA's own, that of `config.val`, or a fraction held out.

    Raises:
        DataError: fewer than two classes, no file that exists, or no validation part to be had.
    """
    annotations = read_annotations(data, options=config.data)
    if len(annotations.labels) < 2:
        (only,) = annotations.labels or ("",)
        found = f"one class only ({only})" if only else "no class, as no video has a label"
        raise DataError(f"{data} has {found}; a classifier needs two or more")
    train, held_out = annotations.train, annotations.val
    if config.val is not None:
        held_out = _read_val(Path(config.val), annotations, config.data)
    elif not held_out:
        group = config.group
        train, held_out = split_validation(train, config.val_fraction, config.seed, group)
        if left_out := train.classes() - held_out.classes():
            names = examples(annotations.labels[label] for label in sorted(left_out))
            what = "groups" if group else "videos"
            note(f"validation leaves out {names}: none of their {what} could be spared for it")
    parts = replace(annotations, train=train, val=held_out)
    check_parts(data, parts)
    return parts


def check_parts(data: Path, parts: Annotations) -> None:
    """Refuse parts where training on one and validating on the other makes no sense.

    Raises:
        DataError: a part is empty or none of its files exists, or a class is in the second alone.
    """
    untrained = parts.val.classes() - parts.train.classes()
    if untrained and parts.train and parts.task == Task():
        names = examples(parts.labels[label] for label in sorted(untrained))
        raise DataError(f"{data}: no training video of {len(untrained)} validated classes: {names}")
    for part, videos in (("training", parts.train), ("validation", parts.val)):
        if not videos:
            raise DataError(f"{data} has no {part} videos; give --val, or more videos a class")
        if missing := videos.missing():
            names = examples(videos.name(i) for i in missing)
            if len(missing) == len(videos):
                raise DataError(f"{data}: none of {len(videos)} {part} files exists: {names}")
            note(f"{len(missing)} of {len(videos)} {part} files are not there: {names}")


def write_table(file: Path, videos: Annotations) -> None:
    """Write both parts as one .csv that `read_annotations` reads, its columns named as ours.

    Raises:
        DataError: a name cannot stand in such a table; nothing is written.
    """
    heads = [name for name, _ in videos.task.heads]
    labelled = heads or ["labels" if videos.task.multi_label else "label"]
    with atomic_path(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerow(("path", *labelled, "start_seconds", "end_seconds", "split"))
        for split, part in (("train", videos.train), ("val", videos.val)):
            for video in part:
                path, labels = full_path(video.path), _cells(videos, video)
                try:
                    writer.writerow((path, *labels, video.start_seconds, video.end_seconds, split))
                except UnicodeEncodeError as error:
                    what = f"{path!r} is no name that a list can hold"
                    raise DataError(f"{what}; rename it") from error


def _cells(videos: Annotations, video: Video) -> list[str]:
    """The labels of a video as they stand in a table."""
    names = [videos.labels[target] for target in video.targets]
    if videos.task.heads:
        heads = (head for head, _ in videos.task.heads)
        return [n.removeprefix(f"{head}/") for head, n in zip(heads, names, strict=True)]
    if not videos.task.multi_label:
        return names
    for name in names:
        if SEPARATOR in name:
            raise DataError(f"the class {name!r} cannot stand in a list, which has {SEPARATOR!r}")
    return [SEPARATOR.join(names)]


def _classes(listing: Listing) -> tuple[tuple[str, ...], Task]:
    """Names of all classes, and how they belong together."""
    if not listing.heads:
        found = sorted({label for labels in listing.labels for label in labels})
        names = listing.classes[0] if listing.classes else found
        return tuple(names), Task(multi_label=listing.multi_label)
    of_heads = listing.classes or [sorted(set(c)) for c in zip(*listing.labels, strict=True)]
    heads = list(zip(listing.heads, of_heads, strict=True))
    labels = tuple(f"{head}/{name}" for head, names in heads for name in names)
    return labels, Task(heads=tuple((head, len(names)) for head, names in heads))


def _check_task(path: Path, found: Task, wanted: Task) -> None:
    """Raise DataError where videos have labels of another kind than classes are wanted."""
    heads = [[name for name, _ in task.heads] for task in (found, wanted)]
    if found.multi_label != wanted.multi_label or heads[0] != heads[1]:
        raise DataError(
            f"{path} has {found} a video, the classes are for {wanted}; --columns says which "
            "columns of a table hold labels"
        )


def _targets(
    path: Path, listing: Listing, labels: Sequence[str], task: Task
) -> list[tuple[int, ...]]:
    """Indices of each video's classes.

    Raises:
        DataError: some are not among the classes.
    """
    index = {label: i for i, label in enumerate(labels)}
    rows = listing.labels
    if task.heads:
        rows = [
            tuple(f"{head}/{name}" for (head, _), name in zip(task.heads, row, strict=True))
            for row in rows
        ]
    unknown = Counter(name for row in rows for name in row if name not in index)
    if unknown:
        some = "a label that is" if len(unknown) == 1 else f"{len(unknown)} labels that are"
        raise DataError(
            f"{path} has {some} not among the {len(labels)} classes: "
            f"{examples(map(repr, unknown))}; the classes are {examples(labels)}"
        )
    return [tuple(index[name] for name in row) for row in rows]
