"""The few newest frames of a stream, on their way from the thread that reads to the model."""

import threading
from collections import deque
from dataclasses import dataclass

from jaxtyping import UInt8
from numpy import ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveFrame:
    """A frame of a live source.

    Attributes:
        pixels: Upright RGB, scaled.
        seconds: Time since the first frame of the connection or after the last jump in time, by
            the clock of the stream.
        arrived: When it arrived, by `time.monotonic`.
        part: Grows by one when frames no longer continue those before: after a reconnection, a
            change of size, or a jump in time.
    """

    pixels: UInt8[ndarray, "h w 3"]
    seconds: float
    arrived: float
    part: int


class Inbox:
    """A queue that drops its oldest frame when it is full, so that what comes out is never old.

    One thread puts frames in, and another takes all of them out at once.

    Args:
        limit: Most frames that wait, at least 1.
    """

    def __init__(self, limit: int) -> None:
        self._frames: deque[LiveFrame] = deque(maxlen=limit)
        self._changed = threading.Condition()
        self._closed = False
        self._error: BaseException | None = None
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Number of frames that were dropped so far."""
        return self._dropped

    def put(self, frame: LiveFrame) -> None:
        """Add a frame, and drop the oldest one if the inbox is full."""
        with self._changed:
            self._dropped += len(self._frames) == self._frames.maxlen
            self._frames.append(frame)
            self._changed.notify()

    def close(self, error: BaseException | None = None) -> None:
        """Say that no frame follows, and why if it is an error."""
        with self._changed:
            self._closed, self._error = True, error
            self._changed.notify()

    def take(self, timeout_seconds: float) -> list[LiveFrame] | None:
        """Wait for frames and take them all, oldest first.

        Args:
            timeout_seconds: Longest wait.

        Returns:
            An empty list if no frame came in that time, and None if none will follow.

        Raises:
            BaseException: What `close` was given, once all frames are taken.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._frames or self._closed, timeout_seconds)
            frames = [*self._frames]
            self._frames.clear()
            if frames or not self._closed:
                return frames
            if self._error is not None:
                raise self._error
            return None
