"""Charades: .csv whose actions column lists a class, start and end for each of many actions."""

from pathlib import Path

from st_adapter.data.formats.listing import (
    Listing,
    Root,
    beside,
    class_name,
    parts,
    read_records,
    read_text,
)
from st_adapter.errors import DataError

HEADER = frozenset(("id", "actions", "length"))
_COUNT = 157


def read(path: Path, root: Root) -> Listing:
    """Read a part, and Charades_v1_test.csv where it lies beside the training part.

    A whole video is one example that shows all of its actions.
    """
    classes = _read_classes(path)
    listing = Listing(multi_label=True, classes=(classes,))
    for file, split in parts(path, "test"):
        for where, record in read_records(file):
            labels = _read_actions(record["actions"], classes, where)
            if labels or "test" not in file.name:  # as in its own evaluation
                video = record["id"].strip()
                found = root.find(f"{video}.mp4", f"Charades_v1_rgb/{video}")
                listing.add(found, *labels, split=split)
    return listing


def _read_actions(text: str, classes: list[str], where: str) -> list[str]:
    """The classes of a video, each once, though an action may occur twice."""
    labels = []
    for action in filter(None, text.split(";")):
        index, *times = action.split()
        if len(times) != 2 or not index.startswith("c"):
            raise DataError(f'{where}: an action is "c000 start end", not {action!r}')
        labels.append(class_name(index[1:], classes, where))
    return list(dict.fromkeys(labels))


def _read_classes(path: Path) -> list[str]:
    file = beside(path, "Charades_v1_classes.txt")
    if file is None:
        return [f"c{i:03d}" for i in range(_COUNT)]
    return [text.split(" ", 1)[1] for text in read_text(file).splitlines() if " " in text]
