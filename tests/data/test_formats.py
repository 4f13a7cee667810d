"""Data sets in the forms they are published in: a few rows of each as their files have them."""

import json
from pathlib import Path

import numpy as np
import pytest

from st_adapter.config import DataConfig, TrainConfig
from st_adapter.data.annotations import read_annotations, read_parts
from st_adapter.errors import ArgumentError, DataError


def write(folder, **files):
    """Write texts, or empty files where there is none."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def rows(videos, folder):
    return [
        (str(v.path.relative_to(folder)), v.targets, v.start_seconds, v.end_seconds) for v in videos
    ]


def test_kinetics(tmp_path):
    header = "label,youtube_id,time_start,time_end,split,is_cc\n"
    write(
        tmp_path,
        **{
            "train.csv": f'{header}"testifying",---QUuC4vJs,84,94,train,0\n'
            "air drumming,aa,1,11,train,0\n",
            "val.csv": f"{header}air drumming,bb,3,13,validate,0\n",
            "train/---QUuC4vJs_000084_000094.mp4": "",
            "air_drumming/aa_000001_000011.mkv": "",
            "val/bb.mp4": "",
        },
    )
    data = read_annotations(tmp_path / "train.csv")
    assert data.labels == ("air drumming", "testifying")
    assert rows(data.train, tmp_path) == [
        ("train/---QUuC4vJs_000084_000094.mp4", (1,), None, None),
        ("air_drumming/aa_000001_000011.mkv", (0,), None, None),
    ]
    assert rows(data.val, tmp_path) == [("val/bb.mp4", (0,), None, None)]
    write(tmp_path, **{"test.csv": "youtube_id,time_start,time_end,split\naa,1,11,test\n"})
    with pytest.raises(DataError, match="line 2: label is missing; the test part of Kinetics"):
        read_annotations(tmp_path / "test.csv")


def test_something_something(tmp_path):
    def entry(number, template):
        return {"id": number, "label": "x", "template": template, "placeholders": ["x"]}

    labels = {"Closing something": "1", "Opening something": "0"}
    name = "something-something-v2"
    write(
        tmp_path / "labels",
        **{
            f"{name}-labels.json": json.dumps(labels),
            f"{name}-train.json": json.dumps([entry("74225", "Opening [something]")]),
            f"{name}-validation.json": json.dumps([entry("7", "Closing [something]")]),
        },
    )
    write(tmp_path / "videos", **{"74225.webm": ""})
    options = DataConfig(videos=str(tmp_path / "videos"))
    data = read_annotations(tmp_path / f"labels/{name}-train.json", options=options)
    assert data.labels == ("Opening something", "Closing something")
    assert rows(data.train, tmp_path) == [("videos/74225.webm", (0,), None, None)]
    assert rows(data.val, tmp_path) == [("videos/7.webm", (1,), None, None)]


def test_epic_kitchens(tmp_path):
    header = (
        "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,"
        "start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,"
        "all_noun_classes\n"
    )
    line = (
        "P01_01_0,P01,P01_01,00:00:01.089,00:01:00.14,00:01:03.37,9,202,open door,open,3,door,3,"
        "['door'],[3]\n"
    )
    write(
        tmp_path,
        **{
            "EPIC_100_train.csv": header + line,
            "EPIC_100_validation.csv": header + line.replace("P01_01,", "P02_02,"),
            "P01/videos/P01_01.MP4": "",
            "P02/rgb_frames/P02_02/frame_0000000001.jpg": "",
        },
    )
    data = read_annotations(tmp_path / "EPIC_100_train.csv")
    assert data.task.heads == (("verb", 97), ("noun", 300))
    assert len(data.labels) == 397
    assert rows(data.train, tmp_path) == [("P01/videos/P01_01.MP4", (3, 100), 60.14, 63.37)]
    (frames,) = data.val
    assert frames.path == tmp_path / "P02/rgb_frames/P02_02"
    assert (frames.start_seconds, frames.end_seconds) == (8 / 25, 202 / 25)
    write(tmp_path, **{"EPIC_100_train.csv": header + line.replace("open,3,", "open,97,")})
    with pytest.raises(DataError, match="line 2: label '97' is neither .* 97 classes"):
        read_annotations(tmp_path / "EPIC_100_train.csv")


def test_charades(tmp_path):
    header = "id,subject,scene,script,actions,length\n"
    actions = "c001 11.90 21.20;c000 0.00 12.60;c001 3.0 4.0"
    write(
        tmp_path,
        **{
            "Charades_v1_train.csv": f'{header}46GP8,HR43,Kitchen,"A b, c.",{actions},24.83\n',
            "Charades_v1_test.csv": f"{header}YSKX3,HR43,Kit,x,,24.83\nQ,HR43,Kit,x,c001 1 2,9\n",
            "Charades_v1_classes.txt": "c000 Holding some clothes\nc001 Putting clothes away\n",
            "Charades_v1_480/46GP8.mp4": "",
        },
    )
    data = read_annotations(tmp_path / "Charades_v1_train.csv")
    assert data.task.multi_label
    assert data.labels == ("Holding some clothes", "Putting clothes away")
    assert rows(data.train, tmp_path) == [("Charades_v1_480/46GP8.mp4", (1, 0), None, None)]
    assert rows(data.val, tmp_path) == [("Q.mp4", (1,), None, None)]


def test_ucf101(tmp_path):
    write(
        tmp_path,
        **{
            "classInd.txt": "1 ApplyEyeMakeup\n2 Archery\n",
            "trainlist01.txt": "Archery/v_Archery_g08_c01.avi 2\n",
            "testlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\n",
            "UCF-101/Archery/v_Archery_g08_c01.avi": "",
        },
    )
    data = read_annotations(tmp_path / "trainlist01.txt")
    assert data.labels == ("ApplyEyeMakeup", "Archery")
    assert rows(data.train, tmp_path) == [
        ("UCF-101/Archery/v_Archery_g08_c01.avi", (1,), None, None)
    ]
    assert [v.targets for v in data.val] == [(0,)]


def test_hmdb51(tmp_path):
    splits = write(
        tmp_path / "splits",
        **{
            "brush_hair_test_split1.txt": "a.avi 1 \nb.avi 2 \nc.avi 0 \n",
            "cartwheel_test_split1.txt": "d.avi 1 \n",
            "cartwheel_test_split2.txt": "d.avi 2 \n",
        },
    )
    write(tmp_path / "videos", **{"brush_hair/a.avi": "", "cartwheel/d.avi": ""})
    options = DataConfig(videos=str(tmp_path / "videos"))
    data = read_annotations(splits, options=options)
    assert data.labels == ("brush_hair", "cartwheel")
    assert rows(data.train, tmp_path / "videos") == [
        ("brush_hair/a.avi", (0,), None, None),
        ("cartwheel/d.avi", (1,), None, None),
    ]
    assert [v.path.name for v in data.val] == ["b.avi"]
    with pytest.raises(DataError, match=r"has no split 4; split takes 1, 2 or 3"):
        read_annotations(splits, options=DataConfig(videos=str(tmp_path / "videos"), split=4))


def test_diving48(tmp_path):
    entry = {"vid_name": "_8Vy3dlHg2w_00001", "label": 1, "start_frame": 0, "end_frame": 134}
    write(
        tmp_path,
        **{
            "Diving48_V2_train.json": json.dumps([entry]),
            "Diving48_V2_test.json": json.dumps([entry | {"label": 0}]),
            "Diving48_vocab.json": json.dumps([["Back", "15som", "05Twis"], ["Back", "Dive", ""]]),
            "rgb/_8Vy3dlHg2w_00001.mp4": "",
        },
    )
    data = read_annotations(tmp_path / "Diving48_V2_train.json")
    assert data.labels == ("Back 15som 05Twis", "Back Dive")
    assert rows(data.train, tmp_path) == [("rgb/_8Vy3dlHg2w_00001.mp4", (1,), None, None)]
    assert [v.targets for v in data.val] == [(0,)]


def test_lists_of_mmaction2_and_pyslowfast(tmp_path):
    write(
        tmp_path,
        **{
            "list.txt": "v1 40 2\nv2 10 20 0\na b.mp4 1\n",
            "v1/img_00001.jpg": "",
            "v2/img_00001.jpg": "",
            "train.csv": "some/video 1.mp4 0\nb.mp4 1\n",
            "val.csv": "b.mp4,1\n",
        },
    )
    assert rows(read_annotations(tmp_path / "list.txt", ("0", "1", "2")).train, tmp_path) == [
        ("v1", (2,), 0.0, 40 / 25),
        ("v2", (0,), 10 / 25, 30 / 25),
        ("a b.mp4", (1,), None, None),
    ]
    for name, paths in (("train.csv", ["some/video 1.mp4", "b.mp4"]), ("val.csv", ["b.mp4"])):
        given = read_annotations(tmp_path / name, ("0", "1"))
        assert [str(v.path.relative_to(tmp_path)) for v in given.train] == paths


def test_tables_with_columns_of_other_names(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"file": ["a.mp4", "b.mp4"], "verb": ["open", "shut"], "noun": ["door", "box"]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    lines = [",".join(columns), *map(",".join, zip(*columns.values(), strict=True))]
    write(tmp_path, **{"t.csv": "\n".join(lines)})
    for name in ("t.csv", "t.parquet"):
        options = DataConfig(columns="path=file,label=verb+noun")
        data = read_annotations(tmp_path / name, options=options)
        assert data.labels == ("verb/open", "verb/shut", "noun/box", "noun/door")
        assert data.task.heads == (("verb", 2), ("noun", 2))
        assert [v.targets for v in data.train] == [(0, 3), (1, 2)]
        with pytest.raises(DataError, match="no column 'verbs'.*did you mean verb"):
            read_annotations(tmp_path / name, options=DataConfig(columns="path=file,label=verbs"))


def test_many_labels_in_a_table(tmp_path):
    write(tmp_path, **{"t.csv": "path,labels\na.mp4,run;jump\nb.mp4,\nc.mp4,jump\n"})
    data = read_annotations(tmp_path / "t.csv")
    assert data.task.multi_label
    assert [v.targets for v in data.train] == [(1, 0), (), (0,)]


@pytest.mark.parametrize("columns", ["path", "path=", "file=path", "path=a,path=b", ""])
def test_columns_that_make_no_sense_are_refused(columns):
    with pytest.raises(ArgumentError, match="columns takes pairs like"):
        DataConfig(columns=columns)


def test_many_missing_files_are_counted_and_a_few_shown(tmp_path):
    lines = [f"{i}.mp4,{i % 2},{'val' if i % 10 == 0 else 'train'}" for i in range(1000)]
    write(tmp_path, **{"t.csv": "path,label,split\n" + "\n".join(lines)})
    with pytest.raises(
        DataError, match=r"none of the training files exists \(900 in all\): (\S+, ){4}\S+ \.\.\.$"
    ):
        read_parts(tmp_path / "t.csv", TrainConfig())


def test_videos_that_are_no_folder_are_named(tmp_path):
    write(tmp_path, **{"t.csv": "path,label\n"})
    with pytest.raises(DataError, match="gone is not a folder; videos takes"):
        read_annotations(tmp_path / "t.csv", options=DataConfig(videos=str(tmp_path / "gone")))


def test_a_list_of_videos_gives_back_what_was_read(tmp_path):
    write(tmp_path, **{"t.csv": "path,label,start_seconds\na.mp4,x,\nb.mp4,y,2.5\nc.mp4,x,\n"})
    videos = read_annotations(tmp_path / "t.csv").train
    assert [v.path.name for v in videos] == ["a.mp4", "b.mp4", "c.mp4"]
    assert [v.start_seconds for v in videos] == [None, 2.5, None]
    np.testing.assert_array_equal(videos.first_targets(), [0, 1, 0])
    assert list(videos.take([2, 0])) == [videos[2], videos[0]]
    assert videos.digest() != videos.take([0, 1]).digest()
    with pytest.raises(IndexError):
        videos[3]
    assert Path(videos.name(0)) == videos[0].path


def test_a_video_is_found_by_its_folders_or_a_name_of_its_own(tmp_path):
    files = {"trainlist01.txt": "A/001.avi 1\nB/001.avi 2\nC/v_C_g01.avi 3\n"}
    write(
        tmp_path, **files, **{"videos/A/001.avi": "", "flat/v_C_g01.avi": "", "f/v_C_g01.npy": ""}
    )
    found = read_annotations(tmp_path / "trainlist01.txt").train
    assert [v.path.relative_to(tmp_path).as_posix() for v in found] == [
        "videos/A/001.avi",
        "B/001.avi",  # not another's
        "flat/v_C_g01.avi",
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("trainlist01.txt", "../out/v_a_g01.avi 1\n"),
        ("train.csv", "label,youtube_id,time_start,time_end,split\na,../../x,0,1,train\n"),
        ("s-train.json", '[{"id": "../x", "template": "a"}]'),
    ],
)
def test_no_published_list_leads_out_of_the_folder(tmp_path, name, text):
    write(tmp_path, **{name: text})
    with pytest.raises(DataError, match="leads out of the data folder"):
        read_annotations(tmp_path / name)


def test_the_other_part_of_kinetics_is_for_validation_without_a_split(tmp_path):
    header = "label,youtube_id,time_start,time_end\n"
    write(tmp_path, **{"train.csv": f"{header}a,x,0,1\nb,y,0,1\n", "val.csv": f"{header}a,z,0,1\n"})
    data = read_annotations(tmp_path / "train.csv")
    assert (len(data.train), len(data.val)) == (2, 1)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"a.json": '[{"vid_name": "x", "label": 0}, 3]'},
            "entry 2: expected an object that describes a video, got 3",
        ),
        (
            {"a.json": '[{"vid_name": "x", "label": 0}, {"label": 0}]'},
            "entry 2: vid_name is missing",
        ),
        (
            {"a.json": '[{"id": "1", "template": "a"}]', "labels.json": '["a"]'},
            "labels.json: expected an object that maps class names",
        ),
        ({"t.csv": "path,label\na.mp4,x, more\n"}, "line 2: 3 fields, but the header has 2"),
        ({"t.csv": "path:label\na.mp4:x\n"}, "no column path or label.* separated by commas"),
        ({"t.csv": b"\xff\xfap\x00"}, "save it as UTF-8"),
    ],
)
def test_published_files_that_are_not_as_published(tmp_path, files, said):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError, match=said):
        read_annotations(tmp_path / next(iter(files)))


def test_fields_may_hold_any_line_break(tmp_path):
    write(tmp_path, **{"t.csv": 'path,label\na.mp4,"x\u2028y"\nb.mp4,"x\ny"\n'})
    assert read_annotations(tmp_path / "t.csv").labels == ("x\ny", "x\u2028y")


def test_a_list_beside_a_list_does_not_name_its_classes(tmp_path):
    write(tmp_path, **{"train.txt": "a.mp4 run\n", "labels.txt": "a.mp4 0\nb.mp4 1\n"})
    assert read_annotations(tmp_path / "train.txt").labels == ("run",)


def test_lists_of_labels_in_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"path": ["a.mp4", "b.mp4"], "labels": [["run", "jump"], []]})
    parquet.write_table(table, tmp_path / "t.parquet")
    data = read_annotations(tmp_path / "t.parquet")
    assert (data.labels, [v.targets for v in data.train]) == (("jump", "run"), [(1, 0), ()])


NUMBERED = {"a0.mp4": "", "a1.mp4": "", "b0.mp4": "", "b1.mp4": "", "c0.mp4": ""}


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("last", ["", "c0.mp4 {2}\n"])
@pytest.mark.parametrize("mark", ["", ".", ":", ","])
def test_numbers_of_a_numbered_class_file_are_the_labels(tmp_path, first, last, mark):
    """classInd.txt says "1 Archery" and the list "a0.mp4 1": that is Archery."""
    names = ("Archery", "Bowling", "Diving")
    classes = "".join(f"{first + i}{mark} {name}\n" for i, name in enumerate(names))
    text = "a0.mp4 {0}\na1.mp4 {0}\nb0.mp4 {1}\nb1.mp4 {1}\n" + last
    write(tmp_path, **NUMBERED, **{"classInd.txt": classes})
    write(tmp_path, **{"train.txt": text.format(*range(first, first + 3))})
    data = read_annotations(tmp_path / "train.txt")
    assert data.labels == names
    assert [v.targets for v in data.train] == [(0,), (0,), (1,), (1,), *([(2,)] if last else [])]


def test_labels_that_can_only_count_from_1_need_numbered_classes(tmp_path):
    write(tmp_path, **NUMBERED, **{"classes.txt": "Archery\nBowling\n"})
    write(tmp_path, **{"train.txt": "a0.mp4 1\nb0.mp4 2\n"})
    with pytest.raises(
        DataError, match=r"count from 1 to 2, but .* 2 classes does not number them"
    ):
        read_annotations(tmp_path / "train.txt")


def test_a_comma_in_a_name_divides_no_blank_separated_list(tmp_path):
    names = [f"{name} ({i}).mp4" for name in ("drinking", "talk, loud") for i in range(3)]
    text = "".join(f"{name} {i // 3}\n" for i, name in enumerate(names))
    write(tmp_path, **dict.fromkeys(names, ""), **{"list.csv": text, "list.txt": text})
    for name in ("list.csv", "list.txt"):
        data = read_annotations(tmp_path / name)
        assert [v.path.name for v in data.train] == names
        assert data.labels == ("0", "1")


def test_a_line_that_the_separator_of_the_others_does_not_divide_is_named(tmp_path):
    write(tmp_path, **{"list.csv": "a.mp4,1\nb.mp4,2\nc.mp4 3\n"})
    with pytest.raises(DataError, match=r"list.csv line 3: .* separated by a comma"):
        read_annotations(tmp_path / "list.csv")
    write(tmp_path, **{"list.txt": "a.mp4 playing guitar\n"})
    with pytest.raises(
        DataError, match=r"line 1: .* put a tab before a label that contains spaces"
    ):
        read_annotations(tmp_path / "list.txt")
    write(tmp_path, **{"t.csv": "path,label,start_seconds\ntalk, loud.mp4,2\n"})
    with pytest.raises(DataError, match=r"line 2: the label 'loud.mp4' is the name of a video"):
        read_annotations(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("talk, loud.mp4 3\nb.mp4 4\n", [("talk, loud.mp4", "3"), ("b.mp4", "4")]),
        ('x.mp4, "jump"\nb.mp4, run\n', [("x.mp4", "jump"), ("b.mp4", "run")]),
        ("a 3 jump\nb 3 run\n", [("a", "jump"), ("b 3", "run")]),  # of b nothing is there
    ],
)
def test_what_lies_beside_a_list_does_not_mislead(tmp_path, text, expected):
    write(tmp_path, **{"talk/1.mp4": "", "x.mp4": "", "a/1.jpg": ""})
    name = "list.csv" if "," in text else "list.txt"
    write(tmp_path, **{name: text})
    data = read_annotations(tmp_path / name)
    found = [(str(v.path.relative_to(tmp_path)), data.labels[v.targets[0]]) for v in data.train]
    assert found == expected


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("header", ["path{}label\n", ""])
def test_other_separators_are_read_too(tmp_path, separator, header):
    text = header.format(separator) + f"a b.mp4{separator}play guitar\nc.mp4{separator}run\n"
    for name in ("list.csv", "list.txt"):
        write(tmp_path, **{"a b.mp4": "", "c.mp4": "", name: text})
        data = read_annotations(tmp_path / name)
        assert data.labels == ("play guitar", "run")
        assert rows(data.train, tmp_path)[0] == ("a b.mp4", (0,), None, None)


def test_a_list_written_on_windows_is_read(tmp_path):
    write(tmp_path, **{"run/a.mp4": "", "jump/b.mp4": ""})
    text = "path,label\r\nrun\\a.mp4,run\r\njump\\b.mp4,jump\r\n"
    (tmp_path / "list.csv").write_bytes(text.encode("utf-16"))
    data = read_annotations(tmp_path / "list.csv")
    assert [v.path.relative_to(tmp_path) for v in data.train] == [
        Path("run/a.mp4"),
        Path("jump/b.mp4"),
    ]


def test_names_of_columns_may_have_capitals_and_paths_of_windows_are_told(tmp_path):
    write(tmp_path, **{"a.mp4": "", "list.csv": "Path, Label\na.mp4,run\n"})
    assert read_annotations(tmp_path / "list.csv").labels == ("run",)
    write(tmp_path, **{"drive.csv": 'path,label\n"C:\\data\\a.mp4",run\n'})
    with pytest.raises(DataError, match="line 2: .* is a Windows path"):
        read_annotations(tmp_path / "drive.csv")


def test_a_class_may_be_called_train(tmp_path, capsys):
    write(tmp_path, **{f"{name}/{i}.mp4": "" for name in ("bus", "car", "train") for i in range(2)})
    assert read_annotations(tmp_path).labels == ("bus", "car", "train")
    (tmp_path / "parts" / "lists").mkdir(parents=True)
    write(tmp_path / "parts", **{f"{part}/x/1.mp4": "" for part in ("train", "val")})
    write(tmp_path / "parts", **{"more/1.mp4": ""})
    data = read_annotations(tmp_path / "parts")
    assert (data.labels, len(data.train), len(data.val)) == (("x",), 1, 1)
    assert "ignoring more in " in capsys.readouterr().err


def test_pictures_beside_videos_are_no_video(tmp_path):
    for name in ("a", "b"):
        for i in range(2):
            session = f"{name}/session/clip_{i:02d}"
            write(tmp_path, **{f"{session}.mp4": "", f"{session}.jpg": ""})
    data = read_annotations(tmp_path)
    assert [v.path.suffix for v in data.train] == [".mp4"] * 4
