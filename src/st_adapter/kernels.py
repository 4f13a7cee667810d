"""Ways of computing the same thing that train faster on a processor.

`benchmarks/training_kernels.py` measures each against what torch would choose.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

FEW_TOKENS = 128
"""Up to so many, fused attention has a slower backward pass than the plain form."""


_ENTERED = threading.local()


def training_kernels(device: torch.device) -> AbstractContextManager[object]:
    """Choose kernels for a forward pass on `device` whose backward pass counts."""
    return TrainingKernels() if device.type == "cpu" else nullcontext()


def same_kernels() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    """Contexts of what runs now and of running it again in the backward pass, for checkpointing."""
    chosen = getattr(_ENTERED, "times", 0) > 0  # torch leaves its modes for `backward`
    return nullcontext(), TrainingKernels() if chosen else nullcontext()


class TrainingKernels(TorchFunctionMode):
    """In bfloat16, call attention and convolutions in forms that torch does not choose.

    Holds for the thread that enters it. Without autocast to bfloat16 it changes nothing.
    """

    def __enter__(self) -> Self:
        _ENTERED.times = getattr(_ENTERED, "times", 0) + 1
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        _ENTERED.times -= 1
        super().__exit__(*raised)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call `func`, or what is equal to it."""
        if torch.is_autocast_enabled("cpu"):
            func = _INSTEAD.get(func, func)
        return func(*args, **(kwargs or {}))


def _attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Attention over few tokens in its plain form."""
    if query.shape[-2] > FEW_TOKENS or kwargs.get("enable_gqa"):
        return F.scaled_dot_product_attention(query, key, value, *args, **kwargs)
    kind = torch.get_autocast_dtype("cpu")
    kwargs.pop("enable_gqa", None)
    inputs = (tensor.to(kind) for tensor in (query, key, value))
    result: Tensor = torch.ops.aten._scaled_dot_product_attention_math(*inputs, *args, **kwargs)[0]
    return result


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Depthwise convolutions with a stride in float32; the backward pass in bfloat16 crawls."""
    strided = stride != 1 and set(torch.nn.modules.utils._pair(stride)) != {1}
    is_depthwise = groups == weight.shape[0] > 1 and weight.dtype == torch.float32
    if not (strided and is_depthwise):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    with torch.autocast("cpu", enabled=False):
        return torch.conv2d(input.float(), weight, bias, stride, padding, dilation, groups)


_INSTEAD: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.conv2d: _conv2d,
    F.scaled_dot_product_attention: _attention,
}
