"""OpenAI's CLIP files: read without running their code, and equal to CLIP written out."""

import os
import pickle
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import nn

import st_adapter
from st_adapter.backbones.build import build_backbone, create_backbone
from st_adapter.backbones.weight_files import openai_clip as clip
from st_adapter.backbones.weight_files.tensors import read_tensors
from st_adapter.config import TrainConfig
from st_adapter.errors import ArgumentError, CheckpointError
from st_adapter.model.build import build_model

BASE = "vit_base_patch16_clip_quickgelu_224"
TINY = {"embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8}


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        layers = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", QuickGELU())]
        self.mlp = nn.Sequential(OrderedDict([*layers, ("c_proj", nn.Linear(4 * width, width))]))
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width, depth, heads):
        super().__init__()
        self.resblocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])

    def forward(self, x):
        return self.resblocks(x)


class Visual(nn.Module):
    """CLIP's image transformer up to the features that timm's calls pooled."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 8, 8, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(64))
        self.positional_embedding = nn.Parameter(torch.randn(17, 64))
        self.ln_pre = nn.LayerNorm(64)
        self.transformer = Transformer(64, 2, 2)
        self.ln_post = nn.LayerNorm(64)
        self.proj = nn.Parameter(torch.randn(64, 16))

    def forward(self, images):
        patches = self.conv1(images).flatten(2).permute(2, 0, 1)  # patches, images, width
        token = self.class_embedding.expand(1, images.shape[0], 64)
        x = torch.cat([token, patches]) + self.positional_embedding.unsqueeze(1)
        return self.ln_post(self.transformer(self.ln_pre(x))[0])


class Clip(nn.Module):
    """Both towers, under OpenAI's names."""

    def __init__(self):
        super().__init__()
        self.visual = Visual()
        self.transformer = Transformer(32, 1, 2)
        self.token_embedding = nn.Embedding(5, 32)
        self.positional_embedding = nn.Parameter(torch.randn(3, 32))
        self.logit_scale = nn.Parameter(torch.ones([]))

    def forward(self, images):
        return self.visual(images)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Clip().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model.half().float()  # values that half precision holds


def save_archive(module, path):
    """A TorchScript archive as OpenAI's: half precision, code and all."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), path)
    return path


def save_as(kind, model, path):
    """Write the model as one of the files that CLIP is found in."""
    half = {name: tensor.half() for name, tensor in model.state_dict().items()}
    bare = {n.removeprefix("visual."): t for n, t in half.items() if n.startswith("visual.")}
    if kind == "archive":
        save_archive(model.half(), path)
        model.float()
    elif kind == "pth":
        torch.save(half, path)
    elif kind == "nested pth":
        torch.save({"state_dict": half, "epoch": 3}, path)
    elif kind == "bare pth":
        torch.save(bare, path)
    else:
        path = path.with_suffix(".safetensors")
        save_file(half if kind == "safetensors" else bare, path)
    return path


KINDS = ["archive", "pth", "nested pth", "bare pth", "safetensors", "bare safetensors"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_clip_file_gives_clips_own_features(model, tmp_path, kind):
    file = save_as(kind, model, tmp_path / "clip.pt")
    backbone = build_backbone(BASE, str(file), options=TINY).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), model(images), rtol=0, atol=2e-5)
    assert {tensor.dtype for tensor in backbone.state_dict().values()} == {torch.float32}


def test_an_archive_equals_the_file_that_timm_makes_of_it_bit_for_bit(model, tmp_path):
    """timm's own converter of OpenAI's names writes the second file, as on its hub."""
    archive = save_as("archive", model, tmp_path / "clip.pt")
    from_archive = build_backbone(BASE, str(archive), options=TINY)
    full = timm.create_model(BASE, num_classes=16, **TINY)
    converted = checkpoint_filter_fn(model.state_dict(), full)
    tensors = {name: tensor.contiguous() for name, tensor in converted.items()}
    save_file(tensors, tmp_path / "timm.safetensors")
    from_timm = build_backbone(BASE, str(tmp_path / "timm.safetensors"), options=TINY)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(from_archive(images), from_timm(images))


def clip_value(model, name):
    return model.state_dict()[f"visual.transformer.resblocks.1.{name}"]


def test_an_archive_reads_as_its_state_dict(model, tmp_path):
    file = save_archive(model, tmp_path / "clip.pt")
    tensors, expected = read_tensors(file), model.state_dict()
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_one_tensor_too_few_or_too_many_loads_nothing(model, tmp_path):
    tensors = model.state_dict()
    del tensors["visual.ln_pre.bias"]
    tensors["visual.ln_mid.bias"] = torch.zeros(64)
    torch.save(tensors, tmp_path / "clip.pth")
    with pytest.raises(
        CheckpointError,
        match=r"clip.pth does not fit \(tensors that differ: 2\): norm_pre.bias: missing in the "
        r"file; ln_mid.bias: not in the model. The file is a CLIP image model 64 wide, 2 blocks, "
        r"patch 8, 32 px$",
    ):
        build_backbone(BASE, str(tmp_path / "clip.pth"), options=TINY)


def test_another_resolution_is_refused_with_the_name_that_would_do():
    shapes = {"conv1.weight": (1024, 3, 14, 14), "positional_embedding": (577, 1024)}
    shapes |= {f"transformer.resblocks.{i}.ln_1.bias": (1024,) for i in range(24)}
    tensors = {f"visual.{n}": torch.empty(s, device="meta") for n, s in shapes.items()}
    tensors["visual.class_embedding"] = torch.empty(1024, device="meta")
    shape = clip.read_shape(tensors, Path("x.pt"))
    name = "vit_large_patch14_clip_quickgelu_336.openai"
    assert str(shape).endswith(f'336 px; use backbone="{name}"')


def test_published_names_are_models_of_their_shape():
    assert len(clip.PUBLISHED) == 4
    for (width, blocks, patch, size), name in clip.PUBLISHED.items():
        with torch.device("meta"):
            backbone = create_backbone(name)
        assert (width, blocks) == (backbone.embed_dim, len(backbone.blocks))
        assert patch == backbone.patch_embed.patch_size[0]
        assert size == backbone.patch_embed.img_size[0]


def test_clip_weights_in_a_backbone_of_plain_gelu_are_remarked_on(model, tmp_path, capsys):
    file = save_as("pth", model, tmp_path / "clip.pth")
    build_backbone("vit_base_patch16_clip_224", str(file), options=TINY)
    remark = capsys.readouterr().err
    assert remark.count("\n") == 1
    assert "were trained with QuickGELU" in remark
    assert f"; use {BASE}.openai instead" in remark
    build_backbone(BASE, str(file), options=TINY)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "tag", "twin"),
    [
        ("vit_base_patch16_clip_224.openai", "openai", f"{BASE}.openai"),
        ("vit_base_patch16_clip_224.laion2b", "laion2b", None),
        ("vit_base_patch16_clip_quickgelu_224.openai", "openai", None),
        ("vit_base_patch16_224.augreg_in21k", "augreg_in21k", None),
    ],
)
def test_only_weights_trained_with_quickgelu_have_a_twin(name, tag, twin):
    assert clip.quickgelu_twin(name, tag) == twin


def test_a_classifier_on_a_clip_file_is_saved_and_found_again(model, tmp_path):
    file = save_as("archive", model, tmp_path / "clip.pt")
    backbone = build_backbone(BASE, str(file), options=TINY)
    made = st_adapter.attach(backbone, labels=["a", "b"]).eval()
    made.save_adapter(tmp_path / "adapter")
    record = tmp_path / "adapter" / "adapter_config.json"
    text = record.read_text()
    assert '"backbone_options": {}' in text
    options = str(TINY).replace("'", '"')
    record.write_text(text.replace('"backbone_options": {}', f'"backbone_options": {options}'))
    loaded = st_adapter.load(tmp_path / "adapter", weights=str(file))
    clips = torch.rand(1, 2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(clips), made(clips))
    record.write_text(text.replace('"backbone_options": {}', '"backbone_options": {"file": 1}'))
    with pytest.raises(CheckpointError, match="backbone options are embed_dim, .*not file = 1"):
        st_adapter.load(tmp_path / "adapter", weights=str(file))


class Setstate(nn.Module):
    """A module whose archive runs code when torch.jit.load makes it anew."""

    def __init__(self):
        super().__init__()
        self.weight = torch.ones(2)

    @torch.jit.export
    def __getstate__(self):
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        self.weight = state[0]
        self.training = state[1]
        raise RuntimeError("the archive's code ran")

    def forward(self, x):
        return x


def test_code_of_an_archive_does_not_run(tmp_path):
    file = save_archive(Setstate(), tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"evil\.pt: .*it does not contain named tensors"):
        read_tensors(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is old; here it shows that the code is real
        with pytest.raises(torch.jit.Error, match="the archive's code ran"):
            torch.jit.load(file)


class Storage:
    def __init__(self, kind=torch.FloatStorage, key="0", length=4):
        self.pid = ("storage", kind, key, "cpu", length)


class View:
    """What torch.jit writes for a tensor."""

    def __init__(self, storage, offset, size, stride):
        self.parts = (storage, offset, size, stride, False, OrderedDict())

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.parts


class Call:
    def __init__(self, function, *arguments):
        self.parts = (function, arguments)

    def __reduce__(self):
        return self.parts


class ArchivePickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.pid if isinstance(value, Storage) else None


@pytest.fixture
def write_archive(tmp_path, monkeypatch):
    """Write an archive of one module with the given attributes and a storage of 16 bytes."""
    monkeypatch.setitem(sys.modules, "__torch__", module := ModuleType("__torch__"))
    module.Top = type("Top", (), {"__module__": "__torch__"})

    def write(compression=zipfile.ZIP_STORED, **attributes):
        top = module.Top()
        vars(top).update(attributes)
        file = tmp_path / "clip.pt"
        with zipfile.ZipFile(file, "w", compression) as archive:
            with archive.open("clip/data.pkl", "w") as entry:
                ArchivePickler(entry, protocol=2).dump(top)
            archive.writestr("clip/data/0", bytes(16))
            archive.writestr("clip/constants.pkl", pickle.dumps(()))
        return file

    return write


def test_a_written_archive_reads(write_archive):
    file = write_archive(weight=View(Storage(), 0, (2, 2), (2, 1)), note="x", training=True)
    tensors = read_tensors(file)
    assert tensors.keys() == {"weight"}
    assert torch.equal(tensors["weight"], torch.zeros(2, 2))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (View(Storage(), 0, (5,), (1,)), r"\[5\] reaches beyond its storage of 4 values"),
        (View(Storage(), 3, (2,), (1,)), r"\[2\] reaches beyond its storage of 4 values"),
        (View(Storage(), 0, (2, 2), (2**62, 2**62)), "reaches beyond its storage"),
        (View(Storage(), 0, (2**40,), (0,)), "reaches beyond its storage"),
        (View(Storage(), -1, (1,), (1,)), "not a view of a storage"),
        (View("x", 0, (1,), (1,)), "not a view of a storage"),
        (View(Storage(length=400), 0, (4,), (1,)), "0 has 16 bytes, but 400 .* need 1600"),
        (View(Storage(torch.HalfStorage), 0, (4,), (1,)), "0 has 16 bytes, but 4 .* need 8"),
        (View(Storage(key="1"), 0, (4,), (1,)), "no item named 'clip/data/1'"),
        (View(Storage(key="../constants.pkl"), 0, (4,), (1,)), "no item named 'clip/data/../co"),
        (Call(os.mkdir, "was here"), "it refers to [a-z]+.mkdir, which tensors do not need"),
        (Call(eval, "1"), "it refers to builtins.eval|it refers to __builtin__.eval"),
        (torch.nn.ReLU, "it refers to torch.nn.modules.activation.ReLU"),
        ("text alone", "it does not contain named tensors"),
    ],
)
def test_a_hostile_or_damaged_archive_is_refused(
    write_archive, tmp_path, monkeypatch, tensor, message
):
    monkeypatch.chdir(tmp_path)
    file = write_archive(weight=tensor)
    with pytest.raises(
        CheckpointError, match=rf"clip\.pt: not a readable Torch.*{message}"
    ) as raised:
        read_tensors(file)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == [file]


def test_a_compressed_archive_is_refused(write_archive):
    file = write_archive(zipfile.ZIP_DEFLATED, weight=View(Storage(), 0, (4,), (1,)))
    with pytest.raises(CheckpointError, match="data.pkl in it is compressed"):
        read_tensors(file)


def test_a_small_archive_cannot_ask_for_much_memory(tmp_path):
    with zipfile.ZipFile(tmp_path / "clip.pt", "w") as archive:
        archive.writestr("clip/constants.pkl", pickle.dumps(()))
        memo = pickle.LONG_BINPUT + (10**8).to_bytes(4, "little")
        archive.writestr("clip/data.pkl", pickle.PROTO + b"\x02" + pickle.NONE + memo + pickle.STOP)
    with pytest.raises(CheckpointError, match="it has 9 bytes but numbers an object 100000000"):
        read_tensors(tmp_path / "clip.pt")


def test_a_damaged_or_cut_archive_is_named(model, tmp_path):
    file = save_archive(model, tmp_path / "clip.pt")
    whole = file.read_bytes()
    file.write_bytes(whole[:-30])
    with pytest.raises(CheckpointError, match=r"clip\.pt: not a readable"):
        read_tensors(file)
    start = whole.index(model.visual.proj.detach().numpy().tobytes())
    file.write_bytes(whole[:start] + bytes([whole[start] ^ 255]) + whole[start + 1 :])
    with pytest.raises(CheckpointError, match=r"clip\.pt: not a readable Torch.*Bad CRC-32"):
        read_tensors(file)


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "model.", "encoder."])
@pytest.mark.parametrize("key", [None, "state_dict", "model_ema", "state_dict_ema", "teacher"])
def test_the_table_that_fits_is_found_and_said(tmp_path, capsys, prefix, key):
    weights = build_backbone("test_vit", "random").state_dict()
    table = {f"{prefix}{name}": tensor for name, tensor in weights.items()}
    other = {"step": 3, "student": {"head.weight": torch.zeros(2)}}
    torch.save(table if key is None else {key: table, **other}, tmp_path / "w.pth")
    found = build_backbone("test_vit", str(tmp_path / "w.pth")).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    assert f"with '{prefix}' removed from each name" in capsys.readouterr().err


def test_a_teacher_with_a_head_of_its_own_is_read(tmp_path):
    weights = build_backbone("test_vit", "random").state_dict()
    teacher = {f"backbone.{name}": tensor for name, tensor in weights.items()}
    torch.save({"teacher": teacher | {"head.mlp.weight": torch.zeros(3)}}, tmp_path / "dino.pth")
    for source in ("dino.pth", "dino.pth#teacher"):
        found = build_backbone("test_vit", str(tmp_path / source)).state_dict()
        assert torch.equal(found["cls_token"], weights["cls_token"])
    del teacher["backbone.cls_token"]
    torch.save({"teacher": teacher}, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match="cls_token: missing in the file"):
        build_backbone("test_vit", f"{tmp_path / 'less.pth'}#teacher")


def test_of_two_tables_that_fit_one_is_to_be_named(tmp_path):
    weights = build_backbone("test_vit", "random").state_dict()
    average = {name: tensor + 1 for name, tensor in weights.items()}
    file = tmp_path / "w.pth"
    torch.save({"model": weights, "model_ema": average}, file)
    with pytest.raises(ArgumentError, match="tables that fit: model, model_ema; use FILE#"):
        build_backbone("test_vit", str(file))
    found = build_backbone("test_vit", f"{file}#model_ema").state_dict()
    assert torch.equal(found["cls_token"], average["cls_token"])
    with pytest.raises(
        ArgumentError, match="does not have a table 'ema'; its keys: model, model_ema"
    ):
        build_backbone("test_vit", f"{file}#ema")
    model = st_adapter.create_model("test_vit", ["a", "b"], weights=f"{file}#model_ema")
    model.save_adapter(tmp_path / "adapter")
    st_adapter.load(tmp_path / "adapter", weights=f"{file}#model_ema")


def test_weights_of_another_model_are_told_with_the_backbone_that_was_assumed(tmp_path):
    file = tmp_path / "w.safetensors"
    tensors = build_backbone("test_vit", "random").state_dict()
    save_file({name: tensors[name] for name in ("cls_token", "pos_embed")}, file)
    with pytest.raises(CheckpointError, match=r"is the default backbone; use backbone=NAME"):
        build_model(TrainConfig(weights=str(file)), ["a", "b"])


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit3_small_patch16_224", "resnet18"])
def test_weights_without_a_backbone_are_told_with_the_model_that_they_fit(name, tmp_path):
    file = tmp_path / "w.pth"
    torch.save({"state_dict": timm.create_model(name).state_dict()}, file)  # with its classifier
    with pytest.raises(CheckpointError, match=rf"This file fits {name}: use backbone=\"{name}\""):
        build_model(TrainConfig(weights=str(file)), ["a", "b"])
