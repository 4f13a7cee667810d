"""Compiled models compute the same, and what cannot be compiled says so in one line."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import st_adapter
from conftest import randomise, save_one_block
from st_adapter.backbones.build import create_backbone
from st_adapter.config import ClipConfig, TrainConfig
from st_adapter.data.formats.folders import find_videos
from st_adapter.errors import ArgumentError
from st_adapter.runtime.compilation import compile_model

needs_compiler = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler"
)


@needs_compiler
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("precision", "near", "each"), [("float32", 1e-4, 1e-5), ("bfloat16", 0.05, 0.02)]
)
def test_a_compiled_step_has_the_gradients_of_one_that_is_not(precision, near, each, capsys):
    torch.manual_seed(0)
    model = st_adapter.attach(create_backbone("test_vit", depth=2), ["a", "b"])
    randomise(model).train()
    model.set_precision(precision)
    clips = torch.randint(0, 256, (3, 3, 3, 32, 32), dtype=torch.uint8)
    targets = torch.tensor([0, 1, 0])

    def step():
        model.zero_grad()
        loss = F.cross_entropy(model(clips), targets)
        loss.backward()
        gradients = [p.grad for p in model.trainable_parameters() if p.grad is not None]
        return [loss, *(gradient.clone() for gradient in gradients)]

    expected, before = step(), torch.get_rng_state()
    clip = ClipConfig(frames=3, size=32)
    compile_model(model, clip, most=3)
    model.train()
    assert torch.equal(torch.get_rng_state(), before)
    assert "compiled: a training step takes" in capsys.readouterr().err
    for ours, theirs in zip(step(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=near, atol=each)
        assert (ours - theirs).norm() <= near * theirs.norm()


@needs_compiler
@pytest.mark.usefixtures("unchecked")
def test_compiled_scores_are_those_of_the_model(folder_data, tmp_path, capsys):
    save_one_block(tmp_path / "adapter")
    video = find_videos(folder_data)[0]
    compiled = dict(st_adapter.Predictor(tmp_path / "adapter", device="cpu", compile=True)(video))
    assert "compiled: scoring takes" in capsys.readouterr().err
    for label, score in st_adapter.Predictor(tmp_path / "adapter", device="cpu")(video):
        assert compiled[label] == pytest.approx(score, abs=1e-5)


def test_without_a_compiler_it_is_refused_in_one_line(trained_run, folder_data, tmp_path):
    changes = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    given = ["predict", trained_run, find_videos(folder_data)[0], "--compile", "--device", "cpu"]
    command = [sys.executable, "-m", "st_adapter", *map(str, given)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | changes)
    assert done.returncode == 2, done.stderr
    *begun, line = done.stderr.strip().splitlines()
    assert begun == ["compiling the model"]
    assert "C++ compiler" in line
    assert "run without --compile" in line


@pytest.mark.parametrize("other", [{"checkpoint_activations": True}, {"keep_features": 1.0}])
def test_what_is_not_compiled_is_refused(other):
    with pytest.raises(ArgumentError, match="cannot be combined"):
        TrainConfig(compile=True, draws=1, **other)
