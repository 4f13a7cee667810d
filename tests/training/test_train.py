import json
import math
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import replace
from multiprocessing import get_context

import pytest
import torch

from conftest import SIGNALLED_RUN, held_by_another, wait_for, write_audio
from st_adapter.cli.main import main
from st_adapter.common.lock import alone_in
from st_adapter.config import TrainConfig
from st_adapter.data.annotations import read_annotations, read_parts
from st_adapter.errors import ArgumentError, CheckpointError, DataError, TrainingError
from st_adapter.evaluation.evaluate import evaluate_videos
from st_adapter.evaluation.run_record import evaluation_videos
from st_adapter.model.build import create_model, load
from st_adapter.model.checkpoint import read_tensors
from st_adapter.runtime.memory import check_memory, fit_batch, step_bytes
from st_adapter.training.loop import train
from st_adapter.training.optimizer import MovingAverage, learning_rate_factor, make_optimizer
from st_adapter.training.run_folder import recorded_next_epoch


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_folder_holds_what_it_should(trained_run):
    names = {str(p.relative_to(trained_run)) for p in trained_run.rglob("*") if p.is_file()}
    assert names == {
        "config.json",
        "metrics.jsonl",
        "eval.json",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter_last/adapter_config.json",
        "adapter_last/adapter_model.safetensors",
        "state/step_00000003.pt",
        "warnings.json",
    }
    steps = [line for line in lines(trained_run / "metrics.jsonl") if "loss" in line]
    costs = {"clips_per_second", "memory_gb"}
    assert steps[0].keys() == {"step", "epoch", "loss", "lr", "gradient_norm"} | costs
    result = json.loads((trained_run / "eval.json").read_text())
    assert result["num_videos"] == len(result["predictions"]) == 2
    assert result["num_skipped"] == 0


def test_training_learns_what_only_order_tells(folder_data, tmp_path, tiny):
    config = replace(tiny, epochs=16, lr=1e-2, flip=False, crop_range=(1.0, 1.0), seed=1)
    last_loss = {}
    for method in ("st-adapter", "linear"):
        out = tmp_path / method
        train(folder_data, out, replace(config, method=method, val=str(folder_data)))
        losses = [x["loss"] for x in lines(out / "metrics.jsonl") if "loss" in x]
        last_loss[method] = statistics.fmean(losses[-6:])  # of two epochs
    assert last_loss["st-adapter"] < 0.3
    assert last_loss["linear"] > 0.4  # blind to order, it is left with what compression changed
    evaluation = json.loads((tmp_path / "st-adapter" / "eval.json").read_text())
    assert (evaluation["top1"], evaluation["num_videos"]) == (1.0, 12)


def test_interrupted_and_resumed_equals_straight_through_bit_for_bit(folder_data, tmp_path, tiny):
    config = replace(tiny, epochs=8, lr=1e-2, accumulate=2, average=0.8, repeats=2)
    config = replace(config, mixup=0.8, cutmix=1.0, erasing=0.5, color_jitter=0.4)
    train(folder_data, tmp_path / "straight", config)

    out = tmp_path / "interrupted"
    slow = json.dumps(replace(config, workers=1).to_json())
    given = [str(int(signal.SIGTERM)), slow, str(folder_data), str(out)]
    command = [sys.executable, "-c", SIGNALLED_RUN, *given]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "continue with: st-adapter train" in errors
    state = last_state(out)
    assert 0 < state["step"] < 16

    train(folder_data, out, config, resume=True)
    logged = [(x["step"], "top1" in x) for x in lines(out / "metrics.jsonl")]
    assert len(logged) == len(set(logged))
    ours, theirs = (
        read_tensors(out / "adapter_last"),
        read_tensors(tmp_path / "straight" / "adapter_last"),
    )
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def last_state(run):
    return torch.load(max((run / "state").iterdir()), weights_only=True)


def test_gradient_accumulation_equals_one_large_batch(folder_data, tmp_path, tiny):
    base = replace(tiny, epochs=1, dropout=0.0, precision="float32")
    train(folder_data, tmp_path / "one", replace(base, batch_size=4))
    train(folder_data, tmp_path / "two", replace(base, batch_size=2, accumulate=2))
    one, two = (read_tensors(tmp_path / name / "adapter_last") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=1e-4, atol=1e-5)


def test_a_moving_average_follows_the_steps_and_stands_in_for_them():
    parameter = torch.nn.Parameter(torch.zeros(3))
    average = MovingAverage({"p": parameter}, decay=0.9)
    wanted = torch.zeros(3)
    for step in range(1, 200):
        with torch.no_grad():
            parameter += torch.randn(3)
        average.update(step)
        kept = min(0.9, (1 + step) / (10 + step))
        wanted = kept * wanted + (1 - kept) * parameter.detach()
    before = parameter.detach().clone()
    with average.in_place():
        torch.testing.assert_close(parameter.detach(), wanted)
    assert torch.equal(parameter, before)


def test_a_run_keeps_the_average_and_goes_on_from_the_steps(folder_data, tmp_path, tiny):
    config = replace(tiny, epochs=2, lr=1e-2, keep="last")
    train(folder_data, tmp_path / "plain", config)
    train(folder_data, tmp_path / "averaged", replace(config, average=0.8))
    plain, averaged = (last_state(tmp_path / name)["trained"] for name in ("plain", "averaged"))
    assert all(torch.equal(tensor, averaged[name]) for name, tensor in plain.items())
    state = last_state(tmp_path / "averaged")
    kept = read_tensors(tmp_path / "averaged" / "adapter")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in state["average"].items())
    assert any(not torch.equal(tensor, kept[name]) for name, tensor in plain.items())


def test_the_head_of_a_run_starts_as_configured(folder_data, tmp_path, tiny):
    train(folder_data, tmp_path / "run", replace(tiny, epochs=1, lr=1e-12, head_std=0.0))
    assert read_tensors(tmp_path / "run" / "adapter")["head.weight"].abs().max() < 1e-9


def test_a_run_with_an_average_is_measured_as_it_is_kept(folder_data, tmp_path, tiny):
    result = train(folder_data, tmp_path / "run", replace(tiny, epochs=2, average=0.8))
    again = evaluate_videos(load(tmp_path / "run"), read_parts(folder_data, tiny).val, tiny.clip)
    assert again.loss == pytest.approx(result.loss, rel=1e-5)


def test_the_classifier_starts_as_wide_as_asked():
    stds = [
        create_model("test_vit", list("abcdefghij"), weights="random", **given)
        .head.weight.std()
        .item()
        for given in ({}, {"head_std": 0.02}, {"head_std": 0.0})
    ]
    assert stds == [pytest.approx(0.002, rel=0.1), pytest.approx(0.02, rel=0.1), 0.0]


def test_workers_do_not_change_what_is_learnt(folder_data, tmp_path, tiny):
    for workers in (0, 2):
        train(folder_data, tmp_path / str(workers), replace(tiny, epochs=1, workers=workers))
    none, two = (read_tensors(tmp_path / name / "adapter_last") for name in ("0", "2"))
    assert all(torch.equal(tensor, two[name]) for name, tensor in none.items())


def test_broken_files_are_listed_once_and_training_goes_on(folder_data, tmp_path, tiny):
    rows = ["path,label,split"]
    for video in read_annotations(folder_data).train:
        split = "val" if video.path.stem.endswith("5") else "train"
        rows.append(f'"{video.path}",{video.path.parent.name},{split}')
    (tmp_path / "empty.mp4").touch()
    write_audio(tmp_path / "sound.mp4")
    rows += ["empty.mp4,darkens,train", "sound.mp4,brightens,val", "gone.mp4,darkens,train"]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    result = train(tmp_path / "list.csv", tmp_path / "run", tiny)
    assert (result.num_videos, result.num_skipped) == (2, 1)
    reasons = {x["path"].split("/")[-1]: x["reason"] for x in lines(tmp_path / "run/skipped.jsonl")}
    assert {name: reason.split(": ")[-1] for name, reason in reasons.items()} == {
        "empty.mp4": "the file is empty",
        "gone.mp4": "no such file",
        "sound.mp4": "contains no video stream",
    }
    assert len(lines(tmp_path / "run" / "skipped.jsonl")) == 3


def test_a_run_is_trained_by_one_process_at_a_time(trained_run, folder_data, tmp_path, tiny):
    out = tmp_path / "run"
    shutil.copytree(trained_run, out)
    before = sorted(out.rglob("*"))
    with (
        held_by_another(out),
        pytest.raises(ArgumentError, match=f"another process is working in {re.escape(str(out))}"),
    ):
        train(folder_data, out, resume=True)
    assert sorted(out.rglob("*")) == before
    train(folder_data, out, resume=True)


def test_what_a_process_starts_does_not_hold_its_folder(tmp_path):
    fork = get_context("fork")
    begun, done = fork.Event(), fork.Event()
    child = fork.Process(target=lambda: begun.set() or done.wait())
    with alone_in(tmp_path):
        child.start()
        assert begun.wait(60)
    with alone_in(tmp_path):
        assert child.is_alive()
    done.set()
    child.join()


def test_a_run_is_not_overwritten(folder_data, trained_run, tiny):
    before = {p: p.read_bytes() for p in trained_run.rglob("*") if p.is_file()}
    with pytest.raises(ArgumentError, match="already contains a run; continue it with resume=True"):
        train(folder_data, trained_run, tiny)
    assert {p: p.read_bytes() for p in trained_run.rglob("*") if p.is_file()} == before


def test_a_run_is_not_resumed_on_other_videos_or_another_configuration(
    folder_data, trained_run, tmp_path
):
    other = tmp_path / "other"
    shutil.copytree(folder_data, other)
    with pytest.raises(ArgumentError, match="was started on .*my videos, not .*other; resume"):
        train(other, trained_run, resume=True)
    config = TrainConfig.from_json(
        json.loads((trained_run / "config.json").read_text())["config"], "config.json"
    )
    with pytest.raises(ArgumentError, match="was started with frames=4, not 5; a resumed run"):
        train(folder_data, trained_run, replace(config, frames=5), resume=True)
    assert train(folder_data, trained_run, replace(config, workers=1), resume=True).num_videos == 2


def test_a_run_is_not_resumed_after_its_data_changed(folder_data, tmp_path, tiny):
    data = tmp_path / "data"
    shutil.copytree(folder_data, data)
    train(data, tmp_path / "run", replace(tiny, epochs=1))
    (data / "darkens" / "clip 3.mp4").unlink()
    with pytest.raises(ArgumentError, match="was started on other videos or labels"):
        train(data, tmp_path / "run", resume=True)


def test_a_damaged_state_gives_way_to_the_one_before(folder_data, tmp_path, tiny):
    train(folder_data, tmp_path / "run", replace(tiny, epochs=2))
    wanted = read_tensors(tmp_path / "run" / "adapter_last")
    before, last = sorted((tmp_path / "run" / "state").iterdir())
    last.write_bytes(b"damaged")
    train(folder_data, tmp_path / "run", resume=True)
    again = read_tensors(tmp_path / "run" / "adapter_last")
    assert all(torch.equal(tensor, again[name]) for name, tensor in wanted.items())
    for state in (before, last):
        state.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="no state in .* can be read"):
        train(folder_data, tmp_path / "run", resume=True)
    for state in (before, last):
        state.unlink()
    with pytest.raises(CheckpointError, match="state is empty"):
        train(folder_data, tmp_path / "run", resume=True)


def test_a_torn_line_of_metrics_does_not_stop_a_resumed_run(folder_data, tmp_path, tiny):
    train(folder_data, tmp_path / "run", replace(tiny, epochs=1))
    file = tmp_path / "run" / "metrics.jsonl"
    whole = lines(file)
    with file.open("a") as torn:
        torn.write('{"step": 3, "lo')
    train(folder_data, tmp_path / "run", resume=True)
    assert lines(file) == whole


def test_a_class_of_broken_files_does_not_stop_training(folder_data, tmp_path, tiny):
    data = tmp_path / "data"
    shutil.copytree(folder_data, data)
    for path in (data / "darkens").iterdir():
        path.write_bytes(b"broken")
    result = train(data, tmp_path / "run", replace(tiny, epochs=1, workers=1))
    assert (result.num_videos, result.num_skipped) == (1, 1)
    assert len(lines(tmp_path / "run" / "skipped.jsonl")) == 6
    for path in (data / "brightens").iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match="no training video could be read"):
        train(data, tmp_path / "run2", replace(tiny, epochs=1, workers=1))


def test_memory_of_a_step_is_estimated_in_the_chosen_precision(tiny):
    model = create_model("test_vit", labels=["a", "b"], weights="random")
    config = replace(tiny, frames=64, size=64)
    needed = {}
    for precision in ("float32", "bfloat16"):
        model.set_precision(precision)
        needed[precision] = step_bytes(model, config)(1)
    assert 0.4 < needed["bfloat16"] / needed["float32"] < 0.95


def test_what_cannot_work_is_refused_before_anything_is_written(folder_data, tmp_path, tiny):
    out = tmp_path / "run"
    for change, message in (
        (
            {"frames": 10**7},
            rf"but {tiny.device}(:0)? has .* GB free; use checkpoint_act.* step\); "
            "or lower frames",
        ),
        ({"device": "cuda:7"}, "device 'cuda:7' is not available; this machine has cpu"),
        ({"device": "tpux"}, "device 'tpux' is not available"),
        ({"backbone": "vit_tny"}, "unknown backbone 'vit_tny'"),
        ({"size": 40}, "does not accept frames of 40 px"),
    ):
        with pytest.raises(ArgumentError, match=message):
            train(folder_data, out, replace(tiny, **change))
        assert not out.exists()
    with pytest.raises(ArgumentError, match="does not contain the config.json of a run"):
        train(folder_data, out, tiny, resume=True)


def test_no_weight_decay_on_biases():
    model = create_model("test_vit", labels=["a", "b"], weights="random")
    decayed, plain = make_optimizer(model, TrainConfig()).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.01, 0.0)
    names = {id(p): name for name, p in model.trained_tensors().items()}
    assert all(names[id(p)].endswith(".bias") for p in plain["params"])
    assert all(names[id(p)].endswith(".weight") for p in decayed["params"])


def test_the_head_can_have_a_learning_rate_of_its_own():
    model = create_model("test_vit", labels=["a", "b"], weights="random")
    groups = make_optimizer(model, TrainConfig(lr=1e-3, head_lr=1e-4)).param_groups
    head = [id(p) for p in model.head.parameters()]
    rates = {id(p): group["peak_lr"] for group in groups for p in group["params"]}
    assert len(rates) == len(model.trainable_parameters())
    assert all(rate == (1e-4 if key in head else 1e-3) for key, rate in rates.items())


def test_warm_up_is_linear_and_the_rest_a_cosine_to_zero():
    config = TrainConfig(epochs=12, warmup_epochs=2.0)
    factors = [learning_rate_factor(step, 100, config) for step in (0, 100, 200, 700, 1200)]
    assert factors == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert learning_rate_factor(0, 1, replace(config, epochs=1)) == 1


def test_loss_that_is_no_number_stops_with_the_state_kept(folder_data, tmp_path, tiny):
    out = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"loss was \S+ for 5 steps in a row"):
        train(folder_data, out, replace(tiny, lr=1e38, epochs=9, clip_gradient=0.0))
    for folder in out.glob("adapter*"):
        assert all(tensor.isfinite().all() for tensor in read_tensors(folder).values())
    for state in out.glob("state/*.pt"):
        trained = torch.load(state, weights_only=True)["trained"]
        assert all(tensor.isfinite().all() for tensor in trained.values())


def start(data, out, *flags):
    command = [sys.executable, "-m", "st_adapter", "train", str(data), "--out", str(out)]
    command += ["--backbone", "test_vit", "--weights", "random", "--size", "32", "--frames", "4"]
    command += ["--workers", "0", "--epochs", "500", "--precision", "float32", "--device", "cpu"]
    return subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True)


def test_killed_run_resumes_from_its_last_state(folder_data, tmp_path, tiny):
    out = tmp_path / "run"
    process = start(folder_data, out)
    wait_for(lambda: list(out.glob("state/*.pt")), process)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    step = last_state(out)["step"]
    assert json.loads((out / "config.json").read_text())["config"]["epochs"] == 500

    process = start(folder_data, out, "--resume")
    for line in process.stderr:
        if "resuming in epoch" in line:
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert f"at step {step}" in line


def test_a_signal_to_all_processes_of_a_run_leaves_it_resumable(folder_data, tmp_path):
    command = [sys.executable, "-m", "st_adapter", "train", str(folder_data)]
    command += ["--out", str(tmp_path / "run"), "--backbone", "test_vit", "--weights", "random"]
    command += ["--size", "32", "--frames", "4", "--epochs", "500", "--device", "cpu"]
    process = subprocess.Popen(
        [*command, "--workers", "2"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").exists(), process)
    os.killpg(process.pid, signal.SIGTERM)  # as `timeout` and job schedulers do
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "continue with: st-adapter train" in errors
    assert "Traceback" not in errors
    assert last_state(tmp_path / "run")["step"] > 0


def test_too_few_validation_videos_keep_the_last_epoch_and_say_so(
    folder_data, tmp_path, tiny, capsys
):
    train(folder_data, tmp_path / "auto", replace(tiny, epochs=3))
    said = capsys.readouterr().err
    assert "the last epoch will be kept: 2 validation videos are too few" in said
    assert "; best " not in said
    last, kept = (
        (tmp_path / "auto" / name / "adapter_model.safetensors").read_bytes()
        for name in ("adapter_last", "adapter")
    )
    assert last == kept
    train(folder_data, tmp_path / "best", replace(tiny, keep="best"))
    said = capsys.readouterr().err
    assert "too few" not in said
    assert "; best " in said
    with pytest.raises(ArgumentError, match="patience chooses an epoch, but 2 validation videos"):
        train(folder_data, tmp_path / "patient", replace(tiny, patience=1))


def test_enough_validation_videos_choose_the_best_epoch(folder_data, tmp_path, tiny):
    rows = [f"{path},{path.parent.name}" for path in sorted(folder_data.rglob("*.mp4"))]
    (tmp_path / "val.csv").write_text("\n".join(["path,label", *rows, *rows]))
    assert len(rows) == 12
    config = replace(tiny, val=str(tmp_path / "val.csv"), epochs=2)
    train(folder_data, tmp_path / "run", config)
    scores = [line["top1"] for line in lines(tmp_path / "run" / "metrics.jsonl") if "top1" in line]
    result = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert result["top1"] == max(scores)


def test_a_line_per_epoch_has_losses_accuracy_and_times(folder_data, tmp_path, tiny, capsys):
    train(folder_data, tmp_path / "run", tiny)
    train(folder_data, tmp_path / "last", replace(tiny, epochs=1, keep="last"))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch ")]
    loss, seconds = r"loss \d+\.\d{3}", r"\d+ s"
    whole = (
        rf"epoch 1/2: {loss}, validation {loss}, top-1 \d+\.\d% \(\d+ to \d+\), {seconds}, "
        rf"about {seconds} left"
    )
    assert re.fullmatch(whole, said[0])
    assert re.fullmatch(rf"epoch 1/1: {loss}, {seconds}", said[2])


def test_a_batch_larger_than_the_data_is_told(folder_data, tmp_path, tiny, capsys):
    train(folder_data, tmp_path / "run", replace(tiny, epochs=1, batch_size=64))
    said = capsys.readouterr().err
    assert "1 step per epoch" in said
    assert re.search(
        r"note: every step trains on all \d+ training videos, because they are fewer", said
    )
    (line,) = (x for x in lines(tmp_path / "run" / "metrics.jsonl") if "loss" in x)
    assert line["lr"] > 0


def test_the_last_epoch_is_kept_without_a_look_at_validation(folder_data, tmp_path, tiny):
    result = train(folder_data, tmp_path / "run", replace(tiny, keep="last"), temporal=True)
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"top1"' not in metrics
    assert recorded_next_epoch(tmp_path / "run") == tiny.epochs
    last, kept = (read_tensors(tmp_path / "run" / name) for name in ("adapter_last", "adapter"))
    assert all(torch.equal(last[name], kept[name]) for name in kept)
    assert result.temporal["in_order"] == pytest.approx(result.top1)


def test_a_comparison_is_not_trained_into(folder_data, tmp_path, tiny):
    (tmp_path / "comparison.json").write_text("{}")
    with pytest.raises(ArgumentError, match="contains a comparison; choose another out"):
        train(folder_data, tmp_path, tiny)


def test_reversal_of_a_class_that_is_not_there_is_refused(folder_data, tmp_path, tiny):
    with pytest.raises(ArgumentError, match="not a class of the data; did you mean darkens"):
        train(folder_data, tmp_path / "run", replace(tiny, reversal="brightens=darken"))
    assert not (tmp_path / "run").exists()


def test_reversals_teach_the_order_of_frames(folder_data, tmp_path, tiny):
    config = replace(tiny, reversal="brightens=darkens", keep="last", init="up-zero", dropout=0.0)
    config = replace(config, epochs=8, lr=1e-2)
    result = train(folder_data, tmp_path / "run", config, temporal=True)
    assert result.temporal["in_order"] == 1.0
    assert result.temporal["reversed"] == 0.0


def test_states_are_saved_by_steps_and_only_the_last_are_kept(folder_data, tmp_path, tiny):
    seen = set()
    folder = tmp_path / "run" / "state"
    config = replace(tiny, epochs=2, save_steps=1, keep_states=3, batch_size=2)

    def watch():
        while not done.wait(0.001):
            seen.update(p.name for p in folder.glob("step_*.pt"))

    done = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        train(folder_data, tmp_path / "run", config)
    finally:
        done.set()
        watcher.join()
    assert sorted(p.name for p in folder.iterdir()) == [f"step_{i:08d}.pt" for i in (8, 9, 10)]
    assert {f"step_{i:08d}.pt" for i in (1, 2, 6, 7)} & seen


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_nan_changes_nothing_and_its_videos_are_logged(
    folder_data, tmp_path, tiny, capsys, what
):
    config = replace(tiny, average=0.8, save_steps=1, keep_states=99)
    passes = []

    def spoil_the_second_step(module, given, logits):
        is_head = isinstance(module, torch.nn.Linear) and logits.shape == (4, 2)
        if is_head and module.training and torch.is_grad_enabled():
            passes.append(module)  # of two classes, on a batch of four
            if len(passes) == 2 and what == "loss":
                return logits * math.nan
            if len(passes) == 2:
                logits.register_hook(lambda gradient: gradient * math.nan)
        return logits

    hook = torch.nn.modules.module.register_module_forward_hook(spoil_the_second_step)
    try:
        train(folder_data, tmp_path / "run", config)
    finally:
        hook.remove()
    assert f"skipped step 2, because its {what} is nan" in capsys.readouterr().err
    (bad,) = [line for line in lines(tmp_path / "run" / "metrics.jsonl") if "left_out" in line]
    assert (bad["step"], bad["left_out"], len(bad["videos"])) == (2, "nan", 4)
    first, second = (
        torch.load(tmp_path / "run" / "state" / f"step_0000000{i}.pt", weights_only=True)
        for i in (1, 2)
    )
    for part in ("trained", "average"):
        assert all(torch.equal(tensor, second[part][n]) for n, tensor in first[part].items())
    assert all(t.isfinite().all() for t in read_tensors(tmp_path / "run" / "adapter").values())


def test_training_ends_early_where_nothing_gets_better(folder_data, tmp_path, tiny):
    config = replace(tiny, epochs=9, lr=1e-9, patience=2, keep="best")
    train(folder_data, tmp_path / "run", config)
    epochs = [line["epoch"] for line in lines(tmp_path / "run" / "metrics.jsonl") if "top1" in line]
    assert epochs == [1, 2, 3]
    train(folder_data, tmp_path / "run", config, resume=True)
    assert last_state(tmp_path / "run")["epochs_done"] == 3
    with pytest.raises(ArgumentError, match="patience chooses the epoch by validation videos"):
        replace(config, keep="last")


def test_nothing_is_left_of_a_run_that_could_read_nothing(tmp_path, tiny):
    for name in ("a", "b"):
        for i in range(2):
            file = tmp_path / "data" / name / f"{i}.mp4"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"no video")
    for _ in range(2):
        with pytest.raises(DataError, match="no training video could be read"):
            train(tmp_path / "data", tmp_path / "run", tiny)
    assert not (tmp_path / "run").exists()


def test_what_was_held_out_of_data_that_changed_is_not_known(folder_data, tmp_path, tiny):
    data = tmp_path / "data"
    shutil.copytree(folder_data, data)
    train(data, tmp_path / "run", replace(tiny, epochs=1))
    spec = load(tmp_path / "run").spec
    assert len(evaluation_videos(tmp_path / "run", data, spec)) == 2
    shutil.copy(data / "darkens" / "clip 0.mp4", data / "darkens" / "more.mp4")
    with pytest.raises(DataError, match="has changed since the run was trained on it"):
        evaluation_videos(tmp_path / "run", data, spec)


def test_a_folder_that_cannot_be_written_is_refused_first(folder_data, tmp_path, tiny):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="file is a file; out must be a folder"):
        train(folder_data, tmp_path / "file" / "run", tiny)


def test_a_tracker_gets_the_metrics(folder_data, tmp_path, tiny):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    train(folder_data, out, replace(tiny, epochs=1, tracker="tensorboard"))
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    logged = {x["step"]: x["loss"] for x in lines(out / "metrics.jsonl") if "loss" in x}
    assert {e.step: e.value for e in events.Scalars("loss")} == pytest.approx(logged)
    assert "top1" in events.Tags()["scalars"]


def test_a_tracker_that_is_not_installed_is_refused(folder_data, tmp_path, tiny):
    with pytest.raises(ArgumentError, match="tracker wandb needs its package: pip install wandb"):
        train(folder_data, tmp_path / "run", replace(tiny, tracker="wandb"))
    assert not (tmp_path / "run").exists()


def test_a_step_is_cut_into_the_fewest_batches_that_fit(tiny):
    config = replace(tiny, batch_size=6, accumulate=2, repeats=2)

    def fitted(clips):
        room = int(1.3 * 1000 * clips) + 1
        got = fit_batch(config, needed=lambda n: 1000 * n, available=room)
        return got.batch_size, got.accumulate

    found = [fitted(clips) for clips in (12, 11, 5, 2, 1)]
    assert found == [(12, 1), (6, 2), (4, 3), (2, 6), (2, 6)]


def test_a_batch_that_is_run_in_pieces_needs_the_memory_of_one(tiny):
    model = create_model("vit_tiny_patch16_224", ["a", "b"], weights="random")
    config = replace(tiny, batch_size=64, frames=8, size=224)
    of_batch = step_bytes(model, config)
    clip_bytes = 8 * 3 * 224 * 224
    assert of_batch(64) - of_batch(1) == 63 * clip_bytes
    with_workers = step_bytes(model, replace(config, workers=2))
    assert with_workers(64) - of_batch(64) == 4 * 64 * clip_bytes  # two batches ahead in each
    with pytest.raises(
        ArgumentError, match=r"a training step with batch size 64, frames 8 .*; use more memory"
    ):
        check_memory(model, config, 2**60, "use more memory")


def test_the_size_of_a_batch_may_be_left_to_the_machine(folder_data, tmp_path, capsys):
    flags = ["--backbone", "test_vit", "--weights", "random", "--size", "32", "--epochs", "1"]
    flags += ["--frames", "4", "--workers", "0", "--batch-size", "auto", "--accumulate", "2"]
    assert main(["train", str(folder_data), "--out", str(tmp_path / "run"), *flags]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (config["batch_size"], config["accumulate"], config["fit_batch"]) == (16, 1, True)
    assert "16 clips per step = 16 clips x 1 accumulation x 1 process" in capsys.readouterr().err


def test_what_happens_to_the_disk_in_mid_run_is_told_and_the_last_state_kept(folder_data, tmp_path):
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(folder_data, data)
    process = start(data, out)
    wait_for(lambda: list(out.glob("state/*.pt")), process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (9000, 9000))  # as if it were full
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(r"error: ended at step \d+: .* --resume", errors.splitlines()[-1])
    before = last_state(out)["step"]

    process = start(data, out, "--resume")
    wait_for(lambda: last_state(out)["step"] > before, process)
    data.rename(tmp_path / "gone")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    last = errors.splitlines()[-1]
    assert "no training video could be read; last error: " in last
    assert re.search(r"error: ended at step \d+: .* --resume", last)
    assert last_state(out)["step"] > before
    assert not list(out.rglob(".*"))


def test_checkpointing_is_refused_where_blocks_cannot_be_run_again(folder_data, tmp_path, tiny):
    config = replace(tiny, backbone="test_resnet", checkpoint_activations=True)
    with pytest.raises(ArgumentError, match="plain ViTs only, not with ResNet"):
        train(folder_data, tmp_path / "run", config)


def test_blocks_run_again_in_bfloat16_as_they_ran(folder_data, tmp_path, tiny):
    config = replace(tiny, precision="bfloat16", epochs=1)
    for name, again in (("kept", False), ("again", True)):
        train(folder_data, tmp_path / name, replace(config, checkpoint_activations=again))
    kept, again = (lines(tmp_path / name / "metrics.jsonl") for name in ("kept", "again"))
    assert [x.get("loss") for x in again] == [x.get("loss") for x in kept]


def test_float16_scales_the_loss_and_saves_the_scale(folder_data, tmp_path, tiny):
    out = tmp_path / "run"
    train(folder_data, out, replace(tiny, precision="float16", lr=1e-2, epochs=3))
    logged = lines(out / "metrics.jsonl")
    losses = [x["loss"] for x in logged if "loss" in x]
    assert losses[-1] < losses[0]
    assert last_state(out)["scaler"]["scale"] > 1
    assert not any("left_out" in x for x in logged)


def test_a_run_folder_is_held_before_anything_is_prepared(folder_data, tmp_path, tiny):
    out = tmp_path / "run"
    with held_by_another(out), pytest.raises(ArgumentError, match="another process is working in"):
        train(folder_data, out, replace(tiny, backbone="no such model"))  # which is not looked at


def test_a_run_is_extended_by_more_epochs(folder_data, tmp_path, tiny, capsys):
    out = tmp_path / "run"
    config = replace(tiny, epochs=1, lr=1e-2)
    train(folder_data, out, config)
    train(folder_data, out, replace(config, epochs=3), resume=True)
    said = capsys.readouterr().err
    assert (
        "epochs raised from 1 to 3: the learning rate continues as if the run had been started "
        "with 3 epochs" in said
    )
    epochs = [line["epoch"] for line in lines(out / "metrics.jsonl") if "top1" in line]
    assert epochs == [1, 2, 3]
    assert json.loads((out / "config.json").read_text())["config"]["epochs"] == 3
    with pytest.raises(ArgumentError, match="was started with epochs=3, not 2"):
        train(folder_data, out, replace(config, epochs=2), resume=True)
