"""A sequence of frames that is run in chunks, each frame once."""

import pytest
import torch

import st_adapter
from conftest import randomise
from st_adapter.model.frame_stream import FrameStream, classify_clips, summarise_clips

FRAMES = torch.randint(
    0, 256, (2, 23, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
BY_FRAME = ("linear", "adapter", "temporal", "attentive")
"""Methods that compute each frame by itself before they pool a clip."""


def make_model(method="st-adapter", backbone="test_vit", adapter=None):
    torch.manual_seed(0)
    model = st_adapter.create_model(
        backbone, ["a", "b"], adapter, weights="random", method=method
    ).eval()
    if method == "st-adapter":
        randomise(model)
    return model


def run_in_chunks(model, frames, chunk):
    stream = FrameStream(model)
    return torch.cat([stream.push(part) for part in frames.split(chunk, dim=1)], dim=1)


@pytest.mark.parametrize("chunk", [2, 5, 16])
@pytest.mark.parametrize("backbone", ["test_vit", "test_convnext"])
def test_only_the_last_frame_of_a_chunk_misses_its_neighbour(backbone, chunk):
    one_adapter = st_adapter.AdapterConfig(
        layers=1, positions=("attention",) if backbone == "test_vit" else "all"
    )
    model = make_model(backbone=backbone, adapter=one_adapter)
    whole, parts = (run_in_chunks(model, FRAMES, size) for size in (23, chunk))
    inner = [i for i in range(23) if (i + 1) % chunk or i == 22]
    torch.testing.assert_close(parts[:, inner], whole[:, inner], rtol=1e-4, atol=1e-4)
    assert (parts - whole).abs().max() > 1e-3  # the frame after a chunk does matter


def test_a_chunk_sees_the_frames_before_it():
    model = make_model()
    other = FRAMES.clone()
    other[:, :8] = FRAMES[:, 8:16]
    ours, theirs = (run_in_chunks(model, frames, chunk=4)[:, 8:12] for frames in (FRAMES, other))
    assert not torch.allclose(ours, theirs, atol=1e-3)


def test_the_last_frame_is_seen_again_in_place_of_the_next():
    model = make_model(adapter=st_adapter.AdapterConfig(layers=1, positions=("attention",)))
    frames = FRAMES[:, :8]
    found = FrameStream(model).push(frames)
    repeated = torch.cat([frames, frames[:, -1:]], dim=1)
    expected = summarise_clips(model, repeated)[:, :8]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", BY_FRAME)
def test_without_adapters_over_time_every_window_has_the_logits_of_its_clip(method):
    model = make_model(method)
    summaries = run_in_chunks(model, FRAMES, chunk=5)
    for start in (0, 4, 15):
        window = slice(start, start + 8)
        with torch.no_grad():
            expected = model(FRAMES[:, window])
        found = classify_clips(model, summaries[:, window])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_two_streams_of_one_model_do_not_mix():
    model = make_model()
    alone = run_in_chunks(model, FRAMES[:1], chunk=4)
    first, second = FrameStream(model), FrameStream(model)
    found = []
    for start in range(0, 23, 4):
        found.append(first.push(FRAMES[:1, start : start + 4]))
        second.push(FRAMES[1:, start : start + 4])
    torch.testing.assert_close(torch.cat(found, dim=1), alone)
