"""Exported files beside PyTorch: seconds per clip, in turns in one process.

    python benchmarks/export.py [RUN_OR_BACKBONE] [--threads 2] [--rounds 5]

RUN_OR_BACKBONE is a run, or a timm name, which gets random weights and ten classes. Clips are
noise. Each time is the shortest of all rounds. OpenVINO runs twice: in float32, as `open_exported`
runs it, and in the precision that it chooses for this CPU. Prints also the kind of CPU.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino
import torch
from machine import print_machine

import st_adapter
from st_adapter.errors import ExportError
from st_adapter.exporting.comparison import noise
from st_adapter.exporting.formats import Precision, write
from st_adapter.exporting.program import ScoringModule, traced
from st_adapter.model.classifier import VideoClassifier
from st_adapter.model.exported import open_exported
from st_adapter.model.record import to_record
from st_adapter.runtime.device import seconds_of

LABELS = [f"class {i}" for i in range(10)]
FILES: dict[str, tuple[str, Precision]] = {
    "torch.export": ("model.pt2", "float32"),
    "ONNX Runtime": ("model.onnx", "float32"),
    "ONNX Runtime, int8": ("int8.onnx", "int8"),
    "OpenVINO, float32": ("model.xml", "float32"),
}
Call = Callable[[], object]


def build(name: str) -> VideoClassifier:
    """Load a run, or attach untrained adapters to a backbone with random weights."""
    if Path(name).exists():
        return st_adapter.load(name).eval()
    clip = st_adapter.ClipConfig(frames=8, size=224)
    return st_adapter.create_model(name, LABELS, weights="random", clip=clip).eval()


def prepare(model: VideoClassifier, folder: Path, threads: int) -> dict[str, Call]:
    """Write a classifier in each form, and return what scores one clip in it."""
    clips = noise(np.random.default_rng(0), model.spec, 1, model.spec.clip.frames)
    scorer, tensor = ScoringModule(model), torch.from_numpy(clips)
    calls: dict[str, Call] = {"PyTorch, float32": torch.inference_mode()(lambda: scorer(tensor))}
    with traced(model) as (program, fixed_size):
        for name, (file, precision) in FILES.items():
            export = {"precision": precision, "fixed_size": fixed_size}
            record = json.dumps({**to_record(model.spec), "export": export})
            try:
                write(program, folder / file, record, precision)
            except ExportError as error:
                print(f"{name}: {error}")
                continue
            exported = open_exported(folder / file, threads)
            calls[name] = lambda exported=exported: exported.scores(clips)
    default = openvino.compile_model(
        folder / "model.xml", "CPU", {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    )
    precision = default.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    calls[f"OpenVINO, by default {precision}"] = lambda: default([clips])
    return calls


def main(given: argparse.Namespace) -> None:
    """Print a Markdown table."""
    torch.set_num_threads(given.threads)
    model = build(given.run_or_backbone)
    cpu = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        calls = prepare(model, Path(folder), given.threads)
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(1 + given.rounds):  # the first call of each is slower, so never the shortest
            for name, call in calls.items():
                taken[name].append(seconds_of(call, cpu))
    seconds = {name: min(times) for name, times in taken.items()}
    first = next(iter(seconds.values()))
    print_machine()
    print(f"{given.run_or_backbone}\n")
    print("| form | seconds per clip | times as fast |\n|---|---:|---:|")
    for name, value in seconds.items():
        print(f"| {name} | {value:.3f} | {first / value:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_or_backbone", nargs="?", default="vit_base_patch16_224")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    main(parser.parse_args())
