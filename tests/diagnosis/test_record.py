"""The end of training: findings are stored and printed, and nothing makes a finished run fail."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from conftest import write_video
from st_adapter import advise, train
from st_adapter.cli.main import main
from st_adapter.data.annotations import read_parts
from st_adapter.data.video.packets import probe
from st_adapter.diagnosis.facts import read_facts
from st_adapter.diagnosis.record import diagnose_run


def test_training_stores_and_prints_warnings_and_the_first_advice(
    folder_data, tmp_path, tiny, caplog
):
    caplog.set_level("INFO", "st_adapter")
    out = tmp_path / "my run"
    train(folder_data, out, replace(tiny, epochs=1))
    record = json.loads((out / "warnings.json").read_text())
    texts = [warning["text"] for warning in record["warnings"]]
    assert any("of 2 validation videos can be anything from" in text for text in texts)
    notes = [message for message in caplog.messages if message.startswith("note: ")]
    assert notes[-len(texts) :] == [f"note: {text}" for text in texts]
    first = advise(out)[0]
    expected = f"next: {first.action} ({first.cause}); st-adapter advise '{out}'"
    assert caplog.messages[-1] == expected
    assert record["facts"]["classes"] == {"brightens": [5, 1], "darkens": [5, 1]}


def test_a_run_can_be_trained_without_being_examined(folder_data, tmp_path, tiny, caplog):
    train(folder_data, tmp_path / "run", replace(tiny, epochs=1), diagnose=False)
    assert not (tmp_path / "run" / "warnings.json").exists()
    assert not any(message.startswith("next:") for message in caplog.messages)


def test_a_run_whose_videos_are_gone_is_finished_all_the_same(
    folder_data, trained_run, tmp_path, tiny, caplog
):
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(folder_data, data)
    shutil.copytree(trained_run, run)
    parts = read_parts(data, tiny)
    shutil.rmtree(data)
    diagnose_run(run, data, parts, tiny, probe)
    assert "note: the run was not examined for warnings: DataError: " in caplog.text


def test_a_full_disk_costs_the_warnings_and_not_the_run(
    folder_data, trained_run, tmp_path, tiny, caplog
):
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    (run / "warnings.json").unlink()
    (run / "warnings.json").mkdir()  # a file cannot be renamed to a folder
    diagnose_run(run, folder_data, read_parts(folder_data, tiny), tiny, probe)
    assert "the run was not examined for warnings: IsADirectoryError" in caplog.text


def test_videos_of_another_part_are_not_held_out(folder_data, trained_run, tmp_path, tiny):
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    for config, held_out in ((tiny, True), (replace(tiny, val=str(folder_data)), False)):
        diagnose_run(run, folder_data, read_parts(folder_data, config), config, probe)
        assert read_facts(run).videos.held_out == held_out


def test_facts_of_a_run_are_read_from_its_files(trained_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    lines = [
        {"step": 1, "epoch": 1, "loss": 0.8},
        {"step": 2, "epoch": 1, "loss": 0.6},
        {"step": 2, "epoch": 1, "top1": 0.5, "val_loss": 0.9, "train_seconds": 1.0},
        {"step": 3, "epoch": 2, "left_out": "nan", "videos": []},
        {"step": 4, "epoch": 2, "loss": 0.4},
        {"step": 4, "epoch": 2, "train_seconds": 2.0},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    facts = read_facts(run)
    assert (facts.steps, facts.left_out, facts.can_resume) == (4, 1, True)
    assert [vars(epoch) for epoch in facts.epochs] == [
        {"number": 1, "train_loss": pytest.approx(0.7), "val_loss": 0.9, "score": 0.5},
        {"number": 2, "train_loss": 0.4, "val_loss": None, "score": None},
    ]
    assert facts.train_counts == {"brightens": 5, "darkens": 5}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"facts": {}}', '{"facts": null}'])
def test_damaged_or_foreign_warnings_are_passed_over(trained_run, tmp_path, text):
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    (run / "warnings.json").write_text(text)
    assert read_facts(run).videos is None
    assert advise(run)


def test_a_run_of_an_earlier_version_gets_advice(tmp_path):
    from test_docs import ROOT

    run = tmp_path / "run"
    shutil.copytree(ROOT / "tests" / "reference" / "trained_by_0_1", run)
    assert [advice.cause for advice in advise(run)][:1] == ["random weights"]


def test_evaluate_prints_the_warnings_about_its_result(trained_run, folder_data, capsys):
    arguments = ["evaluate", str(trained_run), str(folder_data), "--device", "cpu", "--workers"]
    assert main([*arguments, "0"]) == 0
    error = capsys.readouterr().err
    assert "note: top-1" in error
    assert "points wide" in error
    assert "share a scene" not in error


def test_check_says_what_would_mislead(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for number in range(40):
        for label, width in (("near", 64), ("far", 128)):
            frames = list(rng.integers(0, 255, (8, 64, width, 3), np.uint8))
            write_video(tmp_path / "data" / label / f"{number}.mp4", frames)
    assert main(["check", str(tmp_path / "data"), "--out", str(tmp_path), "--workers", "0"]) == 0
    text = capsys.readouterr().out
    (line,) = json.loads((tmp_path / "check.json").read_text())["misleading"]
    assert "a classifier that sees only width" in line
    assert "reaches 100% of 16 validation videos" in line
    assert f"likely to mislead:\n  {line}" in text
