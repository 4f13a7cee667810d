"""Files are written whole, as the user's own, and nothing of his is removed."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from st_adapter.common.files import append_json_line, atomic_path, remove_unfinished, write_json

DIES_IN_THE_MIDDLE = """
import os, sys
from pathlib import Path
from st_adapter.common.files import atomic_path

with atomic_path(Path(sys.argv[1])) as file:
    file.write_text("half")
    os._exit(1)
"""


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644)])
def test_files_have_the_permissions_that_the_umask_leaves(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_json(tmp_path / "a.json", {})
        with atomic_path(tmp_path / "a.safetensors") as file:
            save_file({"a": torch.zeros(1)}, file)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}


def test_only_our_own_unfinished_files_are_removed(tmp_path):
    own = [tmp_path / name for name in (".notes.markdown", ".env.settings", ".a.json.abcd_123")]
    for file in own:
        file.write_text("of the user")
    subprocess.run(
        [sys.executable, "-c", DIES_IN_THE_MIDDLE, str(tmp_path / "b.json")], check=False
    )
    assert len(list(tmp_path.iterdir())) == 4
    remove_unfinished(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(own)


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    with atomic_path(tmp_path / ("a" * 250)) as file:
        file.write_text("whole")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_null_in_json(tmp_path, value):
    def refuse(name):
        raise AssertionError(name)

    write_json(tmp_path / "a.json", {"loss": value, "rows": [(1.5, value)]})
    append_json_line(tmp_path / "a.jsonl", {"loss": value})
    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert read == {"loss": None, "rows": [[1.5, None]]}
    assert json.loads((tmp_path / "a.jsonl").read_text(), parse_constant=refuse) == {"loss": None}
