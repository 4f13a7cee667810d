"""Which frames of a stream are looked at, and when those of a recording are due."""

import math
import threading
import time

_EARLY_SECONDS = 1e-3
"""A frame that comes this much too early is taken: the next would be later by a whole frame."""

_LATE_SECONDS = 1.0
"""A recording that falls behind by more than this does not hurry to catch up."""


class FrameSampler:
    """Picks frames from a stream at even distances in time, whatever its frame rate.

    Examples:
        >>> sampler = FrameSampler(0.5)
        >>> [t for t in (0.0, 0.2, 0.4, 0.6, 0.9, 1.0, 7.3, 7.5) if sampler.takes(t)]
        [0.0, 0.6, 1.0, 7.3, 7.5]

    Args:
        interval_seconds: Time between two picked frames.
    """

    def __init__(self, interval_seconds: float) -> None:
        self.interval_seconds = interval_seconds
        self._due: float | None = None

    def takes(self, seconds: float) -> bool:
        """Return whether the frame of this time is picked.

        Args:
            seconds: Time of the frame. If it jumps back, because the source was restarted, picking
                starts again from there.
        """
        if self._due is None or seconds < self._due - 2 * self.interval_seconds:
            self._due = seconds
        late = seconds - self._due + _EARLY_SECONDS
        if late < 0:
            return False
        # After a gap, frames are picked from the same grid again, not one after the other.
        self._due += self.interval_seconds * (math.floor(late / self.interval_seconds) + 1)
        return True


class Pace:
    """Holds back the frames of a recording until they are due, as if it was live.

    Args:
        stop: Ends a wait.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._start: float | None = None

    def restart(self) -> None:
        """Let the next frame be due at once, whatever its time."""
        self._start = None

    def wait(self, seconds: float) -> None:
        """Wait until the frame of this time is due.

        Args:
            seconds: Time of the frame, from the start of the recording.
        """
        now = time.monotonic()
        if self._start is None or now - self._start - seconds > _LATE_SECONDS:
            self._start = now - seconds
        self._stop.wait(max(0.0, self._start + seconds - now))
