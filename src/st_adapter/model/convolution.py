"""The depthwise convolution of adapters, over time and space, on channels-last features."""

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from st_adapter.common.progress import say


def depthwise_conv3d(
    x: Float[Tensor, "b t h w d"],
    weight: Float[Tensor, "d 1 kt kh kw"],
    bias: Float[Tensor, " d"] | None,
) -> Float[Tensor, "b t h w d"]:
    """Convolve each channel over time and space with zero padding, without leaving channels-last.

    Equal to `conv3d(..., groups=d)` up to rounding. A kernel over time alone is one 2-D
    convolution over (t, h * w), or a Triton kernel on a GPU; any other kernel is the sum over its
    time steps of 2-D convolutions of shifted frames. All take views of `x`; no layout is copied.
    """
    b, t, h, w, d = x.shape
    time_taps, *spatial = weight.shape[2:]
    if spatial == [1, 1]:
        if bias is not None and _runs_kernel(x):
            from st_adapter.model.triton_convolution import (
                convolve_over_time,  # which imports Triton
            )

            out = convolve_over_time(x.flatten(2, 3), weight[:, 0, :, 0, 0], bias)
            return out.view(x.shape)
        return conv2d_over_time(x, weight, bias)
    half = time_taps // 2
    padded = F.pad(x, (0, 0, 0, 0, 0, 0, half, half))
    padding = (spatial[0] // 2, spatial[1] // 2)
    taps = []
    for tap in range(time_taps):
        frames = padded[:, tap : tap + t].reshape(b * t, h, w, d).permute(0, 3, 1, 2)
        tap_bias = bias if tap == 0 else None
        taps.append(F.conv2d(frames, weight[:, :, tap], tap_bias, padding=padding, groups=d))
    total = torch.stack(taps).sum(0) if len(taps) > 1 else taps[0]
    return total.permute(0, 2, 3, 1).reshape(b, t, h, w, d)


def conv2d_over_time(
    x: Float[Tensor, "b t h w d"],
    weight: Float[Tensor, "d 1 kt 1 1"],
    bias: Float[Tensor, " d"] | None,
) -> Float[Tensor, "b t h w d"]:
    """Convolve over time alone, as one 2-D convolution over (t, h * w)."""
    b, t, h, w, d = x.shape
    rows = x.reshape(b, t, h * w, d).permute(0, 3, 1, 2)
    out = F.conv2d(rows, weight[..., 0], bias, padding=(weight.shape[2] // 2, 0), groups=d)
    return out.permute(0, 2, 3, 1).reshape(b, t, h, w, d)


def _runs_kernel(x: Tensor) -> bool:
    """Whether the Triton kernel is for this: on a GPU, up to float32, in what is not exported."""
    here = x.is_cuda and x.dtype != torch.float64 and not torch.compiler.is_exporting()
    return here and (torch.compiler.is_compiling() or _builds_kernels(x.device, x.dtype))


@cache
def _builds_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether Triton works there, which takes a C compiler; where not, say so once."""
    try:
        from st_adapter.model.triton_convolution import convolve_over_time

        as_it_is = saved_tensors_hooks(lambda x: x, lambda x: x)  # checkpointing would run it again
        with torch.inference_mode(False), torch.enable_grad(), as_it_is:
            x = torch.ones(1, 2, 1, 16, dtype=dtype, device=device, requires_grad=True)
            out = convolve_over_time(x, *(torch.ones(n, device=device) for n in ((16, 3), 16)))
            torch.autograd.grad(out.sum(), x)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever its compiler raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        say(f"note: Triton builds no kernels here ({reason}); adapters run a slower convolution")
        return False
    return True
