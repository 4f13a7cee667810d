"""Frames of a video by number: decodes what must be, converts and scales only what is asked for."""

import bisect
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8
from torch import Tensor

from st_adapter.data.archives.tar import Place
from st_adapter.data.video.container import (
    decode_all,
    open_video,
    read_packets,
    video_stream,
)
from st_adapter.data.video.info import VideoInfo
from st_adapter.data.video.orientation import orientation_of
from st_adapter.data.video.picture_folders import list_pictures
from st_adapter.errors import VideoError

_SKIPS_FRAMES = frozenset(("h264", "hevc", "mpeg4", "mpeg2video"))
"""Decoders that can leave out a frame to which no other refers, with no change in the others."""

_SEEK_FRAMES = 12
"""Decoding so many frames takes as long as a seek, which starts the decoder anew."""

_MOST_THREADS = 4

ByTime = Callable[[Path, Sequence[int], VideoInfo, int | None, Fraction], dict[int, Tensor]]
"""From path, frame numbers, what is known, short side and aspect of pixels to frames [h, w, 3];
fewer if some are lost."""


def read_frames(
    path: Path,
    indices: Sequence[int],
    short_side: int | None = None,
    info: VideoInfo | None = None,
    by_time: ByTime | None = None,
    *,
    pixel_aspect: Fraction = Fraction(1),
) -> UInt8[Tensor, "t 3 h w"]:
    """Return the frames with these numbers, RGB, upright, in the order asked for.

    Frame i is the i-th that the decoder puts out. A number may repeat. In memory, channels are
    last, as decoders write them and as resizing is fastest.

    Args:
        path: the video.
        indices: frame numbers, from 0.
        short_side: scale so that the shorter side has this many pixels, bicubic; None keeps it.
        info: what `probe` says of the video; with it only what must be is decoded.
        by_time: another decoder for files that state the time of each frame.
        pixel_aspect: width of a stored pixel over its height, to make up for.

    Raises:
        VideoError: unreadable, or it ends before the last frame asked for. The error's
            `num_decoded` then tells how many frames there are.
    """
    wanted = sorted(set(indices))
    found: dict[int, Tensor] = {}
    if path.is_dir():
        found = _read_pictures(path, wanted, _ToRgb(short_side, pixel_aspect))
    elif info is not None and info.stamped and wanted[-1] < info.num_frames:
        found = (by_time or _read_by_time)(path, wanted, info, short_side, pixel_aspect)
    # Without time stamps, in a damaged file, or beyond the last packet, only counting from the
    # first frame tells which one is which.
    if len(found) < len(wanted):
        place = info.place if info else None
        found, count = _read_by_count(path, wanted, _ToRgb(short_side, pixel_aspect), place)
        if len(found) < len(wanted):
            raise TruncatedError(path, count)
    return torch.stack([found[i] for i in indices]).permute(0, 3, 1, 2)


def _read_pictures(folder: Path, wanted: Sequence[int], to_rgb: "_ToRgb") -> dict[int, Tensor]:
    files = list_pictures(folder)
    if wanted[-1] >= len(files):
        raise TruncatedError(folder, len(files))
    found: dict[int, Tensor] = {}
    for number in wanted:
        with open_video(files[number]) as container:
            frame = next(decode_all(container), None)
        if frame is None:
            raise VideoError(f"{files[number]}: no picture in it")
        found[number] = to_rgb(frame)
    return found


def plan_seeks(wanted: Sequence[int], keys: Sequence[int]) -> list[tuple[int | None, list[int]]]:
    """Group frame numbers, both ascending, into runs: (key frame to seek to or None, frames).

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
) -> dict[int, Tensor]:
    """Frames known by their time stamps, from the nearest key frames; fewer where one is lost."""
    found: dict[int, Tensor] = {}
    to_rgb = _ToRgb(short_side, pixel_aspect)
    threads = min(torch.get_num_threads(), _MOST_THREADS)
    with open_video(path, info.place, threads) as container:
        for key, numbers in plan_seeks(wanted, info.keys.tolist()):
            if key is not None:
                container.seek(int(info.pts[key]), stream=video_stream(container))
            number_of = {int(info.pts[i]): i for i in numbers}
            try:
                for stamp, frame in _decode_stamps(container, set(number_of)):
                    found[number_of[stamp]] = to_rgb(frame)
            except av.InvalidDataError:  # too few are found: the caller counts frames instead
                break
    return found


def _decode_stamps(container: InputContainer, stamps: set[int]) -> Iterator[tuple[int, VideoFrame]]:
    """Decode from here until all frames with these time stamps are out; skip what none needs."""
    stream = video_stream(container)
    skips = stream.codec_context.name in _SKIPS_FRAMES
    missing = set(stamps)
    for packet in read_packets(container):
        if skips:
            # A packet of size 0 ends the stream: it flushes frames that may well be wanted.
            unwanted = packet.size and packet.pts not in stamps
            stream.codec_context.skip_frame = "NONREF" if unwanted else "DEFAULT"
        for frame in packet.decode():
            if frame.pts in missing:
                missing.remove(frame.pts)
                yield frame.pts, frame
        if not missing:
            return


def _read_by_count(
    path: Path, wanted: Sequence[int], to_rgb: "_ToRgb", place: Place | None
) -> tuple[dict[int, Tensor], int]:
    """Frames known by counting all that the decoder puts out, and how many it put out."""
    numbers = set(wanted)
    found: dict[int, Tensor] = {}
    count = 0
    with open_video(path, place) as container:
        for count, frame in enumerate(decode_all(container), start=1):
            if count - 1 in numbers:
                found[count - 1] = to_rgb(frame)
            if len(found) == len(numbers):
                break
    return found, count


class TruncatedError(VideoError):
    """A video that has fewer frames than its packets promise."""

    def __init__(self, path: Path, num_decoded: int) -> None:
        super().__init__(f"{path}: only {num_decoded} frames can be decoded")
        self.num_decoded = num_decoded


class _ToRgb:
    """Converts and scales frames of one video in one pass, and turns them upright."""

    def __init__(self, short_side: int | None, pixel_aspect: Fraction) -> None:
        self.short_side, self.pixel_aspect = short_side, pixel_aspect
        self.size: tuple[int, int] | None = None  # a stream may change its size; a clip has one
        self.scaler = VideoReformatter()  # keeps its tables from frame to frame

    def __call__(self, frame: VideoFrame) -> UInt8[Tensor, "h w 3"]:
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
        return torch.from_numpy(np.ascontiguousarray(pixels))


def scaled_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """Width and height, in pixels, with the shorter scaled to `short_side`."""
    if short_side is None:
        return width, height
    if width < height:
        return short_side, height * short_side // width
    return max(1, width * short_side // height), short_side
