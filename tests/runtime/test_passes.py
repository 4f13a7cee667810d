"""Clips in several passes come to what they come to in one."""

import platform
import resource
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

import st_adapter
from conftest import randomise
from st_adapter.runtime.device import hold_frozen
from st_adapter.runtime.malloc import keep_freed_memory
from st_adapter.runtime.passes import backward, clips_at_once


def sum_of_losses(logits, targets):
    return F.cross_entropy(logits, targets, reduction="sum")


@pytest.mark.parametrize("backbone", ["test_vit", "test_resnet"])
def test_gradients_of_several_passes_are_those_of_one(backbone):
    torch.manual_seed(0)
    model = st_adapter.create_model(backbone, ["a", "b", "c"], weights="random", dropout=0.0)
    randomise(model).train()
    clips = torch.randint(0, 256, (5, 3, 3, 32, 32), dtype=torch.uint8)
    targets = torch.tensor([0, 1, 2, 1, 0])
    found = []
    for at_once in (5, 2):
        total = backward(model, clips, targets, sum_of_losses, precision="float32", at_once=at_once)
        found.append([total, *(p.grad for p in model.trainable_parameters() if p.grad is not None)])
        model.zero_grad()
    assert len(found[0]) == len(found[1]) > 4
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_pass_is_the_smaller_the_larger_its_clips_are():
    torch.manual_seed(0)
    model = st_adapter.create_model("vit_tiny_patch16_224", ["a", "b"], weights="random").train()
    before = torch.get_rng_state()
    few, many = (clips_at_once(model, frames, 224, "float32") for frames in (8, 16))
    assert many == few // 2
    assert 1 <= many < few < 8
    assert clips_at_once(model, 10_000, 224, "float32") == 1
    assert torch.equal(torch.get_rng_state(), before)


def test_copies_of_trained_weights_make_no_pass_smaller():
    found = []
    for method in ("st-adapter", "full"):
        model = st_adapter.create_model(
            "tf_efficientnet_lite0", ["a"], weights="random", method=method
        )
        hold_frozen(model.train(), "bfloat16")
        found.append(clips_at_once(model, 4, 96, "bfloat16"))
    assert found[0] == found[1] > 1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc's malloc")
def test_memory_that_a_pass_frees_is_not_taken_from_the_system_again():
    def pages_taken():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tensors = [torch.ones(4 * 2**20) for _ in range(10)]  # 16 MB each
        del tensors
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    def taken_in_the_end():
        return min(pages_taken() for _ in range(20))

    keep_freed_memory(torch.device("cpu"))
    few = 10 * 16 * 2**20 / resource.getpagesize() / 10
    assert taken_in_the_end() < few
    with ThreadPoolExecutor(1) as thread:  # which malloc gives heaps of its own
        assert thread.submit(taken_in_the_end).result() < few


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_scores_do_not_hang_on_how_clips_are_run(batch_size, folder_data):
    from st_adapter.config import ClipConfig
    from st_adapter.data.formats.folders import find_videos
    from st_adapter.data.videos import Video
    from st_adapter.evaluation.score import score_videos

    model = randomise(st_adapter.create_model("test_vit", ["a", "b"], weights="random"))
    videos = [Video(path=path) for path in find_videos(folder_data)[:4]]
    clip = ClipConfig(frames=4, stride=1, size=32, views=(2, 1))
    scores = dict(
        score_videos(model, videos, clip, batch_size=batch_size, workers=0, precision="float32")
    )
    alone = dict(score_videos(model, videos, clip, batch_size=2, workers=0, precision="float32"))
    for i in range(4):
        torch.testing.assert_close(scores[i], alone[i], rtol=1e-4, atol=1e-5)
