"""A folder with a folder of videos for each class, or with train/ and val/ in that form."""

import os
from collections.abc import Iterator
from pathlib import Path

from st_adapter.common.paths import is_video_name
from st_adapter.common.remarks import note
from st_adapter.data.formats.listing import SPLITS, Listing, examples
from st_adapter.data.video.picture_folders import holds_pictures
from st_adapter.errors import DataError


def read(folder: Path) -> Listing:
    """Read class folders, or the parts that hold them.

    `train` is a class like any other where videos lie in it beside other folders of videos.
    """
    parts = {child.name.lower(): child for child in _subfolders(folder)}
    listing = Listing()
    others = [c for name, c in parts.items() if name not in SPLITS and next(_find(c), None)]
    if "train" not in parts or (others and _holds_videos(parts["train"])):
        _read_classes(folder, "train", listing)
        return listing
    if others:
        note(f"{folder} has parts; {examples(c.name for c in others)} beside them is left out")
    _read_classes(parts["train"], "train", listing)
    for name, split in SPLITS.items():
        if split != "train" and name in parts:
            _read_classes(parts[name], "val", listing)
            break
    return listing


def find_videos(folder: Path) -> list[Path]:
    """All videos below `folder`, sorted: files that look like one, and folders of pictures."""
    return [Path(path) for path in sorted(_find(folder), key=lambda path: path.split(os.sep))]


def _find(folder: Path) -> Iterator[str]:
    for at, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        visible = [name for name in files if not name.startswith(".")]
        videos = [name for name in visible if is_video_name(name)]
        if at != str(folder) and not videos and holds_pictures(visible):
            yield at  # pictures beside videos are thumbnails
        for name in videos:
            path = os.path.join(at, name)
            if os.path.isfile(path) or os.path.islink(path):
                yield path  # a link to nothing, too: whoever reads it says so


def _holds_videos(folder: Path) -> bool:
    return any(is_video_name(path.name) for path in folder.iterdir())


def _read_classes(folder: Path, split: str, listing: Listing) -> None:
    before = len(listing.paths)
    for child in _subfolders(folder):
        for path in find_videos(child):
            listing.add(str(path), child.name, split=split)
    if len(listing.paths) > before:
        return
    loose = len(find_videos(folder))
    lists = [p.name for base in (folder, folder.parent) for p in sorted(base.glob("*.csv"))]
    hint = f"; or give a list instead: {examples(lists)} lie beside it" if lists else ""
    raise DataError(
        f"{folder} holds {loose} videos but no folder per class{hint}"
        if loose
        else f"{folder} holds no video; DATA is a folder with one folder of videos per class{hint}"
    )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
