"""Steps and scoring where malloc keeps what a pass freed, and where it is left to itself.

    python benchmarks/malloc.py [--backbone vit_tiny_patch16_224] [--batch 6]

Bfloat16, clips of 8 frames of 224 px of noise. Each way has a process of its own, since settings of
malloc hold for a process; they take turns. Prints medians, and the pages that a call takes from the
system.
"""

import argparse
import resource
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from turns import take_turns

from st_adapter import create_model
from st_adapter.runtime import passes
from st_adapter.runtime.device import hold_frozen, seconds_of

WARM, ROUNDS, PRECISION, FRAMES, SIZE = 8, 12, "bfloat16", 8, 224


def prepare(what: str, keeps: bool, backbone: str, batch: int) -> Callable[[], tuple[float, int]]:
    """Make a model; return what runs it and tells the seconds and pages of a call."""
    if not keeps:
        passes.keep_freed_memory = lambda _: None
    model = create_model(backbone, ["a", "b"], weights="random").train(what == "step")
    hold_frozen(model, PRECISION)
    clips = torch.randint(0, 256, (batch, FRAMES, 3, SIZE, SIZE), dtype=torch.uint8)
    targets = torch.zeros(batch, dtype=torch.long)
    at_once = passes.clips_at_once(model, FRAMES, SIZE, PRECISION)

    def run() -> None:
        if what == "step":
            passes.backward(
                model, clips, targets, F.cross_entropy, precision=PRECISION, at_once=at_once
            )
        else:
            passes.infer(model, clips, device=model.device, precision=PRECISION, at_once=at_once)

    def measure() -> tuple[float, int]:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        seconds = seconds_of(run, model.device)
        return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    return measure


def main(backbone: str, batch: int) -> None:
    """Print a line a way and a kind of work."""
    for what in ("step", "scoring"):
        ways = {
            "kept": (what, True, backbone, batch),
            "left to itself": (what, False, backbone, batch),
        }
        for way, calls in take_turns(prepare, ways, WARM + ROUNDS).items():
            seconds, pages = map(statistics.median, zip(*calls[WARM:], strict=True))
            print(f"{what} of {batch} clips, {way}: {1000 * seconds:.0f} ms, {pages:.0f} pages")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--batch", type=int, default=6, help="clips")
    arguments = parser.parse_args()
    main(arguments.backbone, arguments.batch)
