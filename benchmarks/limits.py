"""A training step and scoring beside the products of matrices in them, computed alone.

    python benchmarks/limits.py [--backbone vit_base_patch16_clip_224] [--precision bfloat16]

Clips of noise, random weights, 400 classes. A step is forward pass, backward pass and AdamW. Its
products run at their shapes with nothing between them, in turns with it: no code that computes them
by the same library is faster than that. Prints also the kind of CPU, the rate at which memory is
copied, and the model-flops utilisation of a step: the operations that torch counts in it (products,
convolutions and fused attention, but no Triton kernel) a second, as a share of the rate of square
matrices.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch
from machine import print_machine
from products import (
    ROUNDS,
    Product,
    Products,
    is_weight_gradient,
    seconds_beside,
    seconds_of_kernel,
    squares,
)
from steps import backward, noise, score
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from st_adapter.config import TrainConfig
from st_adapter.model.build import build_model
from st_adapter.model.classifier import HALF, VideoClassifier
from st_adapter.runtime.compilation import compile_model
from st_adapter.runtime.device import choose_device
from st_adapter.training.optimizer import make_optimizer

COPIED_BYTES = 256 * 2**20
Forward = Callable[[Tensor], Tensor]


class Measured(NamedTuple):
    """Times of a call, and what is in it.

    Attributes:
        products: of matrices.
        product_seconds: that each of them takes alone, and squares too.
        operations: all that torch counts.
    """

    seconds: float
    products: Counter[Product]
    product_seconds: dict[Product, float]
    operations: int

    def alone(self, without: Callable[[Product], bool] = lambda _: False) -> float:
        """Seconds that the products take alone, less some of them."""
        kept = {p: n for p, n in self.products.items() if not without(p)}
        return sum(count * self.product_seconds[product] for product, count in kept.items())


def main(config: TrainConfig) -> None:
    """Print what the machine is, then a line for the step and one for scoring."""
    device = choose_device(config.device)
    model = build_model(config, [str(i) for i in range(400)], "random").to(device)
    model.set_precision(config.precision)
    if config.compile:
        compile_model(model, config.clip, config.batch_size)
    print_machine(str(device))
    print(f"memory is read and written at {bytes_per_second(device) / 1e9:.1f} GB/s", flush=True)
    clips = noise(config.batch_size, config.frames, config.size, device)
    step = measure(model, training_step(model.train(), config, clips))
    print_step(model, config, step)
    scoring = measure(model.eval(), lambda forward: score(forward, clips))
    print_times("scoring", config, scoring)


def training_step(
    model: VideoClassifier, config: TrainConfig, clips: Tensor
) -> Callable[[Forward], None]:
    """What takes a step of the model, by one of its forms."""
    optimizer = make_optimizer(model, config)

    def step(forward: Forward) -> None:
        backward(forward, clips)
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(model: VideoClassifier, run: Callable[[Forward], None]) -> Measured:
    """Count what a call of the model computes, then time it in turns with that."""
    with Products() as products, FlopCounterMode(display=False) as flops:
        run(model.forward)  # as written: compiled code shows no operations
    wanted = [*products.counted, *squares_of(model)]
    seconds, alone = seconds_beside(lambda: run(model), wanted, model.device)
    return Measured(seconds, products.counted, alone, flops.get_total_flops())


def squares_of(model: VideoClassifier) -> list[Product]:
    """Square products in the precision of a model."""
    return squares(HALF.get(model.precision, torch.float32), model.device)


def print_times(what: str, config: TrainConfig, measured: Measured) -> None:
    """A line of a call beside its products."""
    seconds, alone = measured.seconds, measured.alone()
    print(
        f"{what}: {1000 * seconds:.4g} ms for {config.batch_size} clips, "
        f"{config.batch_size / seconds:.3g} clips/s; "
        f"its products of matrices alone {1000 * alone:.4g} ms, {alone / seconds:.0%}",
        flush=True,
    )


def print_step(model: VideoClassifier, config: TrainConfig, step: Measured) -> None:
    """The line of a training step, and what its products tell of the machine."""
    print_times("training step", config, step)
    trained = model.trainable_parameters()
    needed = step.alone(without=lambda product: is_weight_gradient(product, trained))
    operations = sum(product.operations * n for product, n in step.products.items())
    peak = max(s.operations / step.product_seconds[s] for s in squares_of(model))
    print(
        f"  products of its forward pass and activations' gradients {needed / step.seconds:.0%}; "
        f"products run at {operations / step.alone() / 1e9:.4g} GFLOP/s, squares at "
        f"{peak / 1e9:.4g}; model-flops utilisation {step.operations / step.seconds / peak:.0%}",
        flush=True,
    )


def bytes_per_second(device: torch.device) -> float:
    """Rate of reading and writing memory, by copying 256 MB."""
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = seconds_of_kernel(lambda: target.copy_(source), device, ROUNDS)
    return 2 * COPIED_BYTES / seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="vit_base_patch16_clip_224")
    parser.add_argument("--bottleneck", type=int, default=384)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--precision", choices=("float32", *HALF), default="bfloat16")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda ...")
    parser.add_argument("--compile", action="store_true", help="the step, by torch.compile")
    main(TrainConfig(**vars(parser.parse_args())))
