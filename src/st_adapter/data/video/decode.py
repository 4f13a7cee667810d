"""Decoding of frames by number. Only the requested frames are converted and scaled."""

import bisect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8
from numpy import ndarray

from st_adapter.data.archives.tar import Place
from st_adapter.data.video.arrays import stack
from st_adapter.data.video.container import (
    decode_all,
    open_video,
    read_packets,
    video_stream,
)
from st_adapter.data.video.info import Frame, FramesInfo, VideoInfo
from st_adapter.data.video.orientation import orientation_of
from st_adapter.data.video.picture_folders import list_pictures
from st_adapter.errors import VideoError

_SKIPS_FRAMES = frozenset(("h264", "hevc", "mpeg4", "mpeg2video"))
"""Codecs whose decoder can skip frames that no other frame refers to. The others do not change."""

_SEEK_FRAMES = 12
"""Number of frames that take as long to decode as a seek, which restarts the decoder."""

_MOST_THREADS = 4
"""Maximum number of threads that decode one video."""

_FRAMES_AT_ONCE = 32
"""Number of frames that decoders without a stream of their own are asked for at once."""

ByTime = Callable[[Path, Sequence[int], VideoInfo, int | None, Fraction], dict[int, Any]]
"""A decoder: maps path, frame numbers, info, short side and pixel aspect to frames [h, w, 3] by
number. It returns fewer frames if some cannot be decoded.
"""


def read_frames(
    path: Path,
    indices: Sequence[int],
    short_side: int | None = None,
    info: VideoInfo | None = None,
    by_time: ByTime | None = None,
    *,
    pixel_aspect: Fraction = Fraction(1),
) -> UInt8[Any, "t h w 3"]:
    """Return the frames with the given numbers, RGB and upright, in the given order.

    Frame i is the i-th one that the decoder outputs.

    Args:
        path: The video.
        indices: Frame numbers, from 0. A number can occur several times.
        short_side: Scale frames (bicubic) to this many pixels on the shorter side; None keeps their
            size.
        info: What `probe` returns for the video. Without it, all frames up to the last one are
            decoded.
        by_time: Replaces the decoder for files that state the time of each frame.
        pixel_aspect: Width of a stored pixel divided by its height; frames are stretched
            accordingly.

    Raises:
        VideoError: If the video cannot be read.
        TruncatedError: If the video ends before the last requested frame.
    """
    wanted = sorted(set(indices))
    found: dict[int, Any] = {}
    if isinstance(info, FramesInfo):
        to_rgb = FrameScaler(short_side, pixel_aspect)
        found = {i: to_rgb(info.frames[i]) for i in wanted}
    elif path.is_dir():
        found = _read_pictures(path, wanted, FrameScaler(short_side, pixel_aspect))
    elif info is not None and info.stamped and wanted[-1] < info.num_frames:
        found = (by_time or _read_by_time)(path, wanted, info, short_side, pixel_aspect)
    # If the file has no time stamps, is damaged, or ends early, the only way to number the frames
    # is to count them from the first.
    if len(found) < len(wanted):
        place = info.place if info else None
        found, count = _read_by_count(path, wanted, FrameScaler(short_side, pixel_aspect), place)
        if len(found) < len(wanted):
            raise TruncatedError(path, count)
    return stack([found[i] for i in indices])


def stream_frames(
    path: Path,
    wanted: Sequence[int],
    short_side: int | None,
    info: VideoInfo,
    by_time: ByTime | None = None,
    *,
    pixel_aspect: Fraction = Fraction(1),
) -> Iterator[tuple[int, UInt8[Any, "h w 3"]]]:
    """Yield the frames with the given numbers one by one, in a single pass through the video.

    The frames are those of `read_frames`, but they are never all in memory.

    Args:
        path: The video.
        wanted: Frame numbers, ascending, without repetitions.
        short_side: Scale frames (bicubic) to this many pixels on the shorter side; None keeps their
            size.
        info: What `probe` returns for the video.
        by_time: Replaces the decoder for files that state the time of each frame.
        pixel_aspect: Width of a stored pixel divided by its height; frames are stretched
            accordingly.

    Yields:
        Number and pixels of each frame, RGB and upright.

    Raises:
        VideoError: If the video cannot be read.
        TruncatedError: If the video ends before the last wanted frame.
    """
    pieces = [wanted[i : i + _FRAMES_AT_ONCE] for i in range(0, len(wanted), _FRAMES_AT_ONCE)]
    if isinstance(info, FramesInfo) or path.is_dir():
        for numbers in pieces:
            frames = read_frames(path, numbers, short_side, info, pixel_aspect=pixel_aspect)
            yield from zip(numbers, frames, strict=True)
        return
    to_rgb = FrameScaler(short_side, pixel_aspect)
    found: Iterable[tuple[int, Any]] = ()
    if info.stamped and by_time is not None:
        decoded = (by_time(path, numbers, info, short_side, pixel_aspect) for numbers in pieces)
        found = chain.from_iterable(frames.items() for frames in decoded)
    elif info.stamped:
        found = _frames_by_time(path, wanted, info, to_rgb)
    position = 0  # in `wanted`
    for number, frame in found:
        if number != wanted[position]:  # damaged: the decoder has left out a frame
            break
        yield number, frame
        position += 1
    if position < len(wanted):
        yield from _frames_by_count(path, wanted[position:], to_rgb, info.place)


def _as_video_frame(frame: Frame) -> VideoFrame:
    # Pixels are scaled by FFmpeg as well, because other libraries round differently.
    if isinstance(frame, VideoFrame):
        return frame
    return VideoFrame.from_ndarray(frame, format="rgb24")


def _read_pictures(folder: Path, wanted: Sequence[int], to_rgb: "FrameScaler") -> dict[int, Any]:
    files = list_pictures(folder)
    if wanted[-1] >= len(files):
        raise TruncatedError(folder, len(files))
    found: dict[int, ndarray] = {}
    for number in wanted:
        with open_video(files[number]) as container:
            frame = next(decode_all(container), None)
        if frame is None:
            raise VideoError(f"{files[number]}: contains no picture")
        found[number] = to_rgb(frame)
    return found


def plan_seeks(wanted: Sequence[int], keys: Sequence[int]) -> list[tuple[int | None, list[int]]]:
    """Group frame numbers into runs, each decoded in one go.

    Args:
        wanted: Frame numbers, ascending.
        keys: Numbers of the key frames, ascending.

    Returns:
        For each run, the key frame to seek to (None to continue from the start) and the frames.

    >>> plan_seeks([3, 40, 45, 300], keys=[0, 30, 60, 90, 290])
    [(None, [3]), (30, [40, 45]), (290, [300])]
    """
    runs: list[tuple[int | None, list[int]]] = []
    position = 0  # the frame that decoding has reached
    for number in wanted:
        before = bisect.bisect_right(keys, number)
        key = int(keys[before - 1]) if before else 0  # the last key frame up to this frame
        if key > position + _SEEK_FRAMES:
            runs.append((key, [number]))
        elif runs:
            runs[-1][1].append(number)
        else:
            runs.append((None, [number]))
        position = number
    return runs


def _read_by_time(
    path: Path,
    wanted: Sequence[int],
    info: VideoInfo,
    short_side: int | None,
    pixel_aspect: Fraction,
) -> dict[int, Any]:
    """Find frames by their time stamps. Returns fewer frames if some cannot be decoded."""
    return dict(_frames_by_time(path, wanted, info, FrameScaler(short_side, pixel_aspect)))


def _frames_by_time(
    path: Path, wanted: Sequence[int], info: VideoInfo, to_rgb: "FrameScaler"
) -> Iterator[tuple[int, Any]]:
    """Yield the wanted frames by their time stamps, starting at the nearest key frames.

    Ends early if the file is damaged.
    """
    threads = min(_available_threads(), _MOST_THREADS)
    with open_video(path, info.place, threads) as container:
        for key, numbers in plan_seeks(wanted, _usable_keys(video_stream(container), info)):
            if key is not None:
                container.seek(int(info.pts[key]), stream=video_stream(container))
            number_of = {int(info.pts[i]): i for i in numbers}
            try:
                for stamp, frame in _decode_stamps(container, set(number_of)):
                    yield number_of[stamp], to_rgb(frame)
            except av.InvalidDataError:  # damaged: the caller then counts frames instead
                return


def _available_threads() -> int:
    """Return how many threads this process may use: as many as torch, if it is there."""
    # Dataloader workers, and processes that share a machine, have torch use fewer than there are.
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch else os.cpu_count() or 1


def _usable_keys(stream: Any, info: VideoInfo) -> list[int]:
    """Return the numbers of the key frames from which decoding can start."""
    # Old versions of x264 wrote H.264 with full colour differently. FFmpeg knows the version from
    # the first packet of the file. Without it, such pictures come out green.
    context = stream.codec_context
    if context.name == "h264" and "444" in (context.pix_fmt or ""):
        return []
    return [int(key) for key in info.keys]


def _decode_stamps(container: InputContainer, stamps: set[int]) -> Iterator[tuple[int, VideoFrame]]:
    """Decode from the current position until the frames with these time stamps have been found.

    Lets the decoder skip frames that are not needed to decode these.
    """
    stream = video_stream(container)
    skips = stream.codec_context.name in _SKIPS_FRAMES
    missing = set(stamps)
    for packet in read_packets(container):
        if skips:
            # The empty packet at the end flushes the decoder; wanted frames may still come out.
            unwanted = packet.size and packet.pts not in stamps
            stream.codec_context.skip_frame = "NONREF" if unwanted else "DEFAULT"
        for frame in packet.decode():
            if frame.pts in missing:
                missing.remove(frame.pts)
                yield frame.pts, frame
        if not missing:
            return


def _read_by_count(
    path: Path, wanted: Sequence[int], to_rgb: "FrameScaler", place: Place | None
) -> tuple[dict[int, Any], int]:
    """Find frames by counting all that the decoder outputs; also return how many it has output."""
    found: dict[int, Any] = {}
    try:
        found.update(_frames_by_count(path, wanted, to_rgb, place))
    except TruncatedError as error:
        return found, error.num_decoded
    return found, wanted[-1] + 1


def _frames_by_count(
    path: Path, wanted: Sequence[int], to_rgb: "FrameScaler", place: Place | None
) -> Iterator[tuple[int, Any]]:
    """Yield the wanted frames by counting all that the decoder outputs.

    Raises:
        TruncatedError: If the video ends before the last wanted frame.
    """
    numbers, count = set(wanted), 0
    with open_video(path, place) as container:
        for count, frame in enumerate(decode_all(container), start=1):
            if count - 1 in numbers:
                yield count - 1, to_rgb(frame)
            if count > wanted[-1]:
                return
    raise TruncatedError(path, count)


class TruncatedError(VideoError):
    """A video from which fewer frames can be decoded than its packets promise.

    Args:
        path: The video.
        num_decoded: Number of frames that can be decoded.
    """

    def __init__(self, path: Path, num_decoded: int) -> None:
        frames = "frame" if num_decoded == 1 else "frames"
        super().__init__(f"{path}: only {num_decoded} {frames} can be decoded")
        self.num_decoded = num_decoded


class FrameScaler:
    """Converts the frames of one video to RGB, scales them and turns them upright.

    Args:
        short_side: Pixels on the shorter side of the result; None keeps the size.
        pixel_aspect: Width of a stored pixel divided by its height.
    """

    def __init__(self, short_side: int | None, pixel_aspect: Fraction = Fraction(1)) -> None:
        self.short_side, self.pixel_aspect = short_side, pixel_aspect
        # Set by the first frame: a stream can change its size, but a clip has one size.
        self.size: tuple[int, int] | None = None
        self.scaler = VideoReformatter()  # reused because it caches its tables

    def __call__(self, frame: Frame) -> UInt8[ndarray, "height width 3"]:
        """Convert one frame. All frames get the size of the first."""
        frame = _as_video_frame(frame)
        width = round(frame.width * self.pixel_aspect)
        self.size = self.size or scaled_size(width, frame.height, self.short_side)
        scaled = self.scaler.reformat(
            frame,
            width=self.size[0],
            height=self.size[1],
            format="rgb24",
            interpolation=Interpolation.BICUBIC,
            threads=1,
        )
        pixels = orientation_of(frame).apply(scaled.to_ndarray())
        return np.ascontiguousarray(pixels)


def scaled_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """Return width and height in pixels after scaling the shorter of them to `short_side`."""
    if short_side is None:
        return width, height
    if width < height:
        return short_side, height * short_side // width
    return max(1, width * short_side // height), short_side
