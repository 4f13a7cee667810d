"""The error behind every answer that is not a success."""


class Refusal(Exception):  # noqa: N818
    """A request that is not answered.

    Args:
        status: HTTP status, 400 or above.
        reason: One line that says what was wrong and what would do.
        retry_seconds: When to try again; None if that would not help.
    """

    def __init__(self, status: int, reason: str, retry_seconds: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.retry_seconds = status, reason, retry_seconds
