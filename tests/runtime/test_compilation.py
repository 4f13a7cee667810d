"""Compiled models compute the same, and what cannot be compiled says so in one line."""

import functools
import os
import shutil
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import st_adapter
from conftest import randomise
from st_adapter.backbones.cpu_kernels import chosen_kernels
from st_adapter.config import ClipConfig, TrainConfig
from st_adapter.data.formats.folders import find_videos
from st_adapter.data.videos import Video
from st_adapter.errors import ArgumentError
from st_adapter.evaluation.evaluate import evaluate
from st_adapter.evaluation.predict import Predictor
from st_adapter.runtime.compilation import (
    _compiling,
    _say_gain,
    compile_for_inference,
    compile_for_training,
)
from st_adapter.runtime.device import hold_frozen, least_in_turns
from st_adapter.runtime.passes import backward, clips_at_once, infer

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
    model = st_adapter.create_model("test_vit", ["a", "b"], weights="random", dropout=0.0)
    randomise(model).train()
    hold_frozen(model, precision)
    clips = torch.randint(0, 256, (3, 3, 3, 32, 32), dtype=torch.uint8)
    targets = torch.tensor([0, 1, 0])

    def step():
        model.zero_grad()
        loss = backward(model, clips, targets, F.cross_entropy, precision=precision, at_once=1)
        gradients = [p.grad for p in model.trainable_parameters() if p.grad is not None]
        return [loss, *(gradient.clone() for gradient in gradients)]

    expected, before = step(), torch.get_rng_state()
    compile_for_training(model, TrainConfig(frames=3, size=32, batch_size=3), precision)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.is_compiled
    assert clips_at_once(model, 3, 32, precision) == 1
    assert model.training
    assert "compiled, a step takes" in capsys.readouterr().err
    for ours, theirs in zip(step(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=near, atol=each)
        assert (ours - theirs).norm() <= near * theirs.norm()


@needs_compiler
def test_a_bias_is_added_to_a_rounded_product_in_compiled_steps_alone():
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*n).bfloat16() for n in ((64, 32), (48, 32), (48,)))

    @torch.compile
    def apply(x):
        with chosen_kernels(x.device), torch.autocast("cpu", torch.bfloat16):
            return F.linear(x, weight, bias)

    fused, in_step = F.linear(x, weight, bias), (x @ weight.T).float() + bias.float()
    assert not torch.equal(fused, in_step.bfloat16())
    assert torch.equal(apply(x), in_step.bfloat16())
    with torch.no_grad():
        assert torch.equal(apply(x), fused)


@needs_compiler
@pytest.mark.usefixtures("unchecked")
def test_compiled_scores_are_those_of_the_model(trained_run, folder_data, capsys):
    video = find_videos(folder_data)[0]
    compiled = dict(Predictor(trained_run, device="cpu", compile=True)(video))
    assert "compiled, scoring takes" in capsys.readouterr().err
    for label, score in Predictor(trained_run, device="cpu")(video):
        assert compiled[label] == pytest.approx(score, abs=1e-5)


@needs_compiler
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("backbone", ["test_vit", "test_convnext"])
def test_evaluation_runs_what_was_compiled_before(backbone, lanes, folder_data):
    torch.compiler.reset()  # code of another model of this kind would do
    model = st_adapter.create_model(backbone, ["a", "b"], weights="random")
    videos = [Video(path=path, targets=(0,)) for path in find_videos(folder_data)]
    clip = ClipConfig(frames=2, size=32, views=(1, 1))
    options = {"batch_size": 3, "workers": 0}
    expected = evaluate(randomise(model), videos, clip, **options).predictions
    compile_for_inference(model, clip, "float32", 3, lanes)
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled = evaluate(model, videos, clip, **options).predictions
    for ours, theirs in zip(compiled, expected, strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)


@needs_compiler
@pytest.mark.usefixtures("unchecked")
def test_weights_are_packed_for_inference_and_followed_in_training():
    torch.compiler.reset()
    model = randomise(st_adapter.create_model("test_vit", ["a", "b"], weights="random")).eval()
    clips = torch.randint(0, 256, (1, 2, 3, 32, 32), dtype=torch.uint8)

    def compiled_scores():
        with torch.profiler.profile() as profile:
            scores = infer(model, clips, device=model.device, precision="float32", at_once=1)
        return scores, any(event.key.startswith("mkldnn::_") for event in profile.key_averages())

    model.compile()
    compiled_scores()
    for parameter in model.trainable_parameters():
        parameter.data.mul_(1.5)
    expected = model.forward(clips)
    scores, packed = compiled_scores()
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    assert not packed

    torch.compiler.reset()
    compile_for_inference(model, ClipConfig(frames=2, size=32, views=(1, 1)), "float32", 1)
    scores, packed = compiled_scores()
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    assert packed == torch.backends.mkldnn.is_available()


def test_without_a_compiler_it_is_refused_in_one_line(trained_run, folder_data, tmp_path):
    changes = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    given = ["predict", trained_run, find_videos(folder_data)[0], "--compile", "--device", "cpu"]
    command = [sys.executable, "-m", "st_adapter", *map(str, given)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | changes)
    assert done.returncode == 2, done.stderr
    *begun, line = done.stderr.strip().splitlines()
    assert begun == ["compiling the model"]
    assert "C++ compiler" in line
    assert "leave out --compile" in line


@pytest.mark.parametrize("other", [{"checkpoint_activations": True}, {"prefix_cache": 1.0}])
def test_what_is_not_compiled_is_refused(other):
    with pytest.raises(ArgumentError, match="not compiled"):
        TrainConfig(compile=True, draws=1, **other)


def test_a_model_that_cannot_be_compiled_runs_as_it_did():
    from torch._inductor.exc import InvalidCxxCompiler

    model = st_adapter.create_model("test_vit", ["a", "b"], weights="random")
    refused = pytest.raises(ArgumentError, match="cannot be compiled here, .*; leave out --compile")
    with refused, _compiling(model, lanes=2):
        assert model.is_compiled
        raise InvalidCxxCompiler
    assert not model.is_compiled
    assert model.compiled_lanes == 1
    assert model(torch.zeros(1, 2, 3, 32, 32)).shape == (1, 2)


def test_what_compiling_brings_is_timed_in_turns():
    order, times = [], iter((3.0, 9.0, 2.0, 1.0, 4.0, 5.0))

    def measure(way):
        order.append(way)
        return next(times)

    ways = {way: functools.partial(measure, way) for way in ("before", "after")}
    assert least_in_turns(ways, rounds=3) == {"before": 2.0, "after": 1.0}
    assert order == ["before", "after"] * 3


@pytest.mark.parametrize(("after", "advice"), [(1.0, ""), (1.7, "; it is faster without")])
def test_where_compiling_costs_it_is_said(after, advice, capsys):
    _say_gain("scoring", before=1.0, after=after)
    said = f"compiled, scoring takes {after:.2f} times the time it took before{advice}\n"
    assert capsys.readouterr().err == said
