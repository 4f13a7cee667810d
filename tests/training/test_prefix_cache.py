"""Frozen blocks run once a clip: never another result than running them each time."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import av
import pytest
import torch

from conftest import SIGNALLED_RUN, blinking, write_video
from st_adapter.config import AdapterConfig, TrainConfig
from st_adapter.data.datasets import TrainItem
from st_adapter.data.formats.folders import find_videos
from st_adapter.data.video.index import index_of
from st_adapter.errors import ArgumentError
from st_adapter.model.build import create_model
from st_adapter.model.checkpoint import read_tensors
from st_adapter.training.loop import train
from st_adapter.training.prefix_cache import (
    AfterPrefix,
    PrefixCache,
    file_state,
    num_frozen_blocks,
)


@pytest.fixture
def plain(tiny) -> TrainConfig:
    """Adapters in the last two blocks; the same clips in each epoch."""
    return replace(tiny, adapter_layers="2", draws=1, epochs=3, lr=1e-2, keep="last")


def cached(config: TrainConfig, folder: Path | None = None, gigabytes: float = 1.0) -> TrainConfig:
    return replace(
        config, prefix_cache=gigabytes, prefix_cache_folder=None if folder is None else str(folder)
    )


def trained(data: Path, out: Path, config: TrainConfig) -> dict[str, torch.Tensor]:
    train(data, out, config, diagnose=False)
    return read_tensors(out / "adapter_last")


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    found = [line["loss"] for line in lines if "loss" in line]
    assert len(found) > 3
    return found


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.fixture
def decoded(folder_data, monkeypatch):
    """Paths of the videos that are opened, as they are; what they hold is known before."""
    index = index_of(folder_data)
    for path in find_videos(folder_data):
        index(path)
    seen, open_file = [], av.open

    def note(source, *args, **options):
        seen.append(source)
        return open_file(source, *args, **options)

    monkeypatch.setattr(av, "open", note)
    return seen


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"adapter_layers": "1", "positions": "mlp"},
        {"method": "partial"},
        {"method": "linear"},
        {"method": "temporal"},
        {"method": "attentive"},
        {"reversal": "brightens=darkens"},
        {"repeats": 2, "accumulate": 2},
        {"draws": 2},
        {"workers": 1, "backbone": "test_vit3"},
        {"method": "linear", "backbone": "test_vit3"},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())) or "last 2",
)
def test_training_comes_to_the_same(folder_data, tmp_path, plain, changes):
    config = replace(plain, **changes)
    wanted = trained(folder_data, tmp_path / "plain", config)
    ours = trained(folder_data, tmp_path / "cached", cached(config))
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "plain"), abs=1e-4)
    if config.method != "temporal":  # whose first gradients are rounding, which AdamW enlarges
        assert_same(ours, wanted)


def test_each_video_is_decoded_once(folder_data, tmp_path, plain, decoded):
    train(folder_data, tmp_path / "run", cached(plain), diagnose=False)
    training, validation = decoded[:-2], decoded[-2:]
    assert len(set(training)) == len(training) == 10
    assert not set(training) & set(validation)


def validations(run: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{n: line[n] for n in ("top1", "val_loss")} for line in lines if "val_loss" in line]


@pytest.mark.parametrize("in_folder", [False, True])
def test_validation_decodes_once_and_scores_the_same(
    folder_data, tmp_path, plain, decoded, in_folder
):
    data = shutil.copytree(folder_data, tmp_path / "data")
    next(data.rglob("clip 2.mp4")).write_bytes(b"broken")
    config = replace(plain, keep="best", val=str(data), views="2x1")
    train(data, tmp_path / "plain", config, diagnose=False)
    decoded.clear()
    folder = tmp_path / "cache" if in_folder else None
    train(data, tmp_path / "cached", cached(config, folder), diagnose=False)
    # Each of 11 videos once to train and once to validate, then once more, on two views; and the
    # one that replaces the broken one, which is not kept, in each of 3 epochs.
    assert len(decoded) == 11 + 11 + 11 + 3
    ours, wanted = (validations(tmp_path / name) for name in ("cached", "plain"))
    assert len(ours) == 3
    for mine, theirs in zip(ours, wanted, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4)
    ours, wanted = (
        json.loads((tmp_path / n / "eval.json").read_text()) for n in ("cached", "plain")
    )
    assert ours["num_skipped"] == wanted["num_skipped"] == 1
    assert ours["top1"] == wanted["top1"]


def test_what_is_kept_does_not_depend_on_the_clips_beside_it():
    model = create_model("test_vit", ["a", "b"], AdapterConfig(layers=2), weights="random")
    rest = AfterPrefix(model, num_frozen_blocks(model), size=32)
    cache = PrefixCache(rest, most_bytes=1e9)
    clips = torch.randint(0, 256, (3, 4, 3, 32, 32), dtype=torch.uint8)
    items = [TrainItem(index=0, clips=(c,), targets=((0,),), skipped=()) for c in clips]
    made = [cache.add(("draw 0", i), item) for i, item in enumerate(items)]
    for item, clip in zip(made, clips, strict=True):
        assert torch.equal(item.clips[0], rest.prefix(clip[None])[0])


def test_what_does_not_fit_is_computed_anew(folder_data, tmp_path, plain, decoded):
    wanted = trained(folder_data, tmp_path / "plain", plain)
    decoded.clear()
    each = 4 * 5 * 64 * 4  # frames, tokens, channels, bytes
    some = cached(plain, gigabytes=3.5 * each / 2**30)
    assert_same(trained(folder_data, tmp_path / "cached", some), wanted)
    assert len(decoded) == 10 + 7 + 7 + 2


def test_a_folder_serves_further_runs(folder_data, tmp_path, plain, decoded):
    train(folder_data, tmp_path / "first", cached(plain, tmp_path / "cache"), diagnose=False)
    decoded.clear()
    other = replace(plain, lr=3e-3)
    ours = trained(folder_data, tmp_path / "second", cached(other, tmp_path / "cache"))
    assert len(decoded) == 2  # the validation part, at the end
    assert_same(ours, trained(folder_data, tmp_path / "plain", other))


def test_what_a_killed_run_left_in_a_folder_is_removed(folder_data, tmp_path, plain):
    folder = tmp_path / "cache" / "ab"
    folder.mkdir(parents=True)
    left, being_written, of_the_user = (
        folder / name
        for name in (".1.st-adapter-unfinished", ".2.st-adapter-unfinished", ".a.abcd1234")
    )
    for file, hours in ((left, 2), (being_written, 0), (of_the_user, 2)):
        file.touch()
        os.utime(file, times=(time.time() - 3600 * hours,) * 2)
    train(
        folder_data,
        tmp_path / "run",
        cached(replace(plain, epochs=1), tmp_path / "cache"),
        diagnose=False,
    )
    assert [file.exists() for file in (left, being_written, of_the_user)] == [False, True, True]


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 48},
        {"seed": 1},
        {"frames": 5},
        {"stride": 1},
        {"adapter_layers": "1"},
        {"precision": "bfloat16"},
        {"flip": False},
        {"crop_range": (0.9, 1.0)},
    ],
)
def test_other_clips_are_not_taken_from_a_folder(folder_data, tmp_path, plain, decoded, changes):
    plain = replace(plain, epochs=1, val=str(folder_data))
    train(folder_data, tmp_path / "first", cached(plain, tmp_path / "cache"), diagnose=False)
    decoded.clear()
    train(
        folder_data,
        tmp_path / "other",
        cached(replace(plain, **changes), tmp_path / "cache"),
        diagnose=False,
    )
    assert len(decoded) == 12 + 12  # to train, and to be evaluated on


def test_a_changed_video_and_a_damaged_file_are_read_again(folder_data, tmp_path, plain, decoded):
    data = shutil.copytree(folder_data, tmp_path / "data")
    plain = replace(plain, val=str(folder_data))
    train(data, tmp_path / "first", cached(plain, tmp_path / "cache"), diagnose=False)
    files = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 12
    files[0].write_bytes(files[0].read_bytes()[:100])
    changed = next(data.rglob("clip 0.mp4"))
    write_video(changed, blinking(True, seed=77))
    os.utime(changed, ns=(1, 1))
    decoded.clear()
    ours = trained(data, tmp_path / "second", cached(plain, tmp_path / "cache"))
    of_data = {path for path in decoded if Path(path).is_relative_to(data)}
    assert 1 <= len(of_data) <= 2  # one where the damaged file was that of the changed video
    assert_same(ours, trained(data, tmp_path / "plain", plain))


def test_a_video_that_stands_in_is_not_kept(folder_data, tmp_path, plain):
    data = shutil.copytree(folder_data, tmp_path / "data")
    next(data.rglob("clip 3.mp4")).write_bytes(b"broken")
    plain = replace(plain, val=str(folder_data))
    wanted = trained(data, tmp_path / "plain", plain)
    assert_same(trained(data, tmp_path / "cached", cached(plain, tmp_path / "cache")), wanted)
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 11


def test_interrupted_and_resumed_equals_straight_through_bit_for_bit(folder_data, tmp_path, plain):
    config = cached(replace(plain, epochs=6))
    straight = trained(folder_data, tmp_path / "straight", config)
    out = tmp_path / "interrupted"
    given = [str(int(signal.SIGINT)), json.dumps(config.to_json()), str(folder_data), str(out)]
    command = [sys.executable, "-c", SIGNALLED_RUN, *given]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    assert process.wait(60) != 0
    train(folder_data, out, config, resume=True, diagnose=False)
    for name, tensor in read_tensors(out / "adapter_last").items():
        assert torch.equal(tensor, straight[name]), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draws": 0}, "set draws to 1 or more"),
        ({"mixup": 0.5}, "leave out mixup"),
        ({"adapter_layers": "all"}, "in test_vit, the method st-adapter leaves no block frozen"),
        ({"method": "bitfit"}, "the method bitfit leaves no block frozen"),
        ({"method": "full"}, "the method full leaves no block frozen"),
        ({"method": "prompt"}, "the method prompt leaves no block frozen"),
        ({"backbone": "test_resnet", "adapter_layers": "1"}, "use a plain ViT"),
    ],
)
def test_what_cannot_be_kept_is_refused(folder_data, tmp_path, plain, changes, message):
    with pytest.raises(ArgumentError, match=message):
        train(folder_data, tmp_path / "run", replace(cached(plain), **changes), diagnose=False)
    assert not (tmp_path / "run").exists()


def test_a_folder_needs_a_size(plain):
    with pytest.raises(ArgumentError, match="prefix_cache_folder needs prefix_cache"):
        replace(plain, prefix_cache_folder="cache")


@pytest.mark.parametrize("layers", [1, 3])
def test_what_is_frozen_is_told_by_structure(layers):
    config = AdapterConfig(layers=layers)
    model = create_model("test_vit", ["a", "b"], config, weights="random").eval()
    count = num_frozen_blocks(model)
    assert count == len(model.backbone.blocks) - layers
    clips = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8)
    rest = AfterPrefix(model, count, size=32)
    torch.testing.assert_close(rest(rest.prefix(clips)), model(clips))


@pytest.mark.parametrize("method", ["linear", "st-adapter"])
def test_what_is_kept_in_memory_is_what_is_counted(method):
    model = create_model(
        "test_vit", ["a", "b"], AdapterConfig(layers=2), weights="random", method=method
    )
    cache = PrefixCache(AfterPrefix(model, num_frozen_blocks(model), size=32), most_bytes=1e9)
    clip = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    item = TrainItem(index=0, clips=(clip,), targets=((0,),), skipped=())
    for key in (("draw 0", 0), ("draw 0", 1)):
        cache.add(key, item)
        (kept,) = cache.get(key).clips
        assert kept.untyped_storage().nbytes() == kept.nbytes


def test_pictures_and_shards_that_changed_have_another_name(tmp_path):
    (folder := tmp_path / "pictures").mkdir()
    for i in range(3):
        (folder / f"{i}.jpg").write_bytes(b"x")
    before = file_state(folder)
    os.utime(folder / "1.jpg", ns=(1, 1))
    assert file_state(folder) != before
    (shard := tmp_path / "part.tar").write_bytes(b"x")
    before = file_state(shard / "clip.mp4")
    shard.write_bytes(b"xy")
    assert file_state(shard / "clip.mp4") != before


def test_two_processes_share_the_room_and_come_to_the_same(folder_data, tmp_path, plain):
    plain = replace(plain, dropout=0.0)  # which each process draws for itself
    wanted = trained(folder_data, tmp_path / "plain", plain)
    both = replace(cached(plain, tmp_path / "cache"), processes=2, batch_size=2)
    assert_same(trained(folder_data, tmp_path / "cached", both), wanted)
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 10


def test_a_folder_that_is_a_file_is_named_by_its_flag(folder_data, tmp_path, plain):
    (file := tmp_path / "file").write_text("x")
    with pytest.raises(ArgumentError, match="prefix_cache_folder must be a folder"):
        train(folder_data, tmp_path / "run", cached(plain, file), diagnose=False)
    assert not (tmp_path / "run").exists()
