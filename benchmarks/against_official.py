"""A training step of the official code and of ours, side by side with the same weights.

    python benchmarks/against_official.py --official PATH [--model vit-b16] [--clips 2]

PATH is a checkout of linziyi96/st-adapter. Logits are proven equal before anything is timed.
Each has a process of its own, whose whole memory counts; steps (forward, backward, AdamW) take
turns. On a CPU the official code can compute in float32 alone; on a GPU it runs as its main.py
does, frozen weights in float16 and the rest under autocast.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from machine import print_machine
from steps import backward, count_memory_from_here, noise
from torch import nn
from turns import take_turns

from official import SIZES, build_official, build_ours, check_equal, faster_device, half_frozen
from st_adapter.model.classifier import VideoClassifier
from st_adapter.runtime.device import choose_device, seconds_of
from st_adapter.runtime.memory import peak_memory_gb

CLASSES, ROUNDS = 400, 5
WAYS = {
    "cpu": ("official float32", "ours float32", "ours bfloat16", "ours bfloat16 compiled"),
    "cuda": ("official float16", "ours float16", "ours bfloat16", "ours bfloat16 compiled"),
}
Step = Callable[[], None]


def official_step(model: nn.Module, clips: int, frames: int, device: torch.device) -> Step:
    """A step as in their main.py; float32 on a CPU."""
    on_gpu = device.type == "cuda"
    data = torch.randn(clips, 3, frames, 224, 224, device=device)
    labels = torch.zeros(clips, dtype=torch.long, device=device)
    model = (half_frozen(model) if on_gpu else model).to(device).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=on_gpu)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, enabled=on_gpu):
            loss = F.cross_entropy(model(data), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def our_step(
    model: VideoClassifier, clips: int, frames: int, precision: str, device: torch.device
) -> Step:
    """A step as `train` takes it."""
    data = noise(clips, frames, 224, device)
    model.to(device).train().set_precision(precision)
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=1e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")

    def step() -> None:
        optimizer.zero_grad()
        backward(model, data, scale=scaler.scale)
        scaler.step(optimizer)
        scaler.update()

    return step


def prepare(
    way: str, official: Path, name: str, clips: int, frames: int, device: torch.device
) -> Callable[[], tuple[float, float, float]]:
    """Build a model; return what takes a step and tells its seconds and the memory so far, GB."""
    model: nn.Module = build_official(official, SIZES[name], CLASSES)
    if way.startswith("official"):
        step = official_step(model, clips, frames, device)
    else:
        ours = build_ours(model, SIZES[name])
        del model
        if way.endswith("compiled"):
            ours.compile()
        step = our_step(ours, clips, frames, way.split()[1], device)
    held = count_memory_from_here(device)
    return lambda: (seconds_of(step, device), held, peak_memory_gb(device))


def main(official: Path, name: str, clips: int, frames: int, device: torch.device) -> None:
    """Print a line for each way."""
    print_machine(str(device))
    theirs = build_official(official, SIZES[name], CLASSES)
    ours = build_ours(theirs, SIZES[name])
    print(f"{name}: logits differ by at most {check_equal(theirs, ours, frames):.1e}", flush=True)
    del theirs, ours
    ways = {way: (way, official, name, clips, frames, device) for way in WAYS[device.type]}
    found = take_turns(prepare, ways, 2 + ROUNDS)
    seconds = {way: statistics.median(s for s, _, _ in steps[2:]) for way, steps in found.items()}
    for way, steps in found.items():
        _, held, peak = steps[-1]
        print(
            f"{way}: {seconds[way]:.3f} s a step, "
            f"{seconds[WAYS[device.type][0]] / seconds[way]:.2f} times the official steps; "
            f"peak {peak:.2f} GB, {held:.2f} before the first step"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--official", type=Path, required=True)
    parser.add_argument("--model", choices=SIZES, default="vit-b16")
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--device", choices=WAYS, default=faster_device())
    arguments = parser.parse_args()
    main(
        arguments.official,
        arguments.model,
        arguments.clips,
        arguments.frames,
        choose_device(arguments.device),
    )
