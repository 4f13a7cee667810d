"""What a program passes as a video: a path, a URL, the bytes of a file, an open file, or frames."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from st_adapter.common.paths import absolute, is_remote
from st_adapter.data.archives.tar import Place, read_url, split_member
from st_adapter.data.frames_in_memory import check_frames, describe_frames, is_array, is_frame
from st_adapter.data.video import packets
from st_adapter.data.video.info import Frame, VideoInfo
from st_adapter.errors import ArgumentError, UnreachableError


def is_batch(given: Any) -> bool:
    """Return whether several videos were given, rather than one."""
    if isinstance(given, list | tuple):
        return not all(map(is_frame, given))
    return is_array(given) and given.ndim == 5


Held = str | bytes | Sequence[Frame]
"""What is not read from a local path: the URL of a video, its bytes, or its frames."""


@dataclass(frozen=True)
class Inputs:
    """Several videos of any kind, each under a path by which a `Reader` can ask for it.

    Files keep their own path. Frames, bytes and open files get one like `<frames 3>`, with their
    number among the inputs.

    Attributes:
        paths: The path of each input.
        held: What is not read from a local path, by its path.
    """

    paths: list[Path]
    held: dict[Path, Held]

    @classmethod
    def of(cls, given: Iterable[Any], *, bgr: bool = False) -> "Inputs":
        """Sort out what was given. Open files are read here.

        Args:
            given: Videos of any kind.
            bgr: Colours of arrays are in the order blue, green, red.

        Raises:
            ArgumentError: If one of them cannot be a video, or its frames are not valid.
        """
        videos = list(given)
        sorted_out: list[tuple[Path, Held | None]] = []
        for number, video in enumerate(videos):
            try:
                sorted_out.append(_sort_out(video, number, bgr))
            except ArgumentError as error:
                which = f"video {number}: " if len(videos) > 1 else ""
                raise ArgumentError(f"{which}{error}") from None
        held = {path: what for path, what in sorted_out if what is not None}
        return cls([path for path, _ in sorted_out], held)

    def probe(self, path: Path) -> VideoInfo:
        """Return the description of a video, as `packets.probe` does for files.

        Raises:
            VideoError: If it cannot be read.
        """
        held = self.held.get(path)
        if held is None:
            return packets.probe(path)
        if isinstance(held, str):
            return _probe_url(path, held)
        if isinstance(held, bytes):
            return packets.probe(path, Place(str(path), 0, len(held), held))
        return describe_frames(path, held)


def probe_file_or_url(path: Path) -> VideoInfo:
    """Return the description of a video that is a local file, in a shard, or behind a URL.

    Raises:
        VideoError: If it cannot be read.
    """
    if is_remote(path) and split_member(path) is None:
        return _probe_url(path, absolute(path))
    return packets.probe(path)


def _probe_url(path: Path, url: str) -> VideoInfo:
    # Read once here: probing and decoding would each download the file again.
    try:
        content = read_url(url)
    except OSError as error:
        raise UnreachableError(f"{path}: {error}") from error
    return packets.probe(path, Place(str(path), 0, len(content), content))


def _sort_out(video: Any, number: int, bgr: bool) -> tuple[Path, Held | None]:
    """Return the path of an input, and what is held for it; None for a local path."""
    if isinstance(video, str | os.PathLike):
        path = Path(video)
        if not is_remote(path) or split_member(path) is not None:
            return path, None
        return path, video if isinstance(video, str) else absolute(path)
    if isinstance(video, bytes | bytearray | memoryview):
        return Path(f"<bytes {number}>"), bytes(video)
    if isinstance(video, list | tuple) or is_array(video) or is_frame(video):
        return Path(f"<frames {number}>"), check_frames(video, bgr=bgr)
    if hasattr(video, "read"):
        return Path(f"<file {number}>"), _read_all(video)
    raise ArgumentError(
        f"{type(video).__name__!r} objects are not videos; pass a path, a URL, bytes, a file "
        "opened in binary mode, or frames [t, h, w, 3]"
    )


def _read_all(file: Any) -> bytes:
    content = file.read()
    if isinstance(content, str):
        raise ArgumentError('the file is open as text; open it with open(path, "rb")')
    return bytes(content)
