"""Something-Something v2 and Diving48: lists of videos as .json files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from st_adapter.data.formats.listing import Listing, Root, beside, class_name, parts, read_text
from st_adapter.errors import DataError

_SUPPORTED = (
    "supported are Something-Something v2 (id, template) and Diving48 (vid_name, label); "
    "convert other lists to a .csv with the columns path,label"
)

Entry = tuple[str, dict[str, Any], str]
"""An entry of a list: its position for error messages, its record, and its part."""


def read(path: Path, root: Root) -> Listing:
    """Read one part. For a training part, also read the validation part in the same folder."""
    entries = [
        (f"{file} entry {number}", record, split)
        for file, split in parts(path, "validation", "val", "test")
        for number, record in enumerate(_read_records(file), start=1)
    ]
    _, first, _ = entries[0]
    if "template" in first or "id" in first:
        return _read_something(path, root, entries)
    if "vid_name" in first:
        return _read_diving48(path, root, entries)
    raise DataError(f"{path}: unknown format with the keys {', '.join(first)}; {_SUPPORTED}")


def _read_something(path: Path, root: Root, entries: Sequence[Entry]) -> Listing:
    """Read entries whose labels are templates, such as "Opening [something]", without brackets."""
    names = beside(path, "something-something-v2-labels.json", "labels.json")
    listing = Listing()
    if names is not None:
        index_of = _read_json(names)
        if not isinstance(index_of, dict) or not all(str(i).isdecimal() for i in index_of.values()):
            raise DataError(f"{names}: expected an object that maps class names to numbers")
        listing.classes = (sorted(index_of, key=lambda label: int(index_of[label])),)
    for where, record, split in entries:
        label = record.get("template") or record.get("label")
        if not label or not record.get("id"):
            raise DataError(f"{where}: id or template is missing")
        video = root.find(f"{record['id']}.webm", f"{record['id']}.mp4")
        listing.add(video, str(label).replace("[", "").replace("]", ""), split=split)
    return listing


def _read_diving48(path: Path, root: Root, entries: Sequence[Entry]) -> Listing:
    names = beside(path, "Diving48_vocab.json")
    classes = [str(i) for i in range(48)]
    if names is not None:  # a class is a list of words, some of them empty
        classes = [" ".join(filter(None, map(str, words))) for words in _read_json(names)]
    listing = Listing(classes=(classes,))
    for where, record, split in entries:
        label = class_name(str(record.get("label")), classes, where)
        if not record.get("vid_name"):
            raise DataError(f"{where}: vid_name is missing")
        listing.add(root.find(f"{record['vid_name']}.mp4"), label, split=split)
    return listing


def _read_records(path: Path) -> list[dict[str, Any]]:
    records = _read_json(path)
    if not isinstance(records, list) or not records:
        raise DataError(f"{path}: expected a list of videos; {_SUPPORTED}")
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise DataError(
                f"{path} entry {number}: expected an object that describes a video, got {record!r}"
            )
    return records


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
