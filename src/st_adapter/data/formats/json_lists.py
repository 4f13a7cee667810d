"""Something-Something v2 and Diving48: .json lists of videos."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from st_adapter.data.formats.listing import Listing, Root, beside, class_name, read_text
from st_adapter.errors import DataError

Parts = Sequence[tuple[Path, str, list[dict[str, Any]]]]
"""File, name and videos of each part."""

_VALIDATION = ("validation", "val", "test")


def read(path: Path, root: Root) -> Listing:
    """Read a part, and the validation part that lies beside a training part."""
    records = _read_records(path)
    parts = [(path, "train", records)]
    other = beside(path, *(path.name.replace("train", name) for name in _VALIDATION))
    if other is not None and other != path:
        parts.append((other, "val", _read_records(other)))
    if "template" in records[0] or "id" in records[0]:
        return _something(path, root, parts)
    if "vid_name" in records[0]:
        return _diving48(path, root, parts)
    raise DataError(f"{path}: a video has {', '.join(records[0])}; {_WANTED}")


_WANTED = (
    "known are Something-Something v2 (id, template) and Diving48 (vid_name, label); "
    "write others as a .csv with path,label"
)


def _something(path: Path, root: Root, parts: Parts) -> Listing:
    """Labels are templates, without the brackets around what is something."""
    names = beside(path, "something-something-v2-labels.json", "labels.json")
    listing = Listing()
    if names is not None:
        index_of = _read_json(names)
        if not isinstance(index_of, dict) or not all(str(i).isdecimal() for i in index_of.values()):
            raise DataError(f"{names} is no object of class names with their numbers")
        listing.classes = (sorted(index_of, key=lambda label: int(index_of[label])),)
    for file, split, records in parts:
        for number, record in enumerate(records, start=1):
            label = record.get("template") or record.get("label")
            if not label or not record.get("id"):
                raise DataError(f"{file} entry {number}: it has no id or no template")
            video = root.find(f"{record['id']}.webm", f"{record['id']}.mp4")
            listing.add(video, str(label).replace("[", "").replace("]", ""), split=split)
    return listing


def _diving48(path: Path, root: Root, parts: Parts) -> Listing:
    names = beside(path, "Diving48_vocab.json")
    classes = (
        [" ".join(filter(None, map(str, parts_of))) for parts_of in _read_json(names)]
        if names
        else [str(i) for i in range(48)]
    )
    listing = Listing(classes=(classes,))
    for file, split, records in parts:
        for number, record in enumerate(records, start=1):
            label = class_name(str(record.get("label")), classes, file, number)
            if not record.get("vid_name"):
                raise DataError(f"{file} entry {number}: it has no vid_name")
            listing.add(root.find(f"{record['vid_name']}.mp4"), label, split=split)
    return listing


def _read_records(path: Path) -> list[dict[str, Any]]:
    records = _read_json(path)
    if not isinstance(records, list) or not records:
        raise DataError(f"{path} is no list of videos; {_WANTED}")
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise DataError(f"{path} entry {number} is no object of a video but {record!r}")
    return records


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}") from None
