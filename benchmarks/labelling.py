"""Label with several runs at once, and with one after the other.

    python benchmarks/labelling.py INPUT RUN RUN... [--weights FILE]

Times are those of `label_videos`, with the loading of the models and without the start of Python.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from machine import print_machine

from st_adapter import label_videos


def measure(runs: Sequence[Path], given: Path, weights: str | None) -> tuple[float, float]:
    """Label a folder or a list; return wall-clock and CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.monotonic(), cpu_seconds()
        out = Path(folder, "labels.jsonl")
        label_videos(runs, given, out, weights=weights, device="cpu", workers=0)
        return time.monotonic() - wall, cpu_seconds() - cpu


def cpu_seconds() -> float:
    """CPU time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(given: Path, runs: Sequence[Path], weights: str | None) -> None:
    """Print both times and their ratio."""
    print_machine()
    measure(runs[:1], given, weights)  # imports, and files read for the first time
    single = [measure([run], given, weights) for run in runs]
    wall, cpu = (sum(times) for times in zip(*single, strict=True))
    wall_at_once, cpu_at_once = measure(runs, given, weights)
    print(f"one after the other: {wall:.1f} s, {cpu:.1f} s of CPU")
    print(f"at once:             {wall_at_once:.1f} s, {cpu_at_once:.1f} s of CPU")
    print(f"ratio:               {wall_at_once / wall:.2f}, {cpu_at_once / cpu:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("given", type=Path, metavar="INPUT")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--weights")
    arguments = parser.parse_args()
    main(arguments.given, arguments.runs, arguments.weights)
