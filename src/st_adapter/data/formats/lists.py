"""Lists of "path label" lines, including those of UCF101, MMAction2 and PySlowFast."""

import csv
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from st_adapter.common.paths import is_video_name
from st_adapter.data.formats.listing import (
    Classes,
    Listing,
    Root,
    beside,
    read_classes,
    read_lines,
)
from st_adapter.data.video.info import PICTURES_PER_SECOND
from st_adapter.errors import DataError

_UCF101 = re.compile(r"(train|test)list(\d+)\.txt", re.IGNORECASE)
_CLASSES = ("classes.txt", "classInd.txt", "label_map.txt", "labels.txt")

_SEPARATORS: Mapping[str, str] = {"\t": "a tab", ",": "a comma", ";": "a semicolon", "": "a space"}
"""Separators of path and label, with their names. The first one that fits every line is used."""

_PICTURES = re.compile(r"(.+?)(?:\s+(\d+))?\s+(\d+)")
"""A folder of pictures: "FOLDER COUNT" or "FOLDER FIRST COUNT"."""


def read(path: Path, root: Root) -> Listing:
    """Read a list.

    The last field of a line is the label: the name of a class, or its number if a file next to
    the list names the classes.
    """
    classes = _read_classes(path)
    match = _UCF101.fullmatch(path.name)
    if match and match.group(1).lower() == "train":
        return _read_ucf101(path, root, classes, match.group(2))
    lines = read_lines(path)
    if lines and re.fullmatch(r"path\s+label", lines[0][1]):
        del lines[0]  # the header
    entries = _split(lines, root)
    listing = Listing()
    for where, name, label in entries:
        _add(listing, root, where, name, label)
    classes.name_labels(listing, path, [where for where, _, _ in entries])
    return listing


def read_paths(path: Path, root: Root) -> Listing:
    """Read the paths of a list, in which each line may have a label. Labels are ignored.

    Args:
        path: The list.
        root: The folder of the videos.

    Raises:
        DataError: A line is neither a path nor a path with a label.
    """
    lines = read_lines(path)
    if lines and re.fullmatch(r"path(\s+label)?", lines[0][1]):
        del lines[0]  # the header
    bare = [is_video_name(text) or root.holds(text) for _, text in lines]
    labelled = iter(
        _split([line for line, alone in zip(lines, bare, strict=True) if not alone], root)
    )
    listing = Listing()
    for (where, text), alone in zip(lines, bare, strict=True):
        name = text if alone else next(labelled)[1]
        _add(listing, root, where, name, "")
    return listing


def is_list(first_line: str) -> bool:
    """Return whether the first line of a .csv names a video and so is not a header."""
    return any(_field(first_line, separator) for separator in _SEPARATORS)


def _split(lines: Sequence[tuple[str, str]], root: Root) -> list[tuple[str, str, str]]:
    """Split all lines at the same separator into position, path and label.

    Raises:
        DataError: No separator splits every line into the path of a video and a label.
    """
    best: list[tuple[str, str, str]] = []
    best_name = _SEPARATORS[""]
    for separator, separator_name in _SEPARATORS.items():
        entries = []
        for where, text in lines:
            fields = _field(text, separator, root)
            if fields is None:
                break
            entries.append((where, *fields))
        if len(entries) == len(lines):
            return entries
        if len(entries) > len(best):
            best, best_name = entries, separator_name
    where, text = lines[len(best)]
    so_far = f" separated by {best_name} as in the lines before" if best else ""
    raise DataError(
        f'{where}: expected "path label"{so_far}, got {text!r}; put a tab before a label that '
        "contains spaces, or use a .csv with the columns path,label"
    )


def _field(text: str, separator: str, root: Root | None = None) -> tuple[str, str] | None:
    """Return path and label of a line.

    Returns None unless the path has the suffix of a video, or exists in the folder of the videos.
    """
    if not separator:
        name, label = ("", *text.rsplit(None, 1))[-2:]
    elif '"' not in text:  # split at the last one, because the path may contain some
        name, _, label = (part.strip() for part in text.rpartition(separator))
    else:
        fields = next(csv.reader([text], delimiter=separator, skipinitialspace=True))
        name, label = (field.strip() for field in fields) if len(fields) == 2 else ("", "")
    if not name or not label or any(map(is_video_name, (label, *label.split()))):
        return None
    if is_video_name(name) or (root is not None and root.holds(name)):
        return name, label
    return (name, label) if _is_picture_folder(name, root) else None


def _is_picture_folder(name: str, root: Root | None) -> bool:
    """Whether a name is "FOLDER COUNT", and the parent of FOLDER exists."""
    match = _PICTURES.fullmatch(name)
    if match is None or root is None or is_video_name(match.group(1)):
        return False
    return root.holds(os.path.dirname(match.group(1).replace("\\", "/")) or ".")


def _add(listing: Listing, root: Root, where: str, name: str, label: str) -> None:
    pictures = _PICTURES.fullmatch(name)
    folder = root.join(pictures.group(1), where) if pictures else ""
    if pictures and Path(folder).is_dir():
        first, count = int(pictures.group(2) or 0), int(pictures.group(3))
        start, end = first / PICTURES_PER_SECOND, (first + count) / PICTURES_PER_SECOND
        listing.add(folder, label, start_seconds=start, end_seconds=end)
        return
    listing.add(root.join(name, where), label)


def _read_ucf101(path: Path, root: Root, classes: Classes, number: str) -> Listing:
    """Read trainlistNN.txt and testlistNN.txt. The label is the folder that a path starts with."""
    listing = Listing(classes=(classes.names,) if classes.names else ())
    parts = {"train": path, "val": beside(path, f"testlist{number}.txt")}
    for split, file in parts.items():
        for _, text in read_lines(file) if file else ():
            name = text.rsplit(None, 1)[0] if text.split()[-1].isdecimal() else text
            label, _, _ = name.partition("/")
            base = name.rpartition("/")[2]
            # UCF101's names contain the label (v_LABEL_g01_c01), so that they are unique anywhere.
            known_by_name = label.lower() in base.lower()
            listing.add(root.find(name, *([base] if known_by_name else [])), label, split=split)
    return listing


def _read_classes(path: Path) -> Classes:
    """Read the names of the classes from a file next to the list, if one exists."""
    file = beside(path, *_CLASSES)
    lines = [text for _, text in read_lines(file)] if file and file != path else []
    if any(re.search(r"\.\w+\s+\d+$", line) for line in lines):
        return Classes()  # this file is another list of videos
    return read_classes(lines)
