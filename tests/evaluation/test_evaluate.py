import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import st_adapter
from conftest import write_audio, write_video
from st_adapter.catalogue.costs import inspect_backbone, inspect_run
from st_adapter.common.task import Task
from st_adapter.config import ClipConfig
from st_adapter.data.annotations import read_annotations
from st_adapter.data.clips import as_clips
from st_adapter.data.reading import read_views
from st_adapter.data.videos import Video
from st_adapter.errors import ArgumentError, DataError, VideoError
from st_adapter.evaluation.calibration import calibrate
from st_adapter.evaluation.evaluate import evaluate_videos
from st_adapter.evaluation.predict import Predictor, expand


def test_views_are_fused_by_the_mean_of_their_softmax(predictor, folder_data):
    video = read_annotations(folder_data).train[0]
    clip = ClipConfig(frames=4, size=32, views=(2, 3))
    views, clip_of = read_views(video, clip)
    assert len(clip_of) == 6
    with torch.no_grad():
        logits = predictor.model(as_clips(views[clip_of]))
    fused = logits.softmax(-1).mean(0, keepdim=True).numpy()
    expected = calibrate(fused, Task(), predictor.spec.temperatures)
    result = evaluate_videos(predictor.model, [video], clip, workers=0, batch_size=4)
    assert result.predictions[0]["score"] == pytest.approx(float(expected.max()), abs=1e-6)


def test_a_view_counts_as_often_as_it_is_shown(predictor, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (14, 64, 64, 3), np.uint8)
    video = Video(path=write_video(tmp_path / "n.mp4", list(noise)), targets=(0,))
    clip = ClipConfig(frames=4, stride=4, size=32, views=(3, 1))
    views, clip_of = read_views(video, clip)
    assert clip_of == [0, 0, 1]
    with torch.no_grad():
        first, last = predictor.model(as_clips(views)).softmax(-1).numpy()
    assert not np.allclose(first, last, atol=1e-5)
    result = evaluate_videos(predictor.model, [video], clip, workers=0)
    expected = calibrate((2 * first + last)[None] / 3, Task(), predictor.spec.temperatures)
    assert result.predictions[0]["score"] == pytest.approx(float(expected.max()), abs=1e-6)


def test_what_cannot_be_read_is_counted_and_listed(predictor, folder_data, tmp_path):
    broken = Video(path=write_audio(tmp_path / "sound.mp4"), targets=(1,))
    videos = [*read_annotations(folder_data).train.take([0, 1, 2]), broken]
    result = evaluate_videos(predictor.model, videos, predictor.clip, workers=0)
    assert (result.num_videos, result.num_skipped) == (3, 1)
    assert "no video stream" in result.skipped[0].reason
    with pytest.raises(DataError, match=r"no video could be read \(0 of 1\); first error"):
        evaluate_videos(predictor.model, [broken], predictor.clip, workers=0)


def test_a_damaged_evaluation_is_refused_before_data_is_read(trained_run, tmp_path):
    run = shutil.copytree(trained_run, tmp_path / "run")
    (run / "eval.json").write_text("{")
    with pytest.raises(ArgumentError, match=r"eval\.json exists and was not written by `evaluate`"):
        st_adapter.evaluate(run, tmp_path / "no such data")


def test_predictor_ranks_all_labels(predictor, folder_data):
    ranked = predictor(folder_data / "darkens" / "clip 0.mp4")
    assert {label for label, _ in ranked} == {"brightens", "darkens"}
    assert sum(score for _, score in ranked) == pytest.approx(1)
    assert ranked[0][1] >= ranked[1][1]
    with pytest.raises(VideoError, match="gone.mp4: no such file"):
        predictor("gone.mp4")


def test_predictor_preprocesses_as_the_adapter_records(predictor):
    assert (predictor.clip.frames, predictor.clip.size) == (4, 32)
    assert replace(predictor.clip, views=(1, 1)) == predictor.model.spec.clip


def test_the_faster_arithmetic_is_chosen_where_asked(trained_run, folder_data, capsys):
    predictor = Predictor(trained_run, device="cpu", precision="auto")
    chosen = predictor.model.precision
    said = capsys.readouterr().err
    times = float(
        re.search(rf"cpu, {chosen}: a forward pass in bfloat16 takes ([\d.]+) times", said)[1]
    )
    assert (chosen == "bfloat16") == (times < 1 / 1.15 + 0.005)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_is_a_property_of_the_classifier(precision, trained_run, folder_data):
    """Called directly, in an evaluation and in a prediction it computes the same."""
    predictor = Predictor(trained_run, device="cpu", precision=precision)
    held = {p.dtype for p in predictor.model.backbone.blocks.parameters()}
    assert (torch.bfloat16 in held) == (precision == "bfloat16")
    kinds = []
    predictor.model.head.register_forward_hook(lambda *given: kinds.append(given[-1].dtype))
    video = read_annotations(folder_data).train[0]
    scores = dict(predictor(video.path))
    views, _ = read_views(video, predictor.clip)
    with torch.no_grad():
        logits = predictor.model(as_clips(views))
    assert logits.dtype == torch.float32
    expected = calibrate(logits.softmax(-1).numpy(), Task(), predictor.spec.temperatures)
    for label, score in zip(predictor.model.labels, expected[0].tolist(), strict=True):
        assert scores[label] == pytest.approx(score, abs=1e-6)
    result = evaluate_videos(predictor.model, [video], predictor.clip, workers=0)
    assert result.predictions[0]["score"] == pytest.approx(max(scores.values()), abs=1e-6)
    assert kinds == 3 * [getattr(torch, precision)]


def test_an_arithmetic_of_another_name_is_refused(trained_run):
    with pytest.raises(ArgumentError, match="precision must be auto, float32, .*, not 'half'"):
        Predictor(trained_run, device="cpu", precision="half")
    model = Predictor(trained_run, device="cpu", precision="bfloat16").model
    with pytest.raises(ArgumentError, match="can be bfloat16, not 'float32'"):
        model.set_precision("float32")


def test_a_run_is_measured_in_one_call(trained_run, folder_data, tmp_path):
    result = st_adapter.evaluate(trained_run, folder_data, out=tmp_path / "e.json", workers=0)
    assert result.num_videos == 2  # what was held out
    assert json.loads((tmp_path / "e.json").read_text())["top1"] == result.top1


def test_evaluation_leaves_a_model_in_the_mode_it_was_in(predictor, folder_data):
    model = predictor.model.train()
    evaluate_videos(model, [read_annotations(folder_data).train[0]], predictor.clip, workers=0)
    assert model.training
    model.eval()


def test_folders_are_expanded_and_nothing_at_all_is_an_error(folder_data, tmp_path):
    assert len(expand([folder_data])) == 12
    assert expand([Path("memory://a.mp4")]) == [Path("memory://a.mp4")]
    assert expand([folder_data / "darkens", tmp_path / "gone.mp4"])[-1].name == "gone.mp4"
    with pytest.raises(ArgumentError, match="no such file or folder"):
        expand([tmp_path / "gone.mp4"])
    with pytest.raises(ArgumentError, match="no videos found"):
        expand([tmp_path])


COUNTS = [
    # backbone, positions, adapter parameters, with 400 classes, GMACs at 8 frames: PAPER's table
    ("vit_base_patch16_clip_quickgelu_224.openai", "mlp", 7.110, 7.418, 151.6),
    ("vit_base_patch16_clip_quickgelu_224.openai", "all", 14.220, 14.528, 162.7),
    ("vit_large_patch14_clip_quickgelu_224.openai", "mlp", 18.945, 19.355, 686.8),
    ("vit_large_patch14_clip_quickgelu_224.openai", "all", 37.890, 38.300, 725.5),
]


@pytest.mark.parametrize(("backbone", "positions", "adapters", "trained", "gmacs"), COUNTS)
def test_published_counts_are_reproduced(backbone, positions, adapters, trained, gmacs):
    for frames in (8, 16, 32):
        result = inspect_backbone(
            backbone=backbone,
            frames=frames,
            size=224,
            classes=400,
            bottleneck=384,
            positions=positions,
            adapter_layers="all",
        )
        assert result.adapters / 1e6 == pytest.approx(adapters, rel=0.005)
        assert (result.adapters + result.head) / 1e6 == pytest.approx(trained, rel=0.005)
        assert result.gmacs == pytest.approx(gmacs * frames / 8, rel=0.005)


def test_a_run_is_inspected_without_its_weights(trained_run):
    result = inspect_run(trained_run)
    model = st_adapter.load(trained_run)
    assert result.adapters + result.head == model.num_parameters(only_trainable=True)
    assert [site["name"] for site in result.sites] == list(model.adapters)
    assert "block 0-5     -> [64 > 32 > 64] attention -> [64 > 32 > 64] mlp" in result.to_text()


def test_an_evaluation_leaves_what_the_run_skipped_as_it_was(folder_data, trained_run, tmp_path):
    run, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(trained_run, run)
    shutil.copytree(folder_data, data)
    (data / "darkens" / "broken.mp4").write_bytes(b"broken")
    for _ in range(2):
        result = st_adapter.evaluate(run, data, device="cpu")
    assert [skip.path for skip in result.skipped] == [str(data / "darkens" / "broken.mp4")]
    assert len(json.loads((run / "eval.json").read_text())["skipped"]) == 1
    assert not (run / "skipped.jsonl").exists()


def test_modes_of_the_parts_of_a_model_are_put_back(folder_data):
    model = st_adapter.create_model("test_vit", ["brightens", "darkens"], weights="random").train()
    model.dropout.eval()
    before = [module.training for module in model.modules()]
    videos = read_annotations(folder_data).train
    evaluate_videos(model, videos, ClipConfig(frames=2, size=32), workers=0)
    assert [module.training for module in model.modules()] == before


def test_videos_of_a_group_are_counted_as_one_another_s_likes(predictor, folder_data):
    videos = list(read_annotations(folder_data).train)
    grouped = [replace(video, group=str(i // 6)) for i, video in enumerate(videos)]
    alone, together = (
        evaluate_videos(predictor.model, part, predictor.clip, workers=0)
        for part in (videos, [*grouped[:-1], videos[-1]])
    )
    assert (alone.num_groups, together.num_groups) == (None, len(videos) // 6 + 1)
    assert [p.get("group") for p in together.predictions][-2:] == [grouped[-2].group, None]
    low, high = together.intervals["top1"]
    assert high - low > np.subtract(*reversed(alone.intervals["top1"]))
