"""Training and comparing with and without kept features.

    python benchmarks/kept_features.py DATA WEIGHTS [--methods linear,temporal] [--size 224]
    python benchmarks/kept_features.py DATA WEIGHTS --compare [--epochs 8]

DATA is anything `train` takes, WEIGHTS those of ViT-Tiny/16. Every epoch shows the same clip of
each video (`--draws 1`), and is validated. Each method trains in turns with and without, a process
for each. With --compare, all methods are compared in turns instead, with three rates and seeds.
"""

import argparse
import logging
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

from st_adapter.comparison.run import compare
from st_adapter.config import TrainConfig
from st_adapter.model.checkpoint import read_tensors
from st_adapter.training.loop import train

_RATES = (3e-4, 1e-3, 3e-3)


def main(data: Path, config: TrainConfig, methods: list[str], rounds: int) -> None:
    """Print the seconds of an epoch after the first in both ways, for each method."""
    for method in methods:
        plain = replace(config, method=method)
        ways = {"without": plain, "with": replace(plain, keep_features=16.0)}
        given = {way: (data, chosen) for way, chosen in ways.items()}
        found = take_turns(prepare, given, rounds)
        without, kept = (min(seconds for seconds, _ in found[way]) for way in ways)
        first, other = (found[way][-1][1] for way in ways)
        same = "to the bit" if np.array_equal(first, other) else f"to {_apart(first, other):.1e}"
        print(
            f"{method}: {without:.2f} s per epoch without, {kept:.3f} s with kept features, "
            f"{without / kept:.1f} times as fast; trained tensors agree {same}",
            flush=True,
        )


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(one))


def prepare(data: Path, config: TrainConfig) -> Callable[[], tuple[float, np.ndarray]]:
    """What trains, in its process."""
    return partial(run, data, config)


def run(data: Path, config: TrainConfig) -> tuple[float, np.ndarray]:
    """Seconds of an epoch after the first, with its validation, and what was trained."""
    epochs = _Epochs()
    logger = logging.getLogger("st_adapter")
    logger.addHandler(epochs)
    logger.setLevel(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        train(data, out, config, diagnose=False)
        tensors = read_tensors(out / "adapter_last")
    logger.removeHandler(epochs)
    trained = np.concatenate([tensor.numpy().ravel() for tensor in tensors.values()])
    return statistics.median(np.diff(epochs.ended).tolist()), trained


class _Epochs(logging.Handler):
    """Notes when epochs end, from the lines that training logs."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note the time of the line of an epoch."""
        if record.getMessage().startswith("epoch "):
            self.ended.append(time.perf_counter())


def compare_both(data: Path, config: TrainConfig, methods: list[str]) -> None:
    """Print the seconds of a comparison in both ways, and whether their tables agree."""
    seconds, tables = {}, {}
    for way, keep in (("without", 0.0), ("with", 16.0)):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            rows = compare(
                data,
                Path(folder) / "out",
                replace(config, keep_features=keep),
                methods=methods,
                rates=_RATES,
            )
            seconds[way] = time.perf_counter() - began
        changing = ("train_seconds", "step_seconds", "memory_gb")
        tables[way] = [{k: v for k, v in vars(row).items() if k not in changing} for row in rows]
        print(f"{way} kept features: {seconds[way]:.0f} s", flush=True)
    agree = "agree" if tables["with"] == tables["without"] else "differ"
    print(f"{seconds['without'] / seconds['with']:.1f} times as fast; the tables {agree}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("weights")
    parser.add_argument("--methods", default="linear,temporal,attentive,ordered,side")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--adapter-layers", default="4")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--precision", default="float32")
    arguments = parser.parse_args()
    print_machine()
    settings = TrainConfig(
        backbone="vit_tiny_patch16_224",
        weights=arguments.weights,
        adapter_layers=arguments.adapter_layers,
        draws=1,
        size=arguments.size,
        frames=arguments.frames,
        epochs=arguments.epochs,
        keep="best",
        precision=arguments.precision,
    )
    chosen = arguments.methods.split(",")
    if arguments.compare:
        compare_both(arguments.data, settings, chosen)
    else:
        main(arguments.data, settings, chosen, arguments.rounds)
