"""A table of labels: what stands in it, in all formats, from one run or several."""

import csv
import json
import os
import sys

import pytest

import st_adapter
from conftest import TINY
from st_adapter.cli.main import main
from st_adapter.errors import ArgumentError
from st_adapter.labelling.label import label_videos
from st_adapter.labelling.parts import Parts
from st_adapter.labelling.runs import find_runs, load_predictors
from st_adapter.model.checkpoint import read_tensors

CPU = {"device": TINY.device, "workers": 0}


def read(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def label(given, inputs, out, **options):
    return label_videos(given, inputs, out, **(CPU | options))


def test_each_video_has_one_row_that_says_what_predict_says(label_runs, label_clips, tmp_path):
    out = tmp_path / "labels.jsonl"
    done = label(label_runs["light"], label_clips, out)
    assert (done.num_videos, done.num_failed, done.file) == (20, 1, out)
    rows = read(out)
    assert [row["path"] for row in rows] == [str(label_clips / f"{i:02}.mp4") for i in range(20)]
    predictor = st_adapter.Predictor(label_runs["light"], device=CPU["device"])
    for row, result in zip(rows, predictor.predict(sorted(label_clips.iterdir())), strict=True):
        assert [*row] == ["path", "predicted", "labels", "scores", "error"]
        if isinstance(result, st_adapter.Skipped):
            assert row == dict.fromkeys(row) | {"path": result.path, "error": result.reason}
        else:
            assert row["error"] is None
            assert row["predicted"] == result.predicted
            pairs = [(label, round(score, 6)) for label, score in result.scores]
            assert [*zip(row["labels"], row["scores"], strict=True)] == pairs
    assert not out.with_name("labels.jsonl.parts").exists()


def test_top_limits_the_labels(label_runs, label_clips, tmp_path):
    label(label_runs["light"], label_clips / "00.mp4", tmp_path / "one.jsonl", top=1)
    assert len(read(tmp_path / "one.jsonl")[0]["labels"]) == 1


def test_heads_have_columns_of_their_own_and_labels_are_of_the_joint_action(
    label_runs, label_clips, tmp_path
):
    out = tmp_path / "labels.jsonl"
    label(label_runs["doing"], label_clips / "00.mp4", out)
    (row,) = read(out)
    heads = ["verb.labels", "verb.scores", "noun.labels", "noun.scores"]
    assert [*row] == ["path", "predicted", "labels", "scores", *heads, "error"]
    assert row["predicted"] == [f"verb/{row['verb.labels'][0]}", f"noun/{row['noun.labels'][0]}"]
    assert row["labels"][0] == f"{row['verb.labels'][0]} {row['noun.labels'][0]}"
    assert row["scores"][0] == pytest.approx(
        row["verb.scores"][0] * row["noun.scores"][0], abs=2e-6
    )


def test_several_runs_at_once_say_what_each_says_alone(label_runs, label_clips, tmp_path):
    """Also one whose clips differ, and one with any number of labels."""
    chosen = ["light", "doing", "longer", "tags"]
    together = tmp_path / "all.jsonl"
    label([label_runs[name] for name in chosen], label_clips, together)
    rows = read(together)
    for name in chosen:
        alone = tmp_path / f"{name}.jsonl"
        label(label_runs[name], label_clips, alone)
        for row, other in zip(rows, read(alone), strict=True):
            for column in set(other) - {"path", "error"}:
                assert row[f"{name}.{column}"] == other[column]
            assert (row["path"], row["error"]) == (other["path"], other["error"])
    assert isinstance(rows[0]["tags.predicted"], list)


def test_several_runs_have_the_image_model_in_memory_once(label_runs):
    found = find_runs([label_runs["light"], label_runs["speed"]])
    one, other = load_predictors(found, {"device": "cpu", "precision": "bfloat16"})
    assert one.model.backbone is other.model.backbone
    assert one.model.precision == other.model.precision == "bfloat16"
    assert {*read_tensors(label_runs["light"])} == {*one.model.trained_tensors()}


def test_runs_with_equal_names_are_told_apart_by_their_parents(label_runs, label_clips, tmp_path):
    for parent, name in (("a", "light"), ("b", "speed")):
        (tmp_path / parent).mkdir()
        (tmp_path / parent / "run").symlink_to(label_runs[name])
    label([tmp_path / "a/run", tmp_path / "b/run"], label_clips / "00.mp4", tmp_path / "l.jsonl")
    (row,) = read(tmp_path / "l.jsonl")
    assert {"a/run.labels", "b/run.labels"} <= {*row}


def test_runs_that_cannot_share_an_image_model_are_refused(label_runs, label_clips, tmp_path):

    with pytest.raises(ArgumentError, match="full was trained with method full, which changes"):
        label([label_runs["light"], label_runs["full"]], label_clips, tmp_path / "l.jsonl")
    other = tmp_path / "other"
    model = st_adapter.create_model("test_convnext", ["a", "b"], weights="random")
    model.save_adapter(other, st_adapter.ClipConfig(frames=4, size=32))
    with pytest.raises(ArgumentError, match="light was trained on test_vit and other on test_conv"):
        label([label_runs["light"], other], label_clips, tmp_path / "l.jsonl")
    with pytest.raises(ArgumentError, match="a run is given twice"):
        label([label_runs["light"], label_runs["light"]], label_clips, tmp_path / "l.jsonl")
    assert not list(tmp_path.glob("l.*"))


def test_all_formats_have_the_same_rows(label_runs, label_clips, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = tmp_path / "segments.csv"
    table.write_text(
        f"path,start_seconds,end_seconds\n{label_clips}/00.mp4,0,0.4\n{label_clips}/07.mp4,,0.5\n"
    )
    for suffix in ("jsonl", "csv", "parquet"):
        label([label_runs["light"], label_runs["doing"]], table, tmp_path / f"l.{suffix}")
    rows = read(tmp_path / "l.jsonl")
    assert [*rows[0]][:3] == ["path", "start_seconds", "end_seconds"]
    assert (rows[0]["end_seconds"], rows[1]["start_seconds"]) == (0.4, None)
    assert parquet.read_table(tmp_path / "l.parquet").to_pylist() == rows
    with (tmp_path / "l.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))

    def as_cell(value):
        if isinstance(value, list):
            return json.dumps(value)
        return "" if value is None else str(value)

    assert cells == [{n: as_cell(value) for n, value in row.items()} for row in rows]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_finished_table_is_left_alone_and_another_file_is_kept(
    label_runs, label_clips, tmp_path, suffix
):
    out = tmp_path / f"l.{suffix}"
    first = label(label_runs["light"], label_clips, out)
    before = out.stat()
    again = label(label_runs["light"], label_clips, out)
    assert again.was_complete
    assert not first.was_complete
    assert (again.num_videos, again.num_failed) == (20, 1)
    for given in (
        (label_runs["light"], label_clips / "00.mp4"),
        (label_runs["doing"], label_clips),
    ):
        with pytest.raises(ArgumentError, match="not the table of these videos and runs; remove"):
            label(*given, out)
    assert (out.stat().st_mtime_ns, out.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    out.write_bytes(b"\xffsomething else")
    with pytest.raises(ArgumentError, match="not the table of these videos and runs"):
        label(label_runs["light"], label_clips, out)
    assert out.read_bytes() == b"\xffsomething else"
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_parts_of_another_command_are_kept(label_runs, label_clips, tmp_path):
    out, folder = tmp_path / "l.jsonl", tmp_path / "l.jsonl.parts"
    label(label_runs["light"], label_clips, out)
    lines = out.read_text().splitlines(keepends=True)
    out.unlink()
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ArgumentError, match="was not written by `predict`; remove it"):
        label(label_runs["light"], label_clips, out)
    (folder / "notes.txt").unlink()
    parts = Parts(out, 20)
    parts.begin({"version": 1, "videos": "x", "runs": "y", "settings": "z"})
    parts.write(range(8), lines[:8])
    with pytest.raises(ArgumentError, match="of another command \\(other videos and other runs"):
        label(label_runs["light"], label_clips, out)
    assert len([*folder.iterdir()]) == 2


def test_the_parts_of_a_table_that_is_divided_have_every_video_once(
    label_runs, label_clips, tmp_path
):
    label(label_runs["light"], label_clips, tmp_path / "whole.jsonl")
    text = ""
    for number in (1, 2, 3):
        done = label(label_runs["light"], label_clips, tmp_path / "l.jsonl", shard=(number, 3))
        assert done.file == tmp_path / f"l-{number:05}-of-00003.jsonl"
        text += done.file.read_text()
    rows, whole = [json.loads(line) for line in text.splitlines()], read(tmp_path / "whole.jsonl")
    assert [row["path"] for row in rows] == [row["path"] for row in whole]
    assert [row["predicted"] for row in rows] == [row["predicted"] for row in whole]
    done = label(label_runs["light"], label_clips / "00.mp4", tmp_path / "l.csv", shard=(1, 2))
    assert done.num_videos == 0
    assert done.file.read_text() == "path,predicted,labels,scores,error\n"


def test_names_of_files_need_not_be_valid_text(label_runs, label_clips, tmp_path):
    source = os.fsencode(label_clips / "00.mp4")
    odd = os.fsencode(tmp_path) + b"/odd \xff.mp4"
    os.symlink(source, odd)
    for suffix in ("jsonl", "csv", "parquet"):
        pytest.importorskip("pyarrow")
        assert (
            label(label_runs["light"], os.fsdecode(odd), tmp_path / f"l.{suffix}").num_failed == 0
        )
        assert label(label_runs["light"], os.fsdecode(odd), tmp_path / f"l.{suffix}").was_complete
    assert os.fsencode(read(tmp_path / "l.jsonl")[0]["path"]) == odd
    assert "odd \\xff.mp4" in (tmp_path / "l.csv").read_text()


def test_videos_behind_urls(label_runs, label_clips, tmp_path):
    inputs = [f"file://{label_clips / name}" for name in ("00.mp4", "01.mp4")]
    label(label_runs["light"], inputs, tmp_path / "l.jsonl")
    label(
        label_runs["light"],
        [label_clips / "00.mp4", label_clips / "01.mp4"],
        tmp_path / "local.jsonl",
    )
    rows, local = read(tmp_path / "l.jsonl"), read(tmp_path / "local.jsonl")
    assert [row["path"] for row in rows] == inputs
    assert [row["scores"] for row in rows] == [row["scores"] for row in local]


def test_arguments_that_cannot_be(label_runs, label_clips, tmp_path):
    for options, message in (
        ({"top": 0}, "top must be at least 1, not 0"),
        ({"processes": 0}, "processes must be at least 1, not 0"),
        ({"shard": (5, 4)}, "not 5/4"),
        ({"processes": 2, "ray": "auto"}, "use ray or processes, not both"),
    ):
        with pytest.raises(ArgumentError, match=message):
            label(label_runs["light"], label_clips, tmp_path / "l.jsonl", **options)
    with pytest.raises(ArgumentError, match="no run was given"):
        label([], label_clips, tmp_path / "l.jsonl")


def test_a_call_that_fails_at_the_start_leaves_nothing(label_runs, label_clips, tmp_path):
    with pytest.raises(ArgumentError, match="gone.pth"):
        label(label_runs["light"], label_clips, tmp_path / "l.jsonl", weights="gone.pth")
    assert list(tmp_path.iterdir()) == []


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_on_the_command_line_runs_come_first(capsys, label_runs, label_clips, tmp_path):
    out = tmp_path / "l.csv"
    flags = ["--out", out, "--device", CPU["device"], "--workers", 0]
    given = [
        label_runs["light"],
        label_runs["speed"],
        label_clips / "00.mp4",
        label_clips / "01.mp4",
    ]
    code, said, _ = run(capsys, "predict", *given, *flags)
    assert (code, said) == (0, f"{out}: 2 videos\n")
    assert out.read_text().startswith("path,light.predicted,light.labels,light.scores,speed.")
    code, said, error = run(capsys, "predict", *given, *flags)
    assert (code, said) == (0, "")
    assert "is complete: it has 2 rows, one for each video" in error
    code, said, error = run(capsys, "predict", label_runs["light"], label_clips, *flags)
    assert code == 2
    assert "choose another --out" in error
    given = [label_runs["light"], label_clips, "--out", tmp_path / "m.jsonl"]
    code, said, error = run(capsys, "predict", *given)
    assert (code, said) == (1, f"{tmp_path}/m.jsonl: 20 videos, of which 1 failed\n")
    assert f"skipped {label_clips}/07.mp4: " in error
    code, said, error = run(capsys, "predict", *given)
    assert (code, said) == (1, "")  # the same answer as before
    assert "is complete" in error


def test_a_run_that_is_not_finished_or_misspelt_is_not_left_out(
    capsys, label_runs, label_clips, tmp_path
):
    (tmp_path / "run").mkdir()
    for second, message in (
        (tmp_path / "run", "no videos found; if it is a run, it is not finished"),
        (tmp_path / "rnu", "no such file or folder"),
    ):
        given = [label_runs["light"], second, label_clips, "--out", tmp_path / "l.csv"]
        code, _, error = run(capsys, "predict", *given)
        assert (code, error) == (2, f"st-adapter: error: {second}: {message}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "l.xlsx"], "--out must end in .jsonl, .csv or .parquet, not 'l.xlsx'"),
        (["--out", "l.csv", "--shard", "0/4"], "'0/4' is not a part such as 1/4"),
        (["--out", "l.csv", "--json"], "--json prints labels, and --out writes them to a file"),
        (["--processes", "2"], "--processes is for tables; give the table to write with --out"),
    ],
)
def test_flags_that_do_not_go_together(capsys, label_runs, label_clips, flags, message):
    code, _, error = run(capsys, "predict", label_runs["light"], label_clips, *flags)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_only_runs_and_no_videos(capsys, label_runs, tmp_path):
    given = [label_runs["light"], label_runs["speed"], "--out", tmp_path / "l.csv"]
    code, _, error = run(capsys, "predict", *given)
    assert code == 2
    assert "no videos were given, only runs" in error


def test_parquet_without_pyarrow_names_the_extra(label_runs, label_clips, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ArgumentError, match=r"pip install 'st-adapter\[parquet\]'"):
        label(label_runs["light"], label_clips, tmp_path / "l.parquet")
