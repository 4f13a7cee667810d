"""`st-adapter timeline` on small real videos."""

import csv
import json

import pytest

from conftest import blinking, write_video
from st_adapter import Predictor
from st_adapter.cli.main import main
from st_adapter.common.clock import clock, parse_clock


@pytest.fixture(scope="module")
def match(tmp_path_factory):
    """Four seconds of 10 frames each: brighter, darker, brighter, darker."""
    frames = [frame for i in range(4) for frame in blinking(i % 2 == 0, i, num_frames=10)]
    return write_video(tmp_path_factory.mktemp("match") / "a match.mp4", frames)


@pytest.fixture
def broken(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    return tmp_path / "broken.mp4"


def test_spans_are_printed_as_a_table(trained_run, match, capsys):
    flags = ["--device", "cpu", "--window", "1", "--step", "0.5"]
    assert main(["timeline", str(trained_run), str(match), *flags]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["start", "end", "label", "score"]
    spans = Predictor(trained_run, device="cpu").timeline(match, window=1, step=0.5).spans
    assert [line.split() for line in lines] == [
        [clock(s.start_seconds), clock(s.end_seconds), s.label, f"{s.score:.1%}"] for s in spans
    ]


def test_json_is_one_line_per_video_and_a_broken_one_does_not_stop_the_others(
    trained_run, match, broken, capsys
):
    flags = ["--device", "cpu", "--one-pass", "--window", "0.8", "--from", "0:01", "--to", "3"]
    assert main(["timeline", str(trained_run), str(broken), str(match), "--json", *flags]) == 1
    said = capsys.readouterr()
    failure, record = map(json.loads, said.out.splitlines())
    assert failure["path"] == str(broken)
    assert said.err.startswith(f"skipped {broken}: ")
    assert record["one_pass"] is True
    assert record["windows"][0]["start_seconds"] == 1.0
    assert record["windows"][-1]["end_seconds"] <= 3.0
    assert {span["label"] for span in record["spans"]} <= {"brightens", "darkens"}


@pytest.mark.parametrize("ending", ["json", "csv", "label-studio.json", "fiftyone.json"])
def test_several_videos_go_into_one_file(trained_run, match, broken, ending, tmp_path, capsys):
    out = tmp_path / "new folder" / f"out.{ending}"
    videos = [str(match), str(broken)]
    assert main(["timeline", str(trained_run), *videos, "--out", str(out), "--device", "cpu"]) == 1
    text = out.read_text()
    assert str(match) in text
    assert f"wrote {out}: " in " ".join(capsys.readouterr().err.split())
    if ending == "csv":
        assert next(csv.DictReader(text.splitlines()))["label"] in ("brightens", "darkens")
    else:
        assert isinstance(json.loads(text), list) == (ending != "fiftyone.json")


def test_nothing_is_written_if_no_video_can_be_read(trained_run, broken, tmp_path):
    (tmp_path / "out.csv").write_text("before")
    out = str(tmp_path / "out.csv")
    assert main(["timeline", str(trained_run), str(broken), "--out", out, "--device", "cpu"]) == 1
    assert (tmp_path / "out.csv").read_text() == "before"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "a.xlsx"], "use one of .json, .csv, .vtt"),
        (["--out", "a.vtt", "b.mp4"], "a .vtt file is about one video, and 2 were given"),
        (["--from", "1:75"], "'1:75' is not a time; use seconds such as 90.5, or m:ss"),
        (["--from", "3", "--to", "0:02"], "--to 0:02.0 is not after --from 0:03.0"),
    ],
)
def test_what_makes_no_sense_is_told_before_the_model_is_loaded(match, flags, message, capsys):
    assert main(["timeline", "no run", str(match), *flags]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--background", "x"], "the background label 'x' is not one of the classes: brightens"),
        (["--window", "0"], "--window must be a time of at least 0.001 seconds, not 0"),
        (["--smooth", "-1"], "--smooth must be a time in seconds, 0 or more, not -1"),
        (["--min-seconds", "nan"], "--min-seconds must be a time in seconds, 0 or more, not nan"),
        (["--threshold", "2"], "threshold must be above 0 and below 1, not 2"),
    ],
)
def test_invalid_options_are_told_in_one_line(trained_run, match, flags, message, capsys):
    assert main(["timeline", str(trained_run), str(match), "--device", "cpu", *flags]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_video_that_ends_before_the_part_starts_is_skipped(trained_run, match, capsys):
    flags = ["--device", "cpu", "--from", "1:00"]
    assert main(["timeline", str(trained_run), str(match), *flags]) == 1
    assert "nothing to look at from 60 s on; the video is 4.00 s long" in capsys.readouterr().err


def test_times_are_written_as_they_are_read():
    assert [clock(s) for s in (0, 12.44, 59.96, 3723.5)] == [
        *("0:00.0", "0:12.4", "1:00.0", "1:02:03.5"),
    ]
    for text, seconds in (("90", 90), ("1:30.5", 90.5), ("1:02:03", 3723), (".5", 0.5)):
        assert parse_clock(text) == seconds
    for text in ("", "-1", "1:60", "1:2:3:4", "a", "nan", "1e3", "1:"):
        with pytest.raises(ValueError, match="is not a time"):
            parse_clock(text)


def test_a_page_has_a_picture_of_every_span_and_the_command(trained_run, match, tmp_path):
    out, flags = tmp_path / "a.html", ["--window", "1", "--device", "cpu"]
    assert main(["timeline", str(trained_run), str(match), *flags, "--out", str(out)]) == 0
    text = out.read_text()
    assert "Timeline of a match.mp4" in text
    spans = Predictor(trained_run, device="cpu").timeline(match, window=1).spans
    assert text.count("data:image/jpeg") == len(spans) >= 1
    assert "st-adapter timeline" in text
