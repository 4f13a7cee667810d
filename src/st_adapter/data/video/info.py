"""What the packets of a video say, without decoding it: how many frames, when, where to start."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from st_adapter.data.archives.tar import Place
from st_adapter.errors import VideoError

PICTURES_PER_SECOND = 25
"""A folder of pictures says nothing of time."""

_ROUNDING_SECONDS = 1e-6
"""Seconds; times read from a text are rounded."""


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoInfo:
    """Frames of a video in the order they are shown.

    Attributes:
        path: the file.
        pts: presentation time stamp of each frame, in units of `time_base`.
        time_base: seconds.
        keys: numbers of the frames that decoding can start at.
        stamped: the file itself tells the time of each frame, so that a decoded frame is known by
            its time stamp; else `pts` counts, and frames must be counted from the first.
        width, height: of the stored picture, pixels.
        rotation: degrees anticlockwise that turn it upright.
        mirrored: whether it is mirrored, too.
        pixel_aspect: width of a stored pixel over its height.
        digest: of the file's length and three pieces of it, or of the number of pictures and three
            of them; equal videos have equal ones.
        place: where its bytes lie, for a video in a shard.
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

    @property
    def num_frames(self) -> int:
        """Frames that the packets promise."""
        return len(self.pts)

    @property
    def start_seconds(self) -> Float64[ndarray, " t"]:
        """When each frame is shown, counted from the first."""
        seconds: ndarray = (self.pts - self.pts[0]) * float(self.time_base)
        return seconds

    def frame_range(self, start_seconds: float | None, end_seconds: float | None) -> range:
        """Numbers of the frames shown from `start_seconds` until before `end_seconds`.

        Raises:
            VideoError: no frame lies there.
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
            raise VideoError(
                f"{self.path}: no frame between {start_seconds or 0} s and {end_seconds} s; "
                f"the video is {times[-1]:.2f} s long"
            )
        return range(first, last)
