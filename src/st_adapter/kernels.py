"""Ways of computing the same thing that are faster on a processor.

`benchmarks/kernels.py` measures each against what torch would choose.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

FEW_TOKENS = 256
"""Up to so many, attention keeps its weights for the backward pass; of more they would be large."""


_ENTERED = threading.local()


def chosen_kernels(device: torch.device) -> AbstractContextManager[object]:
    """Choose kernels for a forward pass on `device`, and so for its backward pass."""
    return ChosenKernels() if device.type == "cpu" else nullcontext()


def same_kernels() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    """Contexts of what runs now and of running it again in the backward pass, for checkpointing."""
    chosen = getattr(_ENTERED, "times", 0) > 0  # torch leaves its modes for `backward`
    return nullcontext(), ChosenKernels() if chosen else nullcontext()


class ChosenKernels(TorchFunctionMode):
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
        if torch.is_autocast_enabled("cpu") and _computes_in_bfloat16():
            func = _INSTEAD.get(func, func)
        return func(*args, **(kwargs or {}))


def _computes_in_bfloat16() -> bool:
    return torch.get_autocast_dtype("cpu") is torch.bfloat16


def _attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Attention over few tokens, without mask or dropout, by products of matrices."""
    alike = query.dtype != torch.float64 and query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
    plain = alike and not args and not any(kwargs.get(name) for name in _FURTHER)
    if not plain or kwargs.get("attn_mask") is not None or key.shape[-2] > FEW_TOKENS:
        return F.scaled_dot_product_attention(query, key, value, *args, **kwargs)
    kind = torch.get_autocast_dtype("cpu")
    scale = query.shape[-1] ** -0.5 if kwargs.get("scale") is None else kwargs["scale"]
    result: Tensor = FewTokenAttention.apply(query.to(kind), key.to(kind), value.to(kind), scale)
    return result


_FURTHER = ("dropout_p", "is_causal", "enable_gqa")


class FewTokenAttention(torch.autograd.Function):
    """Attention of [b, heads, tokens, c] that keeps its weights for the backward pass.

    In bfloat16 on a processor torch's fused form spends most of its time outside of products.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Return softmax(scale query key^T) value."""
        q, k, v = (x.reshape(-1, *x.shape[-2:]) for x in (query, key, value))
        weights = torch.softmax(_scaled_product(q, k.mT, scale), -1)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale, ctx.shapes = scale, (query.shape, key.shape, value.shape)
        return torch.bmm(weights, v).view(*query.shape[:-1], value.shape[-1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of query, key and value."""
        q, k, v, weights = ctx.saved_tensors
        grad = grad.reshape(-1, *grad.shape[-2:])
        of_weights = torch.bmm(grad, v.mT)
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        grads = (
            _scaled_product(of_scores, k, ctx.scale),
            _scaled_product(of_scores.mT, q, ctx.scale),
            torch.bmm(weights.mT, grad),
        )
        of_query, of_key, of_value = (g.view(s) for g, s in zip(grads, ctx.shapes, strict=True))
        return of_query, of_key, of_value, None


def _scaled_product(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """Scale * left @ right for batches, in one pass."""
    out = left.new_empty(left.shape[0], left.shape[1], right.shape[2])
    return torch.baddbmm(out, left, right, beta=0, alpha=scale)


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
    if not (strided and is_depthwise and torch.is_grad_enabled()):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    with torch.autocast("cpu", enabled=False):
        return torch.conv2d(input.float(), weight, bias, stride, padding, dilation, groups)


_INSTEAD: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.conv2d: _conv2d,
    F.scaled_dot_product_attention: _attention,
}


class QuickGELUFunction(torch.autograd.Function):
    """CLIP's x * sigmoid(1.702 x), which keeps one tensor for a backward pass of one kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return silu(1.702 x) / 1.702, the same."""
        scaled = 1.702 * x
        ctx.save_for_backward(scaled)
        return F.silu(scaled).mul_(1 / 1.702)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """The two factors of 1.702 cancel."""
        (scaled,) = ctx.saved_tensors
        result: Tensor = torch.ops.aten.silu_backward(grad, scaled)
        return result
