import dataclasses

import pytest

from st_adapter.config import DataConfig, TrainConfig
from st_adapter.data.annotations import read_annotations, read_parts, write_table
from st_adapter.errors import DataError

ROWS = [(f"{label}/film{film}_{clip}.mp4", label, f"film{film}")
        for label in "xy" for film in range(5) for clip in range(2)]  # fmt: skip


@pytest.fixture
def table(tmp_path):
    """A table with a column `source`, and empty files: nothing here opens them."""
    for path, _, _ in ROWS:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    file = tmp_path / "list.csv"
    file.write_text("path,label,source\n" + "\n".join(map(",".join, ROWS)))
    return file


@pytest.mark.parametrize("options", [{"columns": "group=source"}, {"group": r"film\d"}])
def test_a_column_or_an_expression_keeps_sources_in_one_part(table, options):
    parts = read_parts(table, TrainConfig(**options))
    assert {*parts.val.groups()}.isdisjoint(parts.train.groups())
    assert sorted({*parts.val.groups(), *parts.train.groups()}) == [f"film{i}" for i in range(5)]
    assert parts.val[0].group in parts.val.groups()
    assert len(parts.val) == 4


def test_a_column_named_group_is_used_without_an_option(table):
    table.write_text(table.read_text().replace("source", "group"))
    assert len({*read_parts(table, TrainConfig()).val.groups()}) == 1


def test_videos_without_groups_have_none_and_an_empty_cell_is_a_group_of_its_own(table):
    assert read_annotations(table).train.groups() == []
    assert read_annotations(table).train[0].group is None
    table.write_text("path,label,group\na.mp4,x,\nb.mp4,x,film\na.mp4,x,")
    groups = read_annotations(table).train.groups()
    assert groups == [str(table.parent / "a.mp4"), "film", str(table.parent / "a.mp4")]


def test_groups_do_not_change_the_digest(table):
    options = DataConfig(columns="group=source")
    assert read_annotations(table).digest() == read_annotations(table, options=options).digest()


def test_a_written_table_keeps_groups(table, tmp_path):
    parts = read_parts(table, TrainConfig(columns="group=source"))
    write_table(tmp_path / "written.csv", parts)
    again = read_annotations(tmp_path / "written.csv")
    assert again.val.groups() == parts.val.groups()
    assert again == dataclasses.replace(parts, train=again.train, val=again.val)
    write_table(tmp_path / "plain.csv", read_annotations(table))
    assert (
        (tmp_path / "plain.csv")
        .read_text()
        .startswith("path,label,start_seconds,end_seconds,split\n")
    )


def test_expressions_that_form_no_groups_are_refused(table):
    with pytest.raises(DataError, match=r"matches none of the paths, such as .*film0_0.mp4"):
        read_annotations(table, options=DataConfig(group="actor"))
    with pytest.raises(DataError, match=r"the same match .* for every path in .* \(20 paths\)"):
        read_annotations(table, options=DataConfig(group=r"\.mp4"))


def test_folders_that_all_files_lie_in_are_not_matched(tmp_path):
    lines = [f"s1/data/{group}_{clip}.mp4,{clip}" for group in ("s1", "s2") for clip in range(2)]
    (tmp_path / "l.csv").write_text("path,label\n" + "\n".join(lines))
    found = read_annotations(tmp_path / "l.csv", options=DataConfig(group=r"s\d"))
    assert found.train.groups() == ["s1", "s1", "s2", "s2"]
