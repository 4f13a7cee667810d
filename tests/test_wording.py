"""Messages name flags in the command, and arguments in a program."""

import dataclasses
import re
from typing import Literal, get_args, get_origin

import pytest

import st_adapter
from st_adapter.cli.main import main
from st_adapter.common.provenance import as_command
from st_adapter.common.remarks import note, say
from st_adapter.config import TrainConfig
from st_adapter.errors import CheckpointError, StAdapterError
from st_adapter.wording import SWITCHES, VALUES, for_caller


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        ("lower --batch-size, --frames or --size", "lower batch_size, frames or size"),
        ("lower --lr. It", "lower lr. It"),
        ("(--weights FILE)", "(weights=FILE)"),
        ("use --weights random, or", 'use weights="random", or'),
        ("use --backbone resnet18 --weights hub;", 'use backbone="resnet18", weights="hub";'),
        ("--weights takes hub or a file", "weights takes hub or a file"),
        ("use --init up-zero or more --frames", 'use init="up-zero" or more frames'),
        ("--batch-size 4 --accumulate 2 (same)", "batch_size=4, accumulate=2 (same)"),
        ("with --lr 1e-3, not 1.0", "with lr=1e-3, not 1.0"),
        ("with --head-lr None, not 1.0", "with head_lr=None, not 1.0"),
        ("use --views 3x1.", 'use views="3x1".'),
        ("use --columns path=NAME,label=NAME, and", 'use columns="path=NAME,label=NAME", and'),
        ("or --no-flip to mirror nothing", "or flip=False to mirror nothing"),
        ("continue with --resume", "continue with resume=True"),
        # Shell commands, other programs' flags and paths are not ours to rename.
        ("run: st-adapter train my --out a --resume", "run: st-adapter train my --out a --resume"),
        ("(docker run --shm-size=1g helps) --lr", "(docker run --shm-size=1g helps) lr"),
        ("accelerate's --multi_gpu", "accelerate's --multi_gpu"),
        ("/a--b/--c/x--size.mp4", "/a--b/--c/x--size.mp4"),
    ],
)
def test_flags_become_arguments_outside_the_command(flags, arguments):
    assert for_caller(flags) == arguments
    with as_command("st-adapter train"):
        assert for_caller(flags) == flags


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


def test_log_messages_are_worded_as_errors_are(caplog):
    caplog.set_level("INFO", "st_adapter")
    for tell in (say, note):
        tell("a smaller --batch-size gives more steps, 100% --compile")
        with as_command("st-adapter train"):
            tell("a smaller --batch-size")
    assert caplog.messages == [
        "a smaller batch_size gives more steps, 100% compile=True",
        "a smaller --batch-size",
        "note: a smaller batch_size gives more steps, 100% compile=True",
        "note: a smaller --batch-size",
    ]


def test_an_error_inside_an_error_is_worded_once():
    inner = CheckpointError("bad; use --weights FILE")
    assert str(CheckpointError(f"{inner}; or --lr 3")) == "bad; use weights=FILE; or lr=3"


def test_every_setting_that_takes_words_is_known():
    fields = {item.name.replace("_", "-"): item.type for item in dataclasses.fields(TrainConfig)}
    assert {name for name, kind in fields.items() if kind is bool} <= SWITCHES
    words = {
        word for kind in fields.values() if get_origin(kind) is Literal for word in get_args(kind)
    }
    assert {word for word in words if re.fullmatch("[a-z]+", word)} <= VALUES
