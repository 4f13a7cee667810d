"""HMDB51: a folder of files CLASS_test_splitN.txt.

Each line is the name of a video and its part: 1 for training, 2 for testing, 0 for unused.
"""

from pathlib import Path

from st_adapter.data.formats.listing import Listing, Root, read_lines
from st_adapter.errors import DataError
from st_adapter.wording import setting

_PARTS = {"1": "train", "2": "val"}


def matches(folder: Path) -> bool:
    """Return whether a folder contains files of HMDB51's splits."""
    return any(folder.glob("*_test_split[0-9].txt"))


def read(folder: Path, root: Root, split: int) -> Listing:
    """Read one of the splits, which are numbered from 1 to 3."""
    listing = Listing()
    for file in sorted(folder.glob(f"*_test_split{split}.txt")):
        label = file.name.removesuffix(f"_test_split{split}.txt")
        for where, text in read_lines(file):
            name, _, part = text.rpartition(" ")
            if part not in ("0", *_PARTS):
                raise DataError(f"{where}: expected a video and 0, 1 or 2, got {text!r}")
            if part in _PARTS:
                listing.add(root.find(f"{label}/{name}", name), label, split=_PARTS[part])
    if not listing.paths:
        raise DataError(f"{folder} has no split {split}; {setting('split')} takes 1, 2 or 3")
    return listing
