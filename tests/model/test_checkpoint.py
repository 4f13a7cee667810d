import json
import pickle
import shutil
import socket

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import st_adapter
from st_adapter.backbones.build import build_backbone
from st_adapter.backbones.digests import digest
from st_adapter.backbones.sources import hub_error, resolve_source
from st_adapter.config import ClipConfig
from st_adapter.errors import ArgumentError, CheckpointError

LABELS = ["a", "b"]
CLIPS = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8)


@pytest.fixture
def model():
    torch.manual_seed(1)
    model = st_adapter.create_model("test_vit", labels=LABELS, weights="random").eval()
    with torch.no_grad():
        for parameter in model.trainable_parameters():
            parameter.normal_(std=0.2)
    return model


@pytest.fixture
def folder(model, tmp_path):
    model.save_adapter(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_saved_and_loaded_gives_the_same_logits_bit_for_bit(model, folder):
    loaded = st_adapter.load(folder)
    with torch.no_grad():
        assert torch.equal(loaded(CLIPS), model(CLIPS))
    assert loaded.labels == ("a", "b")
    assert loaded.spec.clip == model.spec.clip


def test_only_what_was_trained_is_saved(model, folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    assert tensors.keys() == model.trained_tensors().keys()
    assert all(name.startswith(("adapters.", "head.")) for name in tensors)
    assert sorted(p.name for p in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_nothing_loads_in_part(folder):
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["head.weight"] = torch.zeros(2, 63)
    del tensors["head.bias"]
    tensors["head.scale"] = torch.zeros(1)
    save_file(tensors, file)
    message = (
        r"does not fit \(tensors that differ: 3\): head.bias: missing in the file; "
        r"head.scale: not in the model; head.weight: file has \[2, 63\], model needs \[2, 64\]"
    )
    with pytest.raises(CheckpointError, match=message):
        st_adapter.load(folder)


def test_other_backbone_weights_are_refused(folder, tmp_path):
    file = tmp_path / "other.safetensors"
    weights = st_adapter.load(folder).backbone.state_dict()
    save_file({name: tensor.clone().mul_(1.01) for name, tensor in weights.items()}, file)
    with pytest.raises(
        CheckpointError, match=r"with other weights than those of .*other.safetensors"
    ):
        st_adapter.load(folder, weights=str(file))


def test_random_weights_that_a_machine_rounds_otherwise_are_told(folder, capsys):
    record = json.loads((folder / "adapter_config.json").read_text())
    record["digest"] = "sha256:" + "0" * 64
    (folder / "adapter_config.json").write_text(json.dumps(record))
    st_adapter.load(folder)
    assert "the random weights drawn here differ from those that" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "has format 99; this version reads format 1"),
        ({"kernal": 3}, "not a readable adapter record: .*kernal"),
    ],
)
def test_records_of_another_kind_are_refused(folder, change, message):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        st_adapter.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"std": [0.0, 0.5, 0.5]}, "std above 0"),
        ({"mean": [1.0]}, "mean and std must have three numbers"),
        ({"labels": "ab"}, "labels must be tuple"),
        ({"labels": ["a", "a"]}, "labels must be one or more different names"),
        ({"clip": {"frames": "x"}}, "frames must be int, not 'x'"),
        ({"clip": {"views": [0, 1]}}, "views must be 1 or more in time"),
        ({"backbone": 5}, "backbone must be str, not 5"),
    ],
)
def test_damaged_records_are_refused(folder, change, message):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=rf"not a readable adapter record: .*{message}"):
        st_adapter.load(folder)


def test_values_that_are_no_numbers_are_refused(folder):
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["head.bias"][0] = float("nan")
    save_file(tensors, file)
    with pytest.raises(
        CheckpointError, match=r"head\.bias contains values that are NaN or infinite"
    ):
        st_adapter.load(folder)


def test_truncated_tensors_are_refused(folder):
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"safetensors is not a readable tensor file"):
        st_adapter.load(folder)


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"does not contain adapter_config\.json; give a run"):
        st_adapter.load(tmp_path)
    with pytest.raises(CheckpointError, match="gone does not exist"):
        st_adapter.load(tmp_path / "gone")


def weights_file(path, name="test_vit"):
    """All tensors of a model with its classifier, in half precision."""
    import timm

    torch.manual_seed(3)
    model = timm.create_model(name)
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file(tensors, path)
    return model


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_come_from_a_file_in_timms_names(tmp_path, suffix):
    file = tmp_path / f"weights{suffix}"
    source = weights_file(tmp_path / "weights.safetensors")
    if suffix == ".pth":
        torch.save({"state_dict": source.half().state_dict()}, file)
    backbone = build_backbone("test_vit", str(file))
    expected = source.state_dict()["blocks.0.norm1.weight"].half().float()
    assert torch.equal(backbone.state_dict()["blocks.0.norm1.weight"], expected)


def test_adapter_on_a_weights_file_is_shipped_without_its_path(tmp_path):
    file = tmp_path / "weights.safetensors"
    weights_file(file)
    model = st_adapter.create_model("test_vit", labels=LABELS, weights=str(file))
    model.save_adapter(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["weights"] == (
        "weights.safetensors"
    )
    with pytest.raises(CheckpointError, match="from the file weights.safetensors, which was not"):
        st_adapter.load(tmp_path / "adapter")
    assert st_adapter.load(tmp_path / "adapter", weights=str(file)).labels == ("a", "b")


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_adapter_on_a_model_built_by_hand_loads_with_its_weights(tmp_path, no_hub):
    weights_file(tmp_path / "weights.safetensors")
    backbone = timm.create_model("test_vit")
    backbone.load_state_dict(
        {k: v.float() for k, v in load_file(tmp_path / "weights.safetensors").items()}
    )
    st_adapter.attach(backbone, labels=LABELS).save_adapter(tmp_path / "adapter")
    message = (
        r"adapter needs the weights of test_vit.r160_in1k, but the model hub cannot be reached .*; "
        r"give them with weights=FILE, or build that model again .* load\(path, backbone=model\)"
    )
    with pytest.raises(ArgumentError, match=message):
        st_adapter.load(tmp_path / "adapter")
    loaded = st_adapter.load(tmp_path / "adapter", weights=str(tmp_path / "weights.safetensors"))
    assert loaded.spec.backbone == "test_vit.r160_in1k"


def test_an_adapter_on_a_pretrained_model_built_by_hand_loads_by_its_folder_alone(tmp_path, no_hub):
    """Without a hub, the pretrained weights of this one model come from a package."""
    attached = st_adapter.attach(build_backbone("tf_efficientnet_lite0", "package"), LABELS).eval()
    attached.save_adapter(tmp_path, clip=ClipConfig(frames=3, size=32))
    loaded = st_adapter.load(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(CLIPS), attached(CLIPS))
    assert loaded.spec.weights == "package"


def test_a_pretrained_model_that_was_changed_before_attach_is_recognised(tmp_path, no_hub):
    backbone = build_backbone("tf_efficientnet_lite0", "package")
    with torch.no_grad():
        backbone.conv_stem.weight += 1
    st_adapter.attach(backbone, LABELS).save_adapter(tmp_path, clip=ClipConfig())
    with pytest.raises(CheckpointError, match=r"with other weights .* pass it to load\(path, back"):
        st_adapter.load(tmp_path)
    assert st_adapter.load(tmp_path, backbone=backbone).labels == ("a", "b")


def small_vit():
    torch.manual_seed(5)
    return timm.models.VisionTransformer(
        img_size=32,
        patch_size=16,
        embed_dim=64,
        depth=2,
        num_heads=2,
        num_classes=0,
        dynamic_img_size=True,
    )


def test_a_model_that_only_the_user_can_build_is_given_to_load(tmp_path):
    attached = st_adapter.attach(small_vit(), LABELS).eval()
    attached.save_adapter(tmp_path, clip=ClipConfig(frames=3, size=32))
    with pytest.raises(CheckpointError, match=r"record its name; .* load\(path, backbone=model\)"):
        st_adapter.load(tmp_path)
    loaded = st_adapter.load(tmp_path, backbone=small_vit())
    with torch.no_grad():
        assert torch.equal(loaded(CLIPS), attached(CLIPS))
    loaded.save_adapter(tmp_path / "again")
    assert st_adapter.load(tmp_path / "again", backbone=small_vit()).spec == loaded.spec


def test_load_checks_the_backbone_it_is_given(tmp_path):
    st_adapter.attach(small_vit(), LABELS).save_adapter(tmp_path, clip=ClipConfig())
    other = small_vit()
    torch.nn.init.zeros_(other.cls_token)
    with pytest.raises(CheckpointError, match="another image model than the backbone given, or on"):
        st_adapter.load(tmp_path, backbone=other)
    with pytest.raises(ArgumentError, match="either weights or a backbone"):
        st_adapter.load(tmp_path, "random", backbone=small_vit())


def test_saving_notes_once_that_nobody_stated_the_clips(model, tmp_path, caplog):
    model.save_adapter(tmp_path)
    model.save_adapter(tmp_path)
    (message,) = caplog.messages
    assert "records the default clips: 8 frames of 224 x 224 pixels, spread over" in message
    assert "pass clip=ClipConfig(frames=..., stride=..., size=...) to save_adapter" in message


def test_clips_that_were_stated_are_saved_without_a_note(tmp_path, caplog):
    clip = ClipConfig(frames=3, stride=2, size=32)
    stated = st_adapter.create_model("test_vit", LABELS, weights="random", clip=clip)
    stated.save_adapter(tmp_path / "stated")
    told = st_adapter.create_model("test_vit", LABELS, weights="random")
    told.save_adapter(tmp_path / "told", clip=clip)
    loaded = [st_adapter.load(tmp_path / name) for name in ("stated", "told")]
    for one in loaded:
        one.save_adapter(tmp_path / "again")
    assert [one.spec.clip for one in (told, *loaded)] == [clip] * 3
    assert not caplog.messages


def test_weights_of_another_model_are_refused_with_what_differs(tmp_path):
    weights_file(tmp_path / "w.safetensors", "test_vit2")
    with pytest.raises(CheckpointError, match=r"does not fit \(tensors that differ: \d+\): "):
        build_backbone("test_vit", str(tmp_path / "w.safetensors"))


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "was here"), "w"))

    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil\.pth: not a readable weights file"):
        build_backbone("test_vit", str(tmp_path / "evil.pth"))
    assert not (tmp_path / "was here").exists()


def test_missing_weights_and_unknown_names_are_named(tmp_path):
    with pytest.raises(ArgumentError, match="weights file gone.pth does not exist"):
        build_backbone("test_vit", "gone.pth")
    with pytest.raises(ArgumentError, match="did you mean .*vit_tiny_patch16_224"):
        resolve_source("vit_tiny_patch16_242", "hub")
    with pytest.raises(ArgumentError, match="no weights tagged 'nope'; tags: augreg_in21k"):
        resolve_source("vit_tiny_patch16_224.nope", "hub")


def test_unreachable_hub_tells_what_is_left(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ArgumentError, match=r"cannot be reached .*weights=FILE .*weights=\"random\""
    ):
        resolve_source("vit_tiny_patch16_224", "hub")


def test_the_error_of_an_unreachable_hub_passes_between_processes():
    error = hub_error("resnet18", "no connection")
    copy = pickle.loads(pickle.dumps(error))
    assert [str(copy), copy.problem] == [str(error), error.problem]


def test_unreachable_hub_falls_back_to_the_packaged_model(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert resolve_source("tf_efficientnet_lite0", "hub") == "package"


def test_cached_weights_are_found_without_asking_the_hub(monkeypatch, tmp_path):
    hub = socket.create_server(("127.0.0.1", 0))  # never answers
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        "huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{hub.getsockname()[1]}"
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = timm.get_pretrained_cfg("vit_tiny_patch16_224").hf_hub_id.replace("/", "--")
    cached = tmp_path / f"models--{repository}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("1234")
    (cached / "snapshots" / "1234").mkdir(parents=True)
    (cached / "snapshots" / "1234" / "model.safetensors").touch()
    assert resolve_source("vit_tiny_patch16_224", "hub") == "hub"
    hub.setblocking(False)
    with hub, pytest.raises(BlockingIOError):
        hub.accept()


def test_digest_sees_every_value_and_not_the_precision_on_disk(tmp_path):
    backbone = build_backbone("test_vit", "random")
    before = digest(backbone)
    assert digest(build_backbone("test_vit", "random")) == before
    with torch.no_grad():
        backbone.blocks[1].norm1.bias[3] += 1e-6
    assert digest(backbone) != before


def test_a_copied_adapter_of_a_run_still_loads(trained_run, tmp_path):
    shutil.copytree(trained_run / "adapter", tmp_path / "elsewhere")
    assert st_adapter.load(tmp_path / "elsewhere").labels == ("brightens", "darkens")


@pytest.mark.parametrize("name", ["levit_128s", "caformer_s18", "repvit_m1", "test_convnext"])
def test_a_file_of_timms_own_loads_whatever_its_classifier_is(name, tmp_path):
    full = timm.create_model(name)
    save_file(full.state_dict(), tmp_path / "w.safetensors")
    bare = build_backbone(name, str(tmp_path / "w.safetensors"))
    assert digest(bare) == digest(full)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda t: t * float("nan"), "cls_token contains values that are NaN or infinite"),
        (lambda t: t.int(), "cls_token: file has torch.int32, model needs torch.float32"),
        (lambda t: t.to(torch.complex64), "cls_token: file has torch.complex64"),
    ],
)
def test_a_backbone_of_values_that_are_no_weights_is_refused(value, message, tmp_path):
    tensors = timm.create_model("test_vit", num_classes=0).state_dict()
    tensors["cls_token"] = value(tensors["cls_token"])
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message):
        build_backbone("test_vit", str(tmp_path / "w.pth"))
