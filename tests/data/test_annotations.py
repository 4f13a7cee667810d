import pytest

from st_adapter.config import TrainConfig
from st_adapter.data.annotations import read_annotations, read_parts
from st_adapter.errors import DataError


@pytest.fixture
def root(tmp_path):
    """Empty files stand for videos: nothing here opens them."""
    for name in ("jump/a b.mp4", "jump/c.avi", "run/d.mkv", "run/.hidden.mp4", "run/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(videos):
    return [(video.path.name, video.targets[0]) for video in videos]


def test_folder_of_class_folders(root):
    data = read_annotations(root)
    assert data.labels == ("jump", "run")
    assert names(data.train) == [("a b.mp4", 0), ("c.avi", 0), ("d.mkv", 1)]
    assert list(data.val) == []


@pytest.mark.parametrize("name", ["val", "validate", "validation", "test", "Val"])
def test_folder_with_train_and_validation_parts(tmp_path, name):
    for part in ("train", name):
        for label in ("x", "y"):
            (tmp_path / part / label).mkdir(parents=True)
            (tmp_path / part / label / f"{part}.mp4").touch()
    data = read_annotations(tmp_path)
    assert names(data.train) == [("train.mp4", 0), ("train.mp4", 1)]
    assert names(data.val) == [(f"{name}.mp4", 0), (f"{name}.mp4", 1)]


def test_csv_with_segments_and_split(tmp_path):
    file = tmp_path / "list.csv"
    file.write_text(
        "path,label,start_seconds,end_seconds,split\n"
        '"a, b.mp4",run,0.5,2,train\nsub/c.mp4,jump,,,val\n'
    )
    data = read_annotations(file)
    assert data.labels == ("jump", "run")
    (video,) = data.train
    assert video.path == tmp_path / "a, b.mp4"
    assert (video.targets, video.start_seconds, video.end_seconds) == ((1,), 0.5, 2.0)
    assert names(data.val) == [("c.mp4", 0)]


def test_list_of_names_with_spaces_in_paths(tmp_path):
    (tmp_path / "list.txt").write_text("my videos/a 1.mp4 run\n\nb.mp4 jump\n")
    data = read_annotations(tmp_path / "list.txt")
    assert data.labels == ("jump", "run")
    assert data.train[0].path == tmp_path / "my videos" / "a 1.mp4"


def test_list_of_indices_with_classes_beside_it(tmp_path):
    (tmp_path / "classes.txt").write_text("run\njump\n")
    (tmp_path / "list.txt").write_text("a.mp4 1\nb.mp4 run\n")
    data = read_annotations(tmp_path / "list.txt")
    assert data.labels == ("run", "jump")
    assert names(data.train) == [("a.mp4", 1), ("b.mp4", 0)]


def test_fields_may_be_parted_by_a_tab(tmp_path):
    (tmp_path / "list.txt").write_text("my video.mp4\trun\nb.mp4\tjump\n")
    assert [v.path.name for v in read_annotations(tmp_path / "list.txt").train] == [
        "my video.mp4",
        "b.mp4",
    ]


def test_a_test_part_is_not_used_where_there_is_a_validation_part(tmp_path):
    file = tmp_path / "list.csv"
    file.write_text("path,label,split\na,x,train\nb,y,train\nc,x,test\nd,y,val\n")
    data = read_annotations(file)
    assert names(data.train) == [("a", 0), ("b", 1)]
    assert names(data.val) == [("d", 1)]


def test_labels_of_a_trained_model_decide_the_indices(root):
    data = read_annotations(root, labels=("run", "walk", "jump"))
    assert names(data.train) == [("a b.mp4", 2), ("c.avi", 2), ("d.mkv", 0)]
    with pytest.raises(DataError, match="has 1 label that is not in the list of classes: 'run'"):
        read_annotations(root, labels=("jump",))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "file,label\nx.mp4,run\n", r"no column path; its header is 'file,label'"),
        ("a.csv", "path,label\n\n\nx.mp4,\n", "line 4: path or label is empty"),
        ("a.csv", "path,label\n", "lists no videos"),
        ("a.csv", "path,label,start_secs\nx,y,1\n", "'start_secs'; did you mean start_seconds"),
        ("a.csv", "path,label,start_seconds\nx,y,-1\n", "line 2: '-1' is not a time in seconds"),
        (
            "a.csv",
            "path,label,start_seconds,end_seconds\nx,y,3,2\n",
            "line 2: the segment from 3.0 to 2.0 s is empty",
        ),
        ("a.csv", "path,label,split\nx,y,dev\n", "split must be train, val or test, not 'dev'"),
        ("a.txt", "x.mp4\n", "line 1: expected \"path label\", got 'x.mp4'"),
        ("a.txt", b"\xff\xfa\x00x.mp4 y", "is not UTF-8 text"),
        ("a.parquet", "", r"a\.parquet cannot be read"),
        ("a.doc", "", r"DATA is a folder, .* not '.doc'"),
        ("a.csv", "path,label\n../x.mp4,run\n", r"'../x.mp4' leads out of the data folder"),
    ],
)
def test_bad_lists_are_named_by_line(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        read_annotations(path)


def test_index_outside_the_classes_is_named(tmp_path):
    (tmp_path / "classes.txt").write_text("run\njump\n")
    (tmp_path / "list.txt").write_text("a.mp4 5\n")
    with pytest.raises(DataError, match="label '5' is neither a name nor an index of the 2"):
        read_annotations(tmp_path / "list.txt")


def test_folder_without_videos_or_without_classes_is_named(tmp_path):
    with pytest.raises(DataError, match="contains no videos; give a folder with one folder"):
        read_annotations(tmp_path)
    (tmp_path / "a.mp4").touch()
    (tmp_path / "list.csv").touch()
    with pytest.raises(DataError, match=r"1 video but no folder per class; .*lists: .*list\.csv"):
        read_annotations(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read_annotations(tmp_path / "gone")


def test_hidden_folders_and_folders_named_like_videos_are_passed_over(root):
    (root / "jump" / ".trash").mkdir()
    (root / "jump" / ".trash" / "x.mp4").touch()
    (root / "jump" / "folder.mp4").mkdir()
    assert names(read_annotations(root).train) == [("a b.mp4", 0), ("c.avi", 0), ("d.mkv", 1)]


def test_a_class_seen_in_validation_alone_is_refused(tmp_path):
    for name in ("train/x/a.mp4", "train/y/b.mp4", "val/x/c.mp4", "val/z/d.mp4"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError, match="1 class has validation videos but no training videos: z"):
        read_parts(tmp_path, TrainConfig())


def test_one_class_and_missing_files_are_refused(tmp_path):
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.mp4").touch()
    with pytest.raises(DataError, match=r"only one class \(only\)"):
        read_parts(tmp_path, TrainConfig())
    (tmp_path / "none.csv").write_text("path,labels\na.mp4,\nb.mp4,\n")
    with pytest.raises(DataError, match=r"none\.csv has no classes, because no video has a label"):
        read_parts(tmp_path / "none.csv", TrainConfig())
    (tmp_path / "list.txt").write_text("a.mp4 x\nb.mp4 x\nc.mp4 y\n")
    with pytest.raises(DataError, match=r"none of the training files exists \(2 in all\)"):
        read_parts(tmp_path / "list.txt", TrainConfig())


def test_a_class_that_validation_leaves_out_is_told(tmp_path, capsys):
    rows = ["a/s1_0.mp4,a", "a/s1_1.mp4,a", "b/s1_2.mp4,b", "b/s2_0.mp4,b", "b/s3_0.mp4,b"]
    for row in rows:
        file = tmp_path / row.partition(",")[0]
        file.parent.mkdir(exist_ok=True)
        file.touch()
    (tmp_path / "l.csv").write_text("\n".join(["path,label", *rows]))
    read_parts(tmp_path / "l.csv", TrainConfig(val_fraction=0.3, group=r"s\d"))
    told = capsys.readouterr().err
    assert "no videos of a are held out, because training needs all of their groups" in told
