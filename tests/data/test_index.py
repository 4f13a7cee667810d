"""The index beside the data: real files, real processes."""

import errno
import gc
import json
import os
import pickle
import shutil
import sqlite3
import zlib
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from conftest import numbered_frame, write_video
from st_adapter.cli.main import main
from st_adapter.data.archives.index_store import STORE_NAME
from st_adapter.data.video import decode, packets
from st_adapter.data.video.index import VideoIndex
from st_adapter.errors import UnreachableError, VideoError


@pytest.fixture
def folder(tmp_path):
    for name, length in (("a.mp4", 30), ("b/b.mp4", 12)):
        write_video(tmp_path / name, [numbered_frame(i) for i in range(length)])
    return tmp_path


def copies(folder, count):
    return [Path(shutil.copy(folder / "a.mp4", folder / f"{i}.mp4")) for i in range(count)]


def remember_other_width(folder):
    with sqlite3.connect(folder / STORE_NAME) as connection:
        for path, value in connection.execute("select path, value from found_1").fetchall():
            other = json.dumps(json.loads(zlib.decompress(value)) | {"width": 7})
            changed = (zlib.compress(other.encode()), path)
            connection.execute("update found_1 set value = ? where path = ?", changed)


def rows(folder):
    with sqlite3.connect(folder / STORE_NAME) as connection:
        found = connection.execute("select path, value from found_1 order by path").fetchall()
    return [(path, json.loads(zlib.decompress(value)).get("error")) for path, value in found]


def test_it_says_what_the_packets_say(folder):
    index, path = VideoIndex(folder), folder / "a.mp4"
    fresh, (first, second) = packets.probe(path), (index(path) for _ in range(2))
    for info in (first, second):
        for name in ("path", "time_base", "stamped", "width", "height", "rotation"):
            assert getattr(info, name) == getattr(fresh, name)
        assert info.digest == fresh.digest
        np.testing.assert_array_equal(info.pts, fresh.pts)
        np.testing.assert_array_equal(info.keys, fresh.keys)
    assert rows(folder) == [("a.mp4", None)]


def test_a_changed_file_is_probed_again(folder):
    index, path = VideoIndex(folder), folder / "a.mp4"
    assert index(path).num_frames == 30
    shutil.copy(folder / "b/b.mp4", path)
    assert index(path).num_frames == 12


def test_a_broken_file_is_remembered_with_its_reason(folder):
    (folder / "c.mp4").write_bytes(b"no video")
    for index in (VideoIndex(folder), VideoIndex(folder)):
        with pytest.raises(VideoError, match=r"c\.mp4: cannot be decoded"):
            index(folder / "c.mp4")
    with pytest.raises(VideoError, match=r"d\.mp4: no such file"):
        index(folder / "d.mp4")
    assert [name for name, _ in rows(folder)] == ["c.mp4"]


def test_a_folder_keeps_its_index_when_it_moves(folder):
    VideoIndex(folder)(folder / "b/b.mp4")
    moved = folder.rename(folder.with_name("moved"))
    remember_other_width(moved)
    assert VideoIndex(moved)(moved / "b/b.mp4").width == 7  # it was not probed again


def _probe_all(index, paths):
    return [index(path).num_frames for path in paths]


def test_several_processes_share_it(folder):
    paths = copies(folder, 20)
    index = pickle.loads(pickle.dumps(VideoIndex(folder)))
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        counts = list(pool.map(_probe_all, [index] * 4, [paths] * 4))
    assert counts == [[30] * 20] * 4
    assert len(rows(folder)) == 20


def test_without_a_place_for_the_file_every_video_is_probed(folder, monkeypatch):
    (folder / STORE_NAME).mkdir()  # neither there
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "a.mp4"))  # nor in the cache
    assert VideoIndex(folder)(folder / "a.mp4").num_frames == 30


def test_a_folder_that_cannot_be_written_has_its_index_in_the_cache(folder, monkeypatch):
    (folder / STORE_NAME).mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    assert VideoIndex(folder)(folder / "a.mp4").num_frames == 30
    assert len(list((folder / "cache").rglob("*.sqlite3"))) == 1


def test_a_file_that_is_no_index_is_left_alone(folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    (folder / STORE_NAME).write_bytes(os.urandom(5000))
    assert VideoIndex(folder)(folder / "a.mp4").num_frames == 30


def test_what_may_pass_is_not_remembered(folder, monkeypatch):
    path = folder / "a.mp4"
    with monkeypatch.context() as patch:
        patch.setattr(decode.av, "open", _fail)
        with pytest.raises(UnreachableError, match="Input/output error"):
            VideoIndex(folder)(path)
    assert VideoIndex(folder)(path).num_frames == 30


def _fail(*_, **__):
    raise OSError(errno.EIO, "Input/output error")


def _widths(index, paths):
    return [index(path).width for path in paths]


def test_parent_and_forked_child_both_read_and_write(folder):
    index, paths = VideoIndex(folder), copies(folder, 6)
    index(paths[0])
    remember_other_width(folder)  # which only a reader of the index can see
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        assert pool.submit(_widths, index, paths[:2]).result() == [7, 96]  # read, then written
        assert _widths(VideoIndex(folder), paths[:3]) == [7, 96, 96]  # beside the child
        remember_other_width(folder)
        assert pool.submit(_widths, index, paths[:4]).result() == [7, 7, 7, 96]
    remember_other_width(folder)
    assert _widths(index, paths[:5]) == [7, 7, 7, 7, 96]
    assert len(rows(folder)) == 5


def test_what_a_child_writes_stays_when_its_parent_drops_the_index(folder):
    index, paths = VideoIndex(folder), copies(folder, 3)
    index(paths[0])
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        pool.submit(_widths, index, paths[:2]).result()
        del index
        gc.collect()
        pool.submit(_widths, VideoIndex(folder), paths).result()
        assert len(rows(folder)) == 3


def test_threads_share_it(folder):
    index, paths = VideoIndex(folder), copies(folder, 8)
    with ThreadPoolExecutor(4) as pool:
        assert [info.num_frames for info in pool.map(index, paths)] == [30] * 8
    assert len(rows(folder)) == 8


def test_an_index_is_found_through_a_link(folder, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(folder)
    VideoIndex(link)(link / "a.mp4")
    assert rows(folder) == [("a.mp4", None)]


def test_a_name_that_no_file_can_have_is_a_reason(folder):
    with pytest.raises(VideoError, match="no such file"):
        VideoIndex(folder)(folder / "a\0b.mp4")


def test_nothing_but_the_index_stays_beside_the_data(tmp_path, folder_data):
    data = shutil.copytree(folder_data, tmp_path / "data")
    before = {path.name for path in data.iterdir()} - {STORE_NAME}
    assert main(["check", str(data), "--workers", "2"]) == 0
    assert {path.name for path in data.iterdir()} - before == {STORE_NAME}
