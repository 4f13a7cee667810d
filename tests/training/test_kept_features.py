"""The frozen part runs once per clip: never another result than running it each time."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import save_file

from conftest import SIGNALLED_RUN, blinking, write_video
from st_adapter.backbones.build import create_backbone
from st_adapter.cli.main import main
from st_adapter.config import AdapterConfig, TrainConfig
from st_adapter.data.datasets import TrainDataset, TrainItem
from st_adapter.data.formats.folders import find_videos
from st_adapter.data.video.index import index_of
from st_adapter.data.videos import Video
from st_adapter.errors import ArgumentError
from st_adapter.model.build import create_model
from st_adapter.model.checkpoint import read_tensors
from st_adapter.training.batches import train_transform
from st_adapter.training.features import compute_features
from st_adapter.training.kept import files
from st_adapter.training.kept.features import KeptFeatures
from st_adapter.training.kept.make import file_state
from st_adapter.training.kept.places import InFolder, InMemory, Key, bytes_in
from st_adapter.training.kept.split import AfterBlocks, num_frozen_blocks
from st_adapter.training.loop import train


@pytest.fixture
def plain(tiny) -> TrainConfig:
    """Adapters in the last two blocks; the same clips in each epoch."""
    return replace(tiny, adapter_layers="2", draws=1, epochs=3, lr=1e-2, keep="last")


@pytest.fixture
def frozen(plain) -> TrainConfig:
    """Nothing is trained in the image model; each epoch is validated."""
    return replace(plain, method="linear", keep="best", views="2x1")


def keeping(config: TrainConfig, folder: Path | None = None, gigabytes: float = 1) -> TrainConfig:
    where = None if folder is None else str(folder)
    return replace(config, keep_features=float(gigabytes), features=where)


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


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Both runs learnt and scored the same, to the bit."""
    mine, other = (read_tensors(run / "adapter_last") for run in (ours, theirs))
    assert mine.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in mine.items())
    assert measured(ours) == measured(theirs)


def measured(run: Path) -> list[dict[str, object]]:
    """What a run found out, without what takes time and place."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    changing = ("clips_per_second", "train_seconds", "memory_gb", "seconds", "provenance")
    changing += ("command", "date", "machine", "versions", "data")
    records = [*lines, json.loads((run / "eval.json").read_text())]
    return [{k: v for k, v in line.items() if k not in changing} for line in records]


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
        {"method": "attentive", "repeats": 2, "accumulate": 2},
        {"method": "temporal", "reversal": "brightens=darkens"},
        {"method": "side", "draws": 2},
        {"backbone": "test_resnet", "method": "side", "precision": "bfloat16"},
        {"method": "ordered"},
        {"backbone": "test_resnet", "draws": 2, "workers": 1},
        {"backbone": "test_resnet", "method": "attentive", "size": 48},
        {"head_init": "prototype", "precision": "bfloat16", "mirror": "same"},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())),
)
def test_a_frozen_backbone_trains_to_the_same_bit(folder_data, tmp_path, frozen, changes):
    config = replace(frozen, **changes)
    train(folder_data, tmp_path / "plain", config, temporal=True, diagnose=False)
    for name, place in (("memory", None), ("folder", tmp_path / "kept")):
        out = tmp_path / name
        train(folder_data, out, keeping(config, place), temporal=True, diagnose=False)
        assert_same_run(out, tmp_path / "plain")


@pytest.mark.parametrize(
    "changes",
    [{}, {"method": "partial", "repeats": 2, "draws": 2}, {"reversal": "brightens=darkens"}],
    ids=lambda changes: " ".join(map(str, changes.values())) or "last 2",
)
def test_frozen_blocks_train_to_the_same(folder_data, tmp_path, plain, changes):
    config = replace(plain, **changes)
    wanted = trained(folder_data, tmp_path / "plain", config)
    ours = trained(folder_data, tmp_path / "kept", keeping(config))
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "plain"), abs=1e-4)
    assert_same(ours, wanted)


@pytest.mark.parametrize("in_folder", [False, True])
def test_each_clip_is_decoded_once(folder_data, tmp_path, plain, decoded, in_folder):
    data = shutil.copytree(folder_data, tmp_path / "data")
    next(data.rglob("clip 2.mp4")).write_bytes(b"broken")
    config = replace(plain, keep="best", val=str(data), views="2x1")
    train(data, tmp_path / "plain", config, diagnose=False)
    decoded.clear()
    folder = tmp_path / "features" if in_folder else None
    train(data, tmp_path / "kept", keeping(config, folder), diagnose=False)
    # Each of 11 videos once to train and once to validate, then once more, on two views; and the
    # one that replaces the broken one, which is not kept, in each of 3 epochs.
    assert len(decoded) == 11 + 11 + 11 + 3
    ours, wanted = (json.loads((tmp_path / n / "eval.json").read_text()) for n in ("kept", "plain"))
    assert ours["num_skipped"] == wanted["num_skipped"] == 1
    assert ours["loss"] == pytest.approx(wanted["loss"], abs=1e-4)


@pytest.mark.parametrize("changes", [{"seed": 1, "lr": 1e-3}, {"method": "temporal"}])
def test_a_folder_serves_other_rates_seeds_and_methods(
    folder_data, tmp_path, frozen, decoded, changes
):
    frozen = replace(frozen, val=str(folder_data))
    train(folder_data, tmp_path / "first", keeping(frozen, tmp_path / "kept"), diagnose=False)
    decoded.clear()
    other = replace(frozen, **changes)
    train(folder_data, tmp_path / "second", keeping(other, tmp_path / "kept"), diagnose=False)
    assert not decoded
    train(folder_data, tmp_path / "plain", other, diagnose=False)
    assert_same_run(tmp_path / "second", tmp_path / "plain")


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"size": 48}, 24),
        ({"frames": 5}, 24),
        ({"stride": 1}, 24),
        ({"method": "attentive"}, 24),
        ({"precision": "bfloat16"}, 24),
        ({"weights": "random"}, 24),
        ({"lr": 1.0, "seed": 1, "batch_size": 2}, 0),
        ({"flip": False}, 12),
        ({"crop_range": (0.9, 1.0)}, 12),
    ],
    ids=str,
)
def test_other_clips_and_weights_are_not_taken_from_a_folder(
    folder_data, tmp_path, frozen, decoded, changes, again
):
    weights = tmp_path / "weights.safetensors"
    torch.manual_seed(1)
    save_file(create_backbone("test_vit").state_dict(), weights)
    config = replace(frozen, val=str(folder_data), views="1x1", weights=str(weights))
    compute_features(folder_data, tmp_path / "kept", config)
    decoded.clear()
    compute_features(folder_data, tmp_path / "kept", replace(config, **changes))
    assert len(decoded) == again


def test_a_changed_video_and_damaged_files_are_computed_again(
    folder_data, tmp_path, frozen, decoded
):
    data = shutil.copytree(folder_data, tmp_path / "data")
    frozen = replace(frozen, val=str(folder_data), views="1x1")
    train(data, tmp_path / "first", keeping(frozen, tmp_path / "kept"), diagnose=False)
    written = sorted((tmp_path / "kept").rglob("*.safetensors"))
    assert len(written) == 24
    written[0].write_bytes(written[0].read_bytes()[:100])
    written[1].write_bytes(b"")
    flipped = bytearray(written[2].read_bytes())
    flipped[-1] ^= 1
    written[2].write_bytes(flipped)
    changed = next(data.rglob("clip 0.mp4"))
    write_video(changed, blinking(True, seed=77))
    os.utime(changed, ns=(1, 1))
    decoded.clear()
    train(data, tmp_path / "second", keeping(frozen, tmp_path / "kept"), diagnose=False)
    # The changed video is opened twice, to be indexed and to be decoded.
    assert 4 <= len(decoded) <= 5
    train(data, tmp_path / "plain", frozen, diagnose=False)
    assert_same_run(tmp_path / "second", tmp_path / "plain")


def test_what_does_not_fit_is_computed_anew(folder_data, tmp_path, plain, decoded):
    wanted = trained(folder_data, tmp_path / "plain", plain)
    decoded.clear()
    each = 4 * 5 * 64 * 4  # frames, tokens, channels, bytes
    some = keeping(plain, gigabytes=3.5 * each / 2**30)
    assert_same(trained(folder_data, tmp_path / "kept", some), wanted)
    assert len(decoded) == 10 + 7 + 7 + 2


def test_a_folder_stays_below_its_limit(tmp_path, capsys):
    limit, size = 40_000, 1000
    places = [
        InFolder(tmp_path, limit, lambda key: tmp_path / "ab" / f"{key}.safetensors")
        for _ in range(3)
    ]
    item = TrainItem(index=0, clips=(torch.zeros(250),), targets=((0,),), skipped=())
    for number in range(40):
        for i, place in enumerate(places):
            place.put(Key("train", i, number), item, size)
    found = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert 0.9 * limit < found < 1.2 * limit  # files have headers
    assert all(place.is_full for place in places)


def test_a_full_disk_is_noted_once_and_training_goes_on(
    folder_data, tmp_path, frozen, monkeypatch, caplog
):
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def save_on_a_full_disk(*given, **options):
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))  # as if it were full
        try:
            save_file(*given, **options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    monkeypatch.setattr(files, "save_file", save_on_a_full_disk)
    train(folder_data, tmp_path / "full", keeping(frozen, tmp_path / "kept"), diagnose=False)
    assert caplog.text.count("no more features are kept") == 1
    assert not list((tmp_path / "kept").rglob("*.*"))
    done = compute_features(folder_data, tmp_path / "kept", frozen)
    assert (done.num_computed, done.num_missing) == (0, 14)
    train(folder_data, tmp_path / "plain", frozen, diagnose=False)
    assert_same_run(tmp_path / "full", tmp_path / "plain")


def as_command(config: TrainConfig, folder: Path) -> list[str]:
    """The command with these settings, which every process gets."""
    folder.mkdir(exist_ok=True)
    (file := folder / "config.json").write_text(json.dumps(config.to_json()))
    return [sys.executable, "-m", "st_adapter", "features", "--config", str(file)]


def test_two_commands_fill_a_folder_and_training_decodes_nothing(
    folder_data, tmp_path, frozen, capsys
):
    data = shutil.copytree(folder_data, tmp_path / "data")
    train(data, tmp_path / "plain", frozen, diagnose=False)
    command = as_command(frozen, tmp_path / "set")
    both = [
        subprocess.Popen([*command, str(data), "--out", str(tmp_path / "kept"), *part])
        for part in ([], ["--shard", "2/2"])
    ]
    assert [process.wait(120) for process in both] == [0, 0]
    written = list((tmp_path / "kept").rglob("*.safetensors"))
    assert len(written) == 10 + 2 + 2  # draws, and validation videos in one view and in two
    assert main([*command[3:], str(data), "--out", str(tmp_path / "kept")]) == 0
    said = capsys.readouterr().out
    assert "14 draws and views of 12 videos, 14 of which were there" in said
    assert f"--draws 1 --precision float32 --keep-features 1 --features {tmp_path}/kept" in said
    for video in find_videos(data):
        state = video.stat()
        video.write_bytes(bytes(state.st_size))
        os.utime(video, ns=(state.st_atime_ns, state.st_mtime_ns))
    train(data, tmp_path / "run", keeping(frozen, tmp_path / "kept"), diagnose=False)
    assert_same_run(tmp_path / "run", tmp_path / "plain")


def test_broken_videos_are_named_and_the_rest_is_computed(folder_data, tmp_path, frozen, capsys):
    data = shutil.copytree(folder_data, tmp_path / "data")
    broken = next(data.rglob("clip 3.mp4"))
    broken.write_bytes(b"broken")
    config = as_command(replace(frozen, views="1x1"), tmp_path / "set")[3:]
    assert main([*config, str(data), "--out", str(tmp_path / "kept")]) == 1
    said = capsys.readouterr()
    assert f"skipped {broken}" in said.err
    assert "11 draws and views of 12 videos; 1 could not be kept" in said.out
    (tmp_path / "file").touch()
    assert main([*config, str(data), "--out", str(tmp_path / "file")]) == 2
    assert "is a file; --out must be a folder" in capsys.readouterr().err


def test_what_a_killed_run_left_in_a_folder_is_removed(folder_data, tmp_path, plain):
    folder = tmp_path / "kept" / "ab"
    folder.mkdir(parents=True)
    left, being_written, of_the_user = (
        folder / name
        for name in (".1.st-adapter-unfinished", ".2.st-adapter-unfinished", ".a.abcd1234")
    )
    for file, hours in ((left, 2), (being_written, 0), (of_the_user, 2)):
        file.touch()
        os.utime(file, times=(time.time() - 3600 * hours,) * 2)
    compute_features(folder_data, tmp_path / "kept", plain)
    assert [file.exists() for file in (left, being_written, of_the_user)] == [False, True, True]


def test_interrupted_and_resumed_equals_straight_through_bit_for_bit(folder_data, tmp_path, plain):
    config = keeping(replace(plain, epochs=6))
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
        ({"method": "lora"}, "the method lora leaves no block frozen"),
        ({"method": "full"}, "the method full leaves no block frozen"),
        ({"method": "prompt"}, "the method prompt leaves no block frozen"),
        ({"backbone": "test_resnet", "adapter_layers": "1"}, "or a plain ViT"),
    ],
)
def test_what_cannot_be_kept_is_refused(folder_data, tmp_path, plain, changes, message):
    with pytest.raises(ArgumentError, match=message):
        train(folder_data, tmp_path / "run", replace(keeping(plain), **changes), diagnose=False)
    assert not (tmp_path / "run").exists()


def test_a_folder_needs_a_size(plain):
    with pytest.raises(ArgumentError, match="give keep_features=GB, the limit of its size"):
        replace(plain, features="kept")


def test_the_earlier_names_of_the_settings_are_understood(folder_data, tmp_path, plain, capsys):
    values = plain.to_json()
    del values["keep_features"], values["features"]
    read = TrainConfig.from_json(values | {"prefix_cache": 2.0, "prefix_cache_folder": "a"}, "old")
    assert (read.keep_features, read.features) == (2.0, "a")
    (tmp_path / "config.json").write_text(json.dumps(plain.to_json()))
    flags = ["--config", str(tmp_path / "config.json"), "--epochs", "0", "--prefix-cache=1"]
    out = ["--out", str(tmp_path / "run"), "--prefix-cache-folder", str(tmp_path / "kept")]
    assert main(["train", str(folder_data), *flags, *out]) == 0
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (recorded["keep_features"], recorded["features"]) == (1.0, str(tmp_path / "kept"))
    assert main(["train", "--help"]) == 0
    assert "prefix" not in capsys.readouterr().out


def test_a_run_that_could_keep_features_says_so(folder_data, tmp_path, tiny, caplog):
    long = replace(tiny, method="linear", epochs=200, keep="best", patience=1, lr=1e-6)
    train(folder_data, tmp_path / "a", long, diagnose=False)
    assert "with draws=1 and keep_features=0.1 (GB), it runs in the first epoch only" in caplog.text
    caplog.clear()
    train(folder_data, tmp_path / "b", replace(tiny, method="linear"), diagnose=False)
    assert "keep_features" not in caplog.text


@pytest.mark.parametrize("layers", [1, 3])
def test_what_is_frozen_is_told_by_structure(layers):
    config = AdapterConfig(layers=layers)
    model = create_model("test_vit", ["a", "b"], config, weights="random").eval()
    count = num_frozen_blocks(model)
    assert count == len(model.backbone.blocks) - layers
    clips = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8)
    rest = AfterBlocks(model, count, size=32)
    torch.testing.assert_close(rest(rest.frozen(clips)), model(clips))


def test_what_is_kept_in_memory_is_what_is_counted():
    model = create_model("test_vit", ["a", "b"], AdapterConfig(layers=2), weights="random")
    kept = KeptFeatures(AfterBlocks(model, num_frozen_blocks(model), size=32), InMemory(1e9))
    clip = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    item = TrainItem(index=0, clips=(clip,), targets=((0,),), skipped=())
    for key in (Key("train", 0, 0), Key("train", 0, 1)):
        kept.add(key, item)
        (features,) = kept.get(key).clips
        assert features.untyped_storage().nbytes() == features.nbytes


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


def test_two_processes_share_the_work(folder_data, tmp_path, plain):
    wanted = trained(folder_data, tmp_path / "plain", plain)
    compute_features(folder_data, tmp_path / "kept", replace(plain, processes=2))
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "kept").rglob("*.safetensors")}
    assert len(written) == 12
    assert_same(trained(folder_data, tmp_path / "run", keeping(plain, tmp_path / "kept")), wanted)
    now = {file: file.stat().st_mtime_ns for file in (tmp_path / "kept").rglob("*.safetensors")}
    assert now == written


def test_a_folder_that_is_a_file_is_named_by_its_flag(folder_data, tmp_path, plain):
    (file := tmp_path / "file").write_text("x")
    with pytest.raises(ArgumentError, match="features must be a folder"):
        train(folder_data, tmp_path / "run", keeping(plain, file), diagnose=False)
    assert not (tmp_path / "run").exists()


def test_videos_of_one_name_in_folders_of_their_own_are_drawn_differently(tmp_path, plain):
    written = write_video(tmp_path / "once.mp4", blinking(True, 0))
    videos = []
    for number in range(8):
        (tmp_path / f"{number}").mkdir()
        videos.append(Video(path=Path(shutil.copy(written, tmp_path / f"{number}/clip.mp4"))))
    drawn = TrainDataset(videos, plain.clip, train_transform(plain), seed=0, draws=1)
    first, *others = (drawn[0, number].clips[0] for number in range(8))
    assert any(not torch.equal(first, other) for other in others)


def test_the_size_of_a_folder_is_told_while_others_write_to_it(tmp_path):
    (tmp_path / "ab").mkdir()
    (tmp_path / "cd").write_text("a file of the user's")
    going = threading.Event()

    def write() -> None:
        while not going.is_set():
            replaced = tmp_path / "ab" / "one.tmp.safetensors"
            replaced.write_bytes(bytes(100))
            replaced.replace(tmp_path / "ab" / "one.safetensors")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert all(bytes_in(tmp_path) <= 200 for _ in range(2000))
    finally:
        going.set()
        writer.join()


def test_the_command_has_draws_by_itself(folder_data, tmp_path, frozen, capsys):
    (tmp_path / "config.json").write_text(json.dumps(replace(frozen, draws=0).to_json()))
    given = ["features", str(folder_data), "--config", str(tmp_path / "config.json")]
    assert main([*given, "--out", str(tmp_path / "kept"), "--keep-features", "1"]) == 0
    assert "--draws 1" in capsys.readouterr().out
