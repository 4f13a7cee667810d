"""Clips a second of one process with all threads, and of several with their share of them.

    python benchmarks/processes.py DATA WEIGHTS [--processes 2] [--size 112]

DATA is anything `train` takes, WEIGHTS those of ViT-Tiny/16. A step has the same clips in both
ways; they take turns, figures are medians of what the runs logged for their second epoch.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from machine import print_machine

from st_adapter.config import TrainConfig
from st_adapter.training.loop import train

ROUNDS = 3


def main(data: Path, config: TrainConfig, processes: int) -> None:
    """Print clips a second of both and the ratio."""
    print_machine(config.device)
    several = replace(config, processes=processes, batch_size=config.batch_size // processes)
    rates: dict[int, list[float]] = {1: [], processes: []}
    for _ in range(ROUNDS):
        for count, chosen in ((1, config), (processes, several)):
            with tempfile.TemporaryDirectory() as folder:
                train(data, Path(folder) / "run", chosen)
                rates[count].append(clips_per_second(Path(folder) / "run"))
    alone, together = (statistics.median(values) for values in rates.values())
    print(
        f"1 process {alone:.1f}, {processes} processes {together:.1f} clips/s: "
        f"{together / alone:.2f} times"
    )


def clips_per_second(run: Path) -> float:
    """The last that was logged, of all steps of the last epoch."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [float(line["clips_per_second"]) for line in lines if "clips_per_second" in line][-1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("weights")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--precision", default="bfloat16")
    arguments = parser.parse_args()
    main(
        arguments.data,
        TrainConfig(
            backbone="vit_tiny_patch16_224",
            weights=arguments.weights,
            size=arguments.size,
            epochs=2,
            workers=1,
            precision=arguments.precision,
            keep="last",
        ),
        arguments.processes,
    )
