"""Memory of `timeline` over a very long video, which must not grow with its length.

    python benchmarks/timeline_memory.py RUN CLIP [--hours 3] [-- --one-pass --step 1]

Repeats the packets of CLIP, an .mp4, until the video is long enough, runs the real command on it,
with the arguments after `--`, and prints the memory of its process every ten seconds.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import psutil
from machine import print_machine


def main(run: Path, clip: Path, hours: float, arguments: list[str]) -> None:
    """Print the memory over time, and its peak after the first minute."""
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        video = Path(name) / "long.mp4"
        seconds = repeat(clip, video, hours * 3600)
        print(f"{seconds / 3600:.2f} hours, {video.stat().st_size / 1e6:.0f} MB", flush=True)
        out = Path(name) / "spans.json"
        command = [sys.executable, "-m", "st_adapter", "timeline", run, video, "--out", out]
        began = time.monotonic()
        process = subprocess.Popen([*map(str, command), *arguments])
        used = []
        while process.poll() is None:
            time.sleep(1)
            try:
                used.append(psutil.Process(process.pid).memory_info().rss / 1e6)
            except psutil.NoSuchProcess:
                break
            if len(used) % 10 == 0:
                print(f"{time.monotonic() - began:5.0f} s  {used[-1]:.0f} MB", flush=True)
        later = used[60:] or used
        print(
            f"code {process.wait()}, {time.monotonic() - began:.0f} s; after the first minute "
            f"{later[0]:.0f} MB, then at most {max(later):.0f} MB; peak {max(used):.0f} MB"
        )


def repeat(source: Path, target: Path, seconds: float) -> float:
    """Write the packets of a video again and again, and return how long the result is."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        packets = [packet for packet in old.demux(stream) if packet.size]
        written = new.add_stream_from_template(stream)
        step = max(packet.pts + packet.duration for packet in packets)
        lasts = float(step * stream.time_base)
        stamps = [(packet.pts, packet.dts) for packet in packets]
        count = int(seconds / lasts) + 1
        for turn in range(count):
            for packet, (pts, dts) in zip(packets, stamps, strict=True):
                packet.stream = written
                packet.pts, packet.dts = pts + turn * step, dts + turn * step
                packet.time_base = stream.time_base
                new.mux(packet)
    return count * lasts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--hours", type=float, default=3.0)
    given, rest = parser.parse_known_args()
    main(given.run, given.clip, given.hours, [argument for argument in rest if argument != "--"])
