"""Scoring clips on a processor: what the fused QuickGELU, compiling and packed weights bring.

    python benchmarks/scoring.py [--precision bfloat16] [--size 224]

QuickGELU after its product (CLIP's ViTs alone), as written, compiled with weights as arguments, and
compiled with weights packed as `evaluate --compile` does. Each has a process of its own; they take
turns. Milliseconds for 4 clips of 8 frames are medians.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from timm.layers import QuickGELU
from turns import take_turns

import st_adapter.backbones.cpu_kernels
from st_adapter import VideoClassifier, create_model
from st_adapter.config import ClipConfig
from st_adapter.runtime.compilation import compile_for_inference
from st_adapter.runtime.device import hold_frozen, seconds_of
from st_adapter.runtime.passes import clips_at_once, infer

CPU, CLIPS, FRAMES = torch.device("cpu"), 4, 8
BACKBONES = ("vit_tiny_patch16_224 with QuickGELU", "tf_efficientnet_lite0")
WAYS = ("as written", "compiled", "packed")


def prepare(way: str, backbone: str, precision: str, size: int) -> Callable[[], float]:
    """Build a model; return what scores clips and tells the seconds."""
    name, _, quick = backbone.partition(" ")
    model: VideoClassifier = create_model(name, ["a", "b"], weights="random").eval()
    if quick:
        for block in model.backbone.blocks:
            block.mlp.act = QuickGELU()
    hold_frozen(model, precision)
    if way == "QuickGELU apart":
        st_adapter.backbones.cpu_kernels._has_swish = lambda x: False
    elif way == "compiled":
        model.compile()
    elif way == "packed":
        compile_for_inference(model, ClipConfig(frames=FRAMES, size=size), precision, CLIPS)
    clips = torch.randint(0, 256, (CLIPS, FRAMES, 3, size, size), dtype=torch.uint8)
    at_once = clips_at_once(model, FRAMES, size, precision)

    def score() -> torch.Tensor:
        return infer(model, clips, device=CPU, precision=precision, at_once=at_once)

    score()
    return lambda: seconds_of(score, CPU)


def main(precision: str, size: int, rounds: int) -> None:
    """Print one line a backbone."""
    for backbone in BACKBONES:
        apart = ("QuickGELU apart",) if "QuickGELU" in backbone else ()
        ways = {way: (way, backbone, precision, size) for way in apart + WAYS}
        found = take_turns(prepare, ways, rounds)
        told = (f"{way} {1000 * statistics.median(times):.0f}" for way, times in found.items())
        print(f"{backbone}, {size} px, {precision}, ms: {', '.join(told)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    main(arguments.precision, arguments.size, arguments.rounds)
