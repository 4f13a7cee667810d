"""Kinetics: .csv with label, youtube_id, time_start, time_end and split, as published."""

from collections.abc import Sequence
from pathlib import Path

from st_adapter.data.formats.listing import SPLITS, Listing, Root, beside, read_records
from st_adapter.errors import DataError

HEADER = frozenset(("youtube_id", "time_start", "time_end"))
_VALIDATION = ("val", "validate", "validation")


def read(path: Path, root: Root) -> Listing:
    """Read a part, and the validation part that lies beside a training part.

    A clip is looked for as ID_START_END or ID, below its class's folder, its part's or any.
    """
    listing = Listing()
    _read(path, root, "train", listing)
    if "val" not in listing.splits:
        names = [path.name.replace("train", name) for name in _VALIDATION]
        other = beside(path, *(name for name in names if name != path.name))
        if other is not None:
            _read(other, root, "val", listing)
    return listing


def _read(path: Path, root: Root, part: str, listing: Listing) -> None:
    """Append the clips of a part, whose name counts where the table names none."""
    for line, record in read_records(path):
        label, split = record.get("label", "").strip('" '), record.get("split", "").strip()
        if not label:
            raise DataError(
                f"{path} line {line}: it has no label; the test part of Kinetics is published "
                "without, give the training or validation part"
            )
        names = _names(record, path, line)
        places = (label, label.replace(" ", "_"), split, "")
        paths = [
            f"{place}/{name}{end}".lstrip("/")
            for name in names
            for place in places
            for end in (".mp4", ".mkv", ".webm")
        ]
        listing.add(root.find(*paths), label, split=SPLITS.get(split.lower(), part))


def _names(record: dict[str, str], path: Path, line: int) -> Sequence[str]:
    name = record["youtube_id"].strip()
    try:
        start, end = (int(float(record[n])) for n in ("time_start", "time_end"))
    except ValueError:
        raise DataError(
            f"{path} line {line}: time_start and time_end are seconds, not "
            f"{record['time_start']!r} and {record['time_end']!r}"
        ) from None
    return f"{name}_{start:06d}_{end:06d}", name
