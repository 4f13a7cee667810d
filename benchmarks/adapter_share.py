"""What adapters add to a training step, over the frozen model with the same graph.

    python benchmarks/adapter_share.py [--backbone vit_base_patch16_224] [--clips 1] [--compile]

Forward and backward passes of clips of 8 frames of noise, random weights. Without adapters, the
class token that the first block is given takes a gradient, so that the backward pass goes as far.
The ways take turns; times are medians, after one of each that compiles where that is asked for.
"""

import argparse
from contextlib import nullcontext
from functools import partial

import torch
from machine import print_machine
from steps import backward, noise
from torch import Tensor
from turns import medians_in_turns

from st_adapter import VideoClassifier, create_model
from st_adapter.catalogue.costs import inspect_spec
from st_adapter.config import AdapterConfig
from st_adapter.model.spec import ModelSpec
from st_adapter.runtime.device import choose_device

ROUNDS, FRAMES, SIZE = 7, 8, 224
PLACES = {"12x384": ("attention",), "24x384": "all"}


def main(
    backbone: str, precision: str, num_clips: int, compiled: bool, device: torch.device
) -> None:
    """Print both times and the share, in time and in operations of a forward pass."""
    print_machine(str(device))
    for name, positions in PLACES.items():
        adapter = AdapterConfig(bottleneck=384, positions=positions)
        model = create_model(backbone, ["a", "b"], adapter, "random").to(device).train()
        model.set_precision(precision)
        if compiled:
            model.compile()
        frozen_gmacs = inspect_spec(_without(backbone), FRAMES, SIZE).gmacs
        more = inspect_spec(model.spec, FRAMES, SIZE).gmacs / frozen_gmacs - 1
        clips = noise(num_clips, FRAMES, SIZE, device)
        ways = {adapted: partial(step, model, clips, adapted=adapted) for adapted in (True, False)}
        ours, frozen = medians_in_turns(ways, ROUNDS, device).values()
        print(
            f"{name}: {1000 * ours:.4g} ms, {1000 * frozen:.4g} without adapters: "
            f"{ours / frozen - 1:.0%} more; {more:.0%} more operations"
        )


def _without(backbone: str) -> ModelSpec:
    return create_model(backbone, ["a", "b"], weights="random", method="linear").spec


def step(model: VideoClassifier, clips: Tensor, *, adapted: bool) -> None:
    """Forward and backward pass, with a gradient of the class token where adapters are off."""
    model.backbone.cls_token.requires_grad_(not adapted)
    with nullcontext() if adapted else model.adapters_disabled():
        backward(model, clips)
    model.backbone.cls_token.requires_grad_(False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backbone", default="vit_base_patch16_224", help="a ViT with a class token"
    )
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--clips", type=int, default=1, help="in a step")
    parser.add_argument("--device", default="cpu", help="cpu, cuda ...")
    parser.add_argument("--compile", action="store_true", help="both, by torch.compile")
    arguments = parser.parse_args()
    main(
        arguments.backbone,
        arguments.precision,
        arguments.clips,
        arguments.compile,
        choose_device(arguments.device),
    )
