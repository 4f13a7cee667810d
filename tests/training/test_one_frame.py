import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import blinking, write_video
from st_adapter.config import TrainConfig
from st_adapter.evaluation.predict import Predictor
from st_adapter.model.checkpoint import read_spec
from st_adapter.training.loop import train

TINY = {
    "backbone": "test_vit",
    "weights": "random",
    "frames": 4,
    "size": 32,
    "epochs": 2,
    "batch_size": 4,
    "workers": 0,
    "device": "cpu",
    "precision": "float32",
}


@pytest.fixture(scope="module")
def bright_and_dark(tmp_path_factory):
    """Two classes that any single frame tells apart."""
    folder = tmp_path_factory.mktemp("bright")
    for number in range(16):
        for label, level in (("bright", 200), ("dark", 40)):
            frames = [frame // 8 + level for frame in blinking(True, number)]
            write_video(folder / label / f"{number}.mp4", frames)
    return folder


def one_frame(run):
    return json.loads((run / "eval.json").read_text())["baselines"].get("one_frame")


@pytest.mark.parametrize(("keep", "views"), [("best", "1x1"), ("last", "1x1"), ("last", "2x3")])
def test_one_frame_is_enough_where_it_shows_the_class(keep, views, bright_and_dark, tmp_path):
    config = TrainConfig(**TINY, keep=keep, views=views)
    result = train(bright_and_dark, tmp_path / "run", config)
    assert result.baselines["one_frame"] == one_frame(tmp_path / "run") == 1.0
    assert result.baselines["largest_class"] == 0.5


def test_one_frame_is_not_enough_for_what_only_the_order_tells(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(16):
        for label, levels in (("rises", (60, 110, 110, 160)), ("falls", (160, 110, 110, 60))):
            frames = [rng.integers(level, level + 40, (64, 96, 3), np.uint8) for level in levels]
            write_video(tmp_path / "data" / label / f"{number}.mp4", frames)
    config = TrainConfig(**TINY, val_fraction=0.5)
    result = train(tmp_path / "data", tmp_path / "run", config)
    assert result.baselines["one_frame"] < 0.9


def test_the_probe_changes_nothing_of_the_run(bright_and_dark, tmp_path, monkeypatch):
    train(bright_and_dark, tmp_path / "with", TrainConfig(**TINY, dropout=0.2))
    monkeypatch.setattr("st_adapter.training.one_frame.OneFrameProbe.suits", lambda run: False)
    train(bright_and_dark, tmp_path / "without", TrainConfig(**TINY, dropout=0.2))
    assert one_frame(tmp_path / "without") is None
    first, second = (
        load_file(tmp_path / name / "adapter_last/adapter_model.safetensors")
        for name in ("with", "without")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_records_how_to_decide(bright_and_dark, tmp_path):
    unsure = TINY | {"label_smoothing": 0.5, "lr": 0.01, "epochs": 5, "val_fraction": 0.5}
    result = train(bright_and_dark, tmp_path / "run", TrainConfig(**unsure))
    spec = read_spec(tmp_path / "run" / "adapter")
    assert list(spec.temperatures) == result.calibration["temperatures"] != [1.0]
    assert spec.threshold == result.threshold
    assert result.calibration["fitted_here"]
    video = next((bright_and_dark / "dark").glob("*.mp4"))
    calibrated = Predictor(tmp_path / "run", device="cpu")
    raw = Predictor(tmp_path / "run", device="cpu", calibrated=False)
    assert calibrated(video) != raw(video)
    strict = Predictor(tmp_path / "run", device="cpu", threshold=0.999)
    (prediction,) = strict.predict([video])
    assert prediction.predicted == prediction.scores[0][0] == "bright"

    train(bright_and_dark, tmp_path / "raw", TrainConfig(**TINY, calibrate=False))
    assert read_spec(tmp_path / "raw" / "adapter").temperatures == ()


def test_nothing_is_imported_once_a_run_has_begun(bright_and_dark, tmp_path):
    """A signal in the middle of an import ends the process without saying how to resume."""
    code = f"""
import sys
from pathlib import Path
from st_adapter import TrainConfig, train
config, late = Path({str(tmp_path / "run/config.json")!r}), []
def note(event, given):
    if event == "import" and given[0].split(".")[0] in ("scipy", "sklearn") and config.exists():
        late.append(given[0])
sys.addaudithook(note)
train({str(bright_and_dark)!r}, config.parent, TrainConfig(**{TINY!r}), diagnose=False)
print(late)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
