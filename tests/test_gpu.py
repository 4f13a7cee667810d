"""On a GPU the same is computed as on a processor; skipped where there is none."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from st_adapter.runtime.passes import backward, infer

import st_adapter
from conftest import randomise
from st_adapter.cli.main import main
from st_adapter.config import TrainConfig
from st_adapter.data.formats.folders import find_videos
from st_adapter.evaluation.predict import Predictor
from st_adapter.model.checkpoint import read_tensors
from st_adapter.runtime.compilation import compile_for_training
from st_adapter.training.loop import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
NEAR = {"float32": 5e-3, "bfloat16": 5e-2, "float16": 1e-2}  # convolutions run in TF32


def gradients(model, clips, precision):
    """Of a step, on the processor; of 1024 times the loss, for float16."""
    options = {"precision": precision, "at_once": 2, "scale": lambda loss: 1024 * loss}
    model.zero_grad()
    backward(model, clips, torch.tensor([0, 1], device=clips.device), F.cross_entropy, **options)
    return {
        n: p.grad.cpu().clone() for n, p in model.trained_tensors().items() if p.grad is not None
    }


@pytest.mark.parametrize("backbone", ["test_vit", "test_convnext", "test_efficientnet"])
@pytest.mark.parametrize("precision", NEAR)
def test_scores_and_gradients_are_those_of_a_processor(backbone, precision):
    torch.manual_seed(0)
    model = st_adapter.create_model(backbone, ["a", "b"], weights="random", dropout=0.0)
    randomise(model).train()
    clips = torch.randint(0, 256, (2, 3, 3, 64, 64), dtype=torch.uint8)
    options = {"precision": "float32", "at_once": 2}
    expected = gradients(model, clips, "float32")
    scores = infer(model.eval(), clips, device=model.device, **options)
    model.to("cuda").set_precision(precision)
    options["precision"] = precision
    found = infer(model, clips, device=model.device, **options).cpu()
    assert (found - scores).norm() <= NEAR[precision] * scores.norm()
    ours = gradients(model.train(), clips.to("cuda"), precision)
    assert ours.keys() == expected.keys()
    groups = [[name] for name in expected] if precision == "float32" else [list(expected)]
    for names in groups:  # in half precision small ones are noise
        found, wanted = (torch.cat([g[n].flatten() for n in names]) for g in (ours, expected))
        assert (found - wanted).norm() <= 3 * NEAR[precision] * wanted.norm() + 1e-6, names


@pytest.mark.parametrize("precision", NEAR)
def test_a_run_of_a_gpu_is_resumed_there_and_predicts_on_a_processor(
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
    expected = gradients(model, clips, "bfloat16")
    compile_for_training(model, TrainConfig(frames=3, size=32, batch_size=2), "bfloat16")
    assert model.is_compiled
    compiled = gradients(model, clips, "bfloat16")
    assert compiled.keys() == expected.keys()
    for name, gradient in compiled.items():
        assert (gradient - expected[name]).norm() <= 0.1 * expected[name].norm(), name
    video = find_videos(folder_data)[0]
    scores = dict(Predictor(trained_run, device="cuda", compile=True)(video))
    said = capsys.readouterr().err
    assert "compiled, a step takes" in said
    assert "compiled, scoring takes" in said
    for label, score in Predictor(trained_run, device="cpu")(video):
        assert scores[label] == pytest.approx(score, abs=1e-2)


def test_bench_stays_below_the_limits_of_the_gpu(capsys):
    small = "--backbone vit_tiny_patch16_224 --frames 4 --batch-size 4 --precision bfloat16 --json"
    assert main(["bench", *small.split(), "--device", "cuda"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert "NVIDIA" in result["device"] or "AMD" in result["device"]
    for row in result["rows"][1:]:
        assert 0 < row["ratio"] < 1
    assert 0 < result["model_flops_utilisation"] < 1
    assert result["bytes_per_second"] > 1e11
