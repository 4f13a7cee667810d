"""Folders of numbered pictures, such as image_00001.jpg, that are read as videos."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from st_adapter.errors import VideoError

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp"))
"""Suffixes of pictures, in lower case."""
_NUMBERED = re.compile(r"(.*?)(\d+)(\.\w+)")
_FLOW = re.compile(r"flow|^[xyuv]_?$", re.IGNORECASE)
"""Matches prefixes of optical flow, such as flow_x_ or u_, which is often stored next to frames."""


def holds_pictures(names: Iterable[str]) -> bool:
    """Return whether any of these file names is that of a numbered picture."""
    return any(_NUMBERED.fullmatch(n) and os.path.splitext(n)[1].lower() in SUFFIXES for n in names)


def list_pictures(folder: Path) -> list[Path]:
    """Return the pictures in a folder, ordered by number.

    Optical flow (flow_x_00001.jpg) is left out.

    Raises:
        VideoError: If the folder contains no numbered pictures, or several series of them.
    """
    series: dict[str, list[tuple[int, str]]] = {}
    for name in os.listdir(folder):
        match = _NUMBERED.fullmatch(name)
        if match and match.group(3).lower() in SUFFIXES and not _FLOW.search(match.group(1)):
            series.setdefault(match.group(1), []).append((int(match.group(2)), name))
    if not series:
        raise VideoError(f"{folder}: a folder without numbered pictures, not a video")
    if len(series) > 1:
        names = ", ".join(f"{prefix}*" for prefix in sorted(series))
        raise VideoError(f"{folder}: contains several series: {names}; put each in its own folder")
    (numbered,) = series.values()
    return [folder / name for _, name in sorted(numbered)]
