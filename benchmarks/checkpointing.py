"""Peak memory and time of a training step with and without checkpointed activations.

    python benchmarks/checkpointing.py [--backbone vit_base_patch16_224] [--clips 2] [--frames 16]

Clips of noise in one micro-batch, random weights, each way in a process of its own, whose whole
memory counts.
"""

import argparse
from multiprocessing import get_context

import torch
from machine import print_machine
from steps import backward, noise

from st_adapter import create_model
from st_adapter.runtime.device import seconds_of
from st_adapter.runtime.memory import peak_memory_gb


def main(backbone: str, clips: int, frames: int, precision: str) -> None:
    """Print a line for each way and the ratios."""
    print_machine("auto")
    found = []
    for checkpointed in (False, True):
        with get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(measure, (backbone, clips, frames, precision, checkpointed)))
        memory, seconds = found[-1]
        print(f"checkpointed {checkpointed}: {memory:.2f} GB, {seconds:.2f} s a step", flush=True)
    (memory, seconds), (less, more) = found
    print(f"{1 - less / memory:.0%} less memory, {more / seconds:.2f} times the time")


def measure(
    backbone: str, clips: int, frames: int, precision: str, checkpointed: bool
) -> tuple[float, float]:
    """Peak memory of the process, GB, and seconds of the faster of two steps."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = create_model(backbone, ["a", "b"], weights="random").to(device).train()
    model.set_precision(precision)
    if checkpointed:
        model.family.checkpoints = True
    batch = noise(clips, frames, 224, device)
    fastest = min(
        seconds_of(lambda: backward(model, batch, at_once=clips), device) for _ in range(2)
    )
    return peak_memory_gb(device), fastest


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--precision", default="float32")
    arguments = parser.parse_args()
    main(arguments.backbone, arguments.clips, arguments.frames, arguments.precision)
