"""Faster forms are the same, and so are half-precision weights and the last block's short cut."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Mlp, QuickGELU
from timm.models.vision_transformer import VisionTransformer

import st_adapter
from conftest import randomise
from st_adapter.backbones import vit
from st_adapter.backbones.cpu_kernels import (
    FEW_TOKENS,
    FewTokenAttention,
    FrozenBatchNorm,
    FrozenConvolution,
    QuickGELUFunction,
    chosen_kernels,
    quick_gelu_mlp,
)
from st_adapter.backbones.layout import AddToPatches, adapt_tokens
from st_adapter.errors import ArgumentError
from st_adapter.methods import METHODS
from st_adapter.runtime.device import hold_frozen
from st_adapter.runtime.passes import autocast

CPU = torch.device("cpu")


def test_attention_has_the_gradients_of_torchs():
    torch.manual_seed(0)
    q = torch.randn(2, 3, 5, 8, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(2, 3, 7, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda *x: FewTokenAttention.apply(*x, 0.3), (q, k, v))
    ours = FewTokenAttention.apply(q, k, v, 0.3)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(q, k, v, scale=0.3))


def test_attention_of_one_key_for_many_queries_is_left_to_torch():
    query, key = torch.randn(4, 2, 3, 8), torch.randn(1, 2, 3, 8)
    with chosen_kernels(CPU), torch.autocast("cpu", torch.bfloat16):
        result = F.scaled_dot_product_attention(query, key, key)
    assert result.shape == query.shape


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_is_added_to_patches_has_the_gradients_of_slices(dtype):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3, dtype=dtype, requires_grad=True)
    half = torch.bfloat16 if dtype == torch.float32 else dtype
    update = torch.randn(2, 3, 3, dtype=half, requires_grad=True)
    ours = AddToPatches.apply(x, update, 2)
    theirs = torch.cat([x[:, :2], x[:, 2:] + update], 1)
    assert torch.equal(ours, theirs)
    weight = torch.randn_like(ours)
    found = torch.autograd.grad((ours * weight).sum(), (x, update))
    wanted = torch.autograd.grad((theirs * weight).sum(), (x, update))
    for own, expected in zip(found, wanted, strict=True):
        assert own.dtype == expected.dtype
        assert torch.equal(own, expected)


def test_adapted_patches_have_the_gradients_of_slices():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)

    def adapted(x, weight):
        return adapt_tokens(x, 2, (2, 2), lambda patches: torch.sin(patches @ weight))

    theirs = torch.cat([x[:, :2], x[:, 2:] + torch.sin(x[:, 2:] @ weight)], 1)
    torch.testing.assert_close(adapted(x, weight), theirs)
    assert torch.autograd.gradcheck(adapted, (x, weight))
    adapt_tokens(x, 2, (2, 2), lambda patches: patches.detach()).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_quick_gelu_is_clips():
    x = torch.linspace(-8, 8, 101, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(QuickGELUFunction.apply(x), QuickGELU()(x))
    assert torch.autograd.gradcheck(QuickGELUFunction.apply, (x,))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_quick_gelu_in_the_pass_of_a_product_is_as_near_as_after_it(precision):
    torch.manual_seed(0)
    mlp, x = Mlp(32, 128, act_layer=QuickGELU), torch.randn(4, 9, 32)
    with autocast(CPU, precision):
        after = quick_gelu_mlp(mlp, x).detach()
        with torch.no_grad(), torch.profiler.profile() as profile:
            within = quick_gelu_mlp(mlp, x)
    fuses = precision == "float32" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert fuses == any("_linear_pointwise" in event.key for event in profile.key_averages())
    with autocast(CPU, precision), torch.no_grad():
        in_double = quick_gelu_mlp(mlp.double(), x.double())
    exact = mlp(x.double()).detach()
    torch.testing.assert_close(in_double.double(), exact, rtol=0.05, atol=0.05)
    assert (within - exact).norm() <= 1.1 * (after - exact).norm()
    assert (after - exact).norm() <= 0.01 * exact.norm()


def test_a_frozen_convolution_has_the_gradient_of_torchs():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64, requires_grad=True)
    for groups, options in ((1, ((1, 1), (0, 0), (1, 1))), (4, ((2, 2), (1, 1), (2, 1)))):
        weight = torch.randn(8, 4 // groups, 3, 2, dtype=torch.float64)
        for bias in (None, torch.randn(8, dtype=torch.float64)):
            ours = FrozenConvolution.apply(x, weight, bias, options, groups)
            assert torch.equal(ours, F.conv2d(x, weight, bias, *options, groups))
            (gradient,) = torch.autograd.grad(ours.square().sum(), x)
            theirs = F.conv2d(x, weight, bias, *options, groups)
            (wanted,) = torch.autograd.grad(theirs.square().sum(), x)
            torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("affine", [False, True])
def test_a_frozen_batch_norm_has_the_gradient_of_torchs(affine):
    torch.manual_seed(0)
    x = torch.randn(3, 4, 2, 5, dtype=torch.float64, requires_grad=True)
    mean, weight, bias = torch.randn(3, 4, dtype=torch.float64)
    variance = torch.rand(4, dtype=torch.float64) + 0.1
    scale = (weight, bias) if affine else (None, None)
    ours = FrozenBatchNorm.apply(x, mean, variance, *scale, 1e-3)
    assert torch.equal(ours, F.batch_norm(x, mean, variance, *scale, eps=1e-3))
    assert torch.autograd.gradcheck(
        lambda x: FrozenBatchNorm.apply(x, mean, variance, *scale, 1e-3), (x,)
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "test_resnet"])
def test_frozen_layers_of_a_cnn_keep_less_and_give_the_same(backbone, precision):
    torch.manual_seed(0)
    weights = "random" if backbone == "test_resnet" else "package"
    model = st_adapter.create_model(backbone, ["a", "b"], weights=weights, dropout=0.0)
    randomise(model).train()
    clips = torch.randint(0, 256, (2, 3, 3, 64, 64), dtype=torch.uint8)

    def run(kernels, precision):
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        model.zero_grad()
        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with hooks, kernels, autocast(CPU, precision):
            logits = model(clips).float()
        parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
        logits.square().sum().backward()
        gradients = torch.cat([p.grad.flatten() for p in model.trainable_parameters()])
        return gradients, sum(n for key, n in storages.items() if key not in parameters)

    exact, _ = run(nullcontext(), "float32")
    theirs, whole = run(nullcontext(), precision)
    ours, kept = run(chosen_kernels(CPU), precision)
    assert kept < 0.75 * whole
    error = (ours - exact).norm() / exact.norm()
    assert error < (
        1e-5 if precision == "float32" else 1.1 * (theirs - exact).norm() / exact.norm()
    )


@pytest.mark.parametrize("backbone", ["test_vit", "test_resnet"])
@pytest.mark.parametrize("method", METHODS)
def test_frozen_weights_in_half_precision_change_no_bit(method, backbone):
    clips = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8)
    found = []
    for held in (False, True):
        torch.manual_seed(0)
        try:
            model = st_adapter.create_model(
                backbone, ["a", "b"], weights="random", method=method, dropout=0.0
            )
        except ArgumentError:
            assert (method.startswith("prompt"), backbone) == (True, "test_resnet")
            return
        randomise(model).train()
        digest = model.spec.digest
        if held:
            hold_frozen(model, "bfloat16")
            assert {p.dtype for p in model.trainable_parameters()} == {torch.float32}
            kinds = {p.dtype for p in model.backbone.parameters() if not p.requires_grad}
            assert (torch.bfloat16 in kinds) == (not method.startswith("full"))
            assert model.spec.digest.startswith("sha256")
            assert digest in ("", model.spec.digest)
        with chosen_kernels(CPU), autocast(CPU, "bfloat16"):
            logits = model(clips)
        logits.float().square().sum().backward()
        gradients = [p.grad for p in model.trainable_parameters() if p.grad is not None]
        assert gradients
        found.append([logits, *gradients])
    assert all(map(torch.equal, *found))


SMALL_VIT = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 3, "num_heads": 2}


@pytest.mark.parametrize(
    "options", [{}, {"reg_tokens": 4, "qk_norm": True, "init_values": 0.5}, {"qkv_bias": False}]
)
def test_the_last_block_gives_the_class_token_as_with_all_tokens(options, monkeypatch):
    torch.manual_seed(0)
    backbone = VisionTransformer(**SMALL_VIT, **options)
    model = randomise(st_adapter.attach(backbone, ["a", "b"], dropout=0.0)).eval()
    clips = torch.rand(2, 3, 3, 64, 64)

    def run():
        model.zero_grad()
        logits = model(clips)
        logits.square().sum().backward()
        return [logits, *(p.grad for p in model.trainable_parameters() if p.grad is not None)]

    calls, short_cut = [], vit._run_last_block
    monkeypatch.setattr(vit, "_run_last_block", lambda *x: calls.append(1) or short_cut(*x))
    short = run()
    assert calls == [1]
    monkeypatch.setattr(vit, "_is_plain", lambda attn: False)
    whole = run()
    assert calls == [1]
    dead = [g for g in whole[1:] if not g.any()]  # of the adapter before the last MLP
    kept = [whole[0], *(g for g in whole[1:] if g.any())]
    assert dead
    assert len(kept) == len(short)
    for one, two in zip(short, kept, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


def test_attention_over_few_tokens_is_the_same_to_rounding():
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, 50, 16, requires_grad=True) for _ in range(3)]
    exact = F.scaled_dot_product_attention(*inputs)
    wanted = torch.autograd.grad(exact.square().sum(), inputs)
    with chosen_kernels(torch.device("cpu")), torch.autocast("cpu", torch.bfloat16):
        ours = F.scaled_dot_product_attention(*inputs, dropout_p=0.0)
    assert "Backward" in type(ours.grad_fn).__name__
    assert "FlashAttention" not in type(ours.grad_fn).__name__
    torch.testing.assert_close(ours.float(), exact, rtol=0.02, atol=0.02)
    found = torch.autograd.grad(ours.float().square().sum(), inputs)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("tokens", [FEW_TOKENS, FEW_TOKENS + 1])
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
def test_attention_is_plain_for_few_tokens_in_bfloat16_alone(tokens, precision):
    x = torch.randn(1, 1, tokens, 8, requires_grad=True)
    kernels = chosen_kernels(torch.device("cpu"))
    with kernels, torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        result = F.scaled_dot_product_attention(x, x, x)
    fused = "FlashAttention" in type(result.grad_fn).__name__
    assert fused == (tokens > FEW_TOKENS or precision == torch.float32)


STRIDES = {1: torch.bfloat16, (1, 1): torch.bfloat16, 2: torch.float32, (2, 2): torch.float32}


@pytest.mark.parametrize("stride", STRIDES)
def test_strided_depthwise_convolutions_stay_in_float32(stride):
    x, weight = torch.randn(1, 4, 8, 8), torch.randn(4, 1, 3, 3)
    exact = F.conv2d(x, weight, stride=stride, groups=4)
    with chosen_kernels(torch.device("cpu")), torch.autocast("cpu", torch.bfloat16):
        ours = F.conv2d(input=x, weight=weight, stride=stride, groups=4)
        assert ours.dtype == F.conv2d(x, weight, None, stride, 0, 1, 4).dtype == STRIDES[stride]
        assert F.conv2d(x, torch.randn(4, 4, 3, 3), stride=stride).dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), exact, rtol=0.05, atol=0.05)


def test_kernels_are_left_alone_on_other_devices():
    with chosen_kernels(torch.device("cuda")), torch.autocast("cpu", torch.bfloat16):
        x = F.conv2d(torch.randn(1, 4, 8, 8), torch.randn(4, 1, 3, 3), stride=2, groups=4)
    assert x.dtype == torch.bfloat16
