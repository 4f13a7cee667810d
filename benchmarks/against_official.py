"""A training step of the official code and of ours, side by side with the same weights.

    python benchmarks/against_official.py --official PATH [--model vit-b16] [--clips 2]

PATH is a checkout of linziyi96/st-adapter. Logits are proven equal before anything is timed.
Steps (forward, backward, AdamW) are timed in turns in one process; peak memory is that of a
process of its own for each. On a processor the official code can compute in float32 alone.
"""

import argparse
import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F
from official import SIZES, build_official, build_ours, check_equal
from torch import nn

from st_adapter.machine import hold_frozen, peak_memory_gb
from st_adapter.model import VideoClassifier
from st_adapter.passes import backward, clips_at_once

CLASSES, ROUNDS = 400, 5
WAYS = ("official float32", "ours float32", "ours bfloat16")
Step = Callable[[], None]


def official_step(model: nn.Module, clips: int, frames: int) -> Step:
    """A step as in their main.py, but for GPUs' gradient scaler."""
    data = torch.randn(clips, 3, frames, 224, 224)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    labels = torch.zeros(clips, dtype=torch.long)
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(data), labels).backward()
        optimizer.step()

    return step


def our_step(model: VideoClassifier, clips: int, frames: int, precision: str) -> Step:
    """A step as `train` takes it."""
    data = torch.randint(0, 256, (clips, frames, 3, 224, 224), dtype=torch.uint8)
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=1e-4)
    labels = torch.zeros(clips, dtype=torch.long)
    hold_frozen(model.train(), precision)
    at_once = clips_at_once(model, frames, 224, precision)

    def step() -> None:
        optimizer.zero_grad()
        backward(model, data, labels, F.cross_entropy, precision=precision, at_once=at_once)
        optimizer.step()

    return step


def make_step(way: str, official: Path, name: str, clips: int, frames: int) -> Step:
    """Build a model and its step."""
    theirs = build_official(official, SIZES[name], CLASSES)
    if way.startswith("official"):
        return official_step(theirs, clips, frames)
    ours = build_ours(theirs, SIZES[name])
    del theirs
    return our_step(ours, clips, frames, way.split()[1])


def peak_gb(way: str, official: Path, name: str, clips: int, frames: int) -> tuple[float, float]:
    """Memory of the process before the first step and at most in two."""
    step = make_step(way, official, name, clips, frames)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what making the weights took is not held any more
    before = psutil.Process().memory_info().rss / 2**30
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    step()
    step()
    return before, peak_memory_gb(torch.device("cpu"))


def main(official: Path, name: str, clips: int, frames: int) -> None:
    """Print a line for each way."""
    theirs = build_official(official, SIZES[name], CLASSES)
    ours = build_ours(theirs, SIZES[name])
    print(f"{name}: logits differ by at most {check_equal(theirs, ours, frames):.1e}", flush=True)
    del theirs, ours
    steps = {way: make_step(way, official, name, clips, frames) for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(1 + ROUNDS):
        for way, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[way].append(time.perf_counter() - start)
    medians = {way: statistics.median(times[1:]) for way, times in seconds.items()}
    del steps
    context = get_context("spawn")
    for way, taken in medians.items():
        with context.Pool(1) as pool:
            held, peak = pool.apply(peak_gb, (way, official, name, clips, frames))
        print(
            f"{way}: {taken:.3f} s a step, {medians[WAYS[0]] / taken:.2f} times the official "
            f"steps; peak {peak:.2f} GB, {held:.2f} before the first step",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--official", type=Path, required=True)
    parser.add_argument("--model", choices=SIZES, default="vit-b16")
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--frames", type=int, default=8)
    arguments = parser.parse_args()
    main(arguments.official, arguments.model, arguments.clips, arguments.frames)
