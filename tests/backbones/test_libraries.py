"""Laws that hold on the image models of transformers, torchvision and open_clip."""

import copy
import json
import pickle

import pytest
import timm
import torch
import torchvision
from torch import nn

import st_adapter
from conftest import randomise
from st_adapter.backbones.build import build_backbone
from st_adapter.errors import ArgumentError, CheckpointError

transformers = pytest.importorskip("transformers")
open_clip = pytest.importorskip("open_clip")

LABELS = ["a", "b", "c"]
SLIM = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
SLIM |= {"intermediate_size": 64, "image_size": 64, "patch_size": 16}
SWIN = {"image_size": 64, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4}
CONV = {"image_size": 64, "hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2}
TOWER = {"layers": 3, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 64}
TEXT = {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}


def of_transformers(kind, **sizes):
    return lambda: getattr(transformers, f"{kind}Model")(
        getattr(transformers, f"{kind}Config")(**sizes)
    )


def of_open_clip(**tower):
    def build():
        model = open_clip.CLIP(
            embed_dim=16,
            vision_cfg=open_clip.CLIPVisionCfg(**tower),
            text_cfg=open_clip.CLIPTextCfg(**TEXT),
        )
        return model.visual

    return build


def of_torchvision(kind, *arguments, **sizes):
    return lambda: getattr(torchvision.models, kind)(*arguments, **sizes)


MODELS = {
    "hf ViT": of_transformers("ViT", **SLIM),
    "hf DINOv2": of_transformers("Dinov2", **SLIM),
    "hf DINOv2, registers": of_transformers("Dinov2WithRegisters", **SLIM),
    "hf DINOv3": of_transformers("DINOv3ViT", **SLIM, num_register_tokens=4),
    "hf DINOv3 ConvNeXt": of_transformers(
        "DINOv3ConvNext", image_size=64, hidden_sizes=[8, 16], depths=[1, 2]
    ),
    "hf CLIP": of_transformers("CLIPVision", **SLIM),
    "hf SigLIP": of_transformers("SiglipVision", **SLIM),
    "hf Swin": of_transformers("Swin", **SWIN),
    "hf ConvNeXt": of_transformers("ConvNext", **CONV),
    "hf ResNet": of_transformers("ResNet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2]),
    "torchvision ViT": of_torchvision("VisionTransformer", 64, 16, 3, 2, 32, 64, num_classes=10),
    "torchvision Swin": of_torchvision(
        "SwinTransformer", [4, 4], 16, [1, 2], [2, 2], [4, 4], num_classes=10
    ),
    "torchvision Swin v2": of_torchvision(
        "SwinTransformer",
        *([4, 4], 16, [1, 2], [2, 2], [4, 4]),
        num_classes=10,
        block=torchvision.models.swin_transformer.SwinTransformerBlockV2,
        downsample_layer=torchvision.models.swin_transformer.PatchMergingV2,
    ),
    "torchvision ConvNeXt": of_torchvision(
        "ConvNeXt",
        [
            torchvision.models.convnext.CNBlockConfig(8, 16, 1),
            torchvision.models.convnext.CNBlockConfig(16, None, 2),
        ],
    ),
    "torchvision ResNet": of_torchvision(
        "ResNet", torchvision.models.resnet.BasicBlock, [1, 1, 1, 1]
    ),
    "torchvision EfficientNet": of_torchvision(
        "EfficientNet",
        [
            torchvision.models.efficientnet.MBConvConfig(1, 3, 1, 32, 16, 1),
            torchvision.models.efficientnet.MBConvConfig(6, 3, 2, 16, 24, 2),
        ],
        dropout=0.2,
    ),
    "open_clip ViT": of_open_clip(**TOWER),
    "open_clip ViT, mean of patches": of_open_clip(**TOWER, pool_type="avg"),
    "open_clip ViT, late norm": of_open_clip(**TOWER, pool_type="avg", final_ln_after_pool=True),
    "open_clip ResNet": of_open_clip(layers=(1, 1, 1, 1), width=16, head_width=32, image_size=64),
    "open_clip with a model of timm": of_open_clip(
        timm_model_name="test_vit", timm_pool="token", image_size=160
    ),
}
ANY_SIZE = [
    *("hf ViT", "hf DINOv2", "hf DINOv2, registers", "hf DINOv3", "hf CLIP", "hf SigLIP"),
    *("hf Swin", "hf ConvNeXt", "hf ResNet", "torchvision Swin", "torchvision ConvNeXt"),
    *("torchvision ResNet", "torchvision EfficientNet"),
]
models = pytest.mark.parametrize("name", MODELS)


def make_model(name, **options):
    torch.manual_seed(0)
    config = st_adapter.AdapterConfig(bottleneck=8)
    return st_adapter.attach(MODELS[name]().eval(), LABELS, config, **options).eval()


def random_clips(name, frames=3, batch=2):
    size = 160 if "timm" in name else 64
    return torch.randint(0, 256, (batch, frames, 3, size, size), dtype=torch.uint8)


@models
def test_adapters_change_nothing_at_first_and_then_see_the_order_of_frames(name):
    model, clips = make_model(name), random_clips(name, frames=4)
    with torch.no_grad():
        logits = model(clips)
        with model.adapters_disabled():
            assert torch.equal(model(clips), logits)
        randomise(model)
        forwards = model(clips)
        assert (forwards - model(clips.flip(1))).abs().max() > 1e-5 * forwards.abs().max()
        with model.adapters_disabled():
            torch.testing.assert_close(model(clips), model(clips.flip(1)), rtol=1e-3, atol=1e-5)


FEATURES = {
    "hf ViT": lambda m, x: m(x).last_hidden_state[:, 0],
    "hf DINOv2, registers": lambda m, x: m(x).pooler_output,
    "hf DINOv3": lambda m, x: m(x).pooler_output,
    "hf CLIP": lambda m, x: m(x).pooler_output,
    "hf SigLIP": lambda m, x: m(x).pooler_output,
    "hf Swin": lambda m, x: m(x).pooler_output,
    "hf ConvNeXt": lambda m, x: m(x).pooler_output,
    "open_clip ResNet": lambda m, x: m(x),
}
WITH_HEAD = {
    "torchvision ViT": lambda m, f: m.heads(f),
    "torchvision Swin": lambda m, f: m.head(f),
    "torchvision ConvNeXt": lambda m, f: m.classifier[2](f),
    "torchvision ResNet": lambda m, f: m.fc(f),
    "torchvision EfficientNet": lambda m, f: m.classifier(f),
    "open_clip ViT": lambda m, f: f @ m.proj,
    "open_clip ViT, mean of patches": lambda m, f: f @ m.proj,
    "open_clip ViT, late norm": lambda m, f: f @ m.proj,
}


@pytest.mark.parametrize("name", [*FEATURES, *WITH_HEAD])
def test_features_of_one_frame_are_those_of_the_library(name):
    model, clips = make_model(name), random_clips(name, frames=1)
    with torch.no_grad():
        frames = model.normalise(clips)[:, 0]
        features = model.features(clips)
        if name in WITH_HEAD:
            found, expected = WITH_HEAD[name](model.backbone, features), model.backbone(frames)
        else:
            found, expected = features, FEATURES[name](model.backbone, frames)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@models
def test_only_what_is_trained_moves(name):
    model = make_model(name, dropout=0.0).train()
    frozen = {n: t.clone() for n, t in model.backbone.state_dict().items()}
    trained = {n: p.detach().clone() for n, p in model.trained_tensors().items()}
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=0.03, weight_decay=0)
    for _ in range(3):
        nn.functional.cross_entropy(model(random_clips(name)), torch.tensor([0, 1])).backward()
        optimizer.step()
        optimizer.zero_grad()
    for n, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, frozen[n]), n
    unread = model.family.unread_sites()
    for n, parameter in model.trained_tensors().items():
        is_unread = any(n.startswith(f"adapters.{site}.") for site in unread)
        assert torch.equal(parameter, trained[n]) == is_unread, n


@models
def test_any_number_of_frames(name):
    model = randomise(make_model(name))
    with torch.no_grad():
        for frames in (1, 5, 9):
            clips = random_clips(name, frames=frames, batch=1)
            together = model(torch.cat([clips, clips.flip(1)]))
            torch.testing.assert_close(together[:1], model(clips), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ANY_SIZE)
def test_frames_of_other_sizes(name):
    model = randomise(make_model(name))
    with torch.no_grad():
        for height, width in ((96, 64), (64, 128)):
            assert model(torch.rand(1, 3, 3, height, width)).isfinite().all()


@models
def test_saved_adapters_load_onto_the_same_model(name, tmp_path):
    model, clips = randomise(make_model(name)), random_clips(name)
    model.save_adapter(tmp_path)
    torch.manual_seed(0)
    again = st_adapter.load(tmp_path, backbone=MODELS[name]())
    with torch.no_grad():
        assert torch.equal(again(clips), model(clips))
    with pytest.raises(CheckpointError, match="other weights"):
        st_adapter.load(tmp_path, backbone=MODELS[name]())


def test_classifiers_with_other_blocks_and_features_share_a_model():
    """Each runs only its own hooks, whether its blocks are named or found."""
    torch.manual_seed(0)
    clips = random_clips("")
    vit = MODELS["torchvision ViT"]().eval()
    settings = [
        {},
        {"blocks": "encoder.layers.*"},
        {"blocks": "encoder.layers.*_1", "features": "heads"},
    ]
    clip = st_adapter.ClipConfig(size=64)
    together = [randomise(st_adapter.attach(vit, LABELS, clip=clip, **s)).eval() for s in settings]
    assert [len(model.adapters) for model in together] == [6, 6, 2]
    frames = clips[:, :1]
    with torch.no_grad():
        expected = vit(together[0].normalise(frames)[:, 0])
        for model, setting in zip(together, settings, strict=True):
            fresh = MODELS["torchvision ViT"]()
            alone = st_adapter.attach(fresh, LABELS, clip=clip, **setting).eval()
            alone.load_state_dict(model.state_dict())
            torch.testing.assert_close(model(clips), alone(clips))
            with model.adapters_disabled():
                plain = model.features(frames)
            found = plain if setting else vit.heads(plain)
            torch.testing.assert_close(found, expected)
    with pytest.raises(ArgumentError, match="no module of this VisionTransformer is called"):
        st_adapter.attach(vit, LABELS, blocks="nonexistent.*")


PROCESSORS = {
    "CLIPVision": "CLIPImageProcessor",
    "SiglipVision": "SiglipImageProcessor",
    "ViT": "ViTImageProcessor",
    "Dinov2": "BitImageProcessor",
    "Beit": "BeitImageProcessor",
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_pictures_are_prepared_as_the_processor_of_the_model_does(kind, tmp_path):
    of_transformers(kind, **SLIM)().save_pretrained(tmp_path)
    processor = getattr(transformers, PROCESSORS[kind])(
        size={"height": 64, "width": 64}, do_resize=False, do_center_crop=False
    )
    processor.image_mean, processor.image_std = [0.2, 0.3, 0.4], [0.5, 0.6, 0.7]
    processor.save_pretrained(tmp_path)
    model = st_adapter.create_model(f"hf:{tmp_path}", LABELS)
    clip = random_clips("", frames=1, batch=1)
    expected = processor(clip[0, 0], return_tensors="pt").pixel_values
    torch.testing.assert_close(model.normalise(clip)[0], expected, rtol=1e-4, atol=1e-4)


def test_normalisation_is_that_of_the_weights(tmp_path):
    large = st_adapter.create_model("torchvision:efficientnet_v2_l", LABELS, weights="random")
    assert large.spec.mean == (0.5, 0.5, 0.5)
    tower = st_adapter.create_model("open_clip:convnext_base_w", LABELS, weights="random")
    assert tower.spec.mean == open_clip.OPENAI_DATASET_MEAN
    of_transformers("ViT", **SLIM)().save_pretrained(tmp_path)
    odd = {"image_processor_type": "ViTImageProcessor", "rescale_factor": 1 / 127.5}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(odd))
    with pytest.raises(ArgumentError, match="expects other values than RGB in 0..1"):
        st_adapter.create_model(f"hf:{tmp_path}", LABELS)
    half = ([0.5] * 3, [0.5] * 3)
    assert st_adapter.create_model(f"hf:{tmp_path}", LABELS, normalisation=half)


def test_weights_in_half_precision_are_used_in_float32(tmp_path):
    MODELS["hf DINOv2"]().half().save_pretrained(tmp_path)
    model = st_adapter.create_model(f"hf:{tmp_path}", LABELS)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_folder_is_found_from_elsewhere(tmp_path, monkeypatch):
    MODELS["hf DINOv2"]().save_pretrained(tmp_path / "dino")
    monkeypatch.chdir(tmp_path)
    st_adapter.create_model("hf:dino", LABELS).save_adapter("adapter")
    monkeypatch.chdir("/")
    assert st_adapter.load(tmp_path / "adapter").spec.backbone == f"hf:{tmp_path / 'dino'}"


@pytest.mark.parametrize("name", ["hf ViT", "torchvision ViT", "open_clip ViT", "hf Swin"])
def test_classifiers_share_a_backbone_and_can_be_copied(name):
    torch.manual_seed(0)
    backbone, clips = MODELS[name]().eval(), random_clips(name)
    one, other = (randomise(st_adapter.attach(backbone, LABELS)).eval() for _ in range(2))
    with torch.no_grad():
        expected = one(clips)
        other(clips)
        assert torch.equal(one(clips), expected)
        for again in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
            assert torch.equal(again(clips), expected)


def test_a_folder_of_save_pretrained_is_a_backbone(tmp_path):
    folder = tmp_path / "dino"
    torch.manual_seed(0)
    model = MODELS["hf DINOv2"]().eval()
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(image_mean=[0.1] * 3, image_std=[0.9] * 3).save_pretrained(
        folder
    )
    name = f"hf:{folder}"
    classifier = st_adapter.create_model(name, LABELS)
    assert classifier.spec.backbone == name
    assert classifier.spec.mean == (0.1, 0.1, 0.1)
    torch.testing.assert_close(classifier.backbone.state_dict(), model.state_dict())
    clips = random_clips(name)
    randomise(classifier).eval().save_adapter(tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(st_adapter.load(tmp_path / "adapter")(clips), classifier(clips))
    attached = st_adapter.attach(transformers.AutoModel.from_pretrained(folder), LABELS)
    assert attached.spec.backbone == name
    attached.save_adapter(tmp_path / "attached")
    assert st_adapter.load(tmp_path / "attached").spec.backbone == name


def test_code_in_a_folder_of_a_model_is_not_run(tmp_path):
    """Nor is the user asked for permission, which would wait for an answer in the terminal."""
    own = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": own}))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'was run')!r}, 'w')")
    with pytest.raises(ArgumentError, match="contains custom code"):
        st_adapter.create_model(f"hf:{tmp_path}", LABELS)
    assert not (tmp_path / "was run").exists()


def test_the_image_part_of_a_model_of_pictures_and_text(tmp_path):
    config = transformers.CLIPConfig(vision_config=SLIM, text_config={"num_hidden_layers": 1})
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    attached = st_adapter.attach(transformers.CLIPModel.from_pretrained(tmp_path), LABELS).eval()
    built = st_adapter.create_model(f"hf:{tmp_path}", LABELS).eval()
    clips = random_clips("")
    attached.save_adapter(tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(attached.features(clips), built.features(clips))
        assert torch.equal(st_adapter.load(tmp_path / "adapter")(clips), attached(clips))
    tower = open_clip.CLIP(16, open_clip.CLIPVisionCfg(**TOWER), open_clip.CLIPTextCfg(**TEXT))
    assert st_adapter.attach(tower, LABELS).backbone is tower.visual
    head = transformers.ViTForImageClassification(transformers.ViTConfig(**SLIM))
    assert st_adapter.attach(head, LABELS).backbone is head.vit


def test_weights_of_a_pooler_that_is_not_used_do_not_matter(tmp_path):
    head = transformers.ViTForImageClassification(transformers.ViTConfig(**SLIM))
    head.save_pretrained(tmp_path / "vit")
    model = randomise(st_adapter.create_model(f"hf:{tmp_path / 'vit'}", LABELS)).eval()
    model.save_adapter(tmp_path / "adapter")
    with torch.no_grad():
        clips = random_clips("")
        assert torch.equal(st_adapter.load(tmp_path / "adapter")(clips), model(clips))


@pytest.mark.parametrize("name", ["torchvision:resnet18", "open_clip:ViT-S-32-alt"])
def test_random_weights_of_named_models_load_again(name, tmp_path):
    model = st_adapter.create_model(name, LABELS, weights="random").eval()
    model.save_adapter(tmp_path)
    with torch.no_grad():
        clips = torch.randint(0, 256, (1, 2, 3, 224, 224), dtype=torch.uint8)
        assert torch.equal(st_adapter.load(tmp_path)(clips), model(clips))


def test_weights_from_a_file(tmp_path):
    net = torchvision.models.resnet18()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    built = build_backbone("torchvision:resnet18", str(tmp_path / "net.pth"))
    torch.testing.assert_close(built.state_dict(), net.state_dict())
    with pytest.raises(CheckpointError, match="does not fit"):
        build_backbone("torchvision:resnet34", str(tmp_path / "net.pth"))


class Net(nn.Module):
    """A model of nobody's library."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 8, 8)
        self.body = nn.ModuleDict({"layer": nn.Sequential(Block(), Block())})
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.pool(self.body["layer"](self.stem(x))).flatten(1))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        return x + self.mix(x).relu()


def features_of_net(net):
    return lambda frames: net.body["layer"](net.stem(frames)).mean((2, 3))


def test_any_model_whose_blocks_are_named(tmp_path):
    torch.manual_seed(0)
    net, clips = Net(), random_clips("")
    named = st_adapter.attach(net, LABELS, blocks="body.layer.*", features="pool").eval()
    assert [*named.adapters] == ["blocks_0", "blocks_1"]
    called = st_adapter.attach(
        net, LABELS, blocks="body.layer.*", features=features_of_net(net)
    ).eval()
    returned = st_adapter.attach(net, LABELS, blocks="body.layer.*").eval()
    with torch.no_grad():
        torch.testing.assert_close(named.features(clips), called.features(clips))
        frames = named.normalise(clips).flatten(0, 1)
        expected = net(frames).view(2, 3, -1).mean(1)
        torch.testing.assert_close(returned.features(clips), expected)
        randomise(named).save_adapter(tmp_path / "named")
        again = st_adapter.load(tmp_path / "named", backbone=copy.deepcopy(net))
        torch.testing.assert_close(again(clips), named(clips))
        randomise(called).save_adapter(tmp_path / "called")
        with pytest.raises(ArgumentError, match="give load the same function"):
            st_adapter.load(tmp_path / "called", backbone=net)
        again = st_adapter.load(tmp_path / "called", backbone=net, features=features_of_net(net))
        torch.testing.assert_close(again(clips), called(clips))


def test_what_does_not_fit_is_refused_with_the_reason():
    with pytest.raises(ArgumentError, match=r"call attach\(model, blocks=..., features=...\)"):
        st_adapter.attach(Net(), LABELS)
    with pytest.raises(ArgumentError, match=r"no module of this Net is called 'layer\.\*'.*stem"):
        st_adapter.attach(Net(), LABELS, blocks="layer.*")
    with pytest.raises(ArgumentError, match="has no module called 'neck'"):
        st_adapter.attach(Net(), LABELS, blocks="body.layer.*", features="neck")
    with pytest.raises(ArgumentError, match="does not pool its features"):
        st_adapter.attach(Net(), LABELS, blocks="body.layer.*", features="stem")
    with pytest.raises(ArgumentError, match="give blocks as well"):
        st_adapter.attach(Net(), LABELS, features="pool")
    kind = transformers.Data2VecVisionModel(transformers.Data2VecVisionConfig(**SLIM))
    with pytest.raises(ArgumentError, match=r"type 'data2vec-vision' pool .* Known are beit"):
        st_adapter.attach(kind, LABELS)
    text = transformers.BertModel(transformers.BertConfig(**{**SLIM, "num_hidden_layers": 1}))
    with pytest.raises(ArgumentError, match="cannot find the blocks of BertModel"):
        st_adapter.attach(text, LABELS)
    coca = of_open_clip(**TOWER, attentional_pool=True)()
    with pytest.raises(ArgumentError, match="pools its tokens by attention"):
        st_adapter.attach(coca, LABELS)


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(
        ArgumentError, match="torchvision:vit_b16'.*did you mean torchvision:vit_b_16"
    ):
        st_adapter.create_model("torchvision:vit_b16", LABELS)
    with pytest.raises(ArgumentError, match="does not have the model 'ViT-B16'.*ViT-B-16"):
        st_adapter.create_model("open_clip:ViT-B16", LABELS)
    with pytest.raises(ArgumentError, match="no weights tagged 'x'; tags: openai"):
        st_adapter.create_model("open_clip:ViT-B-32/x", LABELS)
    with pytest.raises(ArgumentError, match="needs the tag of its weights"):
        st_adapter.create_model("open_clip:ViT-B-32", LABELS)
    with pytest.raises(ArgumentError, match="hf:nobody/nothing cannot be loaded"):
        st_adapter.create_model("hf:nobody/nothing", LABELS)


def test_the_same_vit_of_timm_and_of_transformers_gives_the_same_logits():
    theirs = MODELS["hf ViT"]().eval()
    ours = timm.create_model(
        "vit_tiny_patch16_224",
        embed_dim=32,
        depth=3,
        num_heads=2,
        mlp_ratio=2,
        img_size=64,
        num_classes=0,
    ).eval()
    ours.load_state_dict(timm_names(theirs.state_dict()))
    eps = theirs.config.layer_norm_eps
    for module in ours.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = eps
    half = ([0.5] * 3, [0.5] * 3)
    one, other = (
        st_adapter.attach(backbone, LABELS, normalisation=half).eval()
        for backbone in (theirs, ours)
    )
    assert [*one.adapters] == [*other.adapters]
    randomise(one)
    other.load_state_dict(
        {n: t for n, t in one.state_dict().items() if not n.startswith("backbone.")}, strict=False
    )
    clips = random_clips("", frames=5)
    with torch.no_grad():
        torch.testing.assert_close(one(clips), other(clips), rtol=0, atol=1e-4)
        with one.adapters_disabled(), other.adapters_disabled():
            torch.testing.assert_close(one(clips), other(clips), rtol=0, atol=1e-4)


def timm_names(tensors):
    """The tensors of a ViT of transformers under timm's names."""
    names = {
        "embeddings.cls_token": "cls_token",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "attention.o_proj": "attn.proj",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "layernorm": "norm",
        "layers.": "blocks.",
    }
    found, parts = {}, {}
    for name, tensor in tensors.items():
        if name.startswith("pooler."):
            continue
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        block, _, part = name.partition(".attention.")
        if part:
            parts.setdefault((block, part.split(".")[1]), []).append((part[0], tensor))
        else:
            found[name] = tensor
    for (block, kind), three in parts.items():
        found[f"{block}.attn.qkv.{kind}"] = torch.cat([dict(three)[x] for x in "qkv"])
    return found
