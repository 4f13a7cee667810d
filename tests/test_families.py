"""Laws that hold on every family of image model, each on a small random member of it."""

import jaxtyping
import pytest
import torch
import torch.nn.functional as F

import st_adapter
from st_adapter.backbones.weights import create_backbone
from st_adapter.checkpoint import copy_trained, load_tensors

LABELS = ["a", "b", "c"]
SLIM = {"embed_dim": 32, "depth": 3, "num_heads": 2}
SLIM_SWIN = {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "img_size": 64}

FAMILIES = {
    "ViT": ("test_vit", {}),
    "ViT, pooled patches": ("test_vit2", {}),
    "ViT, MAP and registers": ("test_vit3", {}),
    "CLIP": ("vit_base_patch16_clip_quickgelu_224", SLIM),
    "DeiT": ("deit_tiny_patch16_224", SLIM),
    "DeiT, distilled": ("deit_tiny_distilled_patch16_224", SLIM),
    "DeiT III": ("deit3_small_patch16_224", SLIM),
    "DINOv2": ("vit_small_patch14_dinov2", SLIM | {"img_size": 70, "init_values": 1.0}),
    "DINOv2, registers": (
        "vit_small_patch14_reg4_dinov2",
        SLIM | {"img_size": 70, "init_values": 1},
    ),
    "SigLIP": ("vit_base_patch16_siglip_224", SLIM),
    "hybrid ViT": ("vit_tiny_r_s16_p8_224", SLIM),
    "ViT, relative positions": (
        "vit_relpos_small_patch16_224",
        SLIM | {"img_size": 64, "init_values": 1},
    ),
    "BEiT": ("beit_base_patch16_224", SLIM | {"img_size": 64, "init_values": 1}),
    "EVA-02": ("eva02_tiny_patch14_224", SLIM | {"img_size": 70}),
    "DINOv3": ("vit_small_patch16_dinov3", SLIM),
    "Swin": ("swin_tiny_patch4_window7_224", SLIM_SWIN),
    "Swin v2": ("swinv2_tiny_window8_256", SLIM_SWIN),
    "MaxViT": ("test_maxvit", {}),
    "Hiera": ("hiera_tiny_224", {"stages": (1, 1, 1, 1), "img_size": 128, "embed_dim": 24}),
    "PVT v2": ("pvt_v2_b0", {}),
    "XCiT": ("xcit_nano_12_p16_224", {"depth": 2}),
    "ConvNeXt": ("test_convnext", {}),
    "ConvNeXt v2": ("test_convnext2", {}),
    "ResNet": ("test_resnet", {}),
    "ResNet v2": ("resnetv2_18", {}),
    "RegNet": ("regnetx_002", {}),
    "NFNet": ("test_nfnet", {}),
    "EfficientNet": ("test_efficientnet", {}),
    "MobileNetV3": ("mobilenetv3_small_050", {}),
    "MobileNetV4": ("mobilenetv4_conv_small_035", {}),
    "MobileViT": ("mobilevit_xxs", {}),
    "MambaOut": ("test_mambaout", {}),
}
FIXED_SIZE = {"ViT, relative positions", "BEiT", "MaxViT", "Hiera"}
"""Families whose members are made for one input size."""
LATE_CLASS_TOKEN = {"XCiT"}
"""Families whose class token reads the patches after all blocks."""
families = pytest.mark.parametrize("family", FAMILIES)


def make_backbone(family):
    torch.manual_seed(0)
    name, options = FAMILIES[family]
    return create_backbone(name, **options).eval()


def make_model(family, **options):
    config = st_adapter.AdapterConfig(bottleneck=8)
    return st_adapter.attach(make_backbone(family), LABELS, config, **options).eval()


def size_of(family):
    name, options = FAMILIES[family]
    return options.get("img_size") or {"test_maxvit": 160}.get(name, 64)


def random_clips(family, frames=3, batch=2):
    size = size_of(family)
    return torch.randint(0, 256, (batch, frames, 3, size, size), dtype=torch.uint8)


def randomise(model):
    """Adapters as after long training: far from the identity."""
    with torch.no_grad():
        for parameter in model.adapters.parameters():
            parameter.normal_(std=0.3)
    return model


def train_three_steps(model, clips):
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=0.03, weight_decay=0)
    labels = torch.arange(len(clips)) % len(LABELS)
    for _ in range(3):
        F.cross_entropy(model(clips), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def is_dead(family, model, parameter):
    """Patch tokens do not reach a pooled class token after the last attention, as published."""
    last = list(model.adapters)[-1]
    pooled = getattr(model.backbone, "global_pool", "") == "token"
    return (
        pooled
        and family not in LATE_CLASS_TOKEN
        and last.endswith("_mlp")
        and parameter.startswith(f"adapters.{last}.")
    )


@families
def test_adapted_model_equals_the_frozen_one_at_init_bit_for_bit(family):
    model, clips = make_model(family), random_clips(family)
    with torch.no_grad():
        adapted = model(clips)
        with model.adapters_disabled():
            assert torch.equal(model(clips), adapted)


@families
def test_features_of_one_frame_are_those_of_timm(family):
    model, clips = make_model(family), random_clips(family, frames=1)
    backbone = make_backbone(family)
    frames = (clips[:, 0] / 255 - model.mean) / model.std
    with torch.no_grad():
        expected = backbone.forward_head(backbone.forward_features(frames), pre_logits=True)
        torch.testing.assert_close(model.features(clips), expected, rtol=1e-4, atol=1e-5)


@families
def test_frozen_weights_stay_bit_identical_and_each_adapter_tensor_moves(family):
    model = make_model(family, dropout=0.0).train()
    frozen = {n: t.clone() for n, t in model.backbone.state_dict().items()}
    trained = {n: p.detach().clone() for n, p in model.trained_tensors().items()}
    train_three_steps(model, random_clips(family))
    assert len(frozen) > 10
    for n, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, frozen[n]), n
    assert len(trained) > 6
    for n, parameter in model.trained_tensors().items():
        assert torch.equal(parameter, trained[n]) == is_dead(family, model, n), n


@families
def test_order_of_frames_matters_to_st_adapter_alone(family):
    model, clips = randomise(make_model(family)), random_clips(family, frames=4)
    backwards = clips.flip(1)
    with torch.no_grad():
        forwards = model(clips)
        assert (forwards - model(backwards)).abs().max() > 1e-4 * forwards.abs().max()
        with model.adapters_disabled():
            torch.testing.assert_close(model(clips), model(backwards), rtol=1e-3, atol=1e-5)


@families
def test_any_number_of_frames_and_odd_sizes(family):
    model, size = randomise(make_model(family)), size_of(family)
    step = 14 if size == 70 else 0 if family in FIXED_SIZE else 32
    sizes = ((size, size), (size + step, size), (size, size + 2 * step), (size + step, size + step))
    with torch.no_grad():
        for frames, (height, width) in zip((1, 3, 8, 33), sizes, strict=True):
            assert model(torch.rand(1, frames, 3, height, width)).shape == (1, len(LABELS))


@families
def test_saved_and_loaded_adapters_give_the_same_logits(family, tmp_path):
    model, clips = randomise(make_model(family)), random_clips(family)
    model.save_adapter(tmp_path)
    again = make_model(family)
    copy_trained(again, load_tensors(tmp_path), str(tmp_path))
    with torch.no_grad():
        assert torch.equal(again(clips), model(clips))


@pytest.fixture
def unchecked():
    """Shape checks off: they are no part of what is compiled."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@families
def test_compiled_model_equals_eager(family):
    model, clips = randomise(make_model(family)), random_clips(family)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(clips), model(clips), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("unchecked")
@families
def test_exported_model_equals_eager_for_other_numbers_of_clips_and_frames(family):
    model = randomise(make_model(family))
    shapes = {0: torch.export.Dim("clips"), 1: torch.export.Dim("frames")}
    with torch.no_grad():
        program = torch.export.export(model, (random_clips(family),), dynamic_shapes=(shapes,))
        others = random_clips(family, frames=5, batch=3)
        torch.testing.assert_close(program.module()(others), model(others), rtol=1e-4, atol=1e-4)
