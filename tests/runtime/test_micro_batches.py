import sys

import pytest
import torch

import st_adapter
from conftest import randomise
from st_adapter.config import ClipConfig
from st_adapter.data.formats.folders import find_videos
from st_adapter.data.videos import Video
from st_adapter.evaluation.score import score_videos
from st_adapter.runtime.micro_batches import clips_at_once


def test_a_cpu_is_given_less_at_once_the_larger_the_clips_are():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert clips_at_once(cpu, frames=8, size=224) == 1
    assert clips_at_once(cpu, frames=8, size=112) == 4
    assert clips_at_once(cpu, frames=10_000, size=224) == 1
    assert clips_at_once(gpu, frames=8, size=224) == sys.maxsize


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_scores_do_not_depend_on_how_clips_are_batched(batch_size, folder_data):
    model = randomise(st_adapter.create_model("test_vit", ["a", "b"], weights="random"))
    videos = [Video(path=path) for path in find_videos(folder_data)[:4]]
    clip = ClipConfig(frames=4, stride=1, size=32, views=(2, 1))
    scores = dict(score_videos(model, videos, clip, batch_size=batch_size))
    alone = dict(score_videos(model, videos, clip, batch_size=2))
    for i in range(4):
        torch.testing.assert_close(scores[i], alone[i], rtol=1e-4, atol=1e-5)
