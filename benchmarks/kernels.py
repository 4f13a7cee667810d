"""How much faster a step is with the kernels that the package chooses on this processor.

    python benchmarks/kernels.py

Times forward and backward passes in bfloat16 with and without them, in turns, and prints the
ratio of the medians: above 1 the choice is right, 1 where it changes nothing.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor
from turns import medians_in_turns

from st_adapter import VideoClassifier, create_model
from st_adapter.backbones.cpu_kernels import ChosenKernels

CLIPS, FRAMES, ROUNDS = 4, 8, 7


def main() -> None:
    """Print one line a backbone and size."""
    for backbone in ("vit_tiny_patch16_224", "tf_efficientnet_lite0"):
        model = create_model(backbone, ["a", "b"], weights="random").train()
        for size in (64, 112, 160, 224):
            _compare(f"{backbone}, {size} px", model, size)


def _compare(name: str, model: VideoClassifier, size: int) -> None:
    clips = torch.randint(0, 256, (CLIPS, FRAMES, 3, size, size), dtype=torch.uint8)
    ways = {k: partial(_step, model, clips, k) for k in (ChosenKernels, nullcontext)}
    ours, theirs = medians_in_turns(ways, ROUNDS, clips.device).values()
    print(f"{name}: {1000 * ours:.0f} ms, not {1000 * theirs:.0f}: {theirs / ours:.2f}")


def _step(
    model: VideoClassifier, clips: Tensor, chosen: Callable[[], AbstractContextManager[object]]
) -> None:
    with chosen(), torch.autocast("cpu", torch.bfloat16):
        loss = model(clips).float().square().sum()
    torch.autograd.grad(loss, model.trainable_parameters(), allow_unused=True)


if __name__ == "__main__":
    main()
