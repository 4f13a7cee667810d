"""Messages name flags in the command, and arguments in a program."""

import pytest

import st_adapter
from st_adapter.cli.main import main
from st_adapter.common.provenance import as_command
from st_adapter.common.remarks import note, say
from st_adapter.config import TrainConfig
from st_adapter.errors import ArgumentError, CheckpointError, StAdapterError
from st_adapter.runtime.memory import lower_settings
from st_adapter.wording import setting, switch


@pytest.mark.parametrize(
    ("given", "flag", "argument"),
    [
        (("batch-size",), "--batch-size", "batch_size"),
        (("batch_size",), "--batch-size", "batch_size"),
        (("precision", "float32"), "--precision float32", 'precision="float32"'),
        (("weights", "FILE"), "--weights FILE", "weights=FILE"),
        (("init", "up-zero"), "--init up-zero", 'init="up-zero"'),
        (("columns", "path=NAME"), "--columns path=NAME", 'columns="path=NAME"'),
        (("views", "3x1"), "--views 3x1", 'views="3x1"'),
        (("workers", 0), "--workers 0", "workers=0"),
        (("lrs", 0.001), "--lrs 0.001", "lrs=0.001"),
        (("head-lr", None), "--head-lr None", "head_lr=None"),
    ],
)
def test_a_setting_is_a_flag_in_the_command_and_an_argument_elsewhere(given, flag, argument):
    assert setting(*given) == argument
    with as_command("st-adapter train"):
        assert setting(*given) == flag


def test_a_switch_is_a_flag_without_a_value_or_an_argument_that_is_true_or_false():
    assert (switch("resume"), switch("flip", on=False)) == ("resume=True", "flip=False")
    with as_command("st-adapter train"):
        assert (switch("resume"), switch("flip", on=False)) == ("--resume", "--no-flip")


@pytest.mark.parametrize(
    ("flags", "in_command", "in_python"),
    [
        (
            {"weights": "gone.pth"},
            "--weights takes hub, package, random or a file",
            "; weights takes hub, package, random or a file",
        ),
        (
            {"weights": "random", "checkpoint_activations": True, "backbone": "test_convnext"},
            "use a smaller --batch-size with --accumulate",
            "use a smaller batch_size with accumulate",
        ),
        (
            {"weights": "random", "frames": 1},
            "use --init up-zero or more --frames",
            'use init="up-zero" or more frames',
        ),
        (
            {"weights": "hub", "backbone": "vit_tiny_patch16_224"},
            "use --weights FILE (safetensors, .pth or a CLIP .pt), --weights random, or --backbone",
            'use weights=FILE (safetensors, .pth or a CLIP .pt), weights="random", or backbone=',
        ),
        (
            {"weights": "random", "frames": 100_000, "batch_size": 64},
            "use --batch-size 32 with --accumulate 2 (the same step); or lower --frames or --size",
            "use batch_size=32 with accumulate=2 (the same step); or lower frames or size",
        ),
    ],
)
def test_the_same_error_from_python_and_from_the_command(
    flags, in_command, in_python, folder_data, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    flags = {"backbone": "test_vit", "size": 32, "device": "cpu", "workers": 0} | flags
    with pytest.raises(StAdapterError) as caught:
        st_adapter.train(folder_data, tmp_path / "run", st_adapter.TrainConfig(**flags))
    assert in_python in str(caught.value)
    assert "--" not in str(caught.value)
    arguments = ["train", str(folder_data), "--out", str(tmp_path / "run2")]
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        arguments += [flag] if value is True else [flag, str(value)]
    assert main(arguments) == 2
    assert in_command in " ".join(capsys.readouterr().err.split())


def test_a_path_that_contains_a_flag_is_left_alone(tmp_path, capsys):
    folder = tmp_path / "my --size 3 videos --compile"
    folder.mkdir()
    with pytest.raises(StAdapterError, match="my --size 3 videos --compile contains no videos"):
        st_adapter.train(folder, tmp_path / "run")
    assert main(["train", str(folder), "--out", str(tmp_path / "run")]) == 2
    assert "my --size 3 videos --compile" in capsys.readouterr().err


def test_a_label_that_contains_a_flag_is_left_alone(folder_data, tmp_path):
    clips = folder_data
    label = "turn left --size 3"
    videos = sorted(path for path in clips.rglob("*") if path.is_file())[:2]
    table = tmp_path / "list.csv"
    lines = [f"{videos[0]},{label},train", f"{videos[1]},other,train", f"{videos[0]},{label},val"]
    table.write_text("\n".join(["path,label,split", *lines]))
    with pytest.raises(ArgumentError) as caught:
        st_adapter.train(table, tmp_path / "run", TrainConfig(weights="random", device="cpu"))
    assert f'these classes into others: {label!r}; use mirror="names" to' in str(caught.value)
    assert str(caught.value).endswith("or flip=False to mirror nothing")


def test_errors_and_log_messages_are_exactly_what_was_written(caplog):
    caplog.set_level("INFO", "st_adapter")
    text = "lower --batch-size 4, 100% --compile"
    assert str(CheckpointError(text)) == text
    for tell in (say, note):
        tell(text)
    assert caplog.messages == [text, f"note: {text}"]


def test_advice_is_worded_when_it_is_given_and_not_at_import():
    assert lower_settings() == "lower batch_size, frames or size"
    with as_command("st-adapter bench"):
        error = CheckpointError(lower_settings())
    assert str(error) == "lower --batch-size, --frames or --size"
