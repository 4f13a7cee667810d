import json
import os
import re
import shutil

import pytest
import torch

import st_adapter
from official_files import CASES, read_case
from st_adapter.cli.main import main

CASE = read_case(CASES[0])  # before the MLP, in the last two of three blocks, 64 -> 32, 7 classes
FIRST = "transformer.resblocks.1.adapter_pre_mlp"
LAST = "transformer.resblocks.2.adapter_pre_mlp"


@pytest.fixture
def checkpoint(tmp_path):
    return CASE.write_checkpoint(tmp_path / "checkpoint-6.pth")


@pytest.fixture
def flags(tmp_path):
    """A CLIP file and its heads, which is all that an import cannot know."""
    return ["--weights", CASE.write_clip(tmp_path / "clip.pt"), "--heads", 4]


def command(capsys, *arguments):
    """Run in this process; return exit code, stdout, stderr."""
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def changed(checkpoint, change):
    """Apply `change` to the checkpoint's table of tensors."""
    record = torch.load(checkpoint, weights_only=True)
    change(record["model"])
    torch.save(record, checkpoint)


def test_an_import_is_an_ordinary_run(capsys, checkpoint, flags, folder_data, tmp_path):
    out = tmp_path / "a run"
    text = "a b\nbrightens\nc\ndarkens\ne\nf\ng\n"
    (tmp_path / "labels.txt").write_text(text, encoding="utf-8-sig")  # as some editors save it
    code, text, error = command(
        capsys, "import-official", checkpoint, "--out", out, *flags, "--labels",
        tmp_path / "labels.txt", "--frames", 4,
    )  # fmt: skip
    assert (code, error) == (0, "")
    assert text.splitlines()[0] == (
        "2x32 adapters on vit_base_patch16_clip_quickgelu_224, 7 classes; clips as in recipe "
        "k400: 4 frames, every 16th in a window, 48 px, 3x1 views"
    )
    video = folder_data / "darkens" / "clip 1.mp4"
    code, text, _ = command(capsys, "predict", out, video, "--json", "--top", 7)
    assert code == 0
    labels = {row["label"] for row in json.loads(text)["predictions"]}
    assert labels == {"a b", "brightens", "c", "darkens", "e", "f", "g"}

    code, text, _ = command(capsys, "evaluate", out, folder_data, "--workers", 0)
    assert code == 0
    assert "12 videos, 3x1 views" in text
    assert json.loads((out / "eval.json").read_text())["num_videos"] == 12

    code, _, error = command(capsys, "train", folder_data, "--out", out, "--resume")
    assert code == 2
    assert "is an imported run; it has no saved state to resume from" in error

    assert command(capsys, "inspect", out)[0] == 0


def test_an_import_records_what_the_tensors_tell(capsys, checkpoint, flags, tmp_path):
    assert command(capsys, "import-official", checkpoint, "--out", tmp_path / "run", *flags)[0] == 0
    spec = st_adapter.load(tmp_path / "run").spec
    assert spec.adapter == st_adapter.AdapterConfig(
        bottleneck=32, kernel_size=(3, 1, 1), positions=("mlp",), layers=2, init="conv-zero"
    )
    assert spec.clip == st_adapter.ClipConfig(frames=8, stride=16, size=48, views=(3, 1))
    assert spec.labels == ("0", "1", "2", "3", "4", "5", "6")
    assert spec.mean == (0.48145466, 0.4578275, 0.40821073)
    assert spec.backbone_options == {
        "embed_dim": 64, "depth": 3, "num_heads": 4, "img_size": 48, "patch_size": 16,
    }  # fmt: skip


def test_a_run_moved_without_its_weights_takes_them_anew(capsys, checkpoint, flags, tmp_path):
    command(capsys, "import-official", checkpoint, "--out", tmp_path / "run", *flags)
    shutil.move(tmp_path / "clip.pt", tmp_path / "moved.pt")
    with pytest.raises(st_adapter.CheckpointError, match="from the file clip.pt, which was not"):
        st_adapter.load(tmp_path / "run")
    assert st_adapter.load(tmp_path / "run", weights=str(tmp_path / "moved.pt"))


def test_adapters_at_both_places_take_the_clips_of_ssv2(capsys, tmp_path):
    case = read_case(CASES[1])
    checkpoint = case.write_checkpoint(tmp_path / "c.pth")
    flags = ["--weights", case.write_clip(tmp_path / "clip.pt"), "--heads", 4]
    code, text, _ = command(
        capsys, "import-official", checkpoint, "--out", tmp_path / "run", *flags
    )
    assert code == 0
    assert "6x32 adapters" in text
    assert "recipe ssv2: 8 frames, spread over the video, 64 px, 1x3 views" in text
    code, text, _ = command(
        capsys, "import-official", checkpoint, "--out", tmp_path / "2", *flags, "--recipe", "k400"
    )
    assert "recipe k400: 8 frames, every 16th in a window, 64 px, 3x1 views" in text


@pytest.mark.parametrize("form", ["bare", "module"])
def test_other_forms_of_the_same_tensors_are_read(capsys, checkpoint, flags, tmp_path, form):
    model = torch.load(checkpoint, weights_only=True)["model"]
    if form == "module":
        model = {"model": {f"module.{name}": tensor for name, tensor in model.items()}}
    torch.save(model, checkpoint)
    assert command(capsys, "import-official", checkpoint, "--out", tmp_path / "run", *flags)[0] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda model: model.pop(f"{LAST}.conv.bias"),
            rf"does not fit \(tensors that differ: 1\): {LAST}.conv.bias: missing in the file",
        ),
        (
            lambda model: model.update({f"{LAST}.fc3.bias": torch.zeros(32)}),
            rf"\(tensors that differ: 1\): {LAST}.fc3.bias: not in the model",
        ),
        (
            lambda model: model.update({"ln_post.bias": torch.zeros(64)}),
            r"ln_post.bias: not in the model",
        ),
        (
            lambda model: model.update({f"{FIRST}.fc1.weight": torch.zeros(16, 64)}),
            rf"differ: 1\): {FIRST}.fc1.weight: file has \[16, 64\], model needs \[32, 64\]",
        ),
        (
            lambda model: [
                model.update({f"{b}.conv.weight": torch.zeros(32, 1, 2, 1, 1)})
                for b in (FIRST, LAST)
            ],
            r"kernel_size takes three odd numbers \(time, height, width\), not \(2, 1, 1\)",
        ),
        (
            lambda model: [
                model.update({f"{b}.conv.weight": torch.zeros(32, 3)}) for b in (FIRST, LAST)
            ],
            r"does not have a tensor named conv.weight of shape \[d, 1, t, h, w\]",
        ),
        (
            lambda model: [
                model.update({name.replace("blocks.1", "blocks.0"): model.pop(name)})
                for name in list(model)
                if name.startswith(FIRST)
            ],
            rf"\(tensors that differ: 6\): {FIRST}.fc1.weight: missing in the file",
        ),
        (
            lambda model: [model.pop(name) for name in list(model) if name.startswith(LAST)],
            "for a backbone of width 64 and 2 blocks; .*clip.pt is a CLIP of width 64 and 3 blocks",
        ),
        (
            lambda model: [model.pop(name) for name in list(model) if "adapter" in name],
            "not a checkpoint of the authors' ST-Adapter",
        ),
        (lambda model: model["fc.bias"].fill_(float("nan")), "fc.bias|head.bias contains values"),
        (
            lambda model: model.update({"fc.bias": torch.zeros(7).long()}),
            "fc.bias: file has torch.int64, model needs",
        ),
        (
            lambda model: model.update({"fc.bias": torch.zeros(7).to_sparse()}),
            "fc.bias is a sparse or quantised tensor",
        ),
        (
            lambda model: model.pop("fc.weight"),
            r"does not have a tensor named fc.weight of shape \[n, c\]",
        ),
        (
            lambda model: model.update({"epoch": 3}),
            "does not contain a flat table of named tensors",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line_and_writes_nothing(
    capsys, checkpoint, flags, tmp_path, change, message
):
    changed(checkpoint, change)
    refused(capsys, tmp_path, message, checkpoint, *flags)


def refused(capsys, tmp_path, message, *arguments):
    """An import ends in one line with `message`, and leaves nothing behind."""
    before = sorted(tmp_path.iterdir())
    code, out, error = command(capsys, "import-official", *arguments, "--out", tmp_path / "run")
    assert (code, out) == (2, "")
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "random"], "width 64 and 3 blocks, which no published CLIP model has"),
        (
            ["--weights", "random", "--backbone", "vit_tiny_patch16_224"],
            "width 64 and 3 blocks; vit_tiny_patch16_224 has width 192 and 12 blocks",
        ),
        (["--weights", "random", "--backbone", "resnet18"], "resnet18 is not a plain ViT"),
        (["--backbone", "resnet18", "--heads", 4], "resnet18 is not a plain ViT"),
        (["--weights", "random", "--backbone", "vit_tiny_patch16_242"], "did you mean vit_tiny"),
        (["--weights", "gone.pt"], "weights file gone.pt does not exist"),
    ],
)
def test_a_backbone_that_does_not_fit_is_named(capsys, checkpoint, tmp_path, arguments, message):
    refused(capsys, tmp_path, message, checkpoint, *arguments)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--heads", 5], "cannot be built with .*'num_heads': 5"),
        (["--recipe", "k40"], "unknown recipe 'k40'.*did you mean k400"),
    ],
)
def test_flags_that_make_no_sense_are_named(capsys, checkpoint, flags, tmp_path, more, message):
    refused(capsys, tmp_path, message, checkpoint, *flags, *more)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\n", "labels.txt: expected one label for each of 7 classes, got 2"),
        ("a\nb\na\nd\ne\nf\ng\n", "labels.txt has the label 'a' 2 times"),
        (None, "labels.txt is not a readable text file of labels"),
    ],
)
def test_labels_that_do_not_fit_are_named(capsys, checkpoint, flags, tmp_path, text, message):
    if text:
        (tmp_path / "labels.txt").write_text(text)
    labels = ("--labels", tmp_path / "labels.txt")
    refused(capsys, tmp_path, message, checkpoint, *flags, *labels)


def test_the_epoch_that_an_export_names_is_one_that_was_trained(
    capsys, checkpoint, flags, tmp_path
):
    torch.save(torch.load(checkpoint, weights_only=True)["model"], checkpoint)  # no epoch in it
    command(capsys, "import-official", checkpoint, "--out", tmp_path / "run", *flags)
    command(capsys, "export-official", tmp_path / "run", "--out", tmp_path / "back.pth")
    assert torch.load(tmp_path / "back.pth", weights_only=True)["next_epoch"] == 0

    repository = tmp_path / "repository"
    shutil.copytree(tmp_path / "run" / "adapter", repository / "mine")
    (repository / "config.json").write_text('{"model_type": "something else"}')
    command(capsys, "export-official", repository / "mine", "--out", tmp_path / "again.pth")
    assert torch.load(tmp_path / "again.pth", weights_only=True)["next_epoch"] == 0


def test_heads_that_were_guessed_are_said(capsys, checkpoint, flags, tmp_path):
    _, _, error = command(
        capsys, "import-official", checkpoint, "--out", tmp_path / "run", *flags[:2]
    )
    assert "note: the weights do not record the number of attention heads; assuming 1; use" in error


def test_a_cut_checkpoint_is_named(capsys, checkpoint, flags, tmp_path):
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    refused(capsys, tmp_path, r"checkpoint-6.pth: not a readable", checkpoint, *flags)
    refused(capsys, tmp_path, "checkpoint .*gone.pth does not exist", tmp_path / "gone.pth", *flags)


def test_a_checkpoint_that_would_run_code_does_not(capsys, checkpoint, flags, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was here"),)

    record = torch.load(checkpoint, weights_only=True)
    torch.save(record | {"optimizer": Evil()}, checkpoint)
    refused(capsys, tmp_path, "it is damaged, or contains more than tensors", checkpoint, *flags)
    torch.load(checkpoint, weights_only=False)
    assert (tmp_path / "was here").is_dir()  # the payload was a real one


def test_a_folder_that_holds_something_is_left_alone(capsys, checkpoint, flags, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "notes.txt").touch()
    code, _, error = command(capsys, "import-official", checkpoint, "--out", out, *flags)
    assert code == 2
    assert "run is not empty; choose another --out" in error
    (out / "notes.txt").unlink()
    assert command(capsys, "import-official", checkpoint, "--out", out, *flags)[0] == 0
    code, _, error = command(capsys, "import-official", checkpoint, "--out", out, *flags)
    assert code == 2
    assert "already contains a run" in error


def test_a_trained_run_exports_and_imports_with_the_same_logits(
    capsys, trained_run, tmp_path, folder_data
):
    file = tmp_path / "out" / "checkpoint-1.pth"
    code, _, error = command(capsys, "export-official", trained_run, "--out", file)
    assert code == 0
    assert "only runs CLIP ViTs with QuickGELU; test_vit is not one" in error
    assert torch.load(file, weights_only=True)["next_epoch"] == 1
    flags = ["--backbone", "test_vit", "--weights", "random"]
    out = tmp_path / "again"
    assert command(capsys, "import-official", file, "--out", out, *flags)[0] == 0
    ours, again = st_adapter.load(trained_run), st_adapter.load(out)
    clips = torch.rand(1, 3, 3, 32, 32)
    same = (clips - again.mean) / again.std * ours.std + ours.mean  # authors normalise as CLIP
    with torch.no_grad():
        torch.testing.assert_close(again(clips), ours(same))
    code, _, error = command(capsys, "export-official", trained_run, "--out", file)
    assert code == 2
    assert "already exists; choose another --out" in error


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            {"backbone": "tf_efficientnet_lite0"},
            "its backbone tf_efficientnet_lite0 is not a plain",
        ),
        (  # its blocks are other ones, at the same places
            {"backbone": "eva02_tiny_patch14_224"},
            "its backbone eva02_tiny_patch14_224 is not a plain ViT",
        ),
        ({"method": "linear"}, "method linear does not have adapters"),
        ({"method": "full-temporal"}, "method full-temporal trains the image model itself"),
        (
            {"adapter": st_adapter.AdapterConfig(activation="gelu")},
            "its adapters have the activation gelu",
        ),
    ],
)
def test_a_run_without_an_official_form_is_refused_with_the_reason(
    capsys, tmp_path, values, reason
):
    values = {"backbone": "test_vit", **values}
    model = st_adapter.create_model(**values, labels=["a", "b"], weights="random")
    model.save_adapter(tmp_path / "adapter", clip=st_adapter.ClipConfig())
    out = tmp_path / "x.pth"
    code, _, error = command(capsys, "export-official", tmp_path / "adapter", "--out", out)
    assert code == 2
    assert error.count("\n") == 1
    assert f"cannot be written for the authors' code: {reason}" in error
    assert not out.exists()
