"""Charades: a .csv whose column `actions` has the class, start and end of each action."""

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
    """Read one part. For the training part, also read Charades_v1_test.csv in the same folder.

    Each video is one example, whose labels are all of its actions.
    """
    classes = _read_classes(path)
    listing = Listing(multi_label=True, classes=(classes,))
    for file, split in parts(path, "test"):
        for where, record in read_records(file):
            labels = _read_actions(record["actions"], classes, where)
            if labels or "test" not in file.name:  # Charades' own evaluation skips these, too
                video = record["id"].strip()
                found = root.find(f"{video}.mp4", f"Charades_v1_rgb/{video}")
                listing.add(found, *labels, split=split)
    return listing


def _read_actions(text: str, classes: list[str], where: str) -> list[str]:
    """Return the classes of a video. Each occurs once, even if its action is repeated."""
    labels = []
    for action in filter(None, text.split(";")):
        index, *times = action.split()
        if len(times) != 2 or not index.startswith("c"):
            raise DataError(f'{where}: expected an action like "c000 start end", got {action!r}')
        labels.append(class_name(index[1:], classes, where))
    return list(dict.fromkeys(labels))


def _read_classes(path: Path) -> list[str]:
    file = beside(path, "Charades_v1_classes.txt")
    if file is None:
        return [f"c{i:03d}" for i in range(_COUNT)]
    return [text.split(" ", 1)[1] for text in read_text(file).splitlines() if " " in text]
