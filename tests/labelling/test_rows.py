"""The videos to label come from all kinds of inputs, in order."""

import io
import json
import tarfile

import fsspec
import pytest

from st_adapter.errors import ArgumentError, DataError
from st_adapter.labelling.rows import read_rows


def names(*inputs, **options):
    return read_rows(inputs, **options).videos.names()


def test_files_and_folders_stay_in_the_order_given(label_clips):
    last, first = label_clips / "19.mp4", label_clips / "00.mp4"
    assert names(last, first) == [str(last), str(first)]
    assert names(first, label_clips) == [
        str(first),
        *(str(label_clips / f"{i:02}.mp4") for i in range(20)),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "00.mp4\n01.mp4\n",
        "path\n00.mp4\n01.mp4\n",
        "path label\n00.mp4 brightens\n01.mp4 darkens\n",
        "00.mp4 0\n01.mp4 1\n",
        "00.mp4\tvery bright\n01.mp4\tvery dark\n",
        "00.mp4\n\n01.mp4 darkens\n",
    ],
)
def test_a_list_may_have_labels_or_not(label_clips, tmp_path, text):
    (tmp_path / "list.txt").write_text(text)
    found = names(tmp_path / "list.txt", videos=label_clips)
    assert found == [str(label_clips / "00.mp4"), str(label_clips / "01.mp4")]


def test_names_with_blanks_need_no_quotation_marks_in_a_list_without_labels(tmp_path):
    (tmp_path / "list.txt").write_text("my clips/a b.mp4\ns3://bucket/c d.mp4\n/data/e.mp4\n")
    expected = [f"{tmp_path}/my clips/a b.mp4", "s3://bucket/c d.mp4", "/data/e.mp4"]
    assert names(tmp_path / "list.txt") == expected


def test_a_line_that_is_not_a_video_is_named(tmp_path):
    (tmp_path / "list.txt").write_text("a.mp4\nnothing\n")
    with pytest.raises(DataError, match="list.txt line 2: expected"):
        names(tmp_path / "list.txt")


@pytest.mark.parametrize(("name", "separator"), [("t.csv", ","), ("t.tsv", "\t"), ("t.csv", ";")])
def test_a_table_may_have_segments_and_other_columns(tmp_path, name, separator):
    lines = ["id,path,start_seconds,end_seconds", "1,a.mp4,0.5,2", "2,a.mp4,,1:00"]
    (tmp_path / name).write_text("\n".join(lines).replace(",", separator))
    rows = read_rows([tmp_path / name])
    assert rows.has_segments
    assert [(v.start_seconds, v.end_seconds) for v in rows.videos] == [(0.5, 2.0), (None, 60.0)]
    assert rows.shard(1, 2).has_segments
    assert [video.end_seconds for video in rows.shard(2, 2).videos] == [60.0]


def test_a_parquet_table_and_a_csv_without_header_are_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"path": ["a.mp4", "b.mp4"]}), tmp_path / "t.parquet")
    (tmp_path / "bare.csv").write_text("a.mp4,0\nb.mp4,1\n")
    (tmp_path / "one.csv").write_text("a.mp4\nb.mp4\n")
    expected = [str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")]
    for name in ("t.parquet", "bare.csv", "one.csv"):
        assert names(tmp_path / name) == expected
    assert not read_rows([tmp_path / "bare.csv"]).has_segments


def test_a_table_without_paths_is_an_error(tmp_path):
    (tmp_path / "t.csv").write_text("video,label\na.mp4,x\n")
    with pytest.raises(DataError, match="t.csv has no column 'path'; its header must contain path"):
        names(tmp_path / "t.csv")


def test_shards_need_no_labels_and_may_state_segments(label_clips, tmp_path):
    content = (label_clips / "00.mp4").read_bytes()
    times = json.dumps({"start_seconds": 0.1}).encode()
    with tarfile.open(tmp_path / "s-000.tar", "w") as tar:
        for name, data in (("a.mp4", content), ("b.mp4", content), ("b.json", times)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    shard = f"{tmp_path}/s-000.tar"
    expected = [f"{shard}/a.mp4", f"{shard}/b.mp4"]
    for given in (tmp_path / "s-000.tar", tmp_path / "s-{000..000}.tar", tmp_path):
        assert names(given) == expected
    assert [v.start_seconds for v in read_rows([tmp_path]).videos] == [None, 0.1]
    fsspec.filesystem("memory").put(shard, "/shards/s.tar")
    assert names("memory://shards/s.tar") == [
        "memory://shards/s.tar/a.mp4",
        "memory://shards/s.tar/b.mp4",
    ]


def test_urls_and_patterns_of_urls(label_clips):
    memory = fsspec.filesystem("memory")
    for name in ("00.mp4", "01.mp4"):
        memory.put(str(label_clips / name), f"/many/{name}")
    both = ["memory://many/00.mp4", "memory://many/01.mp4"]
    assert names(*both) == both
    assert names("memory://many/*.mp4") == both
    with pytest.raises(DataError, match="lists and tables must be local files"):
        names("memory://many/list.txt")


def test_inputs_without_videos_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="gone: no such file or folder"):
        names(tmp_path / "gone")
    with pytest.raises(ArgumentError, match="no videos found"):
        names(tmp_path)


def test_shards_of_rows_follow_each_other(label_clips):
    rows = read_rows([label_clips])
    for count in (1, 3, 7, 30):
        parts = [rows.shard(number, count).videos.names() for number in range(1, count + 1)]
        assert [name for part in parts for name in part] == rows.videos.names()
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
