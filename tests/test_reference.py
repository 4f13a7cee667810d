"""The official implementation's own numbers, linziyi96/st-adapter at b914b38.

tests/reference holds inputs, weights, logits and gradients that it computed in float32.
"""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from timm.layers import QuickGELU
from timm.models.vision_transformer import VisionTransformer

import st_adapter

CASES = sorted((Path(__file__).parent / "reference").glob("*.safetensors"))
ADAPTER_NAMES = {"fc1": "down", "conv": "conv", "fc2": "up"}


def test_both_reference_cases_are_there():
    assert [case.stem for case in CASES] == ["official_1adapter_last2", "official_2adapters"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_logits_and_gradients_equal_the_official_ones(case):
    config, tensors = read_case(case)
    model = build(config, tensors)
    clips = tensors["input/clips_bcthw"].transpose(1, 2)

    model.eval()
    logits = model(clips)
    F.cross_entropy(logits, tensors["input/labels"]).backward()

    torch.testing.assert_close(logits, tensors["output/logits"], rtol=0, atol=1e-5)
    ours = model.trained_tensors()
    compared = 0
    for name, expected in tensors.items():
        if name.startswith("grad/"):
            actual = ours[our_name(name.removeprefix("grad/"))].grad
            difference = (actual - expected).norm()
            assert difference <= 1e-4 * expected.norm(), (name, difference)
            compared += 1
    assert compared == len(ours)


def read_case(path):
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return json.loads(file.metadata()["config"]), tensors


def build(config, tensors):
    """CLIP's ViT in timm, with the official weights under timm's names."""
    backbone = VisionTransformer(
        img_size=config["input_resolution"],
        patch_size=config["patch_size"],
        embed_dim=config["width"],
        depth=config["layers"],
        num_heads=config["heads"],
        num_classes=0,
        pre_norm=True,
        act_layer=QuickGELU,
        norm_layer=lambda width, **options: torch.nn.LayerNorm(width, eps=1e-5, **options),
    )
    backbone.pretrained_cfg = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    backbone.load_state_dict(timm_weights(tensors))
    positions = [p for p in ("attn", "mlp") if config[f"adapter_pre_{p}"]]
    model = st_adapter.attach(
        backbone,
        labels=[str(i) for i in range(config["num_classes"])],
        adapter=st_adapter.AdapterConfig(
            bottleneck=config["adapter_width"],
            kernel_size=tuple(config["adapter_kernel_size"]),
            positions=tuple(p.replace("attn", "attention") for p in positions),
            layers=config["adapter_layers"],
        ),
    )
    trained = model.trained_tensors()
    with torch.no_grad():
        for name, tensor in tensors.items():
            if name.startswith("weight/") and ("adapter" in name or name.startswith("weight/fc")):
                trained.pop(our_name(name.removeprefix("weight/"))).copy_(tensor)
    assert not trained
    return model


def our_name(official):
    if official.startswith("fc."):
        return f"head.{official.removeprefix('fc.')}"
    _, _, block, place, part, kind = official.split(".")
    position = {"adapter_pre_attn": "attention", "adapter_pre_mlp": "mlp"}[place]
    return f"adapters.blocks_{block}_{position}.{ADAPTER_NAMES[part]}.{kind}"


def timm_weights(tensors):
    renames = {
        "transformer.resblocks": "blocks",
        "ln_pre": "norm_pre",
        "ln_post": "norm",
        "ln_1": "norm1",
        "ln_2": "norm2",
        "in_proj_": "qkv.",
        "out_proj": "proj",
        "c_fc": "fc1",
        "c_proj": "fc2",
        "conv1": "patch_embed.proj",
    }
    weights = {}
    for name, tensor in tensors.items():
        if not name.startswith("weight/") or "adapter" in name or name.startswith("weight/fc"):
            continue
        short = name.removeprefix("weight/")
        if short == "class_embedding":
            weights["cls_token"] = tensor.view(1, 1, -1)
        elif short == "positional_embedding":
            weights["pos_embed"] = tensor.unsqueeze(0)
        else:
            for official, ours in renames.items():
                short = short.replace(official, ours)
            weights[short] = tensor
    return weights
