"""How cost grows with frames, size, adapters, processes and videos: one plot and its figures.

    python benchmarks/growth.py DATA OUT.svg [--backbone vit_tiny_patch16_224]

DATA is anything `train` takes. Steps of noise, one clip in a pass, each in a process of its own,
whose whole memory counts; training and evaluation of DATA's videos, from files on. Weights are
random: what a model costs does not depend on them.
"""

import argparse
import os
import tempfile
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from machine import print_machine
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from processes import clips_per_second
from steps import backward, noise
from turns import median_seconds

from st_adapter import create_model
from st_adapter.config import TrainConfig
from st_adapter.data.annotations import read_annotations
from st_adapter.evaluation.evaluate import evaluate_videos
from st_adapter.runtime.device import choose_device, seconds_of
from st_adapter.runtime.memory import peak_memory_gb
from st_adapter.training.loop import train

PRECISION, STEPS = "bfloat16", 5
FRAMES, SIZES, LAYERS = (4, 8, 16, 32, 64), (112, 160, 224, 320, 384), (1, 3, 6, 9, 12)
VIDEOS = (10, 20, 40, 80)
Points = list[tuple[int, float, float]]
"""x, what it costs, and the GB that takes, or 0 where that is not measured."""


def main(data: Path, out: Path, backbone: str) -> None:
    """Measure, print a table, draw."""
    print_machine("auto")
    config = TrainConfig(
        backbone=backbone, weights="random", epochs=1, size=112, precision=PRECISION, keep="last"
    )
    processes = [2**i for i in range(5) if 2**i <= (os.cpu_count() or 1)]
    found = {
        ("frames", "ms a clip"): [(n, *step(config, frames=n, size=224)) for n in FRAMES],
        ("pixels", "ms a clip"): [(n, *step(config, size=n)) for n in SIZES],
        ("blocks with adapters", "ms a clip"): [
            (n, *step(config, size=224, adapter_layers=str(n))) for n in LAYERS
        ],
        ("processes", "training, clips/s"): [
            (n, training(data, config, n), 0.0) for n in processes
        ],
        ("videos", "evaluation, s"): [(n, scoring(data, config, n), 0.0) for n in VIDEOS],
    }
    for (what, unit), points in found.items():
        shown = ", ".join(f"{x}: {y:.4g}{f' ({gb:.2f} GB)' if gb else ''}" for x, y, gb in points)
        print(f"{what}, {unit}: {shown}", flush=True)
    draw(found, out)


def step(config: TrainConfig, **changes: object) -> tuple[float, float]:
    """Milliseconds of a clip's step, forwards and backwards, and the peak of the process."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_step, (replace(config, **changes),))  # type: ignore[arg-type]


def _step(config: TrainConfig) -> tuple[float, float]:
    device = choose_device("auto")
    model = create_model(config.backbone, ["a", "b"], config.adapter, "random").to(device).train()
    model.set_precision(PRECISION)
    clip = noise(1, config.frames, config.size, device)
    seconds = median_seconds(lambda: backward(model, clip), device, STEPS)
    return 1000 * seconds, peak_memory_gb(device)


def training(data: Path, config: TrainConfig, processes: int) -> float:
    """Clips a second of an epoch of steps of 16 clips."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = replace(config, processes=processes, batch_size=16 // processes)
        train(data, Path(folder) / "run", chosen)
        return clips_per_second(Path(folder) / "run")


def scoring(data: Path, config: TrainConfig, count: int) -> float:
    """Seconds to evaluate that many videos, 3 views of each, from files on."""
    annotations = read_annotations(data)
    # Where there are fewer, the first ones come again.
    videos = (list(annotations.train) * count)[:count]
    device = choose_device("auto")
    model = create_model(config.backbone, annotations.labels, weights="random").to(device)
    model.set_precision(PRECISION)
    evaluate_videos(model, videos[:2], config.clip, workers=0)  # warms up
    clip = replace(config.clip, views=(3, 1))
    return seconds_of(lambda: evaluate_videos(model, videos, clip, workers=2), device)


def draw(found: dict[tuple[str, str], Points], out: Path) -> None:
    """One panel a question; memory is dashed, on the right."""
    figure = Figure(figsize=(15, 3.2), layout="constrained", facecolor="white")
    for axes, ((what, unit), points) in zip(
        figure.subplots(1, len(found)), found.items(), strict=True
    ):
        x, cost, memory = zip(*points, strict=True)
        _line(axes, x, cost, "C0", "-o")
        axes.set(xlabel=what, title=unit, xticks=x)
        if any(memory):
            _line(beside := axes.twinx(), x, memory, "C1", "--s")
            beside.set_ylabel("peak, GB (dashed)", color="C1")
    figure.savefig(out)


def _line(axes: Axes, x: tuple[int, ...], y: tuple[float, ...], colour: str, style: str) -> None:
    axes.plot(x, y, style, color=colour)
    axes.set_ylim(bottom=0)
    axes.spines[["top"]].set_visible(False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    arguments = parser.parse_args()
    main(arguments.data, arguments.out, arguments.backbone)
