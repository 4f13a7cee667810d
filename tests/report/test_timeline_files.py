"""Files of timelines, read again by readers that are not ours, or by the grammar of the format."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from st_adapter import Span, Timeline
from st_adapter.errors import ArgumentError
from st_adapter.report.timeline_files import FORMATS, write_timelines

LABELS = ('a "b", c', "über\nzwei\n\nZeilen", "R&D <i>x</i> --> $y$", "跳远")

CUE = re.compile(
    r"(?P<start>\d{2,}:[0-5]\d:[0-5]\d\.\d{3}) --> (?P<end>\d{2,}:[0-5]\d:[0-5]\d\.\d{3})\n"
    r"(?P<text>(?:[^\n&<>]|&amp;|&lt;|&gt;)+)\n"
)
"""A cue of WebVTT without settings and tags: timings, then one line of escaped text."""

SRT_CUE = re.compile(
    r"(\d+)\n(\d\d:[0-5]\d:[0-5]\d,\d{3}) --> (\d\d:[0-5]\d:[0-5]\d,\d{3})\n([^\n]+)\n"
)


def span(start, end, label, score=0.5, rate=25):
    return Span(
        start_seconds=start,
        end_seconds=end,
        start_frame=round(start * rate),
        end_frame=round(end * rate),
        label=label,
        score=score,
    )


def timeline(path="match.mp4", spans=None):
    found = [
        span(0.0, 12.4, LABELS[0], 0.931),
        span(2.0, 3725.5, LABELS[1]),
        span(12.4, 12.4, LABELS[2]),
        span(20.0, 20.04, LABELS[3]),
    ]
    return Timeline(
        path=Path(path),
        labels=LABELS,
        duration_seconds=4000.0,
        frames_per_second=25.0,
        window_seconds=2.0,
        step_seconds=1.0,
        one_pass=False,
        window_starts=np.array([0.0, 1.0]),
        window_ends=np.array([2.0, 3.0]),
        scores=np.full((2, 4), 0.25),
        spans=found if spans is None else spans,
    )


def written(path, *timelines, **options):
    write_timelines(path, timelines, **options)
    return path.read_bytes().decode()


def test_csv_keeps_every_label(tmp_path):
    write_timelines(tmp_path / "a.csv", [timeline("a, b.mp4"), timeline("c.mp4")])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    assert [row["label"] for row in rows] == [*LABELS, *LABELS]
    assert rows[0] == {
        "path": str(Path.cwd() / "a, b.mp4"),
        "start_seconds": "0.0",
        "end_seconds": "12.4",
        "start_frame": "0",
        "end_frame": "310",
        "label": LABELS[0],
        "score": "0.931",
    }


def test_json_is_the_record_of_one_video_or_a_list_of_several(tmp_path):
    one = timeline()
    assert json.loads(written(tmp_path / "a.json", one)) == one.to_json()
    assert json.loads(written(tmp_path / "a.json", one, one)) == [one.to_json()] * 2
    assert json.loads(written(tmp_path / "a.json", one, as_list=True)) == [one.to_json()]


def test_webvtt_follows_the_grammar_and_cues_may_overlap(tmp_path):
    header, *cues = re.split(r"\n\n", written(tmp_path / "a.VTT", timeline()).rstrip("\n"))
    assert header == "WEBVTT"
    found = [CUE.fullmatch(cue + "\n") for cue in cues]
    assert [match["text"] for match in found] == [
        'a "b", c 93%',
        "über zwei Zeilen 50%",
        "R&amp;D &lt;i&gt;x&lt;/i&gt; --&gt; $y$ 50%",
        "跳远 50%",
    ]
    assert found[1]["start"] == "00:00:02.000"
    assert found[1]["end"] == "01:02:05.500"
    assert all(match["start"] < match["end"] for match in found)


def test_subrip_numbers_its_cues_and_has_no_arrow_in_a_text(tmp_path):
    text = written(tmp_path / "a.srt", timeline())
    cues = [SRT_CUE.fullmatch(part + "\n") for part in text.rstrip("\n").split("\n\n")]
    assert [match[1] for match in cues] == ["1", "2", "3", "4"]
    assert [match[4] for match in cues][2] == "R&D <i>x</i> → $y$ 50%"
    assert all(match[2] < match[3] for match in cues)


@pytest.mark.parametrize("ending", [".vtt", ".srt"])
def test_a_video_without_spans_gives_an_empty_file_of_the_format(tmp_path, ending):
    text = written(tmp_path / f"a{ending}", timeline(spans=[]))
    assert text == ("WEBVTT\n" if ending == ".vtt" else "")


def test_label_studio_counts_frames_from_1_at_the_frame_rate_of_the_task(tmp_path):
    (task,) = json.loads(written(tmp_path / "a.label-studio.json", timeline()))
    assert task["data"] == {"video": "match.mp4", "fps": 25.0}
    (prediction,) = task["predictions"]
    regions = prediction["result"]
    assert [region["value"]["timelinelabels"] for region in regions] == [[n] for n in LABELS]
    assert [region["value"]["ranges"] for region in regions] == [
        [{"start": 1, "end": 310}],
        [{"start": 51, "end": 93138}],
        [{"start": 311, "end": 311}],
        [{"start": 501, "end": 501}],
    ]
    assert len({region["id"] for region in regions}) == len(regions)
    for region in regions:
        names = (region["from_name"], region["to_name"], region["type"])
        assert names == ("timelineLabels", "video", "timelinelabels")


def test_fiftyone_counts_frames_from_1_and_names_classes_by_number(tmp_path):
    record = json.loads(written(tmp_path / "a.fiftyone.json", timeline("a.mp4"), timeline("b.mp4")))
    assert record["classes"] == [*LABELS]
    assert [*record["labels"]] == [str(Path(name).absolute()) for name in ("a.mp4", "b.mp4")]
    found = record["labels"][str(Path("a.mp4").absolute())]
    assert [item["support"] for item in found] == [[1, 310], [51, 93138], [311, 311], [501, 501]]
    assert [item["label"] for item in found] == [0, 1, 2, 3]
    assert found[0]["confidence"] == 0.931


def test_nan_is_null_in_json(tmp_path):
    text = written(tmp_path / "a.json", timeline(spans=[span(0, 1, "跳远", float("nan"))]))
    assert json.loads(text)["spans"][0]["score"] is None


@pytest.mark.parametrize("ending", [e for e, one in FORMATS.items() if one.one_video])
def test_formats_of_one_video_refuse_several(tmp_path, ending):
    with pytest.raises(ArgumentError, match=rf"a {ending} file is about one video, and 2 were"):
        write_timelines(tmp_path / f"a{ending}", [timeline(), timeline()])
    assert not [*tmp_path.iterdir()]


def test_an_unknown_ending_lists_the_others_and_leaves_the_file(tmp_path):
    (tmp_path / "a.xls").write_text("mine")
    with pytest.raises(ArgumentError, match=r"use one of \.json, \.csv, \.vtt, \.srt, "):
        write_timelines(tmp_path / "a.xls", [timeline()])
    assert (tmp_path / "a.xls").read_text() == "mine"


def test_a_folder_is_not_replaced(tmp_path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(ArgumentError, match="is a folder"):
        write_timelines(tmp_path / "a.csv", [timeline()])


def test_what_was_there_stays_if_writing_fails(tmp_path):
    (tmp_path / "a.vtt").write_text("before")
    with pytest.raises(AttributeError):
        write_timelines(tmp_path / "a.vtt", [timeline(spans=["no span"])])
    assert (tmp_path / "a.vtt").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.vtt"]
