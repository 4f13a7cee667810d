"""The spatio-temporal adapter of Pan et al., NeurIPS 2022, arXiv 2206.13559."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from st_adapter.config import Activation, Init
from st_adapter.errors import ArgumentError
from st_adapter.model.convolution import depthwise_conv3d

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
