"""How much faster a step is with the kernels that `st_adapter.kernels` chooses, on this processor.

    python benchmarks/training_kernels.py

Times forward and backward passes in bfloat16 with and without them, in turns, and prints the
ratio of the medians: above 1 the choice is right.
"""

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from st_adapter import VideoClassifier, create_model
from st_adapter.kernels import StridedDepthwiseInFloat32

CLIPS, FRAMES, ROUNDS = 4, 8, 7


def main() -> None:
    """Print one line a kernel and size."""
    vit = create_model("vit_tiny_patch16_224", ["a", "b"], weights="random").train()
    plain = partial(sdpa_kernel, SDPBackend.MATH)
    for size in (64, 112, 160, 224):
        _compare(f"plain attention, ViT-Tiny, {size} px", vit, size, plain)
    cnn = create_model("tf_efficientnet_lite0", ["a", "b"], weights="random").train()
    for size in (112, 224):
        name = f"strided depthwise in float32, EfficientNet-Lite0, {size} px"
        _compare(name, cnn, size, StridedDepthwiseInFloat32)


def _compare(
    name: str,
    model: VideoClassifier,
    size: int,
    kernels: Callable[[], AbstractContextManager[object]],
) -> None:
    clips = torch.randint(0, 256, (CLIPS, FRAMES, 3, size, size), dtype=torch.uint8)
    seconds: dict[Callable[[], AbstractContextManager[object]], list[float]] = {
        kernels: [],
        nullcontext: [],
    }
    for _ in range(1 + ROUNDS):
        for chosen, times in seconds.items():
            start = time.perf_counter()
            with chosen(), torch.autocast("cpu", torch.bfloat16):
                loss = model(clips).float().square().sum()
            torch.autograd.grad(loss, model.trainable_parameters(), allow_unused=True)
            times.append(time.perf_counter() - start)
    ours, theirs = (statistics.median(times[1:]) for times in seconds.values())
    print(f"{name}: {1000 * ours:.0f} ms, not {1000 * theirs:.0f}: {theirs / ours:.2f}")


if __name__ == "__main__":
    main()
