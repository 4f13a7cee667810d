import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest

from st_adapter.config import DataConfig
from st_adapter.data.annotations import read_annotations
from st_adapter.data.archives import tar as shard_tools
from st_adapter.data.formats import shards as format_shards
from st_adapter.data.video import decode, packets
from st_adapter.data.video.index import VideoIndex
from st_adapter.errors import DataError, UnreachableError, VideoError
from st_adapter.training.loop import train


def write_shard(file, files):
    """Write a .tar of names to bytes or text."""
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def samples(folder_data, numbers, label):
    """Videos of both classes as WebDataset's files; `label` writes what names the class."""
    files = {}
    for i in numbers:
        for name in ("brightens", "darkens"):
            key = f"{name}{i:04d}"
            files[f"{key}.mp4"] = (folder_data / name / f"clip {i}.mp4").read_bytes()
            suffix, text = label(name)
            files[f"{key}.{suffix}"] = text
    return files


LABELS = {
    "cls": lambda name: ("cls", str(int(name == "darkens"))),
    "txt": lambda name: ("txt", f"{name}\n"),
    "json": lambda name: ("json", json.dumps({"label": name, "fps": 10})),
}


@pytest.fixture(params=LABELS)
def shards(request, folder_data, tmp_path):
    """Two shards to train on and one to validate on."""
    for name, numbers in (("train-000", (0, 1)), ("train-001", (2, 3)), ("val-000", (4, 5))):
        with (tmp_path / f"{name}.tar").open("wb") as file:
            write_shard(file, samples(folder_data, numbers, LABELS[request.param]))
    if request.param == "cls":
        (tmp_path / "classes.txt").write_text("brightens\ndarkens\n")
    return tmp_path


def test_shards_hold_both_parts(shards):
    for _ in range(2):  # read, then remembered
        data = read_annotations(shards)
        assert data.labels == ("brightens", "darkens")
        assert (len(data.train), len(data.val)) == (8, 4)
        assert not data.train.missing()
        assert data.train[1].path == shards / "train-000.tar" / "darkens0000.mp4"
        assert data.train[1].targets == (1,)
    some = read_annotations(shards / "train-{000..001}.tar")
    assert [v.path for v in some.train] == [v.path for v in data.train]
    assert len(read_annotations(shards / "*-000.tar").val) == 4
    assert len(read_annotations(shards / "val-000.tar").val) == 4


@pytest.mark.parametrize("shards", ["cls"], indirect=True)
def test_a_run_from_shards_equals_one_from_files(folder_data, shards, tmp_path, tiny):
    lines = ["path,label,split"]
    for i in range(6):
        for name in ("brightens", "darkens"):
            path = folder_data / name / f"clip {i}.mp4"
            lines.append(f"{path},{name},{'train' if i < 4 else 'val'}")
    (tmp_path / "files.csv").write_text("\n".join(lines))
    config = replace(tiny, epochs=1, workers=2)
    from_files = train(tmp_path / "files.csv", tmp_path / "a", config)
    from_shards = train(shards, tmp_path / "b", config)
    assert from_shards.loss == from_files.loss
    assert from_shards.predictions[0]["path"] == str(shards / "val-000.tar" / "brightens0004.mp4")
    resumed = train(shards, tmp_path / "b", resume=True)
    assert resumed.predictions == from_shards.predictions


def test_videos_of_a_shard_are_indexed_where_they_lie(shards, folder_data):
    path = shards / "train-000.tar" / "brightens0001.mp4"
    index = VideoIndex(shards)
    infos = [packets.probe(path), index(path), index(path)]
    assert {info.place for info in infos} == {infos[0].place}
    file = folder_data / "brightens" / "clip 1.mp4"
    assert infos[0].digest == packets.probe(file).digest
    expected = decode.read_frames(file, [5, 2])
    for info in (None, infos[2]):
        assert np.array_equal(decode.read_frames(path, [5, 2], info=info), expected)
    with pytest.raises(VideoError, match="gone.mp4: no such file in the shard"):
        packets.probe(shards / "train-000.tar" / "gone.mp4")


def test_shards_lie_in_object_storage(folder_data, tmp_path, monkeypatch, tiny):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for part, numbers in (("train", (0, 1, 2)), ("val", (3, 4))):
        with fsspec.open(f"memory://bucket/{part}-00.tar", "wb") as file:
            write_shard(file, samples(folder_data, numbers, LABELS["txt"]))
    address = "memory://bucket/{}-00.tar"
    data = read_annotations(address.format("train"))
    assert data.train[0].path.name == "brightens0000.mp4"
    config = replace(tiny, epochs=1, val=address.format("val"))
    result = train(address.format("train"), tmp_path / "run", config)
    assert result.predictions[0]["path"] == "memory://bucket/val-00.tar/brightens0003.mp4"
    again = train(address.format("train"), tmp_path / "run", resume=True)
    assert again.num_videos == 4
    assert not list(tmp_path.rglob("memory:*"))


def test_heads_and_many_labels_come_from_json(folder_data, tmp_path):
    clip = (folder_data / "darkens" / "clip 0.mp4").read_bytes()
    two = json.dumps({"verb": "open", "noun": 3, "start_seconds": 0.2})
    with (tmp_path / "a.tar").open("wb") as file:
        write_shard(file, {"x/1.mp4": clip, "x/1.json": two, "x/2.mp4": clip, "x/2.json": two})
    data = read_annotations(tmp_path / "a.tar", options=DataConfig(columns="label=verb+noun"))
    assert data.labels == ("verb/open", "noun/3")
    assert data.train[0].start_seconds == 0.2
    with (tmp_path / "b.tar").open("wb") as file:
        write_shard(file, {"1.mp4": clip, "1.json": '{"labels": ["run", "jump"]}'})
    data = read_annotations(tmp_path / "b.tar")
    assert data.task.multi_label
    assert data.train[0].targets == (1, 0)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"1.mp4": "x"}, r"a.tar/1.mp4 has no label; add a .cls"),
        ({"1.mp4": "x", "1.json": "{"}, r"a.tar/1.mp4: its .json file cannot be read"),
        ({"1.mp4": "x", "1.json": '{"labels": 3}'}, r"a.tar/1.mp4 has no label"),
        ({"1.mp4": "x", "1.cls": "7"}, r"label '7' is neither a name nor an index of the 2"),
        ({"readme": "x"}, "lists no videos"),
    ],
)
def test_shards_that_make_no_sense_are_refused(tmp_path, files, said):
    with (tmp_path / "a.tar").open("wb") as file:
        write_shard(file, files)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match=said):
        read_annotations(tmp_path / "a.tar")


def test_what_is_no_shard_is_refused(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"no tar at all")
    with pytest.raises(DataError, match=r"a.tar cannot be read as an uncompressed .tar"):
        read_annotations(tmp_path / "a.tar")
    with pytest.raises(DataError, match=r"gone.tar cannot be read: .*No such file"):
        read_annotations(tmp_path / "gone.tar")
    with pytest.raises(DataError, match="Protocol not known: nonsense"):
        read_annotations("nonsense://a/b.tar")


def test_class_folders_win_over_an_archive_beside_them(folder_data, tmp_path):
    data = tmp_path / "data.tar"  # a folder of that name
    shutil.copytree(folder_data, data / "deeper" / "still")
    (data / "downloaded.tar").write_bytes(b"")
    assert not format_shards.matches(data)
    found = read_annotations(data / "deeper" / "still").train
    assert packets.probe(found[0].path).num_frames == 8


def test_names_as_tar_writes_them(folder_data, tmp_path):
    clip = (folder_data / "darkens" / "clip 0.mp4").read_bytes()
    with (tmp_path / "a.tar").open("wb") as file:
        write_shard(file, {"./1.mp4": clip, "./1.cls": "a", "/x//2.mp4": clip, "/x/2.cls": "b"})
    data = read_annotations(tmp_path / "a.tar")
    assert [v.path.relative_to(tmp_path).as_posix() for v in data.train] == [
        "a.tar/1.mp4",
        "a.tar/x/2.mp4",
    ]
    assert all(packets.probe(video.path).num_frames == 8 for video in data.train)


def test_two_videos_of_one_key_are_refused(tmp_path):
    with (tmp_path / "a.tar").open("wb") as file:
        write_shard(file, {"v1.2_a.mp4": "x", "v1.3_b.mp4": "x", "v1.cls": "a"})
    with pytest.raises(DataError, match=r"v1.2_a.mp4 and v1.3_b.mp4 have the same key"):
        read_annotations(tmp_path / "a.tar")


def test_a_directory_is_read_once(folder_data, tmp_path, monkeypatch):
    clip = (folder_data / "darkens" / "clip 0.mp4").read_bytes()
    for i in range(12):
        with (tmp_path / f"{i}.tar").open("wb") as file:
            write_shard(file, {"1.mp4": clip, "1.cls": "a"})
    data = read_annotations(tmp_path)
    monkeypatch.setattr(tarfile, "open", None)  # no directory is needed any more
    index = VideoIndex(tmp_path)
    for _ in range(2):
        assert [index(video.path).num_frames for video in data.train] == [8] * 12


def test_a_changed_shard_of_the_same_length_is_read_again(folder_data, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for label in ("a", "zebra"):
        with fsspec.open("memory://changing/a.tar", "wb") as file:
            write_shard(file, {"1.mp4": "x", "1.cls": label})
        shard_tools._remote_version.cache_clear()  # as another process
        assert read_annotations("memory://changing/a.tar").labels == (label,)


def test_errors_of_a_store_are_reasons(monkeypatch, tmp_path):
    class ClientError(Exception):
        pass

    def fail(*_, **__):
        raise ClientError("503 Slow Down")

    monkeypatch.setattr(fsspec, "url_to_fs", fail)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataError, match="ClientError: 503 Slow Down"):
        read_annotations("memory://failing/a.tar")
    with pytest.raises(UnreachableError, match="503"):
        VideoIndex(tmp_path)(Path("memory:/failing/a.tar/1.mp4"))


def test_labels_that_are_null_are_none(tmp_path):
    with (tmp_path / "a.tar").open("wb") as file:
        write_shard(file, {"1.mp4": "x", "1.json": '{"label": null}'})
    with pytest.raises(DataError, match="has no label"):
        read_annotations(tmp_path / "a.tar")


def test_addresses_of_this_machine_and_folders_of_videos_are_not_for_shards(tmp_path):
    with pytest.raises(DataError, match="give the path of a local file, without file:"):
        read_annotations(f"file://{tmp_path}/a.tar")
    with (tmp_path / "a.tar").open("wb") as file:
        write_shard(file, {"1.mp4": "x", "1.cls": "a"})
    with pytest.raises(DataError, match="remove videos"):
        read_annotations(tmp_path / "a.tar", options=DataConfig(videos=str(tmp_path)))
