"""Two versions of st-adapter side by side: a step, evaluation, loading, a first prediction.

    python benchmarks/versions.py OLD/.venv/bin/python NEW/.venv/bin/python VIDEOS [--rounds 3]

VIDEOS is a folder with one folder of videos per class. Both versions run the same commands, each
in a process of its own, in turns. Prints the least time of each, the peak memory of training, and
the ratio of new to old.
"""

import argparse
import csv
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from machine import print_machine

VIDEO = (".mp4", ".avi", ".webm")
VIT = ["--backbone", "vit_base_patch16_clip_quickgelu_224", "--weights", "random"]
VIT += ["--bottleneck", "384", "--precision", "bfloat16", "--batch-size", "2", "--keep", "last"]
TINY = ["--backbone", "vit_tiny_patch16_224", "--weights", "random", "--size", "112"]
ONE_EPOCH = ["--epochs", "1", "--workers", "1"]


def main(pythons: dict[str, str], videos: Path, rounds: int) -> None:
    """Print one line for each thing that is measured."""
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few = write_list(videos, folder / "few.csv", per_class=3)
        runs = {}
        for version, python in pythons.items():
            runs[version] = folder / f"run_{version}"
            command(python, "train", few, "--out", runs[version], *TINY, *ONE_EPOCH)
        found: dict[str, dict[str, list[float]]] = {}
        for turn in range(rounds):
            for version, python in pythons.items():
                out = folder / f"steps_{version}_{turn}"
                measured = measure(python, few, out, runs[version], videos)
                for what, value in measured.items():
                    found.setdefault(what, {}).setdefault(version, []).append(value)
    for what, values in found.items():
        old, new = (min(values[version]) for version in pythons)
        print(f"{what:45} old {old:7.2f}  new {new:7.2f}  ratio {new / old:.2f}", flush=True)


def measure(python: str, few: Path, out: Path, run: Path, videos: Path) -> dict[str, float]:
    """Seconds, or GB, of everything that is compared."""
    command(python, "train", few, "--out", out, *VIT, *ONE_EPOCH)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    bench = json.loads(command(python, "bench", *TINY[:2], "--batch-size", "1", "--json"))
    first = next(path for path in sorted(videos.rglob("*.*")) if path.suffix in VIDEO)
    views = ["--views", "3x1", "--device", "cpu"]
    return {
        "step of ViT-B/16 24x384, bf16, 2 clips, s": 2 / steps[-1]["clips_per_second"],
        "peak memory of that training, GB": steps[-1]["memory_gb"],
        "evaluation of 3 views, ViT-Tiny 112 px, s": seconds(
            lambda: command(python, "evaluate", run, few, "--out", out / "e.json", *views)
        ),
        "loading a training clip, ms": 1000 * bench["rows"][0]["seconds"],
        "predict, cold, one video, s": seconds(lambda: command(python, "predict", run, first)),
    }


def command(python: str, *arguments: object) -> str:
    """Run a verb of one version; return what it printed."""
    given = [python, "-m", "st_adapter", *map(str, arguments)]
    return subprocess.run(given, check=True, capture_output=True, text=True).stdout


def seconds(run: Callable[[], object]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def write_list(videos: Path, file: Path, per_class: int) -> Path:
    """A list of a few videos of each class, all in both parts."""
    with file.open("w", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(("path", "label", "split"))
        for label in sorted(path for path in videos.iterdir() if path.is_dir()):
            chosen = [p for p in sorted(label.iterdir()) if p.suffix in VIDEO][:per_class]
            for split in ("train", "val"):
                writer.writerows((path, label.name, split) for path in chosen)
    return file


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", help="the old version's Python")
    parser.add_argument("new", help="the new version's Python")
    parser.add_argument("videos", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    main({"old": given.old, "new": given.new}, given.videos.absolute(), given.rounds)
