"""Open a video with FFmpeg, whether it is a file or lies in a shard, and read its packets."""

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

_FORMATS = (
    "mov,matroska,avi,asf,flv,gif,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ivf,ogg,mxf,nut,dv,"
    "jpeg_pipe,png_pipe,bmp_pipe,webp_pipe,mp3,aac,wav,flac"
)
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
"""A file must not make FFmpeg open others, as playlists would, nor the network."""


@contextmanager
def open_video(
    path: Path, place: Place | None = None, threads: int = 1
) -> Iterator[InputContainer]:
    """Open a file that has a video stream; FFmpeg's errors come out as VideoError."""
    try:
        source = _source(path, place)
        with av.open(source, "r", options=_OPTIONS, metadata_errors="replace") as container:
            stream = video_stream(container)
            if stream is None:
                raise VideoError(f"{path}: no video stream in it")
            stream.thread_count = threads
            stream.thread_type = "AUTO"
            yield container
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        # FFmpeg says EINVAL of broken files, too; other error numbers are the system's.
        of_system = (error.errno or 0) in errno.errorcode and error.errno != errno.EINVAL
        kind = UnreachableError if of_system else VideoError
        raise kind(f"{path}: cannot be decoded: {reason}") from error


def _source(path: Path, place: Place | None) -> str | BytesIO:
    """What FFmpeg opens: a file by its name, a video in a shard by its bytes."""
    place = place or find(path)
    if place is None and not path.is_file():
        what = "a folder, not a video" if path.is_dir() else "no such file"
        raise VideoError(f"{path}: {what}")
    if not (place.num_bytes if place else path.stat().st_size):
        raise VideoError(f"{path}: the file is empty")
    return BytesIO(read_bytes(place)) if place else str(path)


def video_stream(container: InputContainer) -> Any:
    """The first video stream; None if there is none but the still picture of a piece of music."""
    still = Disposition.attached_pic
    return next((s for s in container.streams.video if not s.disposition & still), None)


def read_packets(container: InputContainer) -> Iterator[av.Packet]:  # type: ignore[type-arg]
    """The packets of the first video stream."""
    try:
        yield from container.demux(video_stream(container))
    except IndexError:  # at the end PyAV stumbles over a stream that began in the middle
        return


def decode_all(container: InputContainer) -> Iterator[VideoFrame]:
    """Yield what can be decoded; a damaged packet costs its own frames, not those after it."""
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
