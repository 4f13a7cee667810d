"""Description of a video: its frames and their times, size and orientation."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from av.video.frame import VideoFrame
from jaxtyping import Float64, Int64, UInt8
from numpy import ndarray

from st_adapter.data.archives.tar import Place
from st_adapter.errors import VideoError

PICTURES_PER_SECOND = 25
"""Frame rate of a folder of pictures, which has no times of its own."""

_ROUNDING_SECONDS = 1e-6
"""Tolerance for times in lists of segments, which are rounded decimals."""


_Info = TypeVar("_Info", bound="VideoInfo")


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoInfo:
    """Description of a video. Frames are in the order in which they are shown.

    Attributes:
        path: The video.
        pts: Presentation time stamp of each frame, in units of `time_base`.
        time_base: Unit of `pts` in seconds.
        keys: Numbers of the key frames, at which decoding can start.
        stamped: Whether the file states the time of each frame, so that a decoded frame can be
            recognised by its time stamp. Otherwise `pts` are estimates, and frames must be counted.
        width: Width of the stored picture in pixels.
        height: Height of the stored picture in pixels.
        rotation: Degrees anticlockwise that turn the picture upright.
        digest: Digest of the file's size and three pieces of it; for a folder of pictures, of their
            number and of three of them. Equal videos have equal digests.
        mirrored: Whether the picture must also be mirrored.
        pixel_aspect: Width of a stored pixel divided by its height.
        place: Position of a video in its shard; None for a file.
    """

    path: Path
    pts: Int64[ndarray, " t"]
    time_base: Fraction
    keys: Int64[ndarray, " k"]
    stamped: bool
    width: int
    height: int
    rotation: int
    digest: str
    mirrored: bool = False
    pixel_aspect: Fraction = Fraction(1)
    place: Place | None = None

    @classmethod
    def of_pictures(cls: "type[_Info]", path: Path, count: int, **more: Any) -> "_Info":
        """Describe numbered pictures, which have no times of their own and are all key frames.

        Args:
            path: The video.
            count: Number of pictures.
            **more: Width, height and digest, and what a subclass has besides.
        """
        numbers, unit = np.arange(count), Fraction(1, PICTURES_PER_SECOND)
        return cls(
            path=path, pts=numbers, time_base=unit, keys=numbers, stamped=False, rotation=0, **more
        )

    @property
    def num_frames(self) -> int:
        """Number of frames according to the packets."""
        return len(self.pts)

    @property
    def start_seconds(self) -> Float64[ndarray, " t"]:
        """Time at which each frame is shown, relative to the first."""
        seconds: ndarray = (self.pts - self.pts[0]) * float(self.time_base)
        return seconds

    def frame_range(self, start_seconds: float | None, end_seconds: float | None) -> range:
        """Return the numbers of the frames that are shown in a segment.

        Args:
            start_seconds: Start of the segment; None for the start of the video.
            end_seconds: End of the segment, exclusive; None for the end of the video.

        Raises:
            VideoError: If the segment contains no frames.
        """
        if start_seconds is None and end_seconds is None:
            return range(self.num_frames)
        times = self.start_seconds
        first, last = 0, self.num_frames
        if start_seconds is not None:
            first = int(np.searchsorted(times, start_seconds - _ROUNDING_SECONDS))
        if end_seconds is not None:
            last = int(np.searchsorted(times, end_seconds - _ROUNDING_SECONDS))
        if first >= last:
            end = "the end" if end_seconds is None else f"{end_seconds} s"
            raise VideoError(
                f"{self.path}: no frame between {start_seconds or 0} s and {end}; "
                f"the last frame is at {times[-1]:.2f} s"
            )
        return range(first, last)


Frame = VideoFrame | UInt8[ndarray, "h w 3"]
"""A frame in memory: as PyAV decodes it, or the pixels in upright RGB."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FramesInfo(VideoInfo):
    """Description of a video whose frames are in memory.

    Attributes:
        frames: All frames, in the order in which they are shown.
    """

    frames: Sequence[Frame]
