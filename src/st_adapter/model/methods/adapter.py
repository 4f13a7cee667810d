"""The spatio-temporal adapter of Pan et al., NeurIPS 2022, arXiv 2206.13559."""

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from st_adapter.common.remarks import note
from st_adapter.config import Activation, Init
from st_adapter.errors import ArgumentError

_ACTIVATIONS = {"none": nn.Identity, "relu": nn.ReLU, "gelu": nn.GELU}


class STAdapter(nn.Module):
    """A bottleneck with a depthwise convolution over time and space, added to the features.

        y = x + up(activation(depthwise_conv3d(down(x))))

    At initialisation the module is the identity to the bit. With "conv-zero", as in the official
    code, the convolution is zero: the first gradient step reaches the convolution and `up.bias`
    alone, `down` and `up.weight` move from the second step on. With the others `up` is zero, and
    the first step reaches it alone. It reads a random mixture of neighbouring frames with
    "up-zero"; with "difference" half of the frame after less half of the frame before (a random
    mixture where the kernel spans one frame). Frames beyond the ends of a clip are zero, so that
    its sum over a clip is half of the last frame less half of the first. Section 3.2 of the paper;
    the published models use no activation.

    Args:
        channels: width of the features, c.
        bottleneck: width between `down` and `up`, d.
        kernel_size: odd kernel over (time, height, width). (1, 1, 1) is a purely spatial adapter.
        activation: applied after the convolution.
        init: "conv-zero", "up-zero" or "difference".

    Raises:
        ArgumentError: a size is below one, or a kernel size is even.
    """

    def __init__(
        self,
        channels: int,
        bottleneck: int,
        kernel_size: tuple[int, int, int] = (3, 1, 1),
        activation: Activation = "none",
        init: Init = "conv-zero",
    ) -> None:
        super().__init__()
        if channels < 1 or bottleneck < 1:
            raise ArgumentError(f"adapter widths must be at least 1, not {channels=} {bottleneck=}")
        if any(size < 1 or size % 2 == 0 for size in kernel_size):
            raise ArgumentError(f"adapter kernel sizes must be odd, not {tuple(kernel_size)}")
        self.down = nn.Linear(channels, bottleneck)
        self.conv = nn.Conv3d(
            bottleneck,
            bottleneck,
            kernel_size,
            padding=(kernel_size[0] // 2, kernel_size[1] // 2, kernel_size[2] // 2),
            groups=bottleneck,
        )
        self.activation = _ACTIVATIONS[activation]()
        self.up = nn.Linear(bottleneck, channels)
        first = self.conv.weight if init == "conv-zero" else self.up.weight
        for zero in (first, self.conv.bias, self.down.bias, self.up.bias):
            assert zero is not None
            nn.init.zeros_(zero)
        if init == "difference" and kernel_size[0] > 1:
            self._difference_frames()

    @torch.no_grad()
    def _difference_frames(self) -> None:
        """Make the convolution half the difference of the frames after and before."""
        nn.init.zeros_(self.conv.weight)
        t, h, w = (size // 2 for size in self.conv.kernel_size)
        self.conv.weight[:, 0, t + 1, h, w] = 0.5
        self.conv.weight[:, 0, t - 1, h, w] = -0.5

    def forward(self, features: Float[Tensor, "b t h w c"]) -> Float[Tensor, "b t h w c"]:
        """Add to each patch what its neighbours in time and space say about it."""
        return features + self.update(features)

    def update(self, features: Float[Tensor, "b t h w c"]) -> Float[Tensor, "b t h w c"]:
        """What `forward` adds to the features."""
        hidden = depthwise_conv3d(self.down(features), self.conv.weight, self.conv.bias)
        update: Tensor = self.up(self.activation(hidden))
        return update


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
            from st_adapter.model.methods.triton_convolution import (
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
    """Whether the Triton kernel is used: on a GPU, up to float32, unless the model is exported."""
    here = x.is_cuda and x.dtype != torch.float64 and not torch.compiler.is_exporting()
    return here and (torch.compiler.is_compiling() or _builds_kernels(x.device, x.dtype))


@cache
def _builds_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether Triton works there, which takes a C compiler; if not, say so once."""
    try:
        from st_adapter.model.methods.triton_convolution import convolve_over_time

        # Checkpointing would keep the tensors of this trial, and run it again.
        untouched = saved_tensors_hooks(lambda x: x, lambda x: x)
        with torch.inference_mode(False), torch.enable_grad(), untouched:
            x = torch.ones(1, 2, 1, 16, dtype=dtype, device=device, requires_grad=True)
            out = convolve_over_time(x, *(torch.ones(n, device=device) for n in ((16, 3), 16)))
            torch.autograd.grad(out.sum(), x)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever its compiler raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        note(f"Triton builds no kernels here ({reason}); adapters run a slower convolution")
        return False
    return True
