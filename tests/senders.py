"""Streams on the loopback interface, and the processes and threads that send them."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np

RATE = 25

SENDER = """
import sys
sys.path.insert(0, sys.argv[3])
from senders import send_live
send_live(int(sys.argv[1]), int(sys.argv[2]))
"""
"""A program that sends a stream until it is killed: port, frames per key frame, this folder."""


def pictures(count: int, width: int = 96, height: int = 64, seed: int = 0) -> Iterator[np.ndarray]:
    """Noise that gets brighter, [height, width, 3]."""
    noise = np.random.default_rng(seed).integers(0, 60, (height, width, 3))
    for number in range(count):
        yield (noise + number % 150).astype(np.uint8)


def encode(
    container: av.container.OutputContainer, frames: Iterator[np.ndarray], gop: int, first: int = 0
) -> None:
    """Encode without delay; the caller ends a live stream by closing its socket."""
    stream = None
    for number, frame in enumerate(frames):
        if stream is None:
            stream = container.add_stream("libx264", rate=RATE)
            stream.height, stream.width = frame.shape[:2]
            stream.pix_fmt, stream.gop_size = "yuv420p", gop
            stream.options = {"preset": "ultrafast", "tune": "zerolatency"}
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture.pts = first + number
        container.mux(stream.encode(picture))
    assert stream is not None
    container.mux(stream.encode(None))


def write_stream(
    path: Path, frames: Iterator[np.ndarray], gop: int = RATE, first: int = 0
) -> bytes:
    """Write an MPEG transport stream whose frames count from `first`, and return its bytes."""
    with av.open(str(path), "w", format="mpegts") as container:
        encode(container, frames, gop, first)
    return path.read_bytes()


def send_live(port: int, gop: int) -> None:
    """Send 25 frames a second to the first who connects, for at most a minute."""

    def on_time() -> Iterator[np.ndarray]:
        start = time.monotonic()
        for number, frame in enumerate(pictures(60 * RATE)):
            time.sleep(max(0.0, start + number / RATE - time.monotonic()))
            yield frame

    with socket.create_server(("127.0.0.1", port)) as server:
        print("ready", flush=True)
        client, _ = server.accept()
        with (
            client,
            client.makefile("wb", buffering=0) as out,
            av.open(out, "w", format="mpegts") as container,
        ):
            encode(container, on_time(), gop)


@contextmanager
def live_sender(port: int, gop: int = RATE) -> Iterator[None]:
    """Let a process send a stream inside the block, and kill it at its end."""
    command = [sys.executable, "-c", SENDER, str(port), str(gop), str(Path(__file__).parent)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
        process.kill()  # SIGKILL: the stream breaks off in the middle


def free_port() -> int:
    """Return a port of the loopback interface that nothing uses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def served(*serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve one connection after the other, each by a function, and yield the port."""
    server = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        for one in serve:
            try:
                client, _ = server.accept()
            except OSError:  # the block has ended
                return
            with client:
                try:
                    one(client)
                except OSError:  # the reader has gone
                    continue

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.close()


def paced(data: bytes, seconds: float, then_wait: float = 0.0) -> Callable[[socket.socket], None]:
    """Return a function that sends bytes evenly over a time, and then holds the connection."""

    def send(client: socket.socket) -> None:
        steps = max(1, round(seconds * RATE))
        size = -(-len(data) // steps)
        for start in range(0, len(data), size):
            client.sendall(data[start : start + size])
            time.sleep(1 / RATE)
        time.sleep(then_wait)

    return send
