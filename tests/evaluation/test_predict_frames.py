"""Frames in memory, bytes, open files and URLs are classified as the file itself is."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

import st_adapter
from conftest import restamped, rotate_header, write_video
from st_adapter import ClipConfig, Prediction, Predictor, create_model
from st_adapter.data.videos import Skipped
from st_adapter.errors import ArgumentError, VideoError


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Videos of moving colours: a plain one, one turned, one with a variable rate, a short one."""
    folder = tmp_path_factory.mktemp("clips")
    colours = np.random.default_rng(0).integers(60, 200, (5, 7, 3), np.uint8)
    wide = np.asarray(Image.fromarray(colours).resize((160, 48)))
    frames = [wide[:, 6 * i : 6 * i + 64] for i in range(14)]
    plain = write_video(folder / "plain.mp4", frames)
    return {
        "plain": plain,
        "turned": rotate_header(plain, folder / "turned.mp4"),
        "variable rate": restamped(plain, folder / "late.mp4", lambda t: t + max(0, t - 50_000)),
        "short": write_video(folder / "short.mp4", frames[:2]),
    }


def decoded(path):
    """The frames of a file as PyAV returns them."""
    with av.open(str(path)) as container:
        return [*container.decode(video=0)]


def pixels(path):
    """The frames of a file, upright and in RGB, [t, h, w, 3]."""
    frames = [frame.to_ndarray(format="rgb24") for frame in decoded(path)]
    return np.stack([np.rot90(f, -1) if "turned" in str(path) else f for f in frames])


KINDS = ["plain", "turned", "variable rate", "short"]


@pytest.mark.parametrize("views", [(1, 1), (3, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_frames_that_pyav_decoded_give_exactly_the_scores_of_the_file(
    kind, views, clips, trained_run
):
    predictor = Predictor(trained_run, device="cpu", views=views)
    assert predictor(decoded(clips[kind])) == predictor(clips[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_are_sampled_scaled_and_turned_as_the_file(kind, clips, predictor):
    """Only rounding differs: files are scaled before their colours are converted."""
    of_file = predictor.preprocess(clips[kind]).float()
    difference = (predictor.preprocess(pixels(clips[kind])).float() - of_file).abs()
    assert difference.mean() < 2
    scores = dict(predictor(clips[kind]))
    for label, score in predictor(pixels(clips[kind])):
        assert score == pytest.approx(scores[label], abs=0.02)


def test_every_layout_of_the_same_frames_gives_the_same_scores(clips, predictor):
    frames = pixels(clips["plain"])
    expected = predictor(frames)
    tensor = torch.from_numpy(frames)
    same = [
        tensor,
        tensor.permute(0, 3, 1, 2),
        tensor.long(),
        tensor / 255,
        (tensor / 255).half(),
        [*frames],
        [*tensor.permute(0, 3, 1, 2)],
        tuple(Image.fromarray(frame) for frame in frames),
        [Image.fromarray(frame).convert("RGBA") for frame in frames],
    ]
    assert [predictor(given) for given in same] == [expected] * len(same)


def test_bgr_exchanges_the_colours_of_arrays_alone(clips, predictor):
    frames = pixels(clips["plain"])
    expected = predictor(frames)
    assert predictor(frames[..., ::-1]) != expected
    assert predictor(frames[..., ::-1].copy(), bgr=True) == expected
    assert predictor([*frames[..., ::-1]], bgr=True) == expected
    assert predictor([Image.fromarray(frame) for frame in frames], bgr=True) == expected
    assert predictor(clips["plain"], bgr=True) == predictor(clips["plain"])


def close(results, expected):
    """Whether scores are equal but for the rounding of sums, which depends on the batch."""
    return all(
        dict(a) == pytest.approx(dict(b), abs=1e-6) for a, b in zip(results, expected, strict=True)
    )


def test_a_batch_gives_one_result_for_each_clip(clips, predictor):
    frames = pixels(clips["plain"])
    both = [predictor(frames), predictor(frames[:5])]
    assert close(predictor([frames, frames[:5]]), both)
    assert close(predictor(np.stack([frames, frames])), [both[0]] * 2)
    pictures = [Image.fromarray(frame) for frame in frames]
    assert close(predictor([pictures, pictures[:5]]), both)
    assert close(predictor([clips["plain"]]), [predictor(clips["plain"])])


def test_bytes_open_files_and_urls_are_videos(clips, predictor, tmp_path):
    path = clips["turned"]
    expected, content = predictor(path), path.read_bytes()
    with fsspec.open("memory://videos/turned.mp4", "wb") as file:
        file.write(content)
    assert predictor(content) == expected
    assert predictor(bytearray(content)) == expected
    assert predictor(io.BytesIO(content)) == expected
    with path.open("rb") as file:
        assert predictor(file) == expected
    assert predictor("memory://videos/turned.mp4") == expected
    assert predictor(Path("memory://videos/turned.mp4")) == expected
    assert predictor(path.as_uri()) == expected
    assert predictor(Path(path.as_uri())) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mixture_yields_one_result_each_in_order(workers, clips, predictor):
    path, frames = clips["plain"], pixels(clips["short"])
    broken = path.read_bytes()[:200]
    given = [frames, path, broken, path.read_bytes(), "memory://gone.mp4", decoded(path), b""]
    results = [*predictor.predict(given, workers=workers)]
    names = ["<frames 0>", str(path), "<bytes 2>", "<bytes 3>", "memory:/gone.mp4", "<frames 5>"]
    assert [str(result.path) for result in results] == [*names, "<bytes 6>"]
    skipped = [result for result in results if isinstance(result, Skipped)]
    assert [skip.path for skip in skipped] == ["<bytes 2>", "memory:/gone.mp4", "<bytes 6>"]
    assert skipped[0].reason.startswith("<bytes 2>: cannot be decoded")
    assert skipped[2].reason == "<bytes 6>: the file is empty"
    scores = [result.scores for result in results if isinstance(result, Prediction)]
    assert close(scores, [predictor(frames), *[predictor(path)] * 3])


def test_what_cannot_be_read_is_an_error_of_a_single_call(predictor):
    with pytest.raises(VideoError, match="<bytes 0>: cannot be decoded"):
        predictor(b"no video")
    with pytest.raises(VideoError, match="memory:/gone.mp4"):
        predictor("memory://gone.mp4")


CLIP = np.zeros((5, 40, 60, 3), np.uint8)
REFUSED = [
    (CLIP[0], r"not \[40, 60, 3\]: this is one frame; pass frame\[None\]"),
    (CLIP[..., 0], r"not \[5, 40, 60\]: frames are grey; repeat the channel"),
    (CLIP[..., :1], r"not \[5, 40, 60, 1\]: frames are grey"),
    (np.zeros((5, 40, 60, 4), np.uint8), r"4 channels; .* frames\[\.\.\., :3\]"),
    (np.zeros((3, 5, 40, 60), np.uint8), r"first axis; move them with frames\.swapaxes\(0, 1\)"),
    (np.zeros((5, 40, 60, 7), np.uint8), "no axis has the 3 colours"),
    (np.zeros(100, np.uint8), "a clip has four axes"),
    (CLIP[:0], "at least one frame"),
    ([], "the list of frames is empty"),
    (CLIP * 2.0 + 200, r'float64 in 200\.\.200; convert them with frames\.astype\("uint8"\)'),
    (CLIP - 1.5, r"float64 in -1\.5\.\.-1\.5; pass frames as decoded, before any normalisation"),
    (CLIP + np.float32("nan"), "replace NaN and infinite values"),
    (CLIP.astype(int) + 256, r"int64 in 256\.\.256; scale them to 0\.\.255"),
    (CLIP.astype(bool), "not bool"),
    ([CLIP[0], CLIP[0, :20]], r"differ in size, such as 60x20 and 60x40"),
    ([Image.new("RGB", (8, 8)), Image.new("RGB", (9, 8))], "such as 8x8 and 9x8"),
    (Image.new("RGB", (8, 8)), r"one picture is not a clip; pass a list"),
    (io.StringIO("text"), r'open as text; open it with open\(path, "rb"\)'),
    (7, "'int' objects are not videos; pass a path"),
    ([CLIP, CLIP[..., 0]], "video 1: frames must be"),
    ([CLIP, "a.mp4", None], "video 2: 'NoneType' objects are not videos"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_other_frames_are_refused_in_one_line_that_says_what_to_pass(given, message, predictor):
    with pytest.raises(ArgumentError, match=message) as error:
        predictor(given)
    assert "\n" not in str(error.value)


def test_a_single_video_is_not_a_list_of_videos(clips, predictor):
    with pytest.raises(ArgumentError, match=r"for one, call predictor\(video\)"):
        next(predictor.predict(str(clips["plain"])))
    with pytest.raises(ArgumentError, match="this is one frame"):
        next(predictor.predict(CLIP))
    with pytest.raises(ArgumentError, match="preprocess takes one video"):
        predictor.preprocess([CLIP, CLIP])


@pytest.mark.parametrize("views", [(1, 1), (2, 3)])
def test_what_is_preprocessed_gives_the_scores_of_the_file(views, clips, trained_run):
    predictor = Predictor(trained_run, device="cpu", views=views, calibrated=False)
    batch = predictor.preprocess(clips["turned"])
    assert batch.shape == (views[0] * views[1], 4, 3, 32, 32)
    assert batch.dtype == torch.uint8
    assert torch.equal(batch, predictor.preprocess(clips["turned"].read_bytes()))
    with torch.inference_mode():
        scores = predictor.model(batch).softmax(-1).mean(0).tolist()
    assert dict(predictor(clips["turned"])) == dict(
        zip(predictor.model.labels, scores, strict=True)
    )


def test_threads_share_a_predictor(clips, predictor):
    """Files and frames at the same time: each gets the scores that it gets alone."""
    given = [clips["plain"], pixels(clips["turned"]), decoded(clips["short"]), clips["turned"]]
    alone = [predictor(video) for video in given]
    with ThreadPoolExecutor(4) as pool:
        results = [*pool.map(predictor, given * 8)]
        batches = [*pool.map(lambda _: [*predictor.predict(given)], range(4))]
    assert results == alone * 8
    assert all(close([result.scores for result in batch], alone) for batch in batches)


def test_a_classifier_is_used_without_a_folder(clips, tmp_path):
    clip = ClipConfig(frames=4, size=32)
    model = create_model("test_vit", ["a", "b"], weights="random", clip=clip).train()
    predictor = Predictor(model)
    assert predictor.model is model
    assert not model.training
    assert (predictor.clip, predictor.model.device.type) == (clip, "cpu")
    model.save_adapter(tmp_path / "adapter")
    frames = pixels(clips["plain"])
    with torch.inference_mode():
        logits = model(predictor.preprocess(frames))
    scores = dict(zip("ab", logits.softmax(-1)[0].tolist(), strict=True))
    assert dict(predictor(frames)) == scores
    model.set_precision("bfloat16")
    assert Predictor(model, views=(3, 1)).model.precision == "bfloat16"
    with pytest.raises(ArgumentError, match="weights='random' does not apply"):
        st_adapter.Predictor(model, weights="random")
