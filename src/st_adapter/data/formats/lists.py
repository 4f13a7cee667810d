"""Lists of "path label" lines: ours, UCF101's, MMAction2's and PySlowFast's."""

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

_SEPARATORS: Mapping[str, str] = {"\t": "a tab", ",": "a comma", ";": "a semicolon", "": "a blank"}
"""What may stand between path and label, and its name; the first that fits every line counts."""

_PICTURES = re.compile(r"(.+?)(?:\s+(\d+))?\s+(\d+)")
""""folder [first] number", of pictures."""


def read(path: Path, root: Root) -> Listing:
    """Read a list. The label is the last field: a name, or its number where classes are named."""
    classes = _read_classes(path)
    match = _UCF101.fullmatch(path.name)
    if match and match.group(1).lower() == "train":
        return _read_ucf101(path, root, classes, match.group(2))
    lines = read_lines(path)
    if lines and re.fullmatch(r"path\s+label", lines[0][1]):
        del lines[0]  # a header
    entries = _split(lines, root)
    listing = Listing()
    for where, name, label in entries:
        _add(listing, root, where, name, label)
    classes.name_labels(listing, path, [where for where, _, _ in entries])
    return listing


def is_list(first_line: str) -> bool:
    """Whether the first line of a .csv is no header but names a video already."""
    return any(_field(first_line, separator) for separator in _SEPARATORS)


def _split(lines: Sequence[tuple[str, str]], root: Root) -> list[tuple[str, str, str]]:
    """Where each line stands, with its path and label, all divided by the same separator.

    Raises:
        DataError: no separator divides all lines into the path of a video and a label.
    """
    best: list[tuple[str, str, str]] = []
    said = _SEPARATORS[""]
    for separator, name_of_it in _SEPARATORS.items():
        entries = []
        for where, text in lines:
            fields = _field(text, separator, root)
            if fields is None:
                break
            entries.append((where, *fields))
        if len(entries) == len(lines):
            return entries
        if len(entries) > len(best):
            best, said = entries, name_of_it
    where, text = lines[len(best)]
    so_far = f", with {said} between as in the lines before it" if best else ""
    raise DataError(
        f'{where}: a line is "path label"{so_far}, and this is {text!r}; a label with blanks takes '
        "a tab before it, or a .csv with path,label"
    )


def _field(text: str, separator: str, root: Root | None = None) -> tuple[str, str] | None:
    """Path and label of a line; None unless the first is a video by its name or on the disk."""
    if not separator:
        name, label = ("", *text.rsplit(None, 1))[-2:]
    elif '"' not in text:  # the separator may be in the path, too
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
    """Whether a name is that of a folder, with numbers, in a folder that is there."""
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
    """Read trainlistNN.txt, whose classes count from 1, with testlistNN.txt, which has none."""
    listing = Listing(classes=(classes.names,) if classes.names else ())
    parts = {"train": path, "val": beside(path, f"testlist{number}.txt")}
    for split, file in parts.items():
        for _, text in read_lines(file) if file else ():
            name = text.rsplit(None, 1)[0] if text.split()[-1].isdecimal() else text
            label, _, _ = name.partition("/")
            base = name.rpartition("/")[2]
            known_by_name = label.lower() in base.lower()  # as all of UCF101's are: v_LABEL_g01_c01
            listing.add(root.find(name, *([base] if known_by_name else [])), label, split=split)
    return listing


def _read_classes(path: Path) -> Classes:
    """The classes that a file beside the list names, if there is one."""
    file = beside(path, *_CLASSES)
    lines = [text for _, text in read_lines(file)] if file and file != path else []
    if any(re.search(r"\.\w+\s+\d+$", line) for line in lines):
        return Classes()  # a list of videos, too
    return read_classes(lines)
