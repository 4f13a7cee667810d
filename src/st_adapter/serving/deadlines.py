"""The time by which a request must be answered."""

import time

from st_adapter.serving.refusals import Refusal


class Deadline:
    """Counts down from when it is made.

    Args:
        seconds: The time to take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._end = seconds, time.monotonic() + seconds

    def left(self) -> float:
        """Return how many seconds are left, more than 0.

        Raises:
            Refusal: The time is over.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise self.refusal()
        return left

    def check(self) -> None:
        """Raise Refusal if the time is over."""
        self.left()

    def cancel(self) -> None:
        """End the time now, because the client no longer waits for the answer."""
        self._end = 0.0

    def is_over(self) -> bool:
        """Return whether the time is over."""
        return time.monotonic() >= self._end

    def refusal(self) -> Refusal:
        """Return the answer to a request that took too long."""
        reason = (
            f"not answered within {self._seconds:g} s; send a shorter video, ask fewer tasks, or "
            "use a longer step"
        )
        return Refusal(504, reason)
