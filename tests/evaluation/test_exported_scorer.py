"""A Predictor of an exported file answers as one of the run, and needs no torch for it."""

import json
import os
import subprocess
import sys
import threading

import jaxtyping
import numpy as np
import onnx
import pytest

import st_adapter
from conftest import save_one_block, write_audio
from st_adapter.errors import ArgumentError, CheckpointError
from st_adapter.evaluation.predict import Predictor

WITHOUT_TORCH = """
import sys
from st_adapter.cli.main import main
code = main(sys.argv[1:])
loaded = {"torch", "timm", "torchvision"} & {*sys.modules}
assert not loaded, loaded
sys.exit(code)
"""


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one block") / "run"
    save_one_block(folder)
    file = folder / "adapter_config.json"
    times = {"median_seconds": 0.4, "p10_seconds": 0.4, "p90_seconds": 0.4}
    record = json.loads(file.read_text()) | {"timing": times | {"frames_per_second": 10.0}}
    file.write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def file(adapter, tmp_path_factory):
    jaxtyping.config.update("jaxtyping_disable", True)
    path = st_adapter.export(adapter, tmp_path_factory.mktemp("file") / "model.onnx").path
    jaxtyping.config.update("jaxtyping_disable", False)
    return path


@pytest.fixture(scope="module")
def both(adapter, file):
    """Predictors of the run and of the file, with several views."""
    return Predictor(adapter, device="cpu", views=(2, 3)), Predictor(file, views=(2, 3))


@pytest.mark.parametrize("workers", [0, 2])
def test_answers_are_those_of_the_run(both, folder_data, tmp_path, workers):
    of_run, of_file = both
    sound = write_audio(tmp_path / "sound.mp4")
    videos = [*sorted(folder_data.rglob("*.mp4")), sound]
    for ours, theirs in zip(of_run.predict(videos), of_file.predict(videos, workers), strict=True):
        assert ours.path == theirs.path if hasattr(ours, "scores") else ours == theirs
        if hasattr(ours, "scores"):
            assert ours.predicted == theirs.predicted
            assert dict(theirs.scores) == pytest.approx(dict(ours.scores), abs=1e-5)


def test_frames_and_bytes_are_scored_too(both, folder_data):
    of_run, of_file = both
    video = next(folder_data.rglob("*.mp4"))
    frames = np.zeros((5, 40, 60, 3), np.uint8)
    for given in (video.read_bytes(), frames):
        assert dict(of_file(given)) == pytest.approx(dict(of_run(given)), abs=1e-5)


def test_a_timeline_has_the_scores_of_the_run(both, folder_data):
    video = next(folder_data.rglob("*.mp4"))
    ours, theirs = (predictor.timeline(video) for predictor in both)
    assert ours.window_starts.tolist() == theirs.window_starts.tolist()
    np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-5)


def test_a_stream_is_scored_in_whole_clips(both):
    frames = [(np.full((40, 60, 3), 20 * i, np.uint8), i / 10) for i in range(8)]
    ours, theirs = ([*p.stream(frames, one_pass=False)] for p in both)
    for one, other in zip(ours, theirs, strict=True):
        assert dict(other.scores) == pytest.approx(dict(one.scores), abs=1e-5)
    with pytest.raises(ArgumentError, match=r"computes whole clips only; use one_pass=False"):
        both[1].stream(frames)


def test_threads_share_a_predictor(both, folder_data):
    videos = sorted(folder_data.rglob("*.mp4"))
    expected, found = [both[1](video) for video in videos], {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: both[1](videos[i])}))
        for i in range(len(videos))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(len(videos))] == expected


def run_command(*arguments):
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ)


@pytest.mark.parametrize("verb", ["predict", "timeline"])
def test_the_command_does_without_torch(verb, file, folder_data):
    ended = run_command(verb, file, next(folder_data.rglob("*.mp4")))
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    assert any(label in ended.stdout for label in ("a", "b"))


def test_what_does_not_apply_to_a_file_is_refused(file, folder_data, tmp_path):
    cases = [
        ({"compile": True}, "compile=True does not apply to .*model.onnx, an exported file"),
        ({"weights": "random"}, 'weights="random" does not apply'),
        ({"precision": "bfloat16"}, 'precision="bfloat16" does not apply'),
        ({"device": "cuda"}, 'device="cuda" does not apply'),
        ({"size": 64}, "was exported for frames of 32 px; leave out size"),
    ]
    for options, message in cases:
        with pytest.raises(ArgumentError, match=message):
            Predictor(file, **options)
    predictor = Predictor(file)
    with pytest.raises(ArgumentError, match="has no PyTorch model; use the run"):
        _ = predictor.model
    with pytest.raises(ArgumentError, match="whole clips only; leave out one_pass=True"):
        predictor.timeline(next(folder_data.rglob("*.mp4")), one_pass=True)
    with pytest.raises(ArgumentError, match="a table needs the run that it was made from"):
        st_adapter.label_videos([file], [folder_data], tmp_path / "labels.csv")


def test_files_of_other_programs_are_refused(file, tmp_path):
    damaged, other = tmp_path / "damaged.onnx", tmp_path / "other.onnx"
    damaged.write_bytes(file.read_bytes()[:1000])
    model = onnx.load(file)
    del model.metadata_props[:]
    onnx.save(model, other)
    for path, message in (
        (damaged, "damaged.onnx is damaged or not a model"),
        (other, "other.onnx was not written by `st-adapter export`"),
        (tmp_path / "gone.onnx", "gone.onnx does not exist"),
    ):
        with pytest.raises(CheckpointError, match=message):
            Predictor(path)
