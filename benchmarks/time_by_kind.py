"""Where a training step and a scored clip spend their time, by kind of operation.

    python benchmarks/time_by_kind.py [--backbone vit_base_patch16_224] [--method st-adapter]

Clips of noise, random weights, 400 classes. ST-Adapter has two adapters in each block, half as wide
as the backbone. A step is forward pass, backward pass and AdamW for two clips; scoring is for one.
torch.profiler times the operations, and the round of least time counts. Further passes count the
products of matrices, and the bytes that operations read and write: their inputs and outputs, as if
no cache held them. Prints a Markdown table for the step and one for scoring.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from machine import print_machine
from products import Products
from steps import noise, score
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from st_adapter.config import TrainConfig
from st_adapter.model.build import build_model
from st_adapter.runtime.device import choose_device, seconds_of
from st_adapter.runtime.micro_batches import clips_at_once
from st_adapter.training.loop import settle
from st_adapter.training.optimizer import make_step

LINEAR, ATTENTION = "matrix products of linear layers", "attention's products"
DEPTHWISE = "depthwise convolution"
_BACKWARD_VIEWS = ("slice_backward", "select_backward")
KINDS = {
    LINEAR: ("mm", "addmm", "linear", "mkldnn_linear"),
    ATTENTION: ("bmm", "baddbmm", "scaled_dot_product"),
    DEPTHWISE: (),
    "patch embedding": ("convolution", "mkldnn_convolution", "slow_conv", "thnn_conv"),
    "norms": ("native_layer_norm", "native_batch_norm", "native_group_norm", "rms_norm"),
    "GELU": ("gelu", "sigmoid", "silu"),
    "softmax": ("softmax", "log_softmax"),
    "conversions and copies": ("copy", "to_copy", "clone", "cat", "constant_pad", *_BACKWARD_VIEWS),
    "optimizer": ("fused_adamw", "Optimizer"),
    "elementwise and sums": ("add", "mul", "sub", "div", "sum", "mean", "zero", "fill", "linalg"),
}
"""Kinds of operations by the beginnings of their names; the longest one that fits counts."""

REST = "calls, views, autograd"


class Kind(NamedTuple):
    """What all operations of a kind take together."""

    seconds: float
    operations: int
    moved_bytes: int


class MovedBytes(TorchDispatchMode):
    """Adds up, while it is entered, the bytes that operations of each kind read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: defaultdict[str, int] = defaultdict(int)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count the tensors of one operation, and compute as usual."""
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        written = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        changes = func._schema.is_mutable
        held = {x.untyped_storage().data_ptr() for x in read}
        is_view = not changes and any(x.untyped_storage().data_ptr() in held for x in written)
        if not is_view and "::empty" not in name and "::new_empty" not in name:
            kind = kind_of(name, [list(x.shape) for x in read])
            self.counted[kind] += sum(map(_bytes, (*read, *written)))
        return out


def _bytes(tensor: Tensor) -> int:
    """Bytes that are there to read: an expanded tensor repeats its own."""
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())


def kind_of(name: str, shapes: Iterable[Any]) -> str:
    """Kind of an operation by its name, as in "aten::_softmax", and by the shapes of its inputs."""
    plain = name.removeprefix("aten::").lstrip("_")
    fitting = [(b, kind) for kind, names in KINDS.items() for b in names if plain.startswith(b)]
    kind = max(fitting, key=lambda pair: len(pair[0]), default=("", REST))[1]
    if "convolution" in plain and any(len(s) > 3 and s[1] == 1 for s in shapes):
        return DEPTHWISE  # each channel has a filter of its own, [c, 1, h, w]
    return kind


def main(config: TrainConfig, rounds: int) -> None:
    """Print both tables."""
    device = choose_device(config.device)
    print_machine(config.device)
    model = build_model(config, [str(i) for i in range(400)], "random").to(device)
    config = settle(model, config)
    clips = noise(config.batch_size, config.frames, config.size, device)
    parts = clips.split(clips_at_once(device, config.frames, config.size))
    step = make_step(model.train(), config, parts)
    print_kinds(f"step of {config.batch_size} clips", measure(step, rounds, device))
    model.eval()
    print_kinds("scoring 1 clip", measure(lambda: score(model, clips[:1]), rounds, device))


def measure(run: Callable[[], None], rounds: int, device: torch.device) -> dict[str, Kind]:
    """Profile a call, after one that is not timed, and count in two more what it computes."""
    run()
    unprofiled = min(seconds_of(run, device) for _ in range(rounds))
    profiled = [profiled_seconds(run) for _ in range(rounds)]
    seconds = min(profiled, key=lambda kinds: sum(kinds.values()))
    print(f"\n{unprofiled:.3f} s unprofiled, {sum(seconds.values()):.3f} s profiled")
    with Products() as products:
        run()
    with MovedBytes() as moved:
        run()
    operations: defaultdict[str, int] = defaultdict(int)
    for product, count in products.counted.items():
        kind = LINEAR if len(product.left.shape) == 2 else ATTENTION
        operations[kind] += count * product.operations
    return {k: Kind(s, operations[k], moved.counted[k]) for k, s in seconds.items()}


def profiled_seconds(run: Callable[[], None]) -> dict[str, float]:
    """Seconds of each kind in one call, each operation without those that it calls."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        run()
    found: defaultdict[str, float] = defaultdict(float)
    for event in profiler.key_averages(group_by_input_shape=True):
        found[kind_of(event.key, event.input_shapes)] += event.self_cpu_time_total / 1e6
    return dict(found)


def print_kinds(title: str, kinds: dict[str, Kind]) -> None:
    """Print a Markdown table, the kind that takes longest first."""
    whole = sum(kind.seconds for kind in kinds.values())
    print(f"\n| {title} | s | share | GFLOP | GFLOP/s | GB moved | GB/s |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, kind in sorted(kinds.items(), key=lambda pair: -pair[1].seconds):
        gflop, gb = kind.operations / 1e9, kind.moved_bytes / 1e9
        products = f"{gflop:.0f} | {gflop / kind.seconds:.0f}" if gflop else " | "
        moved = f"{gb:.2f} | {gb / kind.seconds:.0f}" if gb >= 0.005 else " | "
        print(
            f"| {name} | {kind.seconds:.3f} | {kind.seconds / whole:.0%} | {products} | {moved} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--method", default="st-adapter")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    given = vars(parser.parse_args())
    number = given.pop("rounds")
    main(TrainConfig(**given, batch_size=2, device="cpu"), number)
