"""Time and memory of a training step of several methods, side by side.

    python benchmarks/methods.py [--backbone vit_base_patch16_224] [--clips 2] [--frames 8]
        [--methods st-adapter side ordered full] [--side-width 128] [--precision bfloat16]

Clips of noise, random weights. Each method has a process of its own; steps (forward, backward,
AdamW) take turns. Memory is what the step adds to what the process held before its first one.
ST-Adapter has adapters before the attention and the MLP of every block, as in the paper.
"""

import argparse
import statistics
from collections.abc import Callable

from machine import print_machine
from steps import count_memory_from_here, noise
from turns import take_turns

from st_adapter.config import TrainConfig
from st_adapter.model.build import build_model
from st_adapter.runtime.attention import speed_up_attention
from st_adapter.runtime.device import choose_device, seconds_of
from st_adapter.runtime.memory import peak_memory_gb
from st_adapter.runtime.micro_batches import clips_at_once
from st_adapter.training.optimizer import make_step

CLASSES, ROUNDS = 174, 5


def prepare(config: TrainConfig) -> Callable[[], tuple[float, float, int]]:
    """Build a model; return what takes a step: its seconds, GB it added, trained parameters."""
    device = choose_device(config.device)
    model = build_model(config, [str(i) for i in range(CLASSES)]).to(device)
    model.set_precision(config.precision)
    speed_up_attention(model, config.size)
    clips = noise(config.batch_size, config.frames, config.size, device)
    parts = clips.split(clips_at_once(device, config.frames, config.size))
    step = make_step(model.train(), config, parts)
    held = count_memory_from_here(device)
    trained = model.num_parameters(only_trainable=True)
    return lambda: (seconds_of(step, device), peak_memory_gb(device) - held, trained)


def main(config: TrainConfig, methods: list[str]) -> None:
    """Print a row of Markdown for each method; ratios are to the first one."""
    print_machine(config.device)
    ways = {m: (TrainConfig(**(vars(config) | {"method": m})),) for m in methods}
    found = take_turns(prepare, ways, 1 + ROUNDS)
    seconds = {m: statistics.median(s for s, _, _ in steps[1:]) for m, steps in found.items()}
    memory = {m: steps[-1][1] for m, steps in found.items()}
    print(f"\n{config.backbone}, {config.batch_size} clips of {config.frames} frames\n")
    print("| method | trained, M | step, s | of the first | memory, GB | of the first |")
    print("|---|---:|---:|---:|---:|---:|")
    for method, steps in found.items():
        print(
            f"| {method} | {steps[-1][2] / 1e6:.2f} | {seconds[method]:.3f} "
            f"| {seconds[method] / seconds[methods[0]]:.2f} | {memory[method]:.3f} "
            f"| {memory[method] / memory[methods[0]]:.2f} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--methods", nargs="+", default=["st-adapter", "side", "ordered", "full"])
    parser.add_argument("--side-width", type=int, default=128)
    parser.add_argument("--side-every", type=int, default=1)
    parser.add_argument("--precision", default="bfloat16")
    arguments = parser.parse_args()
    main(
        TrainConfig(
            backbone=arguments.backbone,
            weights="random",
            frames=arguments.frames,
            batch_size=arguments.clips,
            side_width=arguments.side_width,
            side_every=arguments.side_every,
            precision=arguments.precision,
        ),
        arguments.methods,
    )
