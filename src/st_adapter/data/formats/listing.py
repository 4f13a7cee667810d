"""What the readers of all formats share: the listing that they return, and text files."""

import csv
import io
import os
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, starmap
from pathlib import Path
from typing import Any

from st_adapter.common.paths import is_remote, is_video_name
from st_adapter.errors import DataError
from st_adapter.wording import setting

WHOLE = float("nan")
"""Start or end of an example that is a whole video."""

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "validate": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Maps the names that data sets use for their parts to ours."""

SHOWN = 5
"""Largest number of examples in a message."""


@dataclass(kw_only=True)
class Listing:
    """The examples that a reader found, with labels as text, stored in columns.

    Attributes:
        paths: Paths that are absolute or relative to the working directory.
        labels: Labels of each example: one, any number, or one per head.
        start_seconds: Start of each segment; NaN is the start of the file.
        end_seconds: End of each segment; NaN is the end of the file.
        splits: "train", "val" or "test".
        groups: What each example was taken from, such as a film; "" if that is not known.
        classes: Names of all classes in order, for each head. Empty if the data set does not
            define them, so that the labels that occur are the classes.
        heads: Names of the heads if there are several.
        multi_label: Whether an example can have any number of labels.
    """

    paths: list[str] = field(default_factory=list)
    labels: list[tuple[str, ...]] = field(default_factory=list)
    start_seconds: list[float] = field(default_factory=list)
    end_seconds: list[float] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    classes: tuple[Sequence[str], ...] = ()
    heads: tuple[str, ...] = ()
    multi_label: bool = False

    def add(
        self,
        path: str,
        *labels: str,
        start_seconds: float = WHOLE,
        end_seconds: float = WHOLE,
        split: str = "train",
        group: str = "",
    ) -> None:
        """Append one example."""
        self.paths.append(path)
        self.labels.append(labels)
        self.start_seconds.append(start_seconds)
        self.end_seconds.append(end_seconds)
        self.splits.append(split)
        self.groups.append(group)


@dataclass(frozen=True, kw_only=True)
class Classes:
    """The classes that a file names, one per line.

    Attributes:
        names: Names in the order of their numbers.
        first: Number of the first class if the file numbers them ("1 Archery"), else None.
    """

    names: tuple[str, ...] = ()
    first: int | None = None

    def name_labels(self, listing: Listing, source: Path, where: Sequence[str]) -> None:
        """Replace labels that are numbers of classes with their names.

        Args:
            listing: Changed in place. Without any names, it stays the same.
            source: The file with the labels, for error messages.
            where: Position of each example in it, for error messages.

        Raises:
            DataError: A label is not a class, or labels count from 1 and the classes have no
                numbers.
        """
        if not self.names:
            return
        known = frozenset(self.names)
        given = {label for labels in listing.labels for label in labels}
        numbers = {int(label) for label in given if label.isdecimal()}
        counts_from_1 = numbers and min(numbers) > 0 and max(numbers) == len(self.names)
        if counts_from_1 and self.first is None and not given & known:
            raise DataError(
                f"{source}: its labels count from 1 to {max(numbers)}, but the file that names "
                f"{counted(len(self.names), 'class', 'classes')} does not number them, so they "
                'count from 0; number the classes there ("1 NAME"), or count labels from 0'
            )
        first = self.first or 0
        listing.classes = (self.names,)
        listing.labels = [
            tuple(n if n in known else class_name(n, self.names, at, first) for n in labels)
            for at, labels in zip(where, listing.labels, strict=True)
        ]


def read_classes(lines: Sequence[str]) -> Classes:
    """Read lines with the name of one class each, all of them numbered or none.

    >>> read_classes(["1 Archery", "2 Bowling"])
    Classes(names=('Archery', 'Bowling'), first=1)
    """
    numbered = [re.fullmatch(r"(\d+)[\s.,:)]+(.+)", line) for line in lines]
    name_of = {int(match.group(1)): match.group(2) for match in numbered if match}
    for first in (0, 1):
        if name_of and [*range(first, first + len(lines))] == sorted(name_of):
            return Classes(names=tuple(name_of[i] for i in sorted(name_of)), first=first)
    return Classes(names=tuple(lines))


class Root:
    """The folder that contains the videos of a list.

    Args:
        folder: The folder that names in the list are relative to.
        file: The list, for error messages.
    """

    def __init__(self, folder: Path, file: Path) -> None:
        self.folder = os.path.abspath(folder)
        self.file = file
        self._start = self.folder.rstrip(os.sep) + os.sep
        self._by_stem: dict[str, list[str]] | None = None

    def join(self, name: str, where: str) -> str:
        """Return the path of a name in the folder. Absolute paths and addresses stay the same.

        Args:
            name: A name from the list, with slashes or the backslashes of Windows.
            where: Its position in the list, for error messages.

        Raises:
            DataError: The name leads out of the folder, or starts with a drive of Windows.
        """
        if os.path.isabs(name) or is_remote(name):
            return name
        if re.match(r"[A-Za-z]:[\\/]", name):
            raise DataError(
                f"{where}: {name!r} is a Windows path; write paths relative to a folder, and give "
                f"that folder with {setting('videos')}"
            )
        if "\\" in name and not os.path.exists(f"{self._start}{name}"):
            name = name.replace("\\", "/")  # the list was written on Windows
        path = f"{self._start}{name}"
        if ".." in name:
            path = os.path.normpath(path)
        if not path.startswith(self._start):
            raise DataError(
                f"{where}: {name!r} leads out of the data folder {self.folder}; "
                f"give the folder that contains the videos with {setting('videos')}, or use "
                "absolute paths"
            )
        return path

    def holds(self, name: str) -> bool:
        """Return whether a file or folder with this name exists in the folder."""
        try:
            return os.path.exists(self.join(name, ""))
        except DataError:
            return False

    def find(self, *names: str) -> str:
        """Find a video by one of several names.

        Published lists often omit the suffix and the folder of a video. If no name exists exactly,
        each name is looked for in all folders below this one, with any suffix. The folders in a
        name must then match the end of the path.

        Args:
            *names: Candidates, the most likely first.

        Returns:
            The path of the first name that is found exactly once. If none is, the path that the
            first name would have.

        Raises:
            DataError: A name leads out of the folder.
        """
        paths = [self.join(name, str(self.file)) for name in names]
        for path in paths:
            if os.path.exists(path):
                return path
        for name in names:
            folder, _, base = name.rpartition("/")
            found = self._stems().get(os.path.splitext(base)[0], [])
            if folder:
                found = [path for path in found if f"/{folder}/" in f"{os.path.dirname(path)}/"]
            if len(found) == 1:
                return found[0]
        return paths[0]

    def _stems(self) -> dict[str, list[str]]:
        """Map names without suffix to the videos and folders below; the disk is read only once."""
        if self._by_stem is None:
            self._by_stem = {}
            for folder, folders, files in os.walk(self.folder):
                folders[:] = sorted(f for f in folders if not f.startswith("."))
                for name in folders:
                    self._by_stem.setdefault(name, []).append(os.path.join(folder, name))
                for name in sorted(files):
                    if is_video_name(name):
                        stem = os.path.splitext(name)[0]
                        self._by_stem.setdefault(stem, []).append(os.path.join(folder, name))
        return self._by_stem


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 if it starts with a byte order mark.

    Raises:
        DataError: The file cannot be read, or has another encoding.
    """
    try:
        with path.open("rb") as file:
            is_wide = file.read(2) in (BOM_UTF16_LE, BOM_UTF16_BE)  # Excel writes such files
        return path.read_text(encoding="utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


Row = tuple[str, list[str]]
"""Position of a row, for error messages, and its fields."""


def csv_rows(path: Path, separator: str = ",") -> Iterator[Row]:
    """Yield the rows of a .csv that are not empty. Fields in quotes may contain line breaks."""
    text = io.StringIO(read_text(path))
    reader = csv.reader(text, delimiter=separator, skipinitialspace=True)
    try:
        yield from ((f"{path} line {reader.line_num}", row) for row in reader if row)
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: {error}") from error


def read_csv(path: Path, separator: str = ",") -> tuple[list[str], Iterator[Row]]:
    """Return the header of a .csv and the rows below it. Missing fields at the end are empty."""
    rows = csv_rows(path, separator)
    _, first = next(rows, ("", []))
    header = [name.strip() for name in first]

    def fill(where: str, row: list[str]) -> Row:
        if len(row) > len(header):
            raise DataError(
                f"{where}: {len(row)} fields, but the header has {len(header)}; put quotation "
                f"marks around a field that contains {separator!r}"
            )
        return where, row + [""] * (len(header) - len(row))

    return header, starmap(fill, rows)


def read_records(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the position of each row of a .csv, for error messages, and its fields by column."""
    header, rows = read_csv(path)
    return ((where, dict(zip(header, row, strict=True))) for where, row in rows)


def read_lines(path: Path) -> list[tuple[str, str]]:
    """Return the position of each line that is not blank, for error messages, and its text."""
    # Not splitlines, which would also split at a form feed in a name.
    texts = (text.strip() for text in read_text(path).split("\n"))
    return [(f"{path} line {line}", text) for line, text in enumerate(texts, start=1) if text]


def seconds(text: str, where: str) -> float:
    """Convert a time to seconds. It may be a number or "HH:MM:SS"; empty text is WHOLE.

    >>> seconds("00:01:02.5", "a.csv line 2")
    62.5
    """
    if not text.strip():
        return WHOLE
    parts = reversed(text.strip().split(":"))
    try:
        value: float = sum(float(part) * 60**i for i, part in enumerate(parts))
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise DataError(f"{where}: {text!r} is not a time in seconds")
    return value


def check_segment(start: float, end: float, where: str) -> None:
    """Raise DataError if a segment ends before or at its start. NaN is that of the file."""
    first = 0.0 if start != start else start
    if end <= first:
        raise DataError(
            f"{where}: the segment from {first} to {end} s is empty; it must end after its start"
        )


def class_name(index: str, classes: Sequence[str], where: str, first: int = 0) -> str:
    """Return the name of the class with a number.

    Args:
        index: The number as text.
        classes: Names of all classes.
        where: Position of the label, for error messages.
        first: Number of the first class.

    Raises:
        DataError: No class has this number.
    """
    if not index.isdecimal() or not 0 <= int(index) - first < len(classes):
        raise DataError(
            f"{where}: label {index!r} is neither a name nor an index of the "
            f"{counted(len(classes), 'class', 'classes')} ({first} to {first + len(classes) - 1})"
        )
    return classes[int(index) - first]


def beside(path: Path, *names: str) -> Path | None:
    """Return the first of these names that is a file in the same folder as `path`, or None."""
    return next((path.parent / name for name in names if (path.parent / name).is_file()), None)


def parts(path: Path, *validation: str) -> Iterator[tuple[Path, str]]:
    """Yield the given file as "train", and the file of the validation part as "val".

    The second file is found by its name in the same folder, if it exists.

    Args:
        path: The given file, such as kinetics_train.csv.
        *validation: Words that may replace "train" in the name of the other file.
    """
    yield path, "train"
    names = [path.name.replace("train", name) for name in validation]
    other = beside(path, *(name for name in names if name != path.name))
    if other is not None:
        yield other, "val"


def examples(items: Iterable[Any]) -> str:
    """Join the first few items into a text, with dots if there are more."""
    shown = [str(item) for item in islice(items, SHOWN + 1)]
    return ", ".join(shown[:SHOWN]) + (" ..." if len(shown) > SHOWN else "")


def counted(number: int, singular: str, plural: str = "") -> str:
    """Return a number with its noun in the right form.

    >>> counted(1, "video"), counted(2000, "video"), counted(0, "class", "classes")
    ('1 video', '2,000 videos', '0 classes')
    """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
