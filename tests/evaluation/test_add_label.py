import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import st_adapter
from conftest import write_audio
from st_adapter.cli.main import main
from st_adapter.model.build import load
from st_adapter.training.loop import train


@pytest.fixture(scope="module")
def runs(folder_data, tmp_path_factory):
    """Runs of two classes: of a cosine head from class means, and from random vectors; linear."""
    from conftest import TINY

    config = replace(TINY, epochs=1, head="cosine", head_init="prototype")
    folder = tmp_path_factory.mktemp("runs")
    train(folder_data, folder / "means", config)
    train(folder_data, folder / "random", replace(config, epochs=0, head_init="random"))
    train(folder_data, folder / "linear", replace(config, epochs=0, head="linear"))
    return folder


def refused(capsys, *arguments):
    code = main(["labels", "add", *map(str, arguments)])
    error = capsys.readouterr().err
    assert code == 2
    *skipped, last = error.splitlines()
    assert all(line.startswith("skipped") for line in skipped)
    return last


def test_a_class_from_videos_joins_the_others(runs, folder_data, tmp_path, capsys):
    out = tmp_path / "new"
    videos = folder_data / "darkens"
    command = ["labels", "add", str(runs / "means"), "third", "--out", str(out)]
    assert main([*command, "--videos", str(videos)]) == 0
    assert f"{out / 'adapter'}: 3 classes" in capsys.readouterr().out
    before, after = load(runs / "means"), load(out)
    assert after.labels == ("brightens", "darkens", "third")
    assert torch.equal(after.head.weight[:2], before.head.weight)
    clips = torch.randint(0, 256, (4, 4, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(after(clips)[:, :2], before(clips))
    # The new class has the direction of videos that darken, and is as near to them as that class.
    predictor = st_adapter.Predictor(out, device="cpu")
    scores = dict(predictor(videos / "clip 0.mp4"))
    assert scores["third"] > scores["brightens"]
    assert main(["evaluate", str(out), str(folder_data), "--workers", "0"]) == 0
    assert json.loads((out / "eval.json").read_text())["labels"][2] == "third"
    assert main(["inspect", str(out)]) == 0
    assert "cosine head of 3 classes" in capsys.readouterr().out


def test_a_class_from_a_file_of_vectors_joins_the_others(runs, tmp_path):
    file = tmp_path / "v.safetensors"
    vector = torch.randn(64)
    save_file({"third": vector, "other": torch.ones(64)}, file)
    out = tmp_path / "new"
    arguments = ["labels", "add", str(runs / "random" / "adapter"), "third"]
    assert main([*arguments, "--vectors", str(file), "--out", str(out)]) == 0
    head = load(out).head
    torch.testing.assert_close(head.weight[2], vector / vector.norm())
    assert head.out_features == 3
    assert [p.name for p in out.iterdir()] == ["adapter"]


def test_classes_that_cannot_be_added_are_refused_in_a_line(runs, tmp_path, folder_data, capsys):
    out = ("--out", tmp_path / "new")
    save_file({"third": torch.randn(64), "narrow": torch.ones(3)}, tmp_path / "v.safetensors")
    vectors = ("--vectors", tmp_path / "v.safetensors", *out)
    (tmp_path / "sound").mkdir()
    write_audio(tmp_path / "sound" / "a.mp4")
    for run, name, options, message in (
        ("linear", "third", vectors, "has a linear head, to which classes cannot be added"),
        ("means", "darkens", vectors, "'darkens' is empty or already a class"),
        ("random", "thirdd", vectors, "a vector for 'thirdd'; did you mean third?"),
        ("random", "narrow", vectors, "width 3, but the features of this model have width 64"),
        (
            "means",
            "third",
            vectors,
            "a vector from elsewhere cannot be compared with them; give --",
        ),
        ("means", "third", out, "give either --vectors or --videos"),
        ("random", "third", ("--videos", folder_data, *out), "did not start from class means"),
        ("means", "third", (*vectors[:2], "--out", runs), "already exists; choose another --out"),
    ):
        assert message in refused(capsys, runs / run, name, *options)
    sound = ("--videos", tmp_path / "sound")
    assert "no video could be read; first error" in refused(
        capsys, runs / "means", "third", *sound, *out
    )
    assert not (tmp_path / "new").exists()
