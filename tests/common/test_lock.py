import pytest

from conftest import held_by_another
from st_adapter.common.lock import LOCK_FILE, alone_in
from st_adapter.errors import ArgumentError


def test_a_folder_is_held_once_in_one_process_too_and_left_as_it_was(tmp_path):
    folder = tmp_path / "run"
    with alone_in(folder):
        for _ in range(2):
            with (
                pytest.raises(ArgumentError, match="another process is working in"),
                alone_in(folder / ".." / "run"),
            ):
                pass
    assert not folder.exists()
    folder.mkdir()
    with alone_in(folder):
        pass
    assert not list(folder.iterdir())


def test_who_is_refused_does_not_end_the_lock_of_another_process(tmp_path):
    with held_by_another(tmp_path):
        for _ in range(2):
            with (
                pytest.raises(ArgumentError, match="another process is working in"),
                alone_in(tmp_path),
            ):
                pass


def test_the_lock_of_a_killed_process_is_in_nobodys_way(tmp_path):
    with held_by_another(tmp_path) as process:
        process.kill()
        process.wait()
    assert (tmp_path / LOCK_FILE).exists()
    with alone_in(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
