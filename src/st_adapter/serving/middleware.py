"""What happens to every request before its route: checks of where it comes from, and counting."""

import time
from collections.abc import Set

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from st_adapter.serving.access import check_origin
from st_adapter.serving.metrics import Metrics
from st_adapter.serving.refusals import Refusal, answer


class Doorkeeper:
    """Refuses requests that pages of other sites make, and counts all.

    Args:
        app: The application.
        metrics: Where requests are counted.
        only_loopback: As for `check_origin`.
        paths: Paths to count by themselves; others are counted together.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, only_loopback: bool, paths: Set[str]
    ) -> None:
        self._app, self._metrics = app, metrics
        self._only_loopback, self._paths = only_loopback, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            check_origin(Headers(scope=scope), self._only_loopback)
            await self._app(scope, receive, send_and_note)
        except Refusal as refusal:
            await answer(refusal)(scope, receive, send_and_note)
        finally:
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            path = path if path in self._paths else "other"
            self._metrics.request(path, status, time.monotonic() - started)
