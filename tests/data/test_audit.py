"""What `check` finds in a data set with one of each fault."""

import json
import os
import shutil
from pathlib import Path

import pytest

from conftest import numbered_frame, write_video
from st_adapter.cli.main import main
from st_adapter.config import ClipConfig
from st_adapter.data.annotations import Annotations, both_parts, read_annotations
from st_adapter.data.audit import check_data
from st_adapter.data.video import packets
from st_adapter.data.videos import Video, VideoList

CLIP = ClipConfig(frames=8)
HERE = ("--workers", "0")


@pytest.fixture
def faulty(tmp_path):
    """A list with three good videos and one of each fault."""
    for i, name in enumerate(("a", "b", "c", "leaked", "odd", "short", "cut")):
        length = {"short": 4}.get(name, 20)
        frames = [numbered_frame(i * 16 + n) for n in range(length)]
        write_video(tmp_path / f"{name}.mp4", frames, options={"g": "5"})
    whole = (tmp_path / "cut.mp4").read_bytes()
    half = whole.index(b"mdat") + (len(whole) - whole.index(b"mdat")) // 3
    (tmp_path / "cut.mp4").write_bytes(whole[:half] + os.urandom(300) + whole[half + 300 :])
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    shutil.copy(tmp_path / "leaked.mp4", tmp_path / "copy.mp4")
    shutil.copy(tmp_path / "odd.mp4", tmp_path / "odd again.mp4")
    shutil.copy(tmp_path / "a.mp4", tmp_path / "a again.mp4")
    rows = [
        "path,label,start_seconds,end_seconds,split",
        *(f"{name}.mp4,x,,,train" for name in ("a", "a again", "leaked", "broken", "gone", "cut")),
        *("b.mp4,y,,,train", "odd.mp4,x,,,train", "odd again.mp4,y,,,train", "b.mp4,y,90,99,train"),
        *("short.mp4,y,,,train", "copy.mp4,x,,,val", "c.mp4,y,,,val", "c.mp4,z,0,1,val"),
    ]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    return tmp_path


def found(check):
    return {(f.kind, f.path.rpartition("/")[2]) for f in check.findings}


FAULTS = {
    ("unreadable", "broken.mp4"),
    ("unreadable", "gone.mp4"),
    ("in both parts", "leaked.mp4"),
    ("two labels", "odd.mp4"),
    ("two labels", "odd again.mp4"),
    ("no frame", "b.mp4"),
    ("untrained", "z"),
}
REMARKS = {("duplicate", "a again.mp4"), ("too short", "short.mp4")}


@pytest.mark.parametrize("workers", [0, 2])
def test_each_fault_is_found_and_leaves_the_list(faulty, workers):
    data = read_annotations(faulty / "list.csv")
    check, clean = check_data(data, CLIP, packets.probe, workers=workers)
    assert found(check) == FAULTS | REMARKS
    assert len(check.faults) == len(FAULTS)
    assert (check.videos, check.files) == ({"train": 11, "val": 3}, 12)
    assert check.frames == (4, 20, 20)
    assert [v.path.stem for v in clean.train] == ["a", "a again", "cut", "b", "short"]
    assert [v.path.stem for v in clean.val] == ["copy", "c", "c"]


def test_a_deep_check_finds_what_ends_early(faulty):
    data = read_annotations(faulty / "list.csv")
    check, clean = check_data(data, CLIP, packets.probe, deep=True)
    assert found(check) - FAULTS - REMARKS <= {("truncated", "cut.mp4"), ("unreadable", "cut.mp4")}
    assert "cut" not in [v.path.stem for v in clean.train]


def test_the_command_writes_a_report_and_a_list_to_train_on(faulty, capsys):
    assert main(["check", str(faulty / "list.csv"), "--out", str(faulty / "out"), *HERE]) == 1
    said = capsys.readouterr().out
    assert "11 training videos and 3 validation videos of 3 classes in 12 files" in said
    assert "2 files that cannot be read" in said
    assert "gone.mp4: no such file" in said
    report = json.loads((faulty / "out/check.json").read_text())
    assert report["classes"]["x"] == [7, 1]
    again = both_parts(faulty / "out/clean.csv", None)
    check, _ = check_data(again, CLIP, packets.probe)
    assert {f.kind for f in check.faults} == {"untrained"}  # z is in the validation part alone


def test_a_sound_data_set_ends_well(folder_data, capsys):
    assert main(["check", str(folder_data), *HERE]) == 0
    assert "no problems found" in capsys.readouterr().out


def test_many_findings_are_counted_and_a_few_shown(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("path,label\n" + "\n".join(f"{i}.mp4,x" for i in range(100)))
    assert main(["check", str(tmp_path / "t.csv"), *HERE]) == 1
    said = capsys.readouterr().out
    assert "100 files that cannot be read" in said
    assert said.count("no such file") == 5


def test_segments_that_overlap_with_the_other_part_are_in_both(folder_data):
    path = folder_data / "darkens" / "clip 0.mp4"

    def video(start, end):
        return Video(path=path, targets=(0,), start_seconds=start, end_seconds=end)

    data = Annotations(
        labels=("a",),
        train=VideoList.of([video(None, None), video(0.0, 0.2), video(0.4, 0.6)]),
        val=VideoList.of([video(0.1, 0.3)]),
    )
    check, clean = check_data(data, CLIP, packets.probe)
    both = [finding.example for finding in check.findings if finding.kind == "in both parts"]
    assert both == [("train", 0), ("train", 1)]
    assert len(clean.train) == 1


def test_a_class_without_any_video_is_wrong(tmp_path, folder_data):
    names = sorted(folder_data.rglob("*.mp4"))
    (tmp_path / "classes.txt").write_text("brightens\ndarkens\nnever\n")
    rows = "".join(f"{path}\t{path.parent.name}\n" for path in names)
    (tmp_path / "train.txt").write_text(rows)
    check, clean = check_data(read_annotations(tmp_path / "train.txt"), CLIP, packets.probe)
    assert [(f.kind, f.path) for f in check.faults] == [("untrained", "never")]
    assert len(clean.train) == len(names)


def test_a_deep_check_takes_frames_that_are_never_shown_for_no_damage(tmp_path):
    hidden = Path(__file__).parents[1] / "reference" / "vp8_altref.webm"
    frames = [numbered_frame(i) for i in range(9)]
    other = write_video(tmp_path / "b" / "2.webm", frames, codec="libvpx")
    (tmp_path / "a").mkdir()
    shutil.copy(hidden, tmp_path / "a" / "1.webm")
    check, clean = check_data(read_annotations(tmp_path), CLIP, packets.probe, deep=True)
    assert not check.faults
    assert [v.path for v in clean.train] == [tmp_path / "a" / "1.webm", other]
