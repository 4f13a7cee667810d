"""Training with and without the frozen-prefix cache: adapters in the last 4 of 12 blocks.

    python benchmarks/prefix_cache.py DATA WEIGHTS [--size 112] [--epochs 5]

DATA is anything `train` takes, WEIGHTS those of ViT-Tiny/16. Every epoch shows the same clip of
each video (`--draws 1`), and is validated. The two ways train in turns, `--rounds` times each, a
process for each way.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from machine import print_machine
from turns import take_turns

from st_adapter.config import TrainConfig
from st_adapter.model.checkpoint import read_tensors
from st_adapter.training.loop import train


def main(data: Path, config: TrainConfig, rounds: int) -> None:
    """Print seconds of each way, the ratio, and how far the results are apart."""
    print_machine(config.device)
    ways = {"without": config, "with": replace(config, prefix_cache=4.0)}
    given = {way: (data, chosen) for way, chosen in ways.items()}
    found = take_turns(prepare, given, rounds)
    for i, name in enumerate(("steps alone", "the whole run")):
        without, with_cache = (statistics.median(times[i] for times in found[w]) for w in ways)
        each = ", ".join(
            f"{a[i]:.1f} for {b[i]:.1f}"
            for a, b in zip(found["with"], found["without"], strict=True)
        )
        print(
            f"{name}: {without / with_cache:.2f} times as fast with the cache; seconds with for "
            f"without: {each}"
        )
    one, other = (found[way][-1][2] for way in ways)
    apart = np.linalg.norm(one - other) / np.linalg.norm(one)
    print(f"trained tensors differ by {apart:.1e} of their norm")


def prepare(data: Path, config: TrainConfig) -> Callable[[], tuple[float, float, np.ndarray]]:
    """What trains, in its process."""
    return partial(run, data, config)


def run(data: Path, config: TrainConfig) -> tuple[float, float, np.ndarray]:
    """Seconds of the steps and of the whole run, and what it trained."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        start = time.perf_counter()
        train(data, out, config)
        whole = time.perf_counter() - start
        tensors = read_tensors(out / "adapter_last")
        trained = np.concatenate([tensor.numpy().ravel() for tensor in tensors.values()])
        return seconds_of_training(out), whole, trained


def seconds_of_training(run: Path) -> float:
    """What the run itself logged for the steps, without validation."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return max(float(line["train_seconds"]) for line in lines if "train_seconds" in line)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("weights")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--precision", default="float32")
    arguments = parser.parse_args()
    main(
        arguments.data,
        TrainConfig(
            backbone="vit_tiny_patch16_224",
            weights=arguments.weights,
            adapter_layers="4",
            draws=1,
            size=arguments.size,
            epochs=arguments.epochs,
            precision=arguments.precision,
        ),
        arguments.rounds,
    )
