"""Read the labelled videos of a data set in any supported format."""

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
from st_adapter.data.folds import fold_of_each
from st_adapter.data.formats import read_listing
from st_adapter.data.formats.listing import Listing, counted, examples
from st_adapter.data.formats.tables import SEPARATOR
from st_adapter.data.groups import groups_of
from st_adapter.data.holdout import split_validation
from st_adapter.data.videos import Video, VideoList
from st_adapter.errors import ArgumentError, DataError
from st_adapter.wording import setting


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """The labelled videos of a data set.

    Attributes:
        labels: Names of the classes. Those of several heads follow each other, as "HEAD/NAME".
        train: The training part.
        val: The validation part, which may be empty.
        task: Whether a video has one label, any number, or one per head.
    """

    labels: tuple[str, ...]
    train: VideoList
    val: VideoList
    task: Task = Task()

    def joined(self) -> VideoList:
        """Return the videos of both parts."""
        return VideoList.of([*self.train, *self.val]) if self.val else self.train

    def digest(self) -> str:
        """Return the SHA-256 of the labels and of the path, labels and segment of each video."""
        parts = (self.labels, self.train.digest(), self.val.digest())
        return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()


def read_annotations(
    data: str | Path,
    labels: Sequence[str] | None = None,
    options: DataConfig = DataConfig(),
    task: Task = Task(),
) -> Annotations:
    """Read DATA: class folders, a table, or the annotation files of a published data set.

    Only these are read; the videos themselves are not opened and may be missing.

    Args:
        data: The folder or file.
        labels: The classes to use, in order. By default, those that the data set defines, or all
            labels that occur, sorted.
        options: The folder of the videos, the names of columns, and which split to use.
        task: The task that `labels` belong to, if they are given.

    Returns:
        The labelled videos. Without a part "val", the part "test" is the validation part.

    Raises:
        DataError: DATA does not exist, is in an unknown format, lists no videos, or has labels
            that are not among `labels`.
    """
    path = Path(data)
    listing = read_listing(path, options)
    if not listing.paths:
        raise DataError(f"{path} lists no videos")
    names, found = _classes(listing)
    if labels:
        _check_task(path, found, task)
        names, found = tuple(labels), task
    targets = _targets(path, listing, names, found)
    validation = "val" if "val" in listing.splits else "test"
    splits = np.array(listing.splits)
    # With labels, this is the validation part of other data, or the test of a trained classifier.
    holds_out = labels is None and set(listing.splits) == {"train"}
    groups = groups_of(listing, options.group, required=holds_out)
    videos = VideoList(listing.paths, targets, listing.start_seconds, listing.end_seconds, groups)
    return Annotations(
        labels=names,
        train=videos.take(np.flatnonzero(splits == "train")),
        val=videos.take(np.flatnonzero(splits == validation)),
        task=found,
    )


def both_parts(data: Path, val: Path | None, options: DataConfig = DataConfig()) -> Annotations:
    """Read DATA and its validation part, without holding out any videos.

    Args:
        data: The folder or file.
        val: Validation data that is stored elsewhere. It replaces the validation part of DATA.
        options: The folder of the videos, the names of columns, and which split to use.

    Returns:
        The labelled videos. The validation part is empty if neither DATA nor `val` has one.

    Raises:
        DataError: As for `read_annotations`.
    """
    given = read_annotations(data, options=options)
    return given if val is None else replace(given, val=_read_val(val, given, options))


def _read_val(val: Path, data: Annotations, options: DataConfig) -> VideoList:
    """Read validation data that is stored elsewhere, with the classes of `data`."""
    given = read_annotations(val, data.labels, options, data.task)
    return given.val or given.train


def read_parts(data: str | Path, config: TrainConfig) -> Annotations:
    """Read DATA in the two parts that a run trains and validates on, without opening the videos.

    The validation part is `config.val` if it is set, then that of DATA if it has one. Otherwise
    `config.val_fraction` of the videos are held out. With `config.folds`, the parts of DATA are
    joined, and the validation part is the fold number `config.fold`.

    Args:
        data: The folder or file.
        config: The settings of the run, of which those in the group "Data" and `seed` are used.

    Raises:
        ArgumentError: `config.folds` is set and `config.fold` is not.
        DataError: There are fewer than two classes, a part is empty, or no file of it exists.
    """
    data = Path(data)
    annotations = read_annotations(data, options=config.data)
    if len(annotations.labels) < 2:
        (only,) = annotations.labels or ("",)
        found = f"only one class ({only})" if only else "no classes, because no video has a label"
        raise DataError(f"{data} has {found}; a classifier needs two or more")
    train, held_out = annotations.train, annotations.val
    if config.folds is not None:
        train, held_out = _fold(annotations, config)
    elif config.val is not None:
        held_out = _read_val(Path(config.val), annotations, config.data)
    elif not held_out:
        train, held_out = split_validation(train, config.val_fraction, config.seed)
        if left_out := train.classes() - held_out.classes():
            names = examples(annotations.labels[label] for label in sorted(left_out))
            units = "groups" if held_out.groups() else "videos"
            note(f"no videos of {names} are held out, because training needs all of their {units}")
    parts = replace(annotations, train=train, val=held_out)
    check_parts(data, parts)
    return parts


def _fold(annotations: Annotations, config: TrainConfig) -> tuple[VideoList, VideoList]:
    """Divide all videos into folds; return the videos of all other folds, and those of one."""
    assert config.folds is not None
    if config.fold is None:
        raise ArgumentError(f"choose one of the {config.folds} folds with {setting('fold')}")
    videos = annotations.joined()
    fold = fold_of_each(videos, config.folds, config.seed)
    if (found := 1 + int(fold.max())) < config.folds:
        units = "groups" if videos.groups() else "videos"
        raise DataError(
            f"{counted(config.folds, 'fold')} cannot be made of {counted(len(videos), 'video')}; "
            f"use at most {found}, or add {units} to each class"
        )
    chosen = fold == config.fold - 1
    return videos.take(np.flatnonzero(~chosen)), videos.take(np.flatnonzero(chosen))


def check_parts(data: Path, parts: Annotations) -> None:
    """Check that a model can be trained on one part and validated on the other.

    Prints a note if some files do not exist.

    Args:
        data: The folder or file, for messages.
        parts: The two parts.

    Raises:
        DataError: A part is empty, none of its files exists, or a class has validation videos but
            no training videos. (Such classes are allowed in multi-label data and with several
            heads.)
    """
    untrained = parts.val.classes() - parts.train.classes()
    if untrained and parts.train and parts.task == Task():
        names = examples(parts.labels[label] for label in sorted(untrained))
        counts = counted(len(untrained), "class has", "classes have")
        raise DataError(f"{data}: {counts} validation videos but no training videos: {names}")
    for part, videos in (("training", parts.train), ("validation", parts.val)):
        if not videos:
            raise DataError(
                f"{data} has no {part} videos; use {setting('val')}, or add videos to each class"
            )
        if missing := videos.missing():
            names = examples(videos.name(i) for i in missing)
            if len(missing) == len(videos):
                raise DataError(
                    f"{data}: none of the {part} files exists ({len(videos)} in all): {names}"
                )
            verb = "does" if len(missing) == 1 else "do"
            note(f"{len(missing)} of {len(videos)} {part} files {verb} not exist: {names}")


def write_table(file: Path, videos: Annotations) -> None:
    """Write both parts as one .csv table that `read_annotations` can read.

    Args:
        file: The file to write.
        videos: The labelled videos.

    Raises:
        DataError: A name cannot be written to such a table. The file is not written.
    """
    heads = [name for name, _ in videos.task.heads]
    labelled = heads or ["labels" if videos.task.multi_label else "label"]
    with atomic_path(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        has_groups = bool(videos.train.groups() or videos.val.groups())
        columns = ("start_seconds", "end_seconds", "split", *["group"] * has_groups)
        writer.writerow(("path", *labelled, *columns))
        for split, part in (("train", videos.train), ("val", videos.val)):
            for video in part:
                path, labels = full_path(video.path), _cells(videos, video)
                rest = (video.start_seconds, video.end_seconds, split, video.group)
                try:
                    writer.writerow((path, *labels, *rest[: len(columns)]))
                except UnicodeEncodeError as error:
                    raise DataError(
                        f"{path!r} cannot be written to a list: it is not valid UTF-8; rename it"
                    ) from error


def _cells(videos: Annotations, video: Video) -> list[str]:
    """Return the text in each column of labels for one video."""
    names = [videos.labels[target] for target in video.targets]
    if videos.task.heads:
        heads = (head for head, _ in videos.task.heads)
        return [n.removeprefix(f"{head}/") for head, n in zip(heads, names, strict=True)]
    if not videos.task.multi_label:
        return names
    for name in names:
        if SEPARATOR in name:
            raise DataError(
                f"the class {name!r} cannot be written to a list, where {SEPARATOR!r} separates "
                "labels; rename it"
            )
    return [SEPARATOR.join(names)]


def _classes(listing: Listing) -> tuple[tuple[str, ...], Task]:
    """Return the names of all classes, and the task."""
    if not listing.heads:
        found = sorted({label for labels in listing.labels for label in labels})
        names = listing.classes[0] if listing.classes else found
        return tuple(names), Task(multi_label=listing.multi_label)
    names_by_head = listing.classes or [sorted(set(c)) for c in zip(*listing.labels, strict=True)]
    heads = list(zip(listing.heads, names_by_head, strict=True))
    labels = tuple(f"{head}/{name}" for head, names in heads for name in names)
    return labels, Task(heads=tuple((head, len(names)) for head, names in heads))


def _check_task(path: Path, found: Task, wanted: Task) -> None:
    """Raise DataError unless videos have the number of labels and the heads that are wanted."""
    heads = [[name for name, _ in task.heads] for task in (found, wanted)]
    if found.multi_label != wanted.multi_label or heads[0] != heads[1]:
        raise DataError(
            f"{path} has {found} per video, but the classes are for {wanted}; use "
            f"{setting('columns')} to choose the columns of a table that contain labels"
        )


def _targets(
    path: Path, listing: Listing, labels: Sequence[str], task: Task
) -> list[tuple[int, ...]]:
    """Return the indices of the classes of each video.

    Raises:
        DataError: A label is not one of the classes.
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
        unknown_labels = counted(len(unknown), "label that is", "labels that are")
        raise DataError(
            f"{path} has {unknown_labels} not in the list of classes: "
            f"{examples(map(repr, unknown))}; the list has "
            f"{counted(len(labels), 'class', 'classes')}: {examples(labels)}"
        )
    return [tuple(index[name] for name in row) for row in rows]
