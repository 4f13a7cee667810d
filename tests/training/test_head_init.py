import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

from conftest import write_audio, write_video
from st_adapter.cli.main import main
from st_adapter.config import ClipConfig
from st_adapter.data.annotations import read_parts
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Skipped, Video, VideoList
from st_adapter.errors import ArgumentError, DataError
from st_adapter.evaluation.evaluate import evaluate_videos
from st_adapter.evaluation.features import video_features
from st_adapter.model.build import attach, build_model, load
from st_adapter.training.head_init import VIDEOS_PER_CLASS, chosen_videos, start_head
from st_adapter.training.loop import train


@pytest.fixture
def vectors(tmp_path):
    generator = torch.Generator().manual_seed(0)
    names = ("brightens", "darkens")
    file = tmp_path / "vectors.safetensors"
    save_file({name: torch.randn(64, generator=generator) for name in names}, file)
    return file


@pytest.fixture
def start(tiny):
    return replace(tiny, epochs=0)


class MeanColour(nn.Module):
    """An image model whose features are the mean red, green and blue of a frame, and a zero."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1, bias=False)
        nn.init.dirac_(self.stem.weight)
        self.block = nn.Identity()

    def forward(self, frames):
        return self.block(self.stem(frames)).mean((2, 3))


def test_prototypes_are_means_of_the_training_videos(tmp_path, start):
    """Bright videos are 100 and 200, dark ones 0, validation videos 250. The center is at 75."""
    for name, gray in (
        ("train/bright/a", 100),
        ("train/bright/b", 200),
        ("train/dark/a", 0),
        ("val/bright/a", 250),
        ("val/dark/a", 250),
    ):
        frames = [np.full((32, 32, 3), gray, np.uint8)] * 4
        write_video(tmp_path / "data" / f"{name}.mp4", frames)
    data = read_parts(tmp_path / "data", start)
    assert data.labels == ("bright", "dark")
    settings = {"method": "linear", "head": "cosine", "normalisation": ([0.0] * 3, [1.0] * 3)}
    model = attach(MeanColour(), data.labels, blocks="block", clip=start.clip, **settings)
    config = replace(start, head="cosine", head_init="prototype")
    assert start_head(model, config, data, Reader(), Accelerator(cpu=True)) == []
    gray, bright = torch.tensor([1.0, 1, 1, 0]), torch.tensor([1.0, 1, 1, 0]) / 3**0.5
    with torch.no_grad():
        torch.testing.assert_close(model.head.center, 75 / 255 * gray, rtol=0, atol=0.01)
        expected = torch.stack([bright, -bright])
        torch.testing.assert_close(model.head.weight, expected, rtol=0, atol=0.03)


def test_no_epochs_evaluate_the_vectors_of_a_file_as_they_are(
    folder_data, tmp_path, start, vectors
):
    run = tmp_path / "run"
    result = train(folder_data, run, replace(start, head_init=str(vectors)))
    names = {p.name for p in run.iterdir()}
    assert {"adapter", "config.json", "eval.json", "state"} <= names
    model = load(run)
    model.set_head(load_file(vectors))
    config = replace(start, head_init="random")
    again = evaluate_videos(model, read_parts(folder_data, config).val, config.clip, workers=0)
    assert again.predictions == result.predictions
    assert json.loads((run / "config.json").read_text())["config"]["head_init"] == str(vectors)
    assert main(["evaluate", str(run), str(folder_data), "--workers", "0"]) == 0


def test_more_epochs_continue_from_the_start_of_the_head(folder_data, tmp_path, start, vectors):
    config = replace(start, head_init=str(vectors), average=0.5)
    train(folder_data, tmp_path / "in_two", config)
    vectors.rename(tmp_path / "moved.safetensors")  # it is in the saved state
    train(folder_data, tmp_path / "in_two", replace(config, epochs=1), resume=True)
    (tmp_path / "moved.safetensors").rename(vectors)
    train(folder_data, tmp_path / "at_once", replace(config, epochs=1))
    in_two, at_once = (load(tmp_path / name).trained_tensors() for name in ("in_two", "at_once"))
    assert all(torch.equal(in_two[name], at_once[name]) for name in at_once)


def test_a_frozen_cosine_head_keeps_the_vectors_of_its_file(folder_data, tmp_path, tiny, vectors):
    config = replace(tiny, head="cosine", freeze_head=True, head_init=str(vectors), epochs=1)
    before = load_start(folder_data, tmp_path, config)
    train(folder_data, tmp_path / "run", config)
    after = load(tmp_path / "run").head
    assert torch.equal(after.weight, before.weight)
    assert not torch.equal(after.log_scale, before.log_scale)


def load_start(folder_data, tmp_path, config):
    train(folder_data, tmp_path / "start", replace(config, epochs=0))
    return load(tmp_path / "start").head


def test_prototypes_train_with_several_heads_and_with_any_number_of_labels(
    folder_data, tmp_path, start
):
    videos = sorted(folder_data.glob("*/*.mp4"))
    rows = [f"{path},{path.parent.name},{i % 2}" for i, path in enumerate(videos)]
    (tmp_path / "two.csv").write_text("\n".join(["path,motion,side", *rows]))
    rows = [f"{path},{path.parent.name}{';even' * (i % 2)}" for i, path in enumerate(videos)]
    (tmp_path / "any.csv").write_text("\n".join(["path,labels", *rows]))
    config = replace(start, head_init="prototype")
    two = replace(config, columns="label=motion+side")
    assert train(tmp_path / "two.csv", tmp_path / "two", two).heads.keys() == {"motion", "side"}
    assert train(tmp_path / "any.csv", tmp_path / "any", config).metric == "mean_average_precision"


def test_a_video_without_a_picture_is_left_out_of_the_means(folder_data, tmp_path, start):
    videos = sorted(folder_data.glob("*/*.mp4"))
    rows = [
        f"{path},{path.parent.name},{'val' if i % 3 else 'train'}" for i, path in enumerate(videos)
    ]
    write_audio(tmp_path / "sound.mp4")
    rows.append(f"{tmp_path / 'sound.mp4'},darkens,train")
    (tmp_path / "data.csv").write_text("\n".join(["path,label,split", *rows]))
    train(tmp_path / "data.csv", tmp_path / "run", replace(start, head_init="prototype"))
    assert "sound.mp4" in (tmp_path / "run" / "skipped.jsonl").read_text()

    rows = [row for row in rows if row.endswith("val")]
    rows += [f"{tmp_path / 'sound.mp4'},{label},train" for label in ("darkens", "brightens")]
    (tmp_path / "data.csv").write_text("\n".join(["path,label,split", *rows]))
    with pytest.raises(DataError, match="no training video could be read; first error: .*sound"):
        train(tmp_path / "data.csv", tmp_path / "other", replace(start, head_init="prototype"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("prototyp", None, "takes random, prototype or a file.*did you mean prototype"),
        ("gone.csv", None, r"gone\.csv does not exist"),
        ("v.csv", "brightens,1\ndarkns,1\n", "without a vector: 'darkens' .did you mean darkns"),
        ("v.csv", "brightens,1\ndarkens,1\n", "width 1, but the features of this model have wid"),
    ],
)
def test_starts_that_do_not_exist_are_refused(folder_data, tmp_path, start, name, text, message):
    if text:
        (tmp_path / name).write_text(text)
    given = str(tmp_path / name) if "." in name else name
    with pytest.raises(ArgumentError, match=message):
        train(folder_data, tmp_path / "run", replace(start, head_init=given))
    assert not (tmp_path / "run" / "config.json").exists()


def test_at_most_so_many_videos_of_a_class_are_chosen():
    targets = [(0,)] * 200 + [(1,)] * 10 + [()] * 3
    videos = VideoList([f"/{i}.mp4" for i in range(len(targets))], targets)
    chosen = chosen_videos(videos, seed=0)
    counts = [sum(targets[i] == t for i in chosen) for t in ((0,), (1,), ())]
    assert counts == [VIDEOS_PER_CLASS, 10, 3]
    assert chosen == sorted(chosen)
    assert chosen == chosen_videos(videos, seed=0) != chosen_videos(videos, seed=1)


def test_features_of_a_video_are_the_mean_over_its_views(folder_data, tiny):
    model = build_model(tiny, ["a", "b"]).train()
    videos = [Video(path=folder_data / "darkens" / "clip 0.mp4"), Video(path=folder_data / "none")]
    clip = ClipConfig(frames=2, size=32, views=(3, 1))
    ((_, found),), (missing,) = video_features(model, videos, clip, title="videos")
    assert found.shape == (64,)
    assert not found.is_inference()
    assert isinstance(missing, Skipped)
    assert model.training
