"""Ways of computing the same thing that are faster on a processor.

`benchmarks/kernels.py` measures each against what torch would choose, but for those of compiled
steps; `benchmarks/scoring.py` those of scoring.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn
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
    """Call attention, convolutions, norms and linear maps in forms that torch does not choose.

    Attention over few tokens, strided depthwise convolutions and compiled linear maps change in
    bfloat16 alone; frozen convolutions and batch norms compute the same and keep less. Holds for
    the thread that enters.
    """

    def __enter__(self) -> "ChosenKernels":
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
        return _INSTEAD.get(func, func)(*args, **(kwargs or {}))


def _computes_in_bfloat16() -> bool:
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Add a bias where the product is read, in compiled steps: a pass less, a rounding more.

    Torch copies the bias out first, and adds the product to it.
    """
    in_step = torch.compiler.is_compiling() and torch.is_grad_enabled()
    if bias is None or input.dtype == torch.float64 or not (in_step and _computes_in_bfloat16()):
        return F.linear(input, weight, bias)
    return (F.linear(input, weight).float() + bias.float()).to(torch.bfloat16)


def _attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Attention over few tokens, without mask or dropout, by products of matrices."""
    alike = query.dtype != torch.float64 and query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
    plain = (
        _computes_in_bfloat16()
        and alike
        and not args
        and not any(kwargs.get(name) for name in _FURTHER)
    )
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
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Keep no input that only the gradient of frozen weights would need.

    Depthwise convolutions with a stride run in float32; their backward pass in bfloat16 crawls.
    """
    is_depthwise = groups == weight.shape[0] > 1 and weight.dtype == torch.float32
    strided = stride != 1 and set(torch.nn.modules.utils._pair(stride)) != {1}
    crawls = _computes_in_bfloat16() and strided and is_depthwise
    frozen = _is_frozen(input, weight, bias) and not isinstance(padding, str)
    if not (torch.is_grad_enabled() and (crawls or frozen)):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    kind = input.dtype
    if crawls:
        kind = torch.float32
    elif torch.is_autocast_enabled("cpu") and kind != torch.float64:
        kind = torch.get_autocast_dtype("cpu")
    with torch.autocast("cpu", enabled=False):
        input, weight = input.to(kind), weight.to(kind)
        bias = None if bias is None else bias.to(kind)
        if not frozen:
            return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
        options = tuple(map(torch.nn.modules.utils._pair, (stride, padding, dilation)))
        result: Tensor = FrozenConvolution.apply(input, weight, bias, options, groups)
        return result


def _is_frozen(input: Tensor, *parameters: Tensor | None) -> bool:
    """Whether a gradient passes through, and parameters need none."""
    return input.requires_grad and not any(p is not None and p.requires_grad for p in parameters)


class FrozenConvolution(torch.autograd.Function):
    """A convolution that keeps its weights alone; torch's keeps its input, too."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, options: Any, groups: int
    ) -> Tensor:
        """Return torch's convolution with (stride, padding, dilation)."""
        ctx.save_for_backward(weight)
        ctx.shape, ctx.strides = input.shape, input.stride()
        ctx.options, ctx.groups = options, groups
        stride, padding, dilation = options
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        """The gradient of the input, which hangs on its shape alone."""
        (weight,) = ctx.saved_tensors
        unread = torch.empty_strided(ctx.shape, ctx.strides, dtype=grad.dtype, device=grad.device)
        mask = [True, False, False]
        of_input, _, _ = torch.ops.aten.convolution_backward(
            grad, unread, weight, None, *ctx.options, False, [0, 0], ctx.groups, mask
        )
        return of_input, None, None, None, None


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Keep no input where statistics, scale and shift are frozen: it is a map of each channel."""
    if (
        training
        or running_mean is None
        or not (torch.is_grad_enabled() and _is_frozen(input, weight, bias))
    ):
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    result: Tensor = FrozenBatchNorm.apply(input, running_mean, running_var, weight, bias, eps)
    return result


class FrozenBatchNorm(torch.autograd.Function):
    """A batch norm with frozen statistics and parameters that keeps a factor for each channel."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        mean: Tensor,
        variance: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        """Return torch's batch norm."""
        factor = torch.rsqrt(variance + eps) * (1 if weight is None else weight)
        ctx.save_for_backward(factor)
        return F.batch_norm(input, mean, variance, weight, bias, eps=eps)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        """The gradient, channel by channel."""
        (factor,) = ctx.saved_tensors
        of_input = (grad * factor.view(-1, *[1] * (grad.ndim - 2))).to(grad.dtype)
        return of_input, None, None, None, None, None


_INSTEAD: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.conv2d: _conv2d,
    F.batch_norm: _batch_norm,
    F.linear: _linear,
    F.scaled_dot_product_attention: _attention,
}


def quick_gelu_mlp(mlp: Mlp, x: Tensor) -> Tensor:
    """Timm's MLP with CLIP's activation; in scoring, in the pass that makes the first product.

    QuickGELU(z) is swish(1.702 z) / 1.702. Scoring calls neither map, hooks on them do not run.
    """
    first, second = mlp.fc1, mlp.fc2
    plain = type(first) is type(second) is nn.Linear and type(mlp.norm) is nn.Identity
    biased = plain and first.bias is not None and second.bias is not None
    result: Tensor
    if biased and not torch.is_grad_enabled() and _has_swish(x):
        kind = torch.bfloat16 if _computes_in_bfloat16() else x.dtype
        given = [t.to(kind) for t in (1.702 * x, first.weight, 1.702 * first.bias)]
        hidden = torch.ops.mkldnn._linear_pointwise(*given, "swish", [], "").flatten(0, -2)
        result = torch.addmm(second.bias, hidden, second.weight.T, alpha=1 / 1.702)
        return result.view(*x.shape[:-1], result.shape[-1])
    result = second(mlp.norm(QuickGELUFunction.apply(first(x))))
    return result


def _has_swish(x: Tensor) -> bool:
    """Whether oneDNN applies x sigmoid(x) to a product as it makes it, in this arithmetic."""
    here = x.device.type == "cpu" and torch.backends.mkldnn.is_available()
    if not here or x.dtype is torch.float64:
        return False
    if torch.is_autocast_enabled("cpu"):
        return _computes_in_bfloat16() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return x.dtype is torch.float32


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
