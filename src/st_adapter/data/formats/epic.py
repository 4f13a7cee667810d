"""EPIC-KITCHENS-100: a .csv with a verb and a noun for each segment of a video."""

from pathlib import Path

from st_adapter.data.formats.listing import (
    Listing,
    Root,
    beside,
    check_segment,
    class_name,
    parts,
    read_csv,
    read_records,
    seconds,
)
from st_adapter.data.video.info import PICTURES_PER_SECOND
from st_adapter.errors import DataError

HEADER = frozenset(("video_id", "start_timestamp", "stop_timestamp", "verb_class", "noun_class"))
_COUNTS = {"verb": 97, "noun": 300}


def read(path: Path, root: Root) -> Listing:
    """Read one part. For a training part, also read EPIC_100_validation.csv in the same folder."""
    classes = [_read_classes(path, head) for head in _COUNTS]
    listing = Listing(heads=tuple(_COUNTS), classes=tuple(classes))
    for file, split in parts(path, "validation"):
        for where, record in read_records(file):
            found = _find(root, record, where)
            labels = [
                class_name(record[f"{head}_class"].strip(), names, where)
                for head, names in zip(_COUNTS, classes, strict=True)
            ]
            start, end = _segment(Path(found), record, where)
            listing.add(found, *labels, start_seconds=start, end_seconds=end, split=split)
    return listing


def _find(root: Root, record: dict[str, str], where: str) -> str:
    video = record["video_id"].strip()
    if not video:
        raise DataError(f"{where}: video_id is empty")
    person = record.get("participant_id") or video.split("_")[0]
    return root.find(
        f"{person}/videos/{video}.MP4",
        f"{video}.MP4",
        f"{video}.mp4",
        f"{person}/rgb_frames/{video}",
    )


def _segment(video: Path, record: dict[str, str], where: str) -> tuple[float, float]:
    """Return start and end in seconds.

    A folder of pictures has no time stamps: it is read at PICTURES_PER_SECOND, whatever the frame
    rate of the video was. Its segments are therefore computed from the numbers of their frames.
    """
    start, end = (seconds(record[name], where) for name in ("start_timestamp", "stop_timestamp"))
    if video.is_dir() and record.get("start_frame") and record.get("stop_frame"):
        for name in ("start_frame", "stop_frame"):
            if not record[name].strip().isdecimal():
                raise DataError(f"{where}: {name} must be a whole number, not {record[name]!r}")
        first, last = int(record["start_frame"]), int(record["stop_frame"])  # from 1
        start, end = (first - 1) / PICTURES_PER_SECOND, last / PICTURES_PER_SECOND
    check_segment(start, end, where)
    return start, end


def _read_classes(path: Path, head: str) -> list[str]:
    """Return the names of the verbs or nouns. Without a file of names, they are numbered."""
    file = beside(path, f"EPIC_100_{head}_classes.csv", f"EPIC_100_{head}_classes_v2.csv")
    if file is None:
        return [f"{head} {i}" for i in range(_COUNTS[head])]
    header, rows = read_csv(file)
    if "key" not in header:
        raise DataError(f"{file} has no column 'key' with the names of the classes")
    return [row[header.index("key")] for _, row in rows]
