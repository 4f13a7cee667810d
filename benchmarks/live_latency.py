"""How late the labels of a live stream are, what happens when its sender dies, and when it is slow.

    python benchmarks/live_latency.py WEIGHTS

WEIGHTS is a file for ViT-Tiny in timm's names. A process sends 25 frames a second as H.264 in an
MPEG transport stream over TCP on this machine, and `st-adapter watch` labels them at 112 px. Two
times are printed: from the arrival of the newest frame to the label, as `watch` prints it, and from
the moment when the sender had the frame to the moment when this script has the label. Then the
sender is killed and started again five times. At last, frames come three times as fast as a larger
model can score them.
"""

import argparse
import json
import os
import queue
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from machine import print_machine

from st_adapter import ClipConfig, Predictor, create_model
from st_adapter.evaluation.stream import start_scorer

FRAMES, SIZE, WINDOW = 8, 112, 2.56
SLOW_SIZE, TOO_FAST = 384, 3
KILLS = 5


def main(weights: str, seconds: float) -> None:
    """Print the three measurements."""
    print_machine()
    print(f"load of the machine before: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        adapter = Path(folder) / "adapter"
        clip = ClipConfig(frames=FRAMES, size=SIZE)
        model = create_model("vit_tiny_patch16_224", ["a", "b"], weights=weights, clip=clip)
        model.save_adapter(adapter)
        watch = [str(adapter), "--weights", weights]
        measure_latency([*watch, "--window", str(WINDOW)], seconds)
        kill_senders([*watch, "--window", str(WINDOW)])
        slow = seconds_per_frame(adapter, weights, SLOW_SIZE)
        window = FRAMES * slow / TOO_FAST
        print(f"{SLOW_SIZE} px: {slow:.3f} s a frame, a frame every {window / FRAMES:.3f} s")
        measure_overload([*watch, "--size", str(SLOW_SIZE), "--window", f"{window:.3f}"], seconds)
    print(f"load of the machine after: {os.getloadavg()[0]:.1f}")


class Line(NamedTuple):
    """A line that `watch` printed, and the wall clock when it was read."""

    record: dict[str, Any]
    read: float


class Watch:
    """A process of `st-adapter watch`."""

    def __init__(self, port: int, arguments: list[str]) -> None:
        self.lines: queue.Queue[Line] = queue.Queue()
        self.remarks: list[str] = []
        run, *flags = arguments
        self.process = subprocess.Popen(
            [sys.executable, "-m", "st_adapter", "watch", run, f"tcp://127.0.0.1:{port}", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for read in (self._read_lines, self._read_remarks):
            threading.Thread(target=read, daemon=True).start()

    def _read_lines(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(Line(json.loads(line), time.time()))

    def _read_remarks(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.remarks.append(line.strip())

    def next(self, accepts: Callable[[Line], bool] = lambda line: True) -> Line:
        """Return the next line that is accepted."""
        while True:
            line = self.lines.get(timeout=120)
            if accepts(line):
                return line


@contextmanager
def watching(port: int, arguments: list[str]) -> Iterator[Watch]:
    """Run `st-adapter watch` inside the block."""
    watch = Watch(port, arguments)
    try:
        yield watch
    finally:
        watch.process.terminate()
        watch.process.wait()


@contextmanager
def sending(port: int) -> Iterator[Callable[[], float]]:
    """Run a sender inside the block, then kill it; yield what returns when it began to send."""
    command = [sys.executable, str(Path(__file__).with_name("live_sender.py")), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        out = process.stdout
        assert out is not None
        out.readline()
        yield lambda: float(out.readline())
        process.kill()


def measure_latency(arguments: list[str], seconds: float) -> None:
    """Print how late labels are while all is well."""
    port = free_port()
    with sending(port) as first_frame, watching(port, arguments) as watch:
        began = first_frame()
        lines = [watch.next()]
        while lines[-1].record["seconds"] < seconds:
            lines.append(watch.next())
    own = [line.record["latency_seconds"] for line in lines]
    whole = [line.read - began - line.record["seconds"] for line in lines]
    dropped = lines[-1].record["dropped_frames"]
    print(f"{len(lines)} lines in {seconds:g} s, {dropped} frames dropped")
    for name, latencies in (("from arrival to label", own), ("from sender to reader", whole)):
        late = np.percentile(latencies, 95)
        median, most = statistics.median(latencies), max(latencies)
        print(f"{name}: median {median:.3f} s, 95 % within {late:.3f} s, all within {most:.3f} s")


def kill_senders(arguments: list[str]) -> None:
    """Print what happens when a sender is killed and started again."""
    port = free_port()
    watch = None
    try:
        for number in range(KILLS + 1):
            with sending(port) as first_frame:
                watch = watch or Watch(port, arguments)
                began = first_frame()
                line = watch.next(lambda line: line.read > began)  # noqa: B023
                if number:
                    after = line.read - began
                    print(
                        f"kill {number}: first label {after:.2f} s after the sender's first frame"
                    )
                watch.next(lambda line: line.record["seconds"] > 1.5)
            code = watch.process.poll()
            print(f"killed; watch {'goes on' if code is None else f'ended with {code}'}")
    finally:
        if watch is not None:
            watch.process.terminate()
            watch.process.wait()
            print(*(f"  {line}" for line in watch.remarks if line), sep="\n")


def measure_overload(arguments: list[str], seconds: float) -> None:
    """Print how late labels are when the model is too slow."""
    port = free_port()
    with sending(port) as first_frame, watching(port, arguments) as watch:
        first_frame()
        lines = [watch.next()]
        while lines[-1].record["seconds"] < seconds:
            lines.append(watch.next())
    for start in np.arange(0, seconds, seconds / 6):
        part = [line for line in lines if start <= line.record["seconds"] < start + seconds / 6]
        if part:
            late = max(line.record["latency_seconds"] for line in part)
            dropped = part[-1].record["dropped_frames"]
            print(
                f"from {start:.0f} s: {len(part)} lines, all within {late:.2f} s, "
                f"{dropped} frames dropped so far"
            )
    print(*(f"  {line}" for line in watch.remarks if line), sep="\n")


def seconds_per_frame(adapter: Path, weights: str, size: int) -> float:
    """Return how long a frame takes, with its scores."""
    predictor = Predictor(adapter, weights=weights, size=size)
    scorer, _ = start_scorer(
        predictor.model, predictor.spec, predictor.clip, window=WINDOW, one_pass=True
    )
    frame = torch.zeros(size, size, 3, dtype=torch.uint8)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        scorer.push([frame])
        scorer.scores(0.0)
        times.append(time.perf_counter() - start)
    return min(times)  # other load makes some of them several times as long


def free_port() -> int:
    """Return a port of the loopback interface that nothing uses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", nargs="?", default="hub")
    parser.add_argument("--seconds", type=float, default=60.0, help="Length of a measurement.")
    given = parser.parse_args()
    main(given.weights, given.seconds)
