"""The pictures of one connection: which are looked at, and which continue those before."""

import time
from collections.abc import Iterator
from fractions import Fraction

from av.video.frame import VideoFrame

from st_adapter.data.live.inbox import LiveFrame
from st_adapter.data.live.sampler import FrameSampler, Pace
from st_adapter.data.video.decode import FrameScaler


class PictureSampler:
    """Samples pictures at even distances in time, scales those, and numbers the parts.

    A part ends where the size of the pictures changes or their times jump. After a jump, times
    count from 0 again, as after a new connection.

    Args:
        parts: Gives the number of the next part.
        interval_seconds: Time between two pictures that are sampled.
        longest_gap_seconds: Pictures further apart in time than this belong to different parts.
        short_side: Pixels on the shorter side of the scaled pictures.
        pixel_aspect: Width of a pixel divided by its height.
        pace: Holds the pictures of a recording back until they are due; None for what is live.
    """

    def __init__(
        self,
        parts: Iterator[int],
        *,
        interval_seconds: float,
        longest_gap_seconds: float,
        short_side: int,
        pixel_aspect: Fraction,
        pace: Pace | None,
    ) -> None:
        self._parts = parts
        self._interval, self._longest_gap = interval_seconds, longest_gap_seconds
        self._short_side, self._pixel_aspect = short_side, pixel_aspect
        self._pace = pace
        self._begin_part()
        self._size: tuple[int, int] | None = None
        self._start = self._last = 0.0

    def _begin_part(self) -> None:
        self._part = next(self._parts)
        self._scaler = FrameScaler(self._short_side, self._pixel_aspect)
        self._sampler = FrameSampler(self._interval)

    def sample(self, picture: VideoFrame, seconds: float, arrived: float) -> LiveFrame | None:
        """Return the scaled picture, or None if it comes too early after the one before.

        Args:
            picture: The next picture of the connection.
            seconds: Its time by the clock of the stream.
            arrived: When it arrived, by `time.monotonic`. With a pace, that is when it is due.
        """
        self._compare_with_last(seconds, (picture.width, picture.height))
        since_start = seconds - self._start
        if self._pace is not None:
            self._pace.wait(since_start)
            arrived = time.monotonic()
        if not self._sampler.takes(since_start):
            return None
        return LiveFrame(
            pixels=self._scaler(picture), seconds=since_start, arrived=arrived, part=self._part
        )

    def _compare_with_last(self, seconds: float, size: tuple[int, int]) -> None:
        """Begin another part if a picture does not continue the one before."""
        is_first = self._size is None
        jumped = not -self._interval <= seconds - self._last <= self._longest_gap
        if is_first or jumped:
            self._start = seconds
            if self._pace is not None:
                # Waiting for the whole jump would look as if the program hung.
                self._pace.restart()
        if not is_first and (jumped or size != self._size):
            self._begin_part()
        self._size, self._last = size, seconds
