"""The program of a process that decodes uploaded videos, which may be made to do harm.

It answers requests over a pipe: JSON, followed by raw bytes whose number the JSON implies. Nothing
here imports torch, so that a process starts in a fraction of a second and needs little memory.
"""

import json
import resource
import sys
from collections.abc import Iterator
from math import ceil
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from st_adapter.config import ClipConfig
from st_adapter.data.reading import read_views
from st_adapter.data.video.decode import TruncatedError
from st_adapter.data.video.info import VideoInfo
from st_adapter.data.video.packets import probe
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Video
from st_adapter.errors import VideoError

MESSAGE_BYTES = 2**22
"""Longest JSON message, in either direction."""

_MOST_THREADS = 4
"""Threads that decode one video."""

_MOST_FILES = 64
"""Files that the process may have open: its pipe, the video, and what Python and FFmpeg need."""


def main(handle: int, megabytes: int) -> None:
    """Answer requests until the pipe is closed.

    Args:
        handle: Descriptor of the pipe.
        megabytes: Address space of this process in MB.
    """
    for kind, most in (
        (resource.RLIMIT_AS, megabytes * 2**20),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _MOST_FILES),
    ):
        resource.setrlimit(kind, (most, most))
    pipe = Connection(handle)
    opened: dict[str, VideoInfo] = {}
    while True:
        try:
            request = json.loads(pipe.recv_bytes(MESSAGE_BYTES))
        except EOFError:  # the server has ended
            return
        try:
            for message in _answer(request, opened):
                pipe.send_bytes(message)
        except TruncatedError as error:
            pipe.send_bytes(_json(error=str(error), num_decoded=error.num_decoded))
        except VideoError as error:
            pipe.send_bytes(_json(error=str(error)))
        except MemoryError:
            pipe.send_bytes(_json(error="decoding it needs too much memory"))


def _answer(request: dict[str, Any], opened: dict[str, VideoInfo]) -> Iterator[bytes | memoryview]:
    path = Path(request["path"])
    if request["ask"] == "open":
        _limit_cpu(request["cpu_seconds"])
        opened.clear()
        opened[request["path"]] = info = probe(path)
        yield from _describe(info)
        return
    info = opened[request["path"]]
    reader = Reader(probe=lambda path: info)
    if request["ask"] == "views":
        clip = ClipConfig(**request["clip"] | {"views": tuple(request["clip"]["views"])})
        clips, clip_of = read_views(Video(path=path), clip, reader)
        yield _json(shape=clips.shape, clip_of=clip_of)
        yield np.ascontiguousarray(clips).data.cast("B")
        return
    numbers, side, square = (request[key] for key in ("numbers", "short_side", "square_pixels"))
    for number, frame in reader.stream_frames(path, numbers, side, info, square):
        yield _json(number=number, shape=frame.shape)
        yield np.ascontiguousarray(frame).data.cast("B")


def _describe(info: VideoInfo) -> Iterator[bytes | memoryview]:
    yield _json(
        num_frames=info.num_frames,
        time_base=info.time_base.as_integer_ratio(),
        pixel_aspect=info.pixel_aspect.as_integer_ratio(),
        width=info.width,
        height=info.height,
        rotation=info.rotation,
        mirrored=info.mirrored,
        stamped=info.stamped,
    )
    yield np.ascontiguousarray(info.pts, dtype="<i8").data.cast("B")


def _limit_cpu(seconds: float) -> None:
    """Let the operating system end this process if it computes for longer from now on.

    The server ends it at the deadline anyway, if it can. FFmpeg computes in several threads.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = ceil(used.ru_utime + used.ru_stime + _MOST_THREADS * seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _json(**values: Any) -> bytes:
    return json.dumps(values).encode()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
