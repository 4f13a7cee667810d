"""The error behind every answer that is not a success."""

from collections.abc import Mapping

from starlette.responses import JSONResponse


class Refusal(Exception):
    """A request that is not answered.

    Args:
        status: HTTP status, 400 or above.
        reason: One line that says what was wrong and what would do.
        retry_seconds: When to try again; None if that would not help.
        close: Whether to close the connection.
    """

    def __init__(
        self, status: int, reason: str, retry_seconds: int | None = None, *, close: bool = False
    ) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason
        self.headers: dict[str, str] = {}
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"
        if retry_seconds is not None:
            self.headers["Retry-After"] = str(retry_seconds)
        if close:
            self.headers["Connection"] = "close"


def answer(refusal: Refusal, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return the response that tells a client about it, with some more headers."""
    return JSONResponse(
        {"error": refusal.reason}, refusal.status, {**refusal.headers, **(headers or {})}
    )
