"""The depthwise convolution over time on GPUs, as one Triton kernel forward and one backward.

It is faster than the code that torch.compile generates; `benchmarks/temporal_convolution.py`
measures by how much.
"""

# Triton reads the annotations of kernels; its types are unknown to mypy.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

_ROWS, _CHANNELS = 64, 64
"""Size of the tile of the result that one Triton program computes."""


def convolve_over_time(
    x: Float[Tensor, "b t n d"], weight: Float[Tensor, "d k"], bias: Float[Tensor, " d"]
) -> Float[Tensor, "b t n d"]:
    """Convolve each channel over time with zero padding.

    Sums are computed in float32; the result has the dtype of `x`.

    Args:
        x: features of n patches in t frames, on a GPU.
        weight: one kernel per channel over k frames, an odd number.
        bias: one value per channel.
    """
    assert weight.shape[0] == bias.shape[0] == x.shape[-1]
    assert weight.shape[1] % 2
    result: Tensor = _TemporalConvolution.apply(x, weight, bias)
    return result


class _TemporalConvolution(torch.autograd.Function):
    """Run one kernel forward and one backward.

    Each tap of the convolution reads a frame again. Those reads mostly hit the GPU's caches, except
    for the first one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x, weight, bias = (given.contiguous() for given in (x, weight, bias))
        ctx.save_for_backward(x, weight)
        out = torch.empty_like(x)
        with _on_device_of(x):
            _convolve[_grid(x)](x, weight, bias, out, *_sizes(x, weight))
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute all three gradients with one kernel."""
        x, weight = ctx.saved_tensors
        grad, grad_x, taps = grad.contiguous(), torch.empty_like(x), weight.shape[1]
        grid = _grid(x)
        # Each program writes its share of the gradients of weight and bias to a row of its own.
        # Atomic additions would be in random order, and results would vary in the last bits.
        parts = torch.empty(grid[0], taps + 1, x.shape[-1], dtype=torch.float32, device=x.device)
        with _on_device_of(x):
            _gradients[grid](grad, x, weight, grad_x, parts, *_sizes(x, weight))
        total = parts.sum(0)
        return grad_x, total[:taps].T.to(weight.dtype), total[taps].to(weight.dtype)


def _on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Make the device of x current, on which Triton launches kernels; torch.compile does so itself.

    Tensors are on the CPU only in tests, with Triton's interpreter.
    """
    interpreted = x.is_cpu
    if torch.compiler.is_compiling() or interpreted:
        return nullcontext()
    return torch.cuda.device(x.device)


def _grid(x: Tensor) -> tuple[int, int]:
    return triton.cdiv(x.shape[:-1].numel(), _ROWS), triton.cdiv(x.shape[-1], _CHANNELS)


def _sizes(x: Tensor, weight: Tensor) -> tuple[int, ...]:
    return x.shape[:-1].numel(), *x.shape[1:], weight.shape[1], _ROWS, _CHANNELS


# Features are a matrix of rows (clip, frame, patch) and channels; one program handles one tile. A
# tap of the kernel reads the same patch in another frame, which is `plane` rows away. Offsets are
# computed in int64, because large batches have more than 2**31 values.


@triton.jit
def _block(num_rows, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    return row, channel, (row < num_rows) & (channel < channels)


@triton.jit
def _convolve(
    x, weight, bias, out, num_rows, num_frames, plane, channels,
    TAPS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    row, channel, is_here = _block(num_rows, channels, ROWS, CHANNELS)
    time = row // plane % num_frames
    total = tl.load(bias + channel, channel < channels, 0).to(tl.float32)
    total = tl.broadcast_to(total, (ROWS, CHANNELS))
    for tap in tl.static_range(TAPS):
        step = tap - TAPS // 2
        is_inside = is_here & (time + step >= 0) & (time + step < num_frames)
        factor = tl.load(weight + channel * TAPS + tap, channel < channels, 0).to(tl.float32)
        offsets = (row + step * plane).to(tl.int64) * channels + channel
        total += factor * tl.load(x + offsets, is_inside, 0).to(tl.float32)
    tl.store(out + row.to(tl.int64) * channels + channel, total, is_here)


@triton.jit
def _gradients(
    grad, x, weight, grad_x, parts, num_rows, num_frames, plane, channels,
    TAPS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    row, channel, is_here = _block(num_rows, channels, ROWS, CHANNELS)
    time = row // plane % num_frames
    here = row.to(tl.int64) * channels + channel
    centre = tl.load(grad + here, is_here, 0).to(tl.float32)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    part = parts + tl.program_id(0).to(tl.int64) * (TAPS + 1) * channels + channel
    tl.store(part + TAPS * channels, tl.sum(centre, 0)[None, :], channel < channels)
    for tap in tl.static_range(TAPS):
        step = tap - TAPS // 2
        before = (row - step * plane).to(tl.int64) * channels + channel
        is_before = is_here & (time - step >= 0) & (time - step < num_frames)
        factor = tl.load(weight + channel * TAPS + tap, channel < channels, 0).to(tl.float32)
        total += factor * tl.load(grad + before, is_before, 0).to(tl.float32)
        after = (row + step * plane).to(tl.int64) * channels + channel
        is_after = is_here & (time + step >= 0) & (time + step < num_frames)
        seen = tl.load(x + after, is_after, 0).to(tl.float32)
        tl.store(part + tap * channels, tl.sum(centre * seen, 0)[None, :], channel < channels)
    tl.store(grad_x + here, total, is_here)
