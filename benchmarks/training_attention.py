"""Is plain attention faster to train with than the fused kernel, on this processor?

    python benchmarks/training_attention.py

Times steps of ViT-Tiny with ST-Adapters in turns, at several sizes, and prints the ratio of the
medians: above 1, `st_adapter.machine.training_attention` should choose the plain one.
"""

import statistics
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from st_adapter import create_model

CLIPS, FRAMES, ROUNDS = 4, 8, 7
SIZES = (64, 112, 160, 224)
KERNELS = {"fused": SDPBackend.FLASH_ATTENTION, "plain": SDPBackend.MATH}


def main() -> None:
    """Print one line a size."""
    model = create_model("vit_tiny_patch16_224", ["a", "b"], weights="random").train()
    for size in SIZES:
        clips = torch.randint(0, 256, (CLIPS, FRAMES, 3, size, size), dtype=torch.uint8)
        seconds: dict[str, list[float]] = {name: [] for name in KERNELS}
        for _ in range(1 + ROUNDS):
            for name, kernel in KERNELS.items():
                start = time.perf_counter()
                with sdpa_kernel(kernel), torch.autocast("cpu", torch.bfloat16):
                    loss = model(clips).float().square().sum()
                torch.autograd.grad(loss, model.trainable_parameters(), allow_unused=True)
                seconds[name].append(time.perf_counter() - start)
        fused, plain = (statistics.median(times[1:]) for times in seconds.values())
        print(f"{size} px: fused {fused:.3f} s, plain {plain:.3f} s, ratio {fused / plain:.2f}")


if __name__ == "__main__":
    main()
