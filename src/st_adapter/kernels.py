"""Ways of computing the same thing that train faster on a processor.

`benchmarks/training_kernels.py` measures each against what torch would choose.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


@contextmanager
def training_kernels(device: torch.device, size: int) -> Iterator[None]:
    """Choose kernels for forward and backward passes over frames of `size` pixels."""
    if device.type != "cpu":
        yield
        return
    with StridedDepthwiseInFloat32():
        if size >= 224:
            yield
            return
        with sdpa_kernel(SDPBackend.MATH):  # fused, few patches have a slow backward pass
            yield


class StridedDepthwiseInFloat32(TorchFunctionMode):
    """Keep depthwise convolutions with a stride out of bfloat16, where the backward pass crawls."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call `func`, without autocast where it is such a convolution."""
        if func is torch.conv2d and _is_strided_depthwise(*args, **(kwargs or {})):
            with torch.autocast("cpu", enabled=False):
                return func(args[0].float(), *args[1:], **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _is_strided_depthwise(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    """Of a call of `conv2d`, with its own arguments; weights of another type are left alone."""
    strided = stride not in (1, (1, 1))
    return strided and groups == weight.shape[0] > 1 and weight.dtype == torch.float32
