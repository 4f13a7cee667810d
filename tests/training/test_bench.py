"""What `bench` measures, and the limits beside it."""

import json
import time

import pytest
import torch
from timm.layers import QuickGELU

from st_adapter.backbones.cpu_kernels import chosen_kernels
from st_adapter.bench.limits import Products, is_weight_gradient, seconds_beside
from st_adapter.cli.main import main
from st_adapter.model.classifier import create_model
from st_adapter.runtime.passes import infer

SMALL = ["--backbone", "test_vit", "--size", "32", "--frames", "2", "--batch-size", "2"]


def test_bench_times_three_things_beside_their_limits(capsys):
    assert main(["bench", *SMALL, "--precision", "bfloat16", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["what"] for row in result["rows"]] == [
        "loading a clip",
        "training step",
        "inference",
    ]
    for row in result["rows"]:
        assert row["seconds"] > 0
        assert row["limit_seconds"] > 0
        assert row["ratio"] == pytest.approx(row["limit_seconds"] / row["seconds"])
    assert result["operations_per_second"] > 1e6
    assert result["bytes_per_second"] > 1e6
    assert result["forward_and_activation_gradient"] > 0
    assert 0 < result["model_flops_utilisation"] < 1


def test_bench_loads_clips_of_a_video_that_is_given(capsys, folder_data):
    video = next(folder_data.rglob("*.mp4"))  # of a few frames; its own is 10 s of 340 x 256
    decoding = []
    for flags in ([], ["--video", str(video)]):
        assert main(["bench", *SMALL, "--json", *flags]) == 0
        decoding.append(json.loads(capsys.readouterr().out)["rows"][0]["limit_seconds"])
    assert decoding[1] < decoding[0] / 4


def test_bench_of_a_broken_video_is_one_line(capsys, tmp_path):
    (broken := tmp_path / "broken.mp4").write_bytes(b"no video")
    assert main(["bench", *SMALL, "--video", str(broken)]) == 2
    assert "broken.mp4: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [broken]  # no index is left beside it


def test_products_are_counted_with_their_operations():
    left, right = torch.randn(3, 4, requires_grad=True), torch.randn(4, 5)
    with Products() as products:
        (left @ right).sum().backward()
        torch.bmm(torch.randn(2, 3, 4), torch.randn(2, 4, 5))
    assert sorted(p.operations for p in products.counted) == [2 * 60, 2 * 60, 2 * 2 * 60]
    assert products.counted.total() == 3
    cpu = torch.device("cpu")
    seconds, alone = seconds_beside(lambda: time.sleep(0.01), products.counted, cpu)
    assert seconds >= 0.01
    assert alone.keys() == products.counted.keys()
    assert all(of_one > 0 for of_one in alone.values())


@pytest.mark.parametrize("inference", [False, True])
def test_the_products_of_fused_attention_are_counted(inference):
    query = torch.randn(2, 3, 5, 8, requires_grad=not inference)
    key, value = torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    with torch.inference_mode(inference), Products() as products:
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        if not inference:
            out.sum().backward()
    each = 2 * 6 * 5 * 7 * 8
    expected = [each, each] if inference else 6 * [each]
    assert [p.operations for p in products.counted.elements()] == expected


def test_the_products_of_scoring_are_those_of_a_step_s_forward_pass():
    model = create_model("test_vit", ["a"], weights="random").eval()
    for block in model.backbone.blocks:
        block.mlp.act = QuickGELU()
    clips, cpu = torch.rand(1, 2, 3, 32, 32), torch.device("cpu")
    with Products() as step, chosen_kernels(cpu):
        model(clips)
    with Products() as scoring:
        infer(model, clips, device=cpu, precision="float32", at_once=1)
    counts = [sum(p.operations * n for p, n in found.counted.items()) for found in (step, scoring)]
    assert counts[0] == counts[1] > 0


def test_products_are_counted_in_inference_mode():
    x, weight = torch.randn(2, 3, 4), torch.randn(5, 4)
    with torch.inference_mode(), Products() as products:
        torch.nn.functional.linear(x, weight, torch.zeros(5))
    ((product, times),) = products.counted.items()
    assert (product.operations, times) == (2 * 6 * 4 * 5, 1)


def test_gradients_of_trained_weights_are_told_by_their_shape():
    with Products() as products:
        torch.randn(4, 30) @ torch.randn(30, 5)
    (product,) = products.counted
    assert is_weight_gradient(product, [torch.zeros(5, 4)])
    assert is_weight_gradient(product, [torch.zeros(4, 5)])
    assert not is_weight_gradient(product, [torch.zeros(4, 6), torch.zeros(4)])
