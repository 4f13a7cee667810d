"""Rows that are done are found again, whatever happened."""

import json
from pathlib import Path

import pytest

from st_adapter.errors import LabellingError
from st_adapter.labelling.parts import Parts, PartWriter
from st_adapter.labelling.work import Batches, divide

PLAN = {"version": 1, "videos": "v", "runs": "r", "settings": "s"}
COLUMNS = {"path": "text", "error": "text"}


def lines(rows):
    return [json.dumps({"path": str(i), "error": None}) + "\n" for i in rows]


@pytest.fixture
def parts(tmp_path):
    made = Parts(tmp_path / "l.jsonl", 20)
    made.folder.mkdir()
    made.begin(PLAN)
    return made


def test_missing_rows_are_those_between_the_parts(parts):
    assert parts.missing() == [range(20)]
    for rows in (range(4, 8), range(6, 10), range(16, 20)):
        parts.write(rows, lines(rows))
    assert parts.missing() == [range(4), range(10, 16)]
    parts.begin(PLAN)
    assert parts.missing() == [range(4), range(10, 16)]


def test_rows_that_two_parts_have_stand_once_in_the_table(parts):
    for rows in (range(12), range(8, 20), range(8, 12)):
        parts.write(rows, lines(rows))
    assert parts.join(COLUMNS) == 0
    assert parts.file.read_text() == "".join(lines(range(20)))
    assert [*parts.folder.iterdir()] == []


def test_a_table_is_not_written_while_rows_are_missing(parts):
    parts.write(range(12), lines(range(12)))
    with pytest.raises(LabellingError, match="lacks rows from number 12 on"):
        parts.join(COLUMNS)
    assert not parts.file.exists()
    assert parts.missing() == [range(12, 20)]


def test_a_kill_while_parts_are_removed_leaves_a_folder_that_goes_on(parts, monkeypatch):
    parts.write(range(20), lines(range(20)))
    unlink = Path.unlink

    def killed_half_way(path, **options):
        if len([*parts.folder.iterdir()]) == 1:
            raise KeyboardInterrupt
        unlink(path, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", killed_half_way)
        parts.join(COLUMNS)
    assert [path.name for path in parts.folder.iterdir()] == ["plan.json"]
    parts.begin(PLAN)
    parts.clear()
    assert [*parts.folder.iterdir()] == []


def test_a_writer_takes_rows_in_any_order_and_joins_neighbours(parts):
    writer = PartWriter(parts)
    for rows in (range(8, 12), range(4), range(16, 20), range(4, 8)):
        writer.add(rows, lines(rows))
    assert parts.done() == []
    writer.flush()
    assert parts.done() == [range(12), range(16, 20)]


def test_batches_never_cross_the_bounds_of_ranges():
    batches = Batches([range(8), range(16, 21)], 4)
    assert [*batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [16, 17, 18, 19], [20]]
    assert [*batches] == [*batches]


def test_ranges_are_divided_between_batches():
    assert divide([range(8), range(12, 21)], 2, 4) == [[range(8)], [range(12, 21)]]
    assert divide([range(20)], 3, 4) == [[range(4)], [range(4, 12)], [range(12, 20)]]
    assert divide([range(5)], 4, 4) == [[range(4)], [range(4, 5)]]
