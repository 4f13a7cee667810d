"""Lists of "path label" lines: ours, UCF101's, MMAction2's and PySlowFast's."""

import re
from collections.abc import Sequence
from pathlib import Path

from st_adapter.data.formats.listing import Listing, Root, beside, class_name, read_lines
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
    for where, text in read_lines(path):
        _add(listing, root, where, text, classes, path.suffix.lower() == ".csv")
    return listing


def is_list(first_line: Sequence[str]) -> bool:
    """Whether the first line of a .csv is no header but "path label" already."""
    text = ",".join(first_line)
    return bool(re.search(r"[,\s]\d+$", text)) and "." in text.rpartition("/")[2]


def _add(
    listing: Listing, root: Root, where: str, text: str, classes: Sequence[str], commas: bool
) -> None:
    separator = "\t" if "\t" in text else "," if commas and "," in text else None
    name, label = ("", *(field.strip() for field in text.rsplit(separator, 1)))[-2:]
    if not name or not label:
        raise DataError(f'{where}: a line is "path label", this has no label: {text}')
    if classes and label not in classes:
        label = class_name(label, classes, where)
    pictures = re.fullmatch(r"(.+?)(?:\s+(\d+))?\s+(\d+)", name)
    folder = root.join(pictures.group(1), where) if pictures else ""
    if pictures and Path(folder).is_dir():  # "folder [first] number label", of pictures
        first, count = int(pictures.group(2) or 0), int(pictures.group(3))
        start, end = first / PICTURES_PER_SECOND, (first + count) / PICTURES_PER_SECOND
        listing.add(folder, label, start_seconds=start, end_seconds=end)
        return
    listing.add(root.join(name, where), label)


def _read_ucf101(path: Path, root: Root, classes: Sequence[str], number: str) -> Listing:
    """Read trainlistNN.txt, whose classes count from 1, with testlistNN.txt, which has none."""
    listing = Listing(classes=(classes,) if classes else ())
    parts = {"train": path, "val": beside(path, f"testlist{number}.txt")}
    for split, file in parts.items():
        for where, text in read_lines(file) if file else ():
            name = text.rsplit(None, 1)[0] if text.split()[-1].isdecimal() else text
            label, _, _ = name.partition("/")
            base = name.rpartition("/")[2]
            known_by_name = label.lower() in base.lower()  # as all of UCF101's are: v_LABEL_g01_c01
            listing.add(root.find(name, *([base] if known_by_name else [])), label, split=split)
            if classes and label not in classes:
                raise DataError(f"{where}: {label!r} is none of the classes")
    return listing


def _read_classes(path: Path) -> list[str]:
    """Names of the classes, from a file beside the list; an index before a name is dropped."""
    file = beside(path, *_CLASSES)
    names = [text for _, text in read_lines(file)] if file and file != path else []
    if any(re.search(r"\.\w+\s+\d+$", name) for name in names):
        return []  # a list of videos, too
    numbered = [re.fullmatch(r"(\d+)[\s,]+(.+)", name) for name in names]
    numbers = [int(match.group(1)) for match in numbered if match]
    if numbers in ([*range(len(names))], [*range(1, len(names) + 1)]):
        return [match.group(2) for match in numbered if match]
    return names
