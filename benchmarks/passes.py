"""How large a pass a processor is fastest with: a step and inference of clips, cut into passes.

    python benchmarks/passes.py [--clips 8]

Prints milliseconds in bfloat16 for passes of all clips, half of them and so on, timed in turns,
and which size `st_adapter.runtime.passes.clips_at_once` chooses.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from turns import medians_in_turns

from st_adapter import VideoClassifier, create_model
from st_adapter.runtime.device import hold_frozen
from st_adapter.runtime.passes import backward, clips_at_once, infer

PRECISION, FRAMES, ROUNDS = "bfloat16", 8, 5
CASES = (
    ("vit_tiny_patch16_224", 112),
    ("vit_tiny_patch16_224", 224),
    ("vit_base_patch16_224", 224),
    ("tf_efficientnet_lite0", 112),
    ("tf_efficientnet_lite0", 224),
)


def main(num_clips: int) -> None:
    """Print two lines a case."""
    for backbone, size in CASES:
        model = create_model(backbone, ["a", "b"], weights="random").train()
        hold_frozen(model, PRECISION)
        clips = torch.randint(0, 256, (num_clips, FRAMES, 3, size, size), dtype=torch.uint8)
        chosen = min(num_clips, clips_at_once(model, FRAMES, size, PRECISION))
        for what, run in (("step", step), ("inference", score)):
            found = ", ".join(
                f"{n}: {1000 * s:.0f}" for n, s in time_sizes(run, model, clips).items()
            )
            print(f"{backbone}, {size} px, {what} of {num_clips} clips, ms by clips in a pass: ")
            print(f"    {found}; chosen {chosen}", flush=True)


def time_sizes(
    run: Callable[[VideoClassifier, Tensor, int], None], model: VideoClassifier, clips: Tensor
) -> dict[int, float]:
    """Median seconds for each size of a pass."""
    sizes = [len(clips) >> i for i in range(len(clips).bit_length())]
    ways = {size: partial(run, model, clips, size) for size in sizes}
    return medians_in_turns(ways, ROUNDS, clips.device)


def step(model: VideoClassifier, clips: Tensor, at_once: int) -> None:
    """Forward and backward passes."""
    targets = torch.zeros(len(clips), dtype=torch.long)
    backward(model, clips, targets, F.cross_entropy, precision=PRECISION, at_once=at_once)
    model.zero_grad()


def score(model: VideoClassifier, clips: Tensor, at_once: int) -> None:
    """Forward passes."""
    infer(model, clips, device=model.device, precision=PRECISION, at_once=at_once)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=8)
    main(parser.parse_args().clips)
