"""What this machine can do at most: products of matrices, moving memory, decoding."""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import bmm_flop, mm_flop

from st_adapter.runtime.device import seconds_of

_BYTES = 256 * 2**20
_ROUNDS = 5
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
    """Counts the products that are computed while it is entered, backward passes too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counted: Counter[Product] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note a product, and compute as usual."""
        name = func._schema.name
        if name in ("aten::linear", "mkldnn::_linear_pointwise"):  # what it is in inference mode
            left, right = args[0].flatten(0, -2), args[1].t()
            self.counted[Product(_aten.mm.default, _side(left), _side(right), left.dtype)] += 1
        elif "scaled_dot_product" in name:
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


def seconds_beside(
    run: Callable[[], object], products: Iterable[Product], device: torch.device
) -> tuple[float, dict[Product, float]]:
    """Median times of a call and of each product with nothing between them.

    They take turns, so that what slows the machine for a while slows both.
    """
    product_seconds: dict[Product, list[float]] = {product: [] for product in products}
    run_seconds = []
    run()
    for _ in range(_ROUNDS):
        run_seconds.append(seconds_of(run, device))
        for product, seconds in product_seconds.items():
            seconds.append(_seconds_of_product(product, device))
    medians = {product: statistics.median(times) for product, times in product_seconds.items()}
    return statistics.median(run_seconds), medians


def squares(dtype: torch.dtype, device: torch.device) -> list[Product]:
    """Products whose rate is about the highest here."""
    sizes = (1024, 2048) if device.type == "cpu" else (4096,)
    sides = [Side((size, size), (size, 1)) for size in sizes]
    return [Product(_aten.mm.default, side, side, dtype) for side in sides]


def _seconds_of_product(product: Product, device: torch.device) -> float:
    factors = [_draw(side, product.dtype, device) for side in (product.left, product.right)]
    multiply = torch.mm if len(product.left.shape) == 2 else torch.bmm
    return _seconds_of_kernel(lambda: multiply(*factors), device, rounds=3)


def _draw(side: Side, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Noise that lies in memory as a factor did."""
    pairs = zip(side.shape, side.strides, strict=True)
    last = sum((size - 1) * stride for size, stride in pairs)
    noise = torch.randn(1 + last, dtype=dtype, device=device)
    return noise.as_strided(side.shape, side.strides)


def median_seconds(run: Callable[[], object], device: torch.device, rounds: int = _ROUNDS) -> float:
    """Median time of a call, after one that is not timed."""
    run()
    return statistics.median(seconds_of(run, device) for _ in range(rounds))


def _seconds_of_kernel(run: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Median time of work on the device; of small factors on a GPU, which its caches then hold."""
    calls = 1 if device.type == "cpu" else _IN_A_ROW

    def run_all() -> None:
        for _ in range(calls):
            run()

    return median_seconds(run_all, device, rounds) / calls


def bytes_per_second(device: torch.device) -> float:
    """Rate of reading and writing memory, by copying 256 MB."""
    source = torch.zeros(_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * _BYTES / _seconds_of_kernel(lambda: target.copy_(source), device, _ROUNDS)


def seconds_to_decode(path: Path, num_frames: int) -> float:
    """Time that PyAV takes for the first frames of a file, in one thread, and nothing else."""

    def decode() -> None:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            for i, _ in enumerate(container.decode(stream), start=1):
                if i == num_frames:
                    break

    return median_seconds(decode, torch.device("cpu"))


def is_weight_gradient(product: Product, weights: Sequence[Tensor]) -> bool:
    """Whether a product's result has the shape of a trained matrix, either way round."""
    shapes = {tuple(w.shape) for w in weights if w.ndim == 2}
    return product.shape in shapes or product.shape[::-1] in shapes
