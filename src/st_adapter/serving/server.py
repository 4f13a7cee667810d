"""The web server: connections that keep to time, and an orderly end."""

import asyncio
import json
import logging
import socket
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from st_adapter.common.interrupt import SAME_SECONDS
from st_adapter.common.remarks import say
from st_adapter.errors import ArgumentError
from st_adapter.serving.backend import Backend

_HEADER_SECONDS = 15.0
"""Time for the header of a request, and for the rest of an upload that was refused."""


def _last_answer(status: str, reason: str, *headers: str) -> bytes:
    """Return the bytes of an answer after which the connection is closed."""
    body = json.dumps({"error": reason})
    kind = ("Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close")
    return "\r\n".join((f"HTTP/1.1 {status}", *kind, *headers, "", body)).encode()


_FULL = _last_answer(
    "503 Service Unavailable", "too many connections are open; try again", "Retry-After: 5"
)
_SLOW = _last_answer("408 Request Timeout", "the header of the request did not arrive in time")


def listen(host: str, port: int) -> socket.socket:
    """Open a socket that listens.

    Args:
        host: An address or a name of this machine.
        port: The port; 0 takes a free one.

    Raises:
        ArgumentError: The address is not of this machine, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise ArgumentError(f"cannot listen on {host}, port {port}: {error.strerror}") from error


def run(app: FastAPI, listener: socket.socket) -> None:
    """Serve an application of `make_app` until SIGTERM or SIGINT.

    Args:
        app: The application.
        listener: What `listen` returned.
    """
    backend: Backend = app.state.backend
    limits = backend.limits
    bounds = {
        "most_connections": limits.connections,
        "header_seconds": min(_HEADER_SECONDS, limits.upload_seconds),
        "read_seconds": limits.upload_seconds,
    }
    config = uvicorn.Config(
        app,
        http=type("Protocol", (_Protocol,), bounds),
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    # It would print a line for every damaged form. The client gets an error anyway.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    host, port = listener.getsockname()[:2]
    say(f"http://{f'[{host}]' if ':' in host else host}:{port} serves {backend.tasks.summary()}")
    try:
        _Server(config, backend).run(sockets=[listener])
    finally:
        backend.close()  # after a second signal, uvicorn has not ended the lifespan of `app`


class _Server(uvicorn.Server):
    """Refuses new requests after a signal, finishes the others, and then ends normally."""

    def __init__(self, config: uvicorn.Config, backend: Backend) -> None:
        super().__init__(config)
        self._backend = backend
        self._asked_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; a second signal, a second or more later, does not wait any longer."""
        # uvicorn's own method would raise the signal once more at the end.
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            self._backend.is_stopping = True
        elif now - self._asked_at > SAME_SECONDS:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Look ten times a second whether the work is done."""
        if self._asked_at is not None:
            is_late = time.monotonic() - self._asked_at > self._backend.limits.deadline
            self.should_exit |= is_late or not self._backend.waiting
        return await super().on_tick(counter)


class _Protocol(H11Protocol):
    """A connection whose client must send headers, and read answers, in time."""

    most_connections: int
    header_seconds: float
    read_seconds: float
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, or refuse a connection too many."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.header_seconds, self._end_if_late)
        if len(self.connections) > self.most_connections:
            self._end(_FULL)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._timer.cancel()
        self._stop_reading_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for a client that has much to read; without a limit, it could hold on for ever."""
        super().pause_writing()
        self._reading = self.loop.call_later(self.read_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        self._stop_reading_timer()
        super().resume_writing()

    def _stop_reading_timer(self) -> None:
        if self._reading is not None:
            self._reading.cancel()

    def on_response_complete(self) -> None:
        """Wait for the next request, and for what a refused client is still sending."""
        self._timer.cancel()
        self._timer = self.loop.call_later(self.header_seconds, self._end_if_late)
        super().on_response_complete()

    def _end_if_late(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self._end(_SLOW if self.cycle is None else b"")

    def _end(self, message: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(message)
            self.transport.close()
