import json
import os
import random
import re
import shutil
import signal
import time
from dataclasses import replace

import pytest
import torch

from conftest import held_by_another, start_comparison
from st_adapter.cli.main import main
from st_adapter.cli.tables import accuracy_cells as cells
from st_adapter.comparison.plan import Plan, write_plan
from st_adapter.comparison.results import choose_rates
from st_adapter.comparison.run import compare
from st_adapter.data.annotations import read_parts
from st_adapter.errors import ArgumentError, StAdapterError
from st_adapter.evaluation.run_record import recorded_run
from st_adapter.model.checkpoint import read_tensors
from st_adapter.report.page import write_report
from st_adapter.training.loop import train

METHODS = ("st-adapter", "linear")
COSTS = ("train_seconds", "step_seconds", "memory_gb")


def _compare(settings, out):
    """What `st-adapter compare` does, in this process; returns its exit code."""
    return main(["compare", *settings, "--out", str(out)])


def _results(folder):
    results = json.loads((folder / "results.json").read_text())["results"]
    return [{k: v for k, v in row.items() if k not in COSTS} for row in results]


def test_a_comparison_holds_what_it_should(compared):
    results = json.loads((compared / "results.json").read_text())
    assert [row["method"] for row in results["results"]] == list(METHODS)
    for row in results["results"]:
        assert set(row["seeds"]) == {"0", "1"}
        assert row["lowest"] <= row["top1"] <= row["highest"]
        assert set(row["search"]) == {"0.001", "0.01"}
        assert set(row["temporal"]) == {"in_order", "reversed", "shuffled", "frozen"}
        assert row["temporal"]["in_order"] == pytest.approx(row["top1"])
        assert all(row[cost] > 0 for cost in COSTS)
        assert row["stored_bytes"] > 4 * row["trained_parameters"]
    adapter, linear = results["results"]
    assert linear["temporal"]["reversed"] == linear["temporal"]["in_order"]
    assert linear["trained_parameters"] < adapter["trained_parameters"]
    assert results["plan"]["command"].startswith("st-adapter compare ")
    assert (compared / "report.html").exists()


def test_the_test_part_takes_no_part_in_choosing_a_learning_rate(compared):
    def paths(name, split):
        lines = (compared / name).read_text().splitlines()[1:]
        return {line.split(",")[0] for line in lines if line.endswith(split)}

    test = paths("videos.csv", "val")
    assert test
    assert not test & (paths("search.csv", "train") | paths("search.csv", "val"))
    everything = paths("search.csv", "train") | paths("search.csv", "val")
    assert everything == paths("videos.csv", "train")


def test_trials_do_not_look_at_validation_data_that_is_given(folder_data, tmp_path, tiny):
    config = replace(tiny, val=str(folder_data))
    plan = Plan(
        data=str(folder_data),
        methods=("linear",),
        refused={},
        seeds=(0,),
        rates=(1e-3, 1e-2),
        search_epochs=1,
        config=config,
    )
    write_plan(tmp_path, plan, read_parts(folder_data, config))
    cells = plan.trials() + plan.runs({"linear": 1e-3})
    val = {cell.name: len(read_parts(tmp_path / cell.videos, cell.config).val) for cell in cells}
    assert val == {
        "search/linear/lr_0.001": 2,
        "search/linear/lr_0.01": 2,
        "runs/linear/seed_0": 12,
    }


def test_a_seed_that_diverges_is_named(folder_data, tmp_path, tiny):
    config, out = replace(tiny, epochs=4), tmp_path / "out"
    rows = compare(folder_data, out, config, methods=["st-adapter"], seeds=[0], rates=[1e30])
    assert (rows[0].score, rows[0].seeds) == (None, {"0": None})
    assert "5 steps in a row" in rows[0].diverged["0"]
    assert cells(rows[0])[1] == "– 0/1"
    assert "5 steps in a row" in write_report(out).read_text()


def test_a_run_that_its_folder_fails_is_not_taken_for_one_that_diverged(
    settings, compared, tmp_path, capsys
):
    out = _unfinished(compared, tmp_path / "out", "linear")
    cell = out / "runs" / "linear" / "seed_1"
    cell.mkdir()
    record = (compared / "runs" / "linear" / "seed_1" / "config.json").read_text()
    (cell / "config.json").write_text(record.replace(str(compared), str(out)))
    (cell / "state").write_text("a file in the way")
    assert _compare(settings, out) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"runs/linear/seed_1 failed: ended at step \d+: .*state", error)
    assert "(see" in error
    assert not (cell / "diverged.json").exists()


def test_files_and_methods_that_are_left_out_are_named(folder_data, tmp_path, tiny, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(folder_data, data)
    (data / "darkens" / "broken.mp4").write_bytes(b"")
    config = replace(tiny, backbone="test_efficientnet", epochs=1, size=64)
    (tmp_path / "config.json").write_text(json.dumps(config.to_json()))
    flags = ["--config", str(tmp_path / "config.json"), "--methods", "linear,prompt"]
    assert _compare([str(data), *flags, "--seeds", "0", "--lrs", "1e-2"], out) == 1
    assert "broken.mp4: the file is empty" in capsys.readouterr().err
    results = json.loads((out / "results.json").read_text())
    assert [row["method"] for row in results["results"]] == ["linear"]
    assert "needs a plain vision transformer" in results["plan"]["refused"]["prompt"]


def test_a_killed_comparison_leaves_no_process_and_goes_on_to_the_same_table(
    settings, compared, tmp_path
):
    out = _unfinished(compared, tmp_path / "out", *METHODS)
    process = start_comparison([*settings, "--processes", "2"], out)
    _wait_for(lambda: list(out.glob("runs/*/seed_1/config.json")), process)
    time.sleep(random.uniform(0, 2))  # anywhere
    process.send_signal(signal.SIGKILL)
    process.wait()
    _wait_for(lambda: not _at_work_in(out))
    assert _compare([*settings, "--processes", "2"], out) == 0
    assert _results(out) == _results(compared)


def test_an_interrupted_comparison_leaves_no_process_behind(settings, compared, tmp_path):
    out = _unfinished(compared, tmp_path / "out", *METHODS)
    process = start_comparison(settings, out, start_new_session=True)
    _wait_for(lambda: list(out.glob("runs/*/seed_1/config.json")), process)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 130
    assert "run the same command again" in (tmp_path / "said.txt").read_text()
    assert not _at_work_in(out)


def _unfinished(compared, out, *methods):
    """A copy of a comparison in which a run of each of these methods has not begun."""
    shutil.copytree(compared, out)
    for method in methods:
        shutil.rmtree(out / "runs" / method / "seed_1")
    return out


def _wait_for(condition, process=None, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)


def _at_work_in(folder):
    """Processes that write to a log in a folder."""
    return [p for p in os.listdir("/proc") if p.isdigit() and _writes_to(p, folder)]


def _writes_to(pid, folder):
    try:
        return str(folder) in os.readlink(f"/proc/{pid}/fd/1")
    except OSError:  # it has ended, or is a kernel's
        return False


def test_a_finished_comparison_is_not_trained_again_and_its_lists_are_restored(settings, compared):
    before = {p: p.stat().st_mtime_ns for p in compared.glob("*/*/*/eval.json")}
    search = (compared / "search.csv").read_bytes()
    (compared / "search.csv").unlink()
    assert _compare(settings, compared) == 0
    assert before == {p: p.stat().st_mtime_ns for p in compared.glob("*/*/*/eval.json")}
    assert (compared / "search.csv").read_bytes() == search


def test_ctrl_c_at_any_moment_is_answered_with_a_word(settings, tmp_path):
    began = time.monotonic()
    started = {}
    for seconds in (0.5, 2.0, 5.0):
        (tmp_path / str(seconds)).mkdir()
        out = tmp_path / str(seconds) / "out"
        started[seconds] = start_comparison(settings, out, start_new_session=True)
    for seconds, process in started.items():
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        os.killpg(process.pid, signal.SIGINT)
    for seconds, process in started.items():
        code = process.wait(timeout=60)
        assert code in (130, -signal.SIGINT)  # the latter before Python has started the command
        if code == 130:
            assert "Traceback" not in (tmp_path / str(seconds) / "said.txt").read_text()


def test_damaged_costs_are_measured_again_and_a_damaged_plan_is_named(
    settings, compared, tmp_path, capsys
):
    out = tmp_path / "out"
    shutil.copytree(compared, out)
    (out / "costs.json").write_text("{}")
    assert _compare(settings, out) == 0
    assert set(json.loads((out / "costs.json").read_text())) == set(METHODS)
    for text in ("[]", "{}", '{"config'):
        (out / "comparison.json").write_text(text)
        assert _compare(settings, out) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert "comparison.json" in line
        assert re.search("damaged|cannot be read", line)


def test_a_folder_is_compared_in_by_one_process_at_a_time(settings, compared, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(compared, out)
    with held_by_another(out):
        assert _compare(settings, out) == 2
    assert "another process is working in" in capsys.readouterr().err


def test_another_comparison_is_not_mixed_in(folder_data, compared, tiny):
    with pytest.raises(ArgumentError, match="was started with methods"):
        compare(folder_data, compared, replace(tiny, epochs=1), methods=["linear"], rates=[1e-3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": ["lineer"]}, "did you mean linear"),
        ({"seeds": []}, "seeds must be one or more"),
        ({"rates": [0.0]}, "learning rates must be above 0"),
        ({"rates": [float("nan")]}, "learning rates must be above 0 and finite"),
        ({"config": {"epochs": 0}}, "epochs must be at least 1"),
        ({"processes": 0}, "processes must be at least 1"),
        ({"config": {"reversal": "brightens=darken"}}, "did you mean darkens"),
        ({"config": {"group": "actor"}}, "the group 'actor' matches none of the paths, such as"),
    ],
)
def test_a_comparison_that_makes_no_sense_writes_nothing(
    folder_data, tmp_path, tiny, arguments, message
):
    config = replace(tiny, **arguments.pop("config", {}))
    with pytest.raises(StAdapterError, match=message):
        compare(folder_data, tmp_path / "out", config, **{"methods": ["linear"], **arguments})
    assert not (tmp_path / "out").exists()


def test_a_group_of_all_videos_is_refused_with_their_folder(folder_data, tmp_path, tiny):
    message = f"gives the same match 'clip' for every path in {re.escape(str(folder_data))}"
    with pytest.raises(StAdapterError, match=message):
        compare(folder_data, tmp_path / "out", replace(tiny, group="clip"), methods=["linear"])
    assert not (tmp_path / "out").exists()


def test_the_rate_of_the_best_trial_is_chosen_then_that_of_the_lowest_loss(tmp_path, tiny):
    plan = Plan(
        data="",
        methods=METHODS,
        refused={},
        seeds=(0,),
        rates=(1e-3, 1e-2, 1e-1),
        search_epochs=1,
        config=tiny,
    )
    reached = {
        "st-adapter": {1e-3: (0.5, 0.9), 1e-2: (0.7, 2.0), 1e-1: (0.6, 0.1)},
        "linear": {1e-3: (0.5, 0.9), 1e-2: (0.5, 0.8), 1e-1: None},
    }
    for cell in plan.trials():
        result = reached[cell.config.method][cell.config.lr]
        if result:
            (tmp_path / cell.name).mkdir(parents=True)
            record = {"top1": result[0], "loss": result[1]}
            (tmp_path / cell.name / "eval.json").write_text(json.dumps(record))
    assert choose_rates(tmp_path, plan) == {"st-adapter": 1e-2, "linear": 1e-2}


def test_a_row_reads_as_people_write(compared):
    from st_adapter.comparison.results import MethodRow

    record = json.loads((compared / "results.json").read_text())["results"][0]
    assert record.pop("top1") == record["score"]
    scores = {"score": 0.5, "interval": (0.3, 0.7), "lowest": 0.25, "highest": 0.75}
    text = cells(MethodRow(**record | scores | {"lr": 1e-3}))
    assert [*text[:4], text[-1]] == ["st-adapter", "50.0", "30–70", "25–75", "0.001*"]


def test_a_comparison_keeps_features_and_finds_the_same(folder_data, tmp_path, tiny):
    config, out = replace(tiny, epochs=2, draws=1), tmp_path / "out"
    methods = ["linear", "st-adapter"]
    keeps = replace(config, keep_features=1.0)
    compare(folder_data, out, keeps, methods=methods, rates=[1e-3], seeds=[0])
    assert not (out / "features").exists()
    for method in methods:
        said = (out / "logs" / f"runs_{method}_seed_0.txt").read_text()
        assert ("kept features" in said) == (method == "linear")
    run = out / "runs" / "linear" / "seed_0"
    alone = replace(recorded_run(run)[2], keep_features=0.0, features=None)
    train(out / "videos.csv", tmp_path / "alone", alone, temporal=True, diagnose=False)
    mine, other = (read_tensors(folder / "adapter") for folder in (run, tmp_path / "alone"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in mine.items())
    scores = [json.loads((f / "eval.json").read_text()) for f in (run, tmp_path / "alone")]
    assert scores[0]["temporal"] == scores[1]["temporal"]
    assert scores[0]["baselines"] == scores[1]["baselines"]
    assert scores[0]["predictions"] == scores[1]["predictions"]
