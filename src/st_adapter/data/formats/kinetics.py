"""Kinetics: a .csv with the columns label, youtube_id, time_start, time_end and split."""

from pathlib import Path

from st_adapter.data.formats.listing import SPLITS, Listing, Root, parts, read_records
from st_adapter.errors import DataError

HEADER = frozenset(("youtube_id", "time_start", "time_end"))


def read(path: Path, root: Root) -> Listing:
    """Read one part. If it has no validation videos, also read the file of the validation part.

    Download tools name the file of a clip ID_START_END or ID. It may be in a folder of its class,
    in a folder of its part, or in any other folder below the root.
    """
    listing = Listing()
    for file, part in parts(path, "val", "validate", "validation"):
        if "val" not in listing.splits:
            _read(file, root, part, listing)
    return listing


def _read(path: Path, root: Root, part: str, listing: Listing) -> None:
    """Append the clips of a table. `part` is used for rows without a value in the column split."""
    for where, record in read_records(path):
        label, split = record.get("label", "").strip('" '), record.get("split", "").strip()
        if not label:
            raise DataError(
                f"{where}: label is missing; the test part of Kinetics is published without "
                "labels, so give the training or validation part"
            )
        paths = [
            f"{place}/{name}{end}".lstrip("/")
            for name in _names(record, where)
            for place in (label, label.replace(" ", "_"), split, "")
            for end in (".mp4", ".mkv", ".webm")
        ]
        listing.add(root.find(*paths), label, split=SPLITS.get(split.lower(), part))


def _names(record: dict[str, str], where: str) -> tuple[str, str]:
    name = record["youtube_id"].strip()
    try:
        start, end = (int(float(record[n])) for n in ("time_start", "time_end"))
    except ValueError as error:
        raise DataError(
            f"{where}: time_start and time_end must be numbers of seconds, not "
            f"{record['time_start']!r} and {record['time_end']!r}"
        ) from error
    return f"{name}_{start:06d}_{end:06d}", name
