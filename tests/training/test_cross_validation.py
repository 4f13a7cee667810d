import json
from dataclasses import replace

import pytest

from conftest import TINY
from st_adapter import Predictor, evaluate
from st_adapter.cli.main import main
from st_adapter.data.annotations import read_parts
from st_adapter.errors import ArgumentError, CheckpointError, DataError
from st_adapter.training.loop import train

CONFIG = replace(TINY, folds=3, epochs=1)


@pytest.fixture(scope="module")
def crossed(folder_data, tmp_path_factory):
    """A finished cross-validation."""
    out = tmp_path_factory.mktemp("folds") / "run"
    train(folder_data, out, CONFIG)
    return out


def test_every_video_is_scored_once_by_the_fold_that_left_it_out(crossed, folder_data):
    pooled = json.loads((crossed / "eval.json").read_text())["predictions"]
    assert sorted(row["path"] for row in pooled) == sorted(map(str, folder_data.rglob("*.mp4")))
    for number in (1, 2, 3):
        own = json.loads((crossed / f"fold_{number}" / "eval.json").read_text())["predictions"]
        by_path = {row["path"]: row for row in pooled}
        assert [by_path[row["path"]]["predicted"] for row in own] == [r["predicted"] for r in own]
        trained_on = read_parts(folder_data, replace(CONFIG, fold=number)).train.names()
        assert {row["path"] for row in own}.isdisjoint(trained_on)
        assert len(own) + len(trained_on) == 12


def test_the_summary_has_mean_and_spread_of_the_folds(crossed):
    record = json.loads((crossed / "folds.json").read_text())
    scores = [
        json.loads((crossed / fold["folder"] / "eval.json").read_text())["top1"]
        for fold in record["folds"]
    ]
    mean = sum(scores) / 3
    assert record["mean"] == pytest.approx(mean)
    assert record["spread"] ** 2 == pytest.approx(sum((s - mean) ** 2 for s in scores) / 2)
    assert (record["lowest"], record["highest"]) == (min(scores), max(scores))
    assert [fold["num_videos"] for fold in record["folds"]] == [4] * 3


def test_a_fold_is_a_run_of_its_own(crossed, folder_data, tmp_path):
    again = evaluate(crossed / "fold_2", folder_data, out=tmp_path / "eval.json", device="cpu")
    recorded = json.loads((crossed / "fold_2" / "eval.json").read_text())
    assert [row["path"] for row in again.predictions] == [
        row["path"] for row in recorded["predictions"]
    ]
    with pytest.raises(CheckpointError, match=r"run is a cross-validation: .* such as .*fold_1"):
        Predictor(crossed)


def test_a_killed_cross_validation_goes_on_with_the_unfinished_fold(folder_data, tmp_path, crossed):
    out = tmp_path / "run"
    train(folder_data, out, CONFIG)
    for name in ("folds.json", "eval.json", "fold_2/eval.json"):  # as after a kill in fold 2
        (out / name).unlink()
    finished = (out / "fold_1" / "metrics.jsonl").stat().st_mtime_ns
    with pytest.raises(ArgumentError, match="already contains a run"):
        train(folder_data, out, CONFIG)
    train(folder_data, out, resume=True)
    assert (out / "fold_1" / "metrics.jsonl").stat().st_mtime_ns == finished
    assert (out / "folds.json").read_text() == (crossed / "folds.json").read_text()


def test_more_epochs_extend_every_fold(folder_data, tmp_path):
    out = tmp_path / "run"
    train(folder_data, out, replace(CONFIG, folds=2))
    train(folder_data, out, replace(CONFIG, folds=2, epochs=2), resume=True)
    for number in (1, 2):
        lines = (out / f"fold_{number}" / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines if '"kept": true' in line] == [1, 2]


def test_a_validation_part_is_joined_and_groups_stay_whole(folder_data, tmp_path, capsys):
    rows = [
        f"{path},{path.parent.name},{'val' if i % 3 == 0 else 'train'},{path.stem[-1]}"
        for i, path in enumerate(sorted(folder_data.rglob("*.mp4")))
    ]
    table = tmp_path / "t.csv"
    table.write_text("path,label,split,group\n" + "\n".join(rows))
    train(table, tmp_path / "run", replace(CONFIG, folds=2))
    assert "all 12 videos of" in capsys.readouterr().err
    for fold in (1, 2):
        parts = read_parts(table, replace(CONFIG, folds=2, fold=fold))
        assert {*parts.train.groups()}.isdisjoint(parts.val.groups())
        assert (len(parts.train), len(parts.val)) == (6, 6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"folds": 7}, r"7 folds cannot be made of 12 videos; use at most 6"),
        ({"group": r"/(bright|dark)"}, "at least 2 groups of each class.* only 1 of brightens"),
    ],
)
def test_data_that_cannot_be_divided_are_refused(folder_data, tmp_path, config, message):
    with pytest.raises(DataError, match=message):
        train(folder_data, tmp_path / "run", replace(CONFIG, **config))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 3, "val": "x"}, "leave out val"),
        ({"fold": 2}, "fold is 2, but folds is not given"),
        ({"folds": 3, "fold": 4}, "fold is 4, but folds is 3"),
        ({"folds": 3, "patience": 2}, "patience chooses the epoch"),
    ],
)
def test_settings_that_contradict_folds_are_refused(settings, message):
    with pytest.raises(ArgumentError, match=message):
        replace(TINY, **settings)


def test_the_command_ends_with_the_mean_and_a_report(folder_data, tmp_path, capsys):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(replace(TINY, epochs=1).to_json()))
    out = tmp_path / "run"
    options = ["--config", str(config), "--folds", "2", "--out", str(out)]
    assert main(["train", str(folder_data), *options]) == 0
    said = capsys.readouterr()
    assert "2 folds: mean top-1 " in said.out
    assert "for one of all videos, leave out --folds: st-adapter train" in said.out
    assert "fold 2 of 2" in said.err
    assert (out / "report.html").exists()
