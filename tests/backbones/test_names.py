"""Names of image models that people know from elsewhere."""

import pytest
import timm

from st_adapter.backbones.names import timm_name
from st_adapter.backbones.sources import check_name
from st_adapter.errors import ArgumentError

CLIP = "vit_base_patch16_clip_quickgelu_224.openai"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("dinov2", "vit_base_patch14_dinov2.lvd142m"),
        ("dinov2_vits14", "vit_small_patch14_dinov2.lvd142m"),
        ("dinov2_vitb14_reg", "vit_base_patch14_reg4_dinov2.lvd142m"),
        ("facebook/dinov2-with-registers-large", "vit_large_patch14_reg4_dinov2.lvd142m"),
        ("clip-vit-b-16", CLIP),
        ("openai/clip-vit-base-patch16", CLIP),
        ("openai/clip-vit-large-patch14-336", "vit_large_patch14_clip_quickgelu_336.openai"),
        ("google/siglip-base-patch16-224", "vit_base_patch16_siglip_224.webli"),
        ("google/vit-base-patch16-224-in21k", "vit_base_patch16_224"),
        ("ViT-B/16", "vit_base_patch16_224"),
        ("vit-b16", "vit_base_patch16_224"),
        ("resnet-50", "resnet50"),
        ("facebook/convnext-tiny-224", "convnext_tiny"),
        ("hf_hub:facebook/dinov2-small", "vit_small_patch14_dinov2.lvd142m"),
        ("hf_hub:timm/vit_tiny_patch16_224.augreg_in21k", "vit_tiny_patch16_224.augreg_in21k"),
    ],
)
def test_a_name_from_elsewhere_is_found_in_timm(given, meant):
    assert timm_name(given) == meant
    assert timm.is_model_pretrained(meant)
    if "." in meant:
        assert meant in timm.list_pretrained()
    with pytest.raises(ArgumentError) as caught:
        check_name(given)
    assert f'timm does not have this model; use backbone="{meant}"' in str(caught.value)


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("facebook/dinov2-small", 'lvd142m" or backbone="hf:facebook/dinov2-small"'),
        ("someone/their-vit", 'this model; use backbone="hf:someone/their-vit"'),
        ("ViT-B/16", f'use backbone="vit_base_patch16_224" or backbone="{CLIP}"'),
        ("ViT-L/14", 'use backbone="vit_large_patch14_clip_quickgelu_224.openai"'),
        ("vit_tiny_patch16_242", "did you mean vit_tiny_patch16_224"),
    ],
)
def test_all_that_may_be_meant_is_named(given, advice):
    with pytest.raises(ArgumentError) as caught:
        check_name(given)
    assert advice in str(caught.value)


def test_a_name_that_means_nothing_gets_no_advice():
    with pytest.raises(ArgumentError, match="timm does not have this model$"):
        check_name("qqqqqq")
