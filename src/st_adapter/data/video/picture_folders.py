"""A folder of numbered pictures, such as image_00001.jpg, read as a video."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from st_adapter.errors import VideoError

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp"))
_NUMBERED = re.compile(r"(.*?)(\d+)(\.\w+)")
_FLOW = re.compile(r"flow|^[xyuv]_?$", re.IGNORECASE)


def holds_pictures(names: Iterable[str]) -> bool:
    """Whether some of these names are of numbered pictures."""
    return any(_NUMBERED.fullmatch(n) and os.path.splitext(n)[1].lower() in SUFFIXES for n in names)


def list_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder by their numbers.

    Pictures of optical flow beside them (flow_x_00001.jpg) are left out.

    Raises:
        VideoError: there are none, or several series of them.
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
        raise VideoError(f"{folder}: pictures of several series: {names}; keep one a folder")
    (numbered,) = series.values()
    return [folder / name for _, name in sorted(numbered)]
