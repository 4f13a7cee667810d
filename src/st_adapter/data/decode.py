"""Frames of a video by number: decodes through, converts and scales only the frames asked for."""

import bisect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8
from torch import Tensor

from st_adapter.errors import VideoError

_OPTIONS = {"protocol_whitelist": "file"}
"""A file must not make FFmpeg open others, as playlists would, nor the network."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What the packets of a video say, without decoding it.

    Attributes:
        path: the file.
        start_seconds: presentation time of each frame, counted from the first; its length is
            the number of frames.
    """

    path: Path
    start_seconds: tuple[float, ...]

    @property
    def num_frames(self) -> int:
        """Frames that the packets promise."""
        return len(self.start_seconds)

    def frame_range(self, start_seconds: float | None, end_seconds: float | None) -> range:
        """Numbers of the frames shown from `start_seconds` until before `end_seconds`.

        Raises:
            VideoError: no frame lies there.
        """
        first = 0
        if start_seconds is not None:
            first = bisect.bisect_left(self.start_seconds, start_seconds - 1e-6)
        last = self.num_frames
        if end_seconds is not None:
            last = bisect.bisect_left(self.start_seconds, end_seconds - 1e-6)
        if first >= last:
            raise VideoError(
                f"{self.path}: no frame between {start_seconds or 0} s and {end_seconds} s; "
                f"the video is {self.start_seconds[-1]:.2f} s long"
            )
        return range(first, last)


def probe(path: Path) -> VideoInfo:
    """Count frames and read their times from the packets of the first video stream.

    Raises:
        VideoError: the file is missing, empty, unreadable or holds no video.
    """
    with _open(path) as container:
        stream = container.streams.video[0]
        times = []
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard:
                time = packet.pts if packet.pts is not None else packet.dts
                times.append(time)
        base = float(stream.time_base or 1)
        rate = float(stream.average_rate or stream.guessed_rate or 25)
    if not times:
        raise VideoError(f"{path}: the video stream holds no frame")
    known = sorted(t for t in times if t is not None)
    if len(known) < len(times):  # a format without time stamps: trust the frame rate
        return VideoInfo(path=path, start_seconds=tuple(i / rate for i in range(len(times))))
    return VideoInfo(path=path, start_seconds=tuple((t - known[0]) * base for t in known))


def read_frames(
    path: Path, indices: Sequence[int], short_side: int | None = None
) -> UInt8[Tensor, "t 3 h w"]:
    """Return the frames with these numbers, RGB, upright, in the order asked for.

    Frame i is the i-th that the decoder puts out. A number may repeat.

    Args:
        path: the video.
        indices: frame numbers, from 0.
        short_side: scale so that the shorter side has this many pixels, bicubic; None keeps it.

    Raises:
        VideoError: unreadable, or it ends before the last frame asked for. The error's
            `num_decoded` then tells how many frames there are.
    """
    wanted = set(indices)
    found: dict[int, Tensor] = {}
    count = 0
    size: tuple[int, int] | None = None
    scaler = VideoReformatter()  # keeps its tables from frame to frame
    with _open(path) as container:
        for count, frame in enumerate(_decode(container), start=1):
            if count - 1 in wanted:
                size = size or _scaled_size(frame, short_side)
                found[count - 1] = _to_rgb(frame, size, scaler)
            if len(found) == len(wanted):
                break
    if len(found) < len(wanted):
        raise TruncatedError(path, count)
    return torch.stack([found[i] for i in indices])


class TruncatedError(VideoError):
    """A video that has fewer frames than its packets promise."""

    def __init__(self, path: Path, num_decoded: int) -> None:
        super().__init__(f"{path}: only {num_decoded} frames can be decoded")
        self.num_decoded = num_decoded


@contextmanager
def _open(path: Path) -> Iterator[InputContainer]:
    """Open a file that has a video stream; FFmpeg's errors come out as VideoError."""
    if not path.is_file():
        what = "a folder, not a video" if path.is_dir() else "no such file"
        raise VideoError(f"{path}: {what}")
    if not path.stat().st_size:
        raise VideoError(f"{path}: the file is empty")
    try:
        with av.open(str(path), options=_OPTIONS, metadata_errors="replace") as container:
            if not container.streams.video:
                raise VideoError(f"{path}: no video stream in it")
            container.streams.video[0].thread_count = 1  # parallel over files instead
            yield container
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"{path}: cannot be decoded: {reason}") from None


def _decode(container: InputContainer) -> Iterator[VideoFrame]:
    """Yield what can be decoded; a damaged packet costs its own frames, not those after it."""
    stream = container.streams.video[0]
    failed = None
    count = 0
    for packet in container.demux(stream):
        try:
            for frame in packet.decode():
                count += 1
                yield frame
        except av.InvalidDataError as error:
            failed = error
    if failed is not None and not count:
        raise failed


def _scaled_size(frame: VideoFrame, short_side: int | None) -> tuple[int, int]:
    """Width and height of the stored frame, its shorter side scaled to `short_side`."""
    width, height = frame.width, frame.height
    if short_side is None:
        return width, height
    if width < height:
        return short_side, height * short_side // width
    return max(1, width * short_side // height), short_side


def _to_rgb(
    frame: VideoFrame, size: tuple[int, int], scaler: VideoReformatter
) -> UInt8[Tensor, "3 h w"]:
    """Convert and scale in one pass, then turn the picture upright."""
    scaled = scaler.reformat(
        frame,
        width=size[0],
        height=size[1],
        format="rgb24",
        interpolation=Interpolation.BICUBIC,
        threads=1,
    )
    quarter_turns, rest = divmod(frame.rotation, 90)  # anticlockwise
    pixels = np.rot90(scaled.to_ndarray(), k=0 if rest else quarter_turns)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
