"""The sender of `live_latency.py`: a file of its own, so that it starts without torch."""

import socket
import sys
import time

import av
import numpy as np

RATE, WIDTH, HEIGHT = 25, 640, 360


def send(port: int) -> None:
    """Send a moving texture to the first who connects."""
    texture = np.random.default_rng(0).integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
    texture = texture.repeat(8, 0).repeat(8, 1)
    with socket.create_server(("127.0.0.1", port)) as server:
        print("ready", flush=True)
        client, _ = server.accept()
        out = client.makefile("wb", buffering=0)
        container = av.open(out, "w", format="mpegts")
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = (
            WIDTH,
            HEIGHT,
            "yuv420p",
            RATE,
        )
        stream.options = {"preset": "ultrafast", "tune": "zerolatency"}
        start, number = time.time(), 0
        print(start, flush=True)
        while True:
            time.sleep(max(0.0, start + number / RATE - time.time()))
            frame = av.VideoFrame.from_ndarray(np.roll(texture, 3 * number, 1), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
            number += 1


if __name__ == "__main__":
    send(int(sys.argv[1]))
