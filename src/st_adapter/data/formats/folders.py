"""Class folders: one folder of videos per class, or train/ and val/ with such folders."""

import os
from collections.abc import Iterator
from pathlib import Path

from st_adapter.common.paths import is_video_name
from st_adapter.common.remarks import note
from st_adapter.data.formats.listing import SPLITS, Listing, counted, examples
from st_adapter.data.video.picture_folders import holds_pictures
from st_adapter.errors import DataError


def read(folder: Path) -> Listing:
    """Read class folders, or the parts `train` and `val` that contain them.

    `train` can also be the name of a class. It is taken as one if it contains videos directly and
    there are other folders with videos next to it.
    """
    parts = {child.name.lower(): child for child in _subfolders(folder)}
    listing = Listing()
    others = [c for name, c in parts.items() if name not in SPLITS and next(_find(c), None)]
    if "train" not in parts or (others and _holds_videos(parts["train"])):
        _read_classes(folder, "train", listing)
        return listing
    if others:
        names = examples(c.name for c in others)
        note(f"ignoring {names} in {folder}: next to train/, only other parts are read")
    _read_classes(parts["train"], "train", listing)
    for name, split in SPLITS.items():
        if split != "train" and name in parts:
            _read_classes(parts[name], "val", listing)
            break
    return listing


def find_videos(folder: Path) -> list[Path]:
    """Find all videos below a folder.

    Returns:
        Files with the suffix of a video, and folders of numbered pictures, sorted by path.
    """
    return [Path(path) for path in sorted(_find(folder), key=lambda path: path.split(os.sep))]


def _find(folder: Path) -> Iterator[str]:
    for at, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        visible = [name for name in files if not name.startswith(".")]
        videos = [name for name in visible if is_video_name(name)]
        if at != str(folder) and not videos and holds_pictures(visible):
            yield at  # pictures in a folder of videos are thumbnails
        for name in videos:
            path = os.path.join(at, name)
            if os.path.isfile(path) or os.path.islink(path):
                yield path  # a broken link is included, so that its reader reports it


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
    lists = [str(p) for base in (folder, folder.parent) for p in sorted(base.glob("*.csv"))]
    hint = f"; or use one of these lists: {examples(lists)}" if lists else ""
    found = f"{counted(loose, 'video')} but no folder per class" if loose else "no videos"
    raise DataError(
        f"{folder} contains {found}; give a folder with one folder of videos per class{hint}"
    )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
