"""Charades: .csv whose actions column lists a class, start and end for each of many actions."""

from pathlib import Path

from st_adapter.data.formats.listing import (
    Listing,
    Root,
    beside,
    class_name,
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
    listing = Listing(multi_label=True, classes=(_read_classes(path),))
    _read(path, root, "train", listing)
    other = beside(path, path.name.replace("train", "test"))
    if other is not None and other != path:
        _read(other, root, "val", listing)
    return listing


def _read(path: Path, root: Root, split: str, listing: Listing) -> None:
    for line, record in read_records(path):
        names = []
        for action in filter(None, record["actions"].split(";")):
            index, *times = action.split()
            if len(times) != 2 or not index.startswith("c"):
                raise DataError(
                    f'{path} line {line}: an action is "c000 start end", not {action!r}'
                )
            names.append(class_name(index[1:], listing.classes[0], path, line))
        if not names and "test" in path.name:
            continue  # as in its own evaluation
        video = record["id"].strip()
        labels = dict.fromkeys(names)  # an action may occur twice
        listing.add(root.find(f"{video}.mp4", f"Charades_v1_rgb/{video}"), *labels, split=split)


def _read_classes(path: Path) -> list[str]:
    file = beside(path, "Charades_v1_classes.txt")
    if file is None:
        return [f"c{i:03d}" for i in range(_COUNT)]
    return [text.split(" ", 1)[1] for text in read_text(file).splitlines() if " " in text]
