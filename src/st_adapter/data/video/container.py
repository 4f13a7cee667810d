"""Opening videos with FFmpeg, from a file or from a shard, and reading their packets."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame

from st_adapter.data.archives.members import find
from st_adapter.data.archives.tar import Place, read_bytes
from st_adapter.errors import UnreachableError, VideoError

FORMATS = (
    "mov,matroska,avi,asf,flv,gif,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ivf,ogg,mxf,nut,dv,"
    "jpeg_pipe,png_pipe,bmp_pipe,webp_pipe,mp3,aac,wav,flac"
)
"""Formats that FFmpeg may open. Playlists are left out."""
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
"""Options that keep a file from making FFmpeg open other files or the network."""


@contextmanager
def open_video(
    path: Path, place: Place | None = None, threads: int = 1
) -> Iterator[InputContainer]:
    """Open a video and yield the container. Errors of FFmpeg inside the block become VideoErrors.

    Args:
        path: A file, or a video in a shard.
        place: Position of a video in its shard, if it is known already.
        threads: Number of threads that decode.

    Raises:
        UnreachableError: If the operating system cannot read the file.
        VideoError: If the file is missing, empty, damaged or without a video stream.
    """
    try:
        source = _source(path, place)
        with av.open(source, "r", options=_OPTIONS, metadata_errors="replace") as container:
            stream = video_stream(container)
            if stream is None:
                raise VideoError(f"{path}: contains no video stream")
            stream.thread_count = threads
            stream.thread_type = "AUTO"
            yield container
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        # FFmpeg reports EINVAL for damaged files too. Other codes come from the operating system.
        is_system = (error.errno or 0) in errno.errorcode and error.errno != errno.EINVAL
        error_class = UnreachableError if is_system else VideoError
        raise error_class(f"{path}: cannot be decoded: {reason}") from error


def _source(path: Path, place: Place | None) -> str | BytesIO:
    """Return what FFmpeg opens: the name of a file, or the bytes of a video in a shard."""
    place = place or find(path)
    if place is None and not path.is_file():
        what = "a folder, not a video" if path.is_dir() else "no such file"
        raise VideoError(f"{path}: {what}")
    if not (place.num_bytes if place else path.stat().st_size):
        raise VideoError(f"{path}: the file is empty")
    return BytesIO(read_bytes(place)) if place else str(path)


def stated_seconds(path: Path) -> float:
    """Return how long a local file says it is, without reading its packets; 0 if it does not.

    Good enough for a progress bar: a damaged file can be shorter.
    """
    if not path.is_file():
        return 0.0
    try:
        with open_video(path) as container:
            return (container.duration or 0) / av.time_base
    except VideoError:
        return 0.0


def video_stream(container: InputContainer) -> Any:
    """Return the first video stream that is not cover art, or None."""
    still = Disposition.attached_pic
    return next((s for s in container.streams.video if not s.disposition & still), None)


def read_packets(container: InputContainer) -> Iterator[av.Packet]:  # type: ignore[type-arg]
    """Yield the packets of the first video stream."""
    try:
        yield from container.demux(video_stream(container))
    except IndexError:  # PyAV raises it at the end of a file in which a stream starts late
        return


def decode_all(container: InputContainer) -> Iterator[VideoFrame]:
    """Yield all frames that can be decoded.

    A damaged packet loses only its own frames. Its error is raised if no frame can be decoded.
    """
    failed = None
    count = 0
    for packet in read_packets(container):
        try:
            for frame in packet.decode():
                count += 1
                yield frame
        except av.InvalidDataError as error:
            failed = error
    if failed is not None and not count:
        raise failed
