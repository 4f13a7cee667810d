"""Lists of "path label" lines: ours, UCF101's, MMAction2's and PySlowFast's."""

import re
from collections.abc import Sequence
from pathlib import Path

from st_adapter.data.formats.listing import (
    Listing,
    Root,
    beside,
    class_name,
    read_text,
)
from st_adapter.data.video.info import PICTURES_PER_SECOND
from st_adapter.errors import DataError

_UCF101 = re.compile(r"(train|test)list(\d+)\.txt", re.IGNORECASE)
_CLASSES = ("classes.txt", "classInd.txt", "label_map.txt", "labels.txt")


def read(path: Path, root: Root) -> Listing:
    """Read a list. The label is the last field: a name, or an index where classes are named."""
    classes = _read_classes(path)
    match = _UCF101.fullmatch(path.name)
    if match and match.group(1).lower() == "train":
        return _read_ucf101(path, root, classes, match.group(2))
    listing = Listing(classes=(classes,) if classes else ())
    for line, text in _lines(path):
        _add(listing, path, root, line, text, classes)
    return listing


def is_list(first_line: Sequence[str]) -> bool:
    """Whether the first line of a .csv is no header but "path label" already."""
    text = ",".join(first_line)
    return bool(re.search(r"[,\s]\d+$", text)) and "." in text.rpartition("/")[2]


def _add(
    listing: Listing, path: Path, root: Root, line: int, text: str, classes: Sequence[str]
) -> None:
    """Append the video of one line."""
    commas = path.suffix.lower() == ".csv" and "," in text
    separator = "\t" if "\t" in text else "," if commas else None
    name, label = ("", *(field.strip() for field in text.rsplit(separator, 1)))[-2:]
    if not name or not label:
        raise DataError(f'{path} line {line}: a line is "path label", this has no label: {text}')
    if classes and label not in classes:
        label = class_name(label, classes, path, line)
    pictures = re.fullmatch(r"(.+?)(?:\s+(\d+))?\s+(\d+)", name)
    folder = root.join(pictures.group(1), line) if pictures else ""
    if pictures and Path(folder).is_dir():  # "folder [first] number label", of pictures
        first, count = int(pictures.group(2) or 0), int(pictures.group(3))
        listing.add(
            folder,
            label,
            start_seconds=first / PICTURES_PER_SECOND,
            end_seconds=(first + count) / PICTURES_PER_SECOND,
        )
        return
    listing.add(root.join(name, line), label)


def _read_ucf101(path: Path, root: Root, classes: Sequence[str], number: str) -> Listing:
    """Read trainlistNN.txt, whose classes count from 1, with testlistNN.txt, which has none."""
    listing = Listing(classes=(classes,) if classes else ())
    parts = {"train": path, "val": beside(path, f"testlist{number}.txt")}
    for split, file in parts.items():
        for line, text in _lines(file) if file else ():
            name = text.rsplit(None, 1)[0] if text.split()[-1].isdecimal() else text
            label, _, _ = name.partition("/")
            base = name.rpartition("/")[2]
            known_by_name = label.lower() in base.lower()  # as all of UCF101's are: v_LABEL_g01_c01
            listing.add(root.find(name, *([base] if known_by_name else [])), label, split=split)
            if classes and label not in classes:
                raise DataError(f"{file} line {line}: {label!r} is none of the classes")
    return listing


def _read_classes(path: Path) -> list[str]:
    """Names of the classes, from a file beside the list; an index before a name is dropped."""
    file = beside(path, *_CLASSES)
    names = [text for _, text in _lines(file)] if file and file != path else []
    if any(re.search(r"\.\w+\s+\d+$", name) for name in names):
        return []  # a list of videos, too
    numbered = [re.fullmatch(r"(\d+)[\s,]+(.+)", name) for name in names]
    first = [int(match.group(1)) for match in numbered if match]
    if len(first) == len(names) and first in (
        list(range(len(names))),
        list(range(1, len(names) + 1)),
    ):
        return [match.group(2) for match in numbered if match]
    return names


def _lines(path: Path) -> list[tuple[int, str]]:
    texts = (text.strip() for text in read_text(path).splitlines())
    return [(line, text) for line, text in enumerate(texts, start=1) if text]
