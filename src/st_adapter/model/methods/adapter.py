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
    """Adapt features with a bottleneck and a depthwise convolution over time and space.

        y = x + up(activation(depthwise_conv3d(down(x))))

    This is section 3.2 of the paper; the published models use no activation. A new adapter returns
    its input unchanged, bit for bit. `init` decides which part of it is zero at first:

    - "conv-zero", as in the official code: the convolution is zero. The first gradient step changes
      only the convolution and `up.bias`; `down` and `up.weight` follow from the second step on.
    - "up-zero": `up` is zero and the only part that the first step changes. The convolution
      starts as a random mixture of neighbouring frames.
    - "difference": `up` is zero. The convolution starts as half the next frame minus half the
      previous one, so that `up` learns from motion at once. A kernel that spans one frame starts
      as with "up-zero".

    Frames before the start and after the end of a clip count as zero.

    Examples:
        >>> adapter = STAdapter(channels=768, bottleneck=384)
        >>> features = torch.randn(2, 8, 14, 14, 768)
        >>> torch.equal(adapter(features), features)
        True

    Args:
        channels: width of the features, c, 1 or more.
        bottleneck: width between `down` and `up`, d, 1 or more.
        kernel_size: kernel over (time, height, width), three odd numbers. With (1, 1, 1) the
            adapter sees each patch of each frame by itself.
        activation: function after the convolution: "none", "relu" or "gelu".
        init: "conv-zero", "up-zero" or "difference".

    Attributes:
        down: linear layer from c to d channels.
        conv: depthwise convolution of d channels.
        activation: module after the convolution.
        up: linear layer from d to c channels.

    Raises:
        ArgumentError: a width is below 1, or a kernel size is not odd.
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
        identity = self.conv.weight if init == "conv-zero" else self.up.weight
        for zero in (identity, self.conv.bias, self.down.bias, self.up.bias):
            assert zero is not None
            nn.init.zeros_(zero)
        if init == "difference" and kernel_size[0] > 1:
            self._difference_frames()

    @torch.no_grad()
    def _difference_frames(self) -> None:
        """Set the convolution to half the next frame minus half the previous one."""
        nn.init.zeros_(self.conv.weight)
        t, h, w = (size // 2 for size in self.conv.kernel_size)
        self.conv.weight[:, 0, t + 1, h, w] = 0.5
        self.conv.weight[:, 0, t - 1, h, w] = -0.5

    def forward(self, features: Float[Tensor, "b t h w c"]) -> Float[Tensor, "b t h w c"]:
        """Add to each patch what the adapter computes from its neighbours in time and space.

        Args:
            features: patch features of clips, [b, t, h, w, c], without class tokens.

        Returns:
            Adapted features of the same shape.
        """
        return features + self.update(features)

    def update(self, features: Float[Tensor, "b t h w c"]) -> Float[Tensor, "b t h w c"]:
        """Compute only what `forward` adds to the features.

        Args:
            features: patch features of clips, [b, t, h, w, c], without class tokens.

        Returns:
            The update, of the same shape.
        """
        hidden = depthwise_conv3d(self.down(features), self.conv.weight, self.conv.bias)
        update: Tensor = self.up(self.activation(hidden))
        return update

    def continued_update(
        self, features: Float[Tensor, "b t h w c"], past: Float[Tensor, "b k h w d"] | None
    ) -> tuple[Float[Tensor, "b t h w c"], Float[Tensor, "b k h w d"]]:
        """Compute the update of frames that continue earlier ones, which are not computed again.

        After the last frame, the convolution sees that frame again. Zeros, as at the end of a clip,
        would make every frame look like the last of its clip when frames come one by one.

        Args:
            features: patch features of the new frames, [b, t, h, w, c].
            past: output of `down` for the k frames before them, where k is half the kernel's size
                in time, rounded down; None at the start, where frames before count as zero.

        Returns:
            The update of the new frames, and the output of `down` for the last k frames, which is
            the `past` of the next call.
        """
        hidden = self.down(features)
        b, t, h, w, d = hidden.shape
        reach = self.conv.kernel_size[0] // 2
        past = hidden.new_zeros(b, reach, h, w, d) if past is None else past
        joined = torch.cat([past, hidden], 1)
        padded = torch.cat([joined, joined[:, -1:].expand(-1, reach, -1, -1, -1)], 1)
        mixed = depthwise_conv3d(padded, self.conv.weight, self.conv.bias)[:, reach : reach + t]
        return self.up(self.activation(mixed)), joined[:, t:]


def depthwise_conv3d(
    x: Float[Tensor, "b t h w d"],
    weight: Float[Tensor, "d 1 kt kh kw"],
    bias: Float[Tensor, " d"] | None,
) -> Float[Tensor, "b t h w d"]:
    """Convolve each channel over time and space with zero padding.

    The result equals `conv3d(..., groups=d)` up to rounding. That function would copy the features
    to channels-first and back. Here, a kernel over time only runs as one 2-D convolution over
    (t, h * w), or as a Triton kernel on a GPU. Any other kernel runs as a sum, over its time steps,
    of 2-D convolutions of shifted frames. All of these take channels-last views of `x`.

    Args:
        x: features.
        weight: one kernel of odd sizes per channel.
        bias: one value per channel, or None.
    """
    b, t, h, w, d = x.shape
    time_taps, *spatial = weight.shape[2:]
    if spatial == [1, 1]:
        if bias is not None and _runs_kernel(x):
            # Imported here, because it imports Triton, which is not installed everywhere.
            from st_adapter.model.methods.triton_convolution import convolve_over_time

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
    """Convolve over time only, as one 2-D convolution over (t, h * w)."""
    b, t, h, w, d = x.shape
    rows = x.reshape(b, t, h * w, d).permute(0, 3, 1, 2)
    out = F.conv2d(rows, weight[..., 0], bias, padding=(weight.shape[2] // 2, 0), groups=d)
    return out.permute(0, 2, 3, 1).reshape(b, t, h, w, d)


def _runs_kernel(x: Tensor) -> bool:
    """Whether to use the Triton kernel: on a GPU, not in float64, and not in an exported model."""
    possible = x.is_cuda and x.dtype != torch.float64 and not torch.compiler.is_exporting()
    # torch.compile cannot trace the trial, and itself relies on Triton on a GPU.
    return possible and (torch.compiler.is_compiling() or _builds_kernels(x.device, x.dtype))


@cache
def _builds_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether Triton works on a device. It needs a C compiler; without one, print a note once."""
    try:
        from st_adapter.model.methods.triton_convolution import convolve_over_time

        # Keeps this trial out of a surrounding activation checkpoint, which would record its
        # tensors and expect them again when it recomputes the block.
        untouched = saved_tensors_hooks(lambda x: x, lambda x: x)
        with torch.inference_mode(False), torch.enable_grad(), untouched:
            x = torch.ones(1, 2, 1, 16, dtype=dtype, device=device, requires_grad=True)
            out = convolve_over_time(x, *(torch.ones(n, device=device) for n in ((16, 3), 16)))
            torch.autograd.grad(out.sum(), x)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # Triton's compiler raises many types
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        note(f"Triton cannot build kernels here ({reason}); adapters use a slower convolution")
        return False
    return True
