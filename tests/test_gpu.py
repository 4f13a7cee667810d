"""On a GPU the same is computed as on a CPU; skipped where there is none."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import st_adapter
from conftest import randomise
from st_adapter.cli.main import main
from st_adapter.config import ClipConfig
from st_adapter.data.formats.folders import find_videos
from st_adapter.evaluation.predict import Predictor
from st_adapter.model.checkpoint import read_tensors
from st_adapter.runtime.compilation import compile_model
from st_adapter.training.loop import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
NEAR = {"float32": 5e-3, "bfloat16": 5e-2, "float16": 1e-2}  # convolutions run in TF32


def gradients(model, clips):
    """Of 1024 times the loss, without which those of float16 would be zero; on the CPU."""
    model.zero_grad()
    loss = F.cross_entropy(model(clips), torch.tensor([0, 1], device=clips.device))
    (1024 * loss).backward()
    return {
        n: p.grad.cpu().clone() for n, p in model.trained_tensors().items() if p.grad is not None
    }


@pytest.mark.parametrize("backbone", ["test_vit", "test_convnext", "test_efficientnet"])
@pytest.mark.parametrize("precision", NEAR)
def test_scores_and_gradients_are_those_of_a_cpu(backbone, precision):
    torch.manual_seed(0)
    model = st_adapter.create_model(backbone, ["a", "b"], weights="random", dropout=0.0)
    randomise(model).train()
    clips = torch.randint(0, 256, (2, 3, 3, 64, 64), dtype=torch.uint8)
    expected = gradients(model, clips)
    with torch.inference_mode():
        scores = model.eval()(clips)
    model.to("cuda").set_precision(precision)
    with torch.inference_mode():
        found = model(clips.to("cuda")).cpu()
    assert (found - scores).norm() <= NEAR[precision] * scores.norm()
    ours = gradients(model.train(), clips.to("cuda"))
    assert ours.keys() == expected.keys()
    groups = [[name] for name in expected] if precision == "float32" else [list(expected)]
    for names in groups:  # in half precision small ones are noise
        found, wanted = (torch.cat([g[n].flatten() for n in names]) for g in (ours, expected))
        assert (found - wanted).norm() <= 3 * NEAR[precision] * wanted.norm() + 1e-6, names


@pytest.mark.parametrize("precision", NEAR)
def test_a_run_of_a_gpu_is_resumed_there_and_predicts_on_a_cpu(
    precision, folder_data, tmp_path, tiny
):
    config = replace(tiny, device="cuda", precision=precision, workers=2)
    config = replace(config, save_steps=1, keep_states=9)
    train(folder_data, tmp_path / "run", config)
    straight = read_tensors(tmp_path / "run" / "adapter_last")
    first, *later = sorted((tmp_path / "run" / "state").iterdir())
    for state in later:
        state.unlink()
    assert train(folder_data, tmp_path / "run", config, resume=True).num_videos == 2
    assert first.exists()
    near = {} if precision == "float32" else {"rtol": 0.1, "atol": 0.01}  # attention adds up anyhow
    for name, tensor in read_tensors(tmp_path / "run" / "adapter_last").items():
        torch.testing.assert_close(tensor, straight[name], **near)
    video = find_videos(folder_data)[0]
    on_gpu = dict(Predictor(tmp_path / "run", device="cuda", precision=precision)(video))
    for label, score in Predictor(tmp_path / "run", device="cpu")(video):
        assert on_gpu[label] == pytest.approx(score, abs=NEAR[precision])


@pytest.mark.usefixtures("unchecked")
def test_compiled_steps_and_scores_are_the_same(trained_run, folder_data, capsys):
    torch.manual_seed(0)
    model = st_adapter.create_model("test_vit", ["a", "b"], weights="random", dropout=0.0)
    randomise(model.to("cuda")).train()
    model.set_precision("bfloat16")
    clips = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8, device="cuda")
    expected = gradients(model, clips)
    compile_model(model, ClipConfig(frames=3, size=32), most=2)
    compiled = gradients(model.train(), clips)
    assert compiled.keys() == expected.keys()
    for name, gradient in compiled.items():
        assert (gradient - expected[name]).norm() <= 0.1 * expected[name].norm(), name
    video = find_videos(folder_data)[0]
    scores = dict(Predictor(trained_run, device="cuda", compile=True)(video))
    said = capsys.readouterr().err
    assert "compiled: a training step takes" in said
    assert "compiled: scoring takes" in said
    for label, score in Predictor(trained_run, device="cpu")(video):
        assert scores[label] == pytest.approx(score, abs=1e-2)


def test_bench_names_the_gpu_and_tells_its_memory(capsys):
    small = "--backbone vit_tiny_patch16_224 --frames 4 --batch-size 4 --precision bfloat16 --json"
    assert main(["bench", *small.split(), "--device", "cuda"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert "NVIDIA" in result["device"] or "AMD" in result["device"]
    whole = torch.cuda.get_device_properties(0).total_memory / 2**30
    for row in result["rows"][1:]:
        assert 0 < row["peak_gb"] < whole
