"""Forms of the convolution over time on a GPU: alone, in an adapter with its residual, in a step.

    python benchmarks/temporal_convolution.py [--clips 2 8 32] [--precision bfloat16]

A depthwise 2-D convolution by cuDNN, a sum of shifted frames, both as written and compiled, and the
Triton kernel. Each convolution is checked against float64. Microseconds of a forward and a backward
pass are medians of what the GPU takes when it has been told all before (replays of CUDA graphs).
Steps are forward and backward passes of ViT-B/16 with 24 adapters as written.
"""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from machine import print_machine
from steps import backward, noise
from torch import Tensor
from triton.testing import do_bench_cudagraph
from turns import median_seconds

from st_adapter import create_model
from st_adapter.config import AdapterConfig
from st_adapter.model.classifier import HALF
from st_adapter.model.methods import adapter
from st_adapter.model.methods.adapter import conv2d_over_time, depthwise_conv3d

FRAMES, SIDE, CHANNELS, BOTTLENECK = 8, 14, 768, 384
DEVICE = torch.device("cuda")
Convolve = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def shifted(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The sum of frames before, at and after each, times their weights."""
    taps, frames = weight.shape[2], x.shape[1]
    padded = F.pad(x, (0, 0, 0, 0, 0, 0, taps // 2, taps // 2))
    parts = [padded[:, i : i + frames] * weight[:, 0, i, 0, 0] for i in range(taps)]
    total: Tensor = sum(parts[1:], parts[0])
    return (total if bias is None else total + bias).to(x.dtype)


FORMS: dict[str, Convolve] = {
    "conv2d": conv2d_over_time,
    "shifted": shifted,
    "kernel": depthwise_conv3d,
}
"""The last is what adapters run, with the Triton kernel."""


def main(clips: list[int], precision: str) -> None:
    """Print a line for each number of clips and form."""
    print_machine(str(DEVICE))
    for count in clips:
        torch.manual_seed(0)
        module = adapter.STAdapter(CHANNELS, BOTTLENECK, init="up-zero").to(DEVICE)
        torch.nn.init.normal_(module.up.weight, std=0.02)
        shape = (count, FRAMES, SIDE, SIDE, CHANNELS)
        features = torch.randn(shape, device=DEVICE, requires_grad=True)
        for name, form in FORMS.items():
            for compiled in (False, True):
                alone, whole = times(form, compiled, module, features, precision)
                print(
                    f"{count} clips, {name}{', compiled' * compiled}: "
                    f"alone {alone[0]:.0f} + {alone[1]:.0f} us, "
                    f"adapter with residual {whole[0]:.0f} + {whole[1]:.0f} us",
                    flush=True,
                )
        for name, form in FORMS.items():
            milliseconds = 1000 * step_seconds(form, count, precision)
            print(f"{count} clips, {name}: a step {milliseconds:.1f} ms", flush=True)


def step_seconds(form: Convolve, clips: int, precision: str) -> float:
    """Forward and backward pass of ViT-B/16, 24x384."""
    adapter.depthwise_conv3d = form
    config = AdapterConfig(bottleneck=BOTTLENECK)
    model = create_model("vit_base_patch16_clip_224", ["a", "b"], config, "random").to(DEVICE)
    model.train().set_precision(precision)
    batch = noise(clips, FRAMES, 16 * SIDE, DEVICE)
    return median_seconds(lambda: backward(model, batch), DEVICE, rounds=9)


def autocast(precision: str) -> AbstractContextManager[object]:
    """Compute in a precision, as a classifier does that has it."""
    return torch.autocast(
        "cuda", HALF.get(precision), enabled=precision in HALF, cache_enabled=False
    )


def times(
    form: Convolve, compiled: bool, module: adapter.STAdapter, features: Tensor, precision: str
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Forward and backward pass of the convolution, and of the adapter with it."""
    torch.compiler.reset()
    adapter.depthwise_conv3d = form
    with autocast(precision):
        hidden = module.down(features).detach().requires_grad_()
    given = [hidden, module.conv.weight, module.conv.bias]
    alone, whole = (torch.compile(form), torch.compile(module)) if compiled else (form, module)
    check(alone, given, precision)
    trained = [features, *module.parameters()]
    return (
        forward_and_backward(lambda: alone(*given), given, precision),
        forward_and_backward(lambda: whole(features), trained, precision),
    )


def forward_and_backward(
    run: Callable[[], Tensor], wanted: list[Any], precision: str
) -> tuple[float, float]:
    """Microseconds of both passes."""
    with autocast(precision):
        grad = torch.randn_like(run())

    def forward() -> Tensor:
        with autocast(precision):
            return run()

    def both() -> None:
        torch.autograd.grad(forward(), wanted, grad)

    first, total = (
        1000 * float(do_bench_cudagraph(work, rep=50, return_mode="median"))
        for work in (forward, both)
    )
    return first, total - first


def check(form: Convolve, given: list[Tensor], precision: str) -> None:
    """Fail where a result or gradient is far from that of float64."""
    with autocast(precision):
        out = form(*given)
    grad = torch.randn_like(out)
    found = [out, *torch.autograd.grad(out, given, grad)]
    double = [x.detach().double().requires_grad_() for x in given]
    exact = conv2d_over_time(*double)
    wanted = [exact, *torch.autograd.grad(exact, double, grad.double())]
    for value, truth in zip(found, wanted, strict=True):
        error = float((value.detach().double() - truth).norm() / truth.norm())
        assert error < (1e-3 if precision == "float32" else 2e-2), f"{form}: {error:.1e}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, nargs="+", default=[2, 8, 32])
    parser.add_argument("--precision", default="bfloat16")
    arguments = parser.parse_args()
    main(arguments.clips, arguments.precision)
