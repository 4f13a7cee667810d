"""The products of matrices in a computation, and the time they take with nothing between them."""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import bmm_flop, mm_flop
from turns import median_seconds

from st_adapter.runtime.device import seconds_of

ROUNDS = 5
_IN_A_ROW = 20
"""Calls queued together on a GPU, so that the time to start one does not count."""
_aten = torch.ops.aten
_PRODUCTS: dict[Any, tuple[int, Callable[..., int]]] = {
    _aten.mm.default: (0, mm_flop),
    _aten.addmm.default: (1, mm_flop),
    _aten.bmm.default: (0, bmm_flop),
    _aten.baddbmm.default: (1, bmm_flop),
}
"""Operations to the place of their first factor, and to what counts them."""


class Side(NamedTuple):
    """How a factor lies in memory."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Product(NamedTuple):
    """A product of matrices, by the operation that computes it and its factors."""

    kind: Any
    left: Side
    right: Side
    dtype: torch.dtype

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        count: int = _PRODUCTS[self.kind][1](self.left.shape, self.right.shape)
        return count

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the result."""
        return self.left.shape[-2], self.right.shape[-1]


class Products(TorchDispatchMode):
    """Counts the products that are computed while it is entered, backward passes too.

    Not those of compiled code, nor of inference mode, which shows linear maps whole.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[Product] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note a product, and compute as usual."""
        name = func._schema.name
        if "scaled_dot_product" in name:
            self.counted.update(_of_attention(args, is_backward=name.endswith("backward")))
        elif func in _PRODUCTS:
            first = _PRODUCTS[func][0]
            left, right = args[first], args[first + 1]
            self.counted[Product(func, _side(left), _side(right), left.dtype)] += 1
        return func(*args, **(kwargs or {}))


def _of_attention(args: Sequence[Tensor], *, is_backward: bool) -> list[Product]:
    """Two products forwards, and the four backwards that its weights, were they kept, would need.

    Args:
        args: query, key and value, after the gradient in a backward pass.
    """
    query, key, value = args[1:4] if is_backward else args[:3]
    batch, dtype = query.shape[:-2].numel(), query.dtype
    n, c, m, d = *query.shape[-2:], key.shape[-2], value.shape[-1]
    shapes = [(n, c, m), (n, m, d)]
    if is_backward:
        shapes = [(n, d, m), (n, m, c), (m, n, c), (m, n, d)]
    return [
        Product(_aten.bmm.default, _dense(batch, rows, inner), _dense(batch, inner, columns), dtype)
        for rows, inner, columns in shapes
    ]


def _side(factor: Tensor) -> Side:
    return Side(tuple(factor.shape), tuple(factor.stride()))


def _dense(batch: int, rows: int, columns: int) -> Side:
    return Side((batch, rows, columns), (rows * columns, columns, 1))


def squares(dtype: torch.dtype, device: torch.device) -> list[Product]:
    """Products whose rate is about the highest here."""
    sizes = (1024, 2048) if device.type == "cpu" else (4096,)
    sides = [Side((size, size), (size, 1)) for size in sizes]
    return [Product(_aten.mm.default, side, side, dtype) for side in sides]


def is_weight_gradient(product: Product, weights: Sequence[Tensor]) -> bool:
    """Whether a product's result has the shape of a trained matrix, either way round."""
    shapes = {tuple(w.shape) for w in weights if w.ndim == 2}
    return product.shape in shapes or product.shape[::-1] in shapes


def seconds_beside(
    run: Callable[[], object], products: Iterable[Product], device: torch.device
) -> tuple[float, dict[Product, float]]:
    """Median times of a call and of each product alone.

    They take turns, so that what slows the machine for a while slows both. Factors are drawn in
    each turn anew: all of them together may not fit in memory.
    """
    product_seconds: dict[Product, list[float]] = {product: [] for product in products}
    run_seconds = []
    run()
    for _ in range(ROUNDS):
        run_seconds.append(seconds_of(run, device))
        for product, seconds in product_seconds.items():
            seconds.append(_seconds_of_product(product, device))
    medians = {product: statistics.median(times) for product, times in product_seconds.items()}
    return statistics.median(run_seconds), medians


def _seconds_of_product(product: Product, device: torch.device) -> float:
    factors = [_draw(side, product.dtype, device) for side in (product.left, product.right)]
    multiply = torch.mm if len(product.left.shape) == 2 else torch.bmm
    return seconds_of_kernel(lambda: multiply(*factors), device, rounds=3)


def _draw(side: Side, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Noise that lies in memory as a factor did."""
    pairs = zip(side.shape, side.strides, strict=True)
    last = sum((size - 1) * stride for size, stride in pairs)
    noise = torch.randn(1 + last, dtype=dtype, device=device)
    return noise.as_strided(side.shape, side.strides)


def seconds_of_kernel(run: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Median time of work on the device; of small factors on a GPU, which its caches then hold."""
    calls = 1 if device.type == "cpu" else _IN_A_ROW

    def run_all() -> None:
        for _ in range(calls):
            run()

    return median_seconds(run_all, device, rounds) / calls
