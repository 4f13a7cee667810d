"""What an annotation file says: videos with their labels by name."""

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

WHOLE = float("nan")
"""Start or end of a video that is not a segment."""

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "validate": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Names of the parts as they are written, to ours."""

SHOWN = 5
"""Most examples in a message."""


@dataclass(kw_only=True)
class Listing:
    """Videos as a reader found them, in columns.

    Attributes:
        paths: absolute, or from the working directory.
        labels: by name, of each video: one, any number, or one of each head.
        start_seconds, end_seconds: the segment; NaN is the start or end of the file.
        splits: "train", "val" or "test".
        classes: all names in order where the data set says, for each head; else those found.
        heads: names of the heads where there are several.
        multi_label: a video has any number of labels.
    """

    paths: list[str] = field(default_factory=list)
    labels: list[tuple[str, ...]] = field(default_factory=list)
    start_seconds: list[float] = field(default_factory=list)
    end_seconds: list[float] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
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
    ) -> None:
        """Append a video."""
        self.paths.append(path)
        self.labels.append(labels)
        self.start_seconds.append(start_seconds)
        self.end_seconds.append(end_seconds)
        self.splits.append(split)


@dataclass(frozen=True, kw_only=True)
class Classes:
    """The classes that a file names, one a line.

    Attributes:
        names: in the order of their numbers.
        first: number of the first class, where the file numbers them ("1 Archery").
    """

    names: tuple[str, ...] = ()
    first: int | None = None

    def name_labels(self, listing: Listing, source: Path, where: Sequence[str]) -> None:
        """Put the names of these classes, if there are any, in the place of their numbers.

        Args:
            where: each video stands, for messages.

        Raises:
            DataError: a label is no class, or they count from 1 where the classes have no numbers.
        """
        if not self.names:
            return
        known = frozenset(self.names)
        given = {label for labels in listing.labels for label in labels}
        numbers = {int(label) for label in given if label.isdecimal()}
        counts_from_1 = numbers and min(numbers) > 0 and max(numbers) == len(self.names)
        if counts_from_1 and self.first is None and not given & known:
            raise DataError(
                f"{source}: its labels count from 1 to {max(numbers)}, and the {len(self.names)} "
                "classes that the file beside it names have no numbers, so that they count from 0; "
                'number them there ("1 NAME"), or count from 0'
            )
        first = self.first or 0
        listing.classes = (self.names,)
        listing.labels = [
            tuple(n if n in known else class_name(n, self.names, at, first) for n in labels)
            for at, labels in zip(where, listing.labels, strict=True)
        ]


def read_classes(lines: Sequence[str]) -> Classes:
    """Read lines that name a class each, all with its number before it or none.

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
    """The folder that holds the videos which a list names.

    Args:
        folder: where the names start.
        file: the list, for messages.
    """

    def __init__(self, folder: Path, file: Path) -> None:
        self.folder = os.path.abspath(folder)
        self.file = file
        self._start = self.folder.rstrip(os.sep) + os.sep
        self._by_stem: dict[str, list[str]] | None = None

    def join(self, name: str, where: str) -> str:
        """Path of a name, which must not lead out of the folder.

        Raises:
            DataError: it does; the message says where the name stands.
        """
        if os.path.isabs(name) or is_remote(name):
            return name
        if re.match(r"[A-Za-z]:[\\/]", name):
            raise DataError(
                f"{where}: {name!r} is a path of a Windows machine; give paths from a folder, and "
                "that folder by --videos"
            )
        if "\\" in name and not os.path.exists(f"{self._start}{name}"):
            name = name.replace("\\", "/")  # the list was written on Windows
        path = f"{self._start}{name}"
        if ".." in name:
            path = os.path.normpath(path)
        if not path.startswith(self._start):
            raise DataError(
                f"{where}: {name!r} leaves the data folder {self.folder}; "
                "give the folder that holds the videos by --videos, or absolute paths"
            )
        return path

    def holds(self, name: str) -> bool:
        """Whether something has this name, as given or written on Windows."""
        try:
            return os.path.exists(self.join(name, ""))
        except DataError:
            return False

    def find(self, *names: str) -> str:
        """Path of the first of `names` that is there, below any folder and with any suffix.

        A name may begin with folders, which the path must then end in, too. Where none is there,
        or several alike, it is the first.

        Raises:
            DataError: a name leads out of the folder.
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
        """Every video and folder below, by name without suffix; listed once."""
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
    """The text of a file.

    Raises:
        DataError: it cannot be read, or is not UTF-8, nor UTF-16 with its mark.
    """
    try:
        with path.open("rb") as file:
            is_wide = file.read(2) in (BOM_UTF16_LE, BOM_UTF16_BE)  # as Excel writes it
        return path.read_text(encoding="utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


Row = tuple[str, list[str]]
"""Where a row stands, for messages, and its fields."""


def csv_rows(path: Path, separator: str = ",") -> Iterator[Row]:
    """The rows of a .csv that are not empty; their fields may hold line breaks."""
    text = io.StringIO(read_text(path))
    reader = csv.reader(text, delimiter=separator, skipinitialspace=True)
    try:
        yield from ((f"{path} line {reader.line_num}", row) for row in reader if row)
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: {error}") from error


def read_csv(path: Path, separator: str = ",") -> tuple[list[str], Iterator[Row]]:
    """The header of a .csv, and the rows below it; missing fields are empty."""
    rows = csv_rows(path, separator)
    _, first = next(rows, ("", []))
    header = [name.strip() for name in first]

    def fill(where: str, row: list[str]) -> Row:
        if len(row) > len(header):
            raise DataError(
                f"{where}: {len(row)} fields, the header has {len(header)}; quotation marks keep "
                "commas together"
            )
        return where, row + [""] * (len(header) - len(row))

    return header, starmap(fill, rows)


def read_records(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Where each row of a .csv stands, and its fields by column."""
    header, rows = read_csv(path)
    return ((where, dict(zip(header, row, strict=True))) for where, row in rows)


def read_lines(path: Path) -> list[tuple[str, str]]:
    """Where each line that is not blank stands, and its text."""
    texts = (text.strip() for text in read_text(path).split("\n"))  # a name may hold a form feed
    return [(f"{path} line {line}", text) for line, text in enumerate(texts, start=1) if text]


def seconds(text: str, where: str) -> float:
    """A time: seconds, or hours, minutes and seconds with colons. Empty is WHOLE.

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
        raise DataError(f"{where}: {text!r} is no time in seconds")
    return value


def check_segment(start: float, end: float, where: str) -> None:
    """Raise DataError for a segment of no length."""
    if end <= (0.0 if start != start else start):
        raise DataError(f"{where}: the segment {start} to {end} s has no length")


def class_name(index: str, classes: Sequence[str], where: str, first: int = 0) -> str:
    """The class with an index, which counts from `first`.

    Raises:
        DataError: there is none.
    """
    if not index.isdecimal() or not 0 <= int(index) - first < len(classes):
        raise DataError(
            f"{where}: label {index!r} is neither a name nor an index of the "
            f"{len(classes)} classes ({first} to {first + len(classes) - 1})"
        )
    return classes[int(index) - first]


def beside(path: Path, *names: str) -> Path | None:
    """The first of these files that lies in the same folder."""
    return next((path.parent / name for name in names if (path.parent / name).is_file()), None)


def parts(path: Path, *validation: str) -> Iterator[tuple[Path, str]]:
    """The file that was given, to train on, and the file of the validation part beside it.

    Args:
        validation: what the other file may have in its name in the place of "train".
    """
    yield path, "train"
    names = [path.name.replace("train", name) for name in validation]
    other = beside(path, *(name for name in names if name != path.name))
    if other is not None:
        yield other, "val"


def examples(items: Iterable[Any]) -> str:
    """The first few, as text."""
    shown = [str(item) for item in islice(items, SHOWN + 1)]
    return ", ".join(shown[:SHOWN]) + (" ..." if len(shown) > SHOWN else "")
