"""EPIC-KITCHENS-100: .csv with a verb and a noun for each segment, as published."""

from pathlib import Path

from st_adapter.data.formats.listing import (
    Listing,
    Root,
    beside,
    check_segment,
    class_name,
    read_header,
    read_records,
    seconds,
    whole_number,
)
from st_adapter.data.video.info import PICTURES_PER_SECOND
from st_adapter.errors import DataError

HEADER = frozenset(("video_id", "start_timestamp", "stop_timestamp", "verb_class", "noun_class"))
_COUNTS = {"verb": 97, "noun": 300}


def read(path: Path, root: Root) -> Listing:
    """Read a part, and EPIC_100_validation.csv where it lies beside a training part."""
    classes = [_read_classes(path, head) for head in _COUNTS]
    listing = Listing(heads=tuple(_COUNTS), classes=tuple(classes))
    _read(path, root, "train", listing)
    other = beside(path, path.name.replace("train", "validation"))
    if other is not None and other != path:
        _read(other, root, "val", listing)
    return listing


def _read(path: Path, root: Root, split: str, listing: Listing) -> None:
    for line, record in read_records(path):
        video = record["video_id"].strip()
        if not video:
            raise DataError(f"{path} line {line}: video_id is empty")
        person = record.get("participant_id") or video.split("_")[0]
        labels = [
            class_name(record[f"{head}_class"].strip(), names, path, line)
            for head, names in zip(_COUNTS, listing.classes, strict=True)
        ]
        found = root.find(
            f"{person}/videos/{video}.MP4",
            f"{video}.MP4",
            f"{video}.mp4",
            f"{person}/rgb_frames/{video}",
        )
        start, end = (
            seconds(record[name], path, line) for name in ("start_timestamp", "stop_timestamp")
        )
        if Path(found).is_dir() and record.get("start_frame") and record.get("stop_frame"):
            first = whole_number(record["start_frame"], "start_frame", path, line)
            last = whole_number(record["stop_frame"], "stop_frame", path, line)
            start, end = (first - 1) / PICTURES_PER_SECOND, last / PICTURES_PER_SECOND  # from 1
        check_segment(start, end, path, line)
        listing.add(found, *labels, start_seconds=start, end_seconds=end, split=split)


def _read_classes(path: Path, head: str) -> list[str]:
    """Names of the verbs or nouns from the file of classes; without one, numbers."""
    file = beside(path, f"EPIC_100_{head}_classes.csv", f"EPIC_100_{head}_classes_v2.csv")
    if file is None:
        return [f"{head} {i}" for i in range(_COUNTS[head])]
    if "key" not in read_header(file):
        raise DataError(f"{file} has no column key, which names the classes")
    return [record["key"] for _, record in read_records(file)]
