from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from st_adapter import STAdapter
from st_adapter.errors import ArgumentError
from st_adapter.model.methods.adapter import Init, depthwise_conv3d

KERNELS = [(3, 1, 1), (1, 1, 1), (1, 3, 3), (3, 3, 3), (5, 1, 3)]


@pytest.mark.parametrize("init", get_args(Init))
@pytest.mark.parametrize("kernel_size", KERNELS)
def test_adapter_is_the_identity_at_init_bit_for_bit(kernel_size, init):
    features = torch.randn(2, 5, 3, 4, 16)
    assert torch.equal(STAdapter(16, 8, kernel_size, init=init)(features), features)


@pytest.mark.parametrize("kernel_size", [(3, 1, 1), (5, 1, 3)])
def test_difference_looks_at_what_changes_around_a_frame(kernel_size):
    adapter = STAdapter(16, 8, kernel_size, init="difference")
    features = torch.randn(2, 5, 3, 4, 16)
    hidden = adapter.down(features)
    padded = F.pad(hidden, (0, 0, 0, 0, 0, 0, 1, 1))
    after, before = padded[:, 2:], padded[:, :-2]
    seen = depthwise_conv3d(hidden, adapter.conv.weight, adapter.conv.bias)
    torch.testing.assert_close(seen, (after - before) / 2)


@pytest.mark.parametrize("init", ["up-zero", "difference"])
@pytest.mark.parametrize("kernel_size", [(1, 1, 1), (3, 1, 1)])
def test_first_step_reaches_the_way_up_alone(kernel_size, init):
    adapter = STAdapter(16, 8, kernel_size, init=init)
    adapter(torch.randn(1, 3, 2, 2, 16)).square().sum().backward()
    moved = {name for name, p in adapter.named_parameters() if p.grad.abs().sum() > 0}
    assert moved == {"up.weight", "up.bias"}


@pytest.mark.parametrize("kernel_size", KERNELS)
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_convolution_without_leaving_channels_last_equals_conv3d(kernel_size, frames):
    x = torch.randn(2, frames, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 1, *kernel_size, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, dtype=torch.float64)
    padding = tuple(k // 2 for k in kernel_size)
    expected = F.conv3d(x.permute(0, 4, 1, 2, 3), weight, bias, padding=padding, groups=6)
    expected = expected.permute(0, 2, 3, 4, 1)
    result = depthwise_conv3d(x, weight, bias)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    cotangent = torch.randn_like(result)
    for ours, theirs in zip(
        torch.autograd.grad(result, (x, weight), cotangent),
        torch.autograd.grad(expected, (x, weight), cotangent),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_first_step_reaches_the_convolution_and_the_last_bias_alone():
    adapter = STAdapter(16, 8)
    adapter(torch.randn(1, 3, 2, 2, 16)).square().sum().backward()
    moved = {name for name, p in adapter.named_parameters() if p.grad.abs().sum() > 0}
    assert moved == {"conv.weight", "conv.bias", "up.bias"}


def test_input_is_not_changed():
    adapter = STAdapter(16, 8)
    torch.nn.init.normal_(adapter.conv.weight)
    features = torch.randn(1, 3, 2, 2, 16)
    before = features.clone()
    assert not torch.equal(adapter(features), before)
    assert torch.equal(features, before)


def test_even_kernels_are_refused():
    with pytest.raises(ArgumentError, match=r"must be odd, not \(2, 1, 1\)"):
        STAdapter(16, 8, (2, 1, 1))
