"""Do to a server what it must bear: each request must get a reason in time, and none cost another.

    python scripts/serve_hostile.py RUN VIDEO... [--count 1000] [--slow 200] [--seed 0]

Sends damaged files, names that are paths, pictures that claim to be huge, an hour in a kilobyte, a
body that is too large, and clients that stop in the middle of an upload; kills a decoder in the
middle of a request. After each kind, a sound video must be answered and no upload be left. Prints
how many requests got which status; the exit code is 1 if anything else came.
"""

import argparse
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import av
import httpx
import numpy as np
from fuzz_videos import damage
from serve_load import Server, serving

DEADLINE = 30.0
UPLOAD_SECONDS = 5.0
_SLACK = 5.0
"""Seconds by which an answer may be later than its limit on a busy machine."""

_FLAGS = ("--deadline", DEADLINE, "--upload-seconds", UPLOAD_SECONDS, "--max-megabytes", 20)
_NAMES = ("../../evil.mp4", "/etc/passwd", "a\x00b\x1b[31m\n.mp4", "..\\..\\evil", "x" * 5000)

problems: list[str] = []


def send(server: Server, name: str, content: bytes) -> tuple[int, float]:
    """Upload bytes; return status and seconds. An answer without a reason is a problem."""
    began = time.monotonic()
    try:
        answer = server.client.post("/v1/predict", files={"file": (name, content)})
    except httpx.HTTPError as error:
        problems.append(f"{name[:30]!r}: no answer: {error!r}")
        return 0, time.monotonic() - began
    seconds = time.monotonic() - began
    if answer.status_code != 200:
        reason = answer.json().get("error", "")
        if not reason or "\n" in reason or "st-adapter-serve" in reason:
            problems.append(f"{name[:30]!r}: {answer.status_code} {reason!r}")
    if answer.status_code == 500 or seconds > DEADLINE + UPLOAD_SECONDS + _SLACK:
        problems.append(f"{name[:30]!r}: {answer.status_code} after {seconds:.0f} s")
    return answer.status_code, seconds


def many(server: Server, contents: Sequence[tuple[str, bytes]], clients: int) -> str:
    """Upload many files from several clients at once."""
    with ThreadPoolExecutor(clients) as pool:
        results = [*pool.map(lambda one: send(server, *one), contents)]
    statuses = Counter(status for status, _ in results)
    counted = ", ".join(f"{n} x {status}" for status, n in sorted(statuses.items()))
    return f"{counted}; longest {max(seconds for _, seconds in results):.1f} s"


def hour_in_a_kilobyte(folder: Path) -> bytes:
    """Write a video of two frames, an hour apart."""
    path = folder / "hour.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1)
        stream.width = stream.height = 32
        for number in (0, 3600):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


def huge_pictures() -> list[tuple[str, bytes]]:
    """Return files whose headers claim pictures of 100,000 x 100,000 and 60,000 x 60,000 pixels."""
    files = []
    for side in (100_000, 60_000):
        size = side.to_bytes(4, "little")
        header = b"BM" + (54).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
        info = (40).to_bytes(4, "little") + size * 2 + b"\x01\x00\x18\x00" + bytes(24)
        files.append((f"{side}.bmp", header + info + bytes(1000)))
        ihdr = side.to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
        png = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", ihdr) + _chunk(b"IDAT", bytes(100))
        files.append((f"{side}.png", png + _chunk(b"IEND", b"")))
    return files


def _chunk(kind: bytes, data: bytes) -> bytes:
    import zlib

    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def slow_clients(server: Server, count: int) -> str:
    """Open connections that stop in the header or in the body; return what they got."""
    address = urlsplit(str(server.client.base_url))
    body = (
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
        b"Content-Type: multipart/form-data; boundary=X\r\n\r\n"
        b'--X\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )

    def one(number: int) -> tuple[str, float]:
        began = time.monotonic()
        with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
            connection.sendall(body[:50] if number % 2 else body)
            got = b"".join(iter(lambda: connection.recv(4096), b""))
        return got.split(b" ")[1].decode() if got else "nothing", time.monotonic() - began

    with ThreadPoolExecutor(count) as pool:
        results = [*pool.map(one, range(count))]
    got = Counter(status for status, _ in results)
    longest = max(seconds for _, seconds in results)
    if {*got} != {"408"} or longest > UPLOAD_SECONDS + _SLACK:
        problems.append(f"slow clients: {got}, longest {longest:.1f} s")
    return f"{dict(got)}; longest {longest:.1f} s"


def killed_decoders(server: Server, sound: bytes, times: int) -> str:
    """Kill decoders in the middle of requests."""
    statuses: Counter[int] = Counter()
    for _ in range(times):
        decoders = server.process.children()
        for decoder in decoders:
            decoder.suspend()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(send, server, "a", sound)
            time.sleep(0.5)
            for decoder in decoders:
                os.kill(decoder.pid, signal.SIGKILL)
            statuses[waiting.result()[0]] += 1
    if {*statuses} != {503}:
        problems.append(f"killed decoders: {statuses}")
    return str(dict(statuses))


def main(run: Path, videos: Sequence[Path], count: int, slow: int, seed: int) -> int:
    """Do it all; return an exit code."""
    rng = random.Random(seed)
    sound = videos[0].read_bytes()
    damaged = []
    for number in range(count):
        source = rng.choice(videos)
        damaged.append((f"{number}{source.suffix}", damage(source.read_bytes(), rng)))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder
        kinds = {
            "undamaged": lambda: many(server, [(p.name, p.read_bytes()) for p in videos], 8),
            "damaged": lambda: many(server, damaged, 8),
            "names": lambda: many(server, [(name, sound) for name in _NAMES], 2),
            "huge pictures": lambda: many(server, huge_pictures(), 2),
            "an hour": lambda: many(server, [("hour", hour)], 1),
            "too large": lambda: many(server, [("large", bytes(25_000_000))] * 8, 4),
            "slow": lambda: slow_clients(server, slow),
            "killed decoders": lambda: killed_decoders(server, sound, 5),
        }
        hour = hour_in_a_kilobyte(Path(folder))
        Path(folder, "hour.mkv").unlink()
        with serving(run, *_FLAGS) as server:
            for name, attack in kinds.items():
                print(f"{name}: {attack()}", flush=True)
                if send(server, "sound", sound)[0] != 200:
                    problems.append(f"after {name}: a sound video was refused")
                left = sorted(path.name for path in Path(folder).rglob("*") if path.is_file())
                if left != [".lock"]:
                    problems.append(f"after {name}: files are left: {left}")
            print(f"memory of server and decoders: {server.memory()} MB")
        if list(Path(folder).iterdir()):
            problems.append("the folder of uploads is left")
    print("\n".join(problems) or "no problems")
    return int(bool(problems))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--slow", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.exit(main(given.run, given.videos, given.count, given.slow, given.seed))
