"""A sequence of frames that is run in chunks, each frame once."""

import pytest
import torch

import st_adapter
from conftest import randomise
from st_adapter.model.frame_stream import FrameStream, classify_clips

FRAMES = torch.randint(
    0, 256, (2, 23, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
BY_FRAME = ("linear", "adapter", "temporal", "attentive")
"""Methods that compute each frame by itself before they pool a clip."""


def make_model(method="st-adapter", backbone="test_vit"):
    torch.manual_seed(0)
    model = st_adapter.create_model(backbone, ["a", "b"], weights="random", method=method).eval()
    if method == "st-adapter":
        randomise(model)
    return model


def reach(model):
    """How many frames away a frame can have an effect: adapters follow one another."""
    return sum(adapter.conv.kernel_size[0] // 2 for adapter in model.adapters.values())


def run_in_chunks(model, frames, chunk, lookahead):
    stream, found, start = FrameStream(model), [], 0
    while start + chunk + lookahead < frames.shape[1]:
        found.append(stream.push(frames[:, start : start + chunk + lookahead], lookahead))
        start += chunk
    return torch.cat([*found, stream.push(frames[:, start:])], dim=1)


@pytest.mark.parametrize("chunk", [1, 2, 5, 16])
@pytest.mark.parametrize("backbone", ["test_vit", "test_convnext"])
def test_chunks_of_any_size_give_what_one_chunk_gives(backbone, chunk):
    model = make_model(backbone=backbone)
    whole = FrameStream(model).push(FRAMES)
    parts = run_in_chunks(model, FRAMES, chunk, lookahead=reach(model))
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)
    blind = run_in_chunks(model, FRAMES, chunk, lookahead=0)
    assert (blind - whole).abs().max() > 1e-2  # the frames after a chunk do matter


@pytest.mark.parametrize("method", ["st-adapter", *BY_FRAME])
def test_a_sequence_of_one_clip_has_the_logits_of_the_clip(method):
    model = make_model(method)
    summaries = FrameStream(model).push(FRAMES[:, :8])
    with torch.no_grad():
        expected = model(FRAMES[:, :8])
    torch.testing.assert_close(classify_clips(model, summaries), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", BY_FRAME)
def test_without_adapters_over_time_every_window_has_the_logits_of_its_clip(method):
    model = make_model(method)
    summaries = run_in_chunks(model, FRAMES, chunk=5, lookahead=0)
    for start in (0, 4, 15):
        window = slice(start, start + 8)
        with torch.no_grad():
            expected = model(FRAMES[:, window])
        found = classify_clips(model, summaries[:, window])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_two_streams_of_one_model_do_not_mix():
    model = make_model()
    alone = run_in_chunks(model, FRAMES[:1], chunk=4, lookahead=0)
    first, second = FrameStream(model), FrameStream(model)
    found = []
    for start in range(0, 23, 4):
        found.append(first.push(FRAMES[:1, start : start + 4]))
        second.push(FRAMES[1:, start : start + 4])
    torch.testing.assert_close(torch.cat(found, dim=1), alone)
