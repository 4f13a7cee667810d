"""Timelines: what windows score, and the laws of spans."""

import tracemalloc
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from conftest import randomise, restamped, rotate_header, write_video
from st_adapter import ArgumentError, ClipConfig, Predictor, Video, VideoError, create_model
from st_adapter.common.task import Task
from st_adapter.config import ClipTiming
from st_adapter.data.clips import as_clips
from st_adapter.data.video.decode import read_frames
from st_adapter.data.video.packets import probe
from st_adapter.evaluation.score import score_videos
from st_adapter.model.frame_stream import summarise_clips

LABELS = ["a", "b", "c"]
MANY, HEADS = Task(multi_label=True), Task(heads=(("x", 2), ("y", 3)))
HEAD_LABELS = ["x/1", "x/2", "y/1", "y/2", "y/3"]
CLIP = ClipConfig(frames=4, size=32)
KINDS = ["plain", "turned", "variable rate", "counted", "pictures"]


def make_predictor(method="st-adapter", labels=LABELS, task=None, clip=CLIP, seed=0, **options):
    """A predictor whose classifier is far from its start, so that scores differ over time."""
    torch.manual_seed(seed)
    model = create_model(
        "test_vit", labels, weights="random", method=method, task=task, clip=clip, head_std=0.4
    ).eval()
    if method == "st-adapter":
        randomise(model)
    with torch.no_grad():  # spread the scores of the scenes over the classes
        clips = torch.from_numpy(np.stack(scenes())).unflatten(0, (-1, 10))[:, :8:2, :32, :32]
        logits = model(clips.movedim(-1, 2))
        scale = 2 / logits.std(0, keepdim=True).T
        model.head.weight.mul_(scale)
        model.head.bias.copy_(-scale[:, 0] * logits.mean(0))
    timing = ClipTiming(
        median_seconds=0.8, p10_seconds=0.5, p90_seconds=1.0, frames_per_second=10.0
    )
    model.spec = replace(model.spec, timing=timing)
    return Predictor(model, device="cpu", **options)


def scenes(count=6, length=10):
    """Scenes of moving colours, `length` frames each."""
    frames = []
    for seed in range(count):
        colours = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
        wide = np.asarray(Image.fromarray(colours).resize((64 + 6 * length, 48)))
        frames += [wide[:, 6 * i : 6 * i + 64] for i in range(length)]
    return frames


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """The same 60 frames in files of several kinds, 6 seconds or more."""
    folder = tmp_path_factory.mktemp("videos")
    frames = scenes()
    plain = write_video(folder / "plain.mp4", frames)
    (folder / "pictures").mkdir()
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / "pictures" / f"{i:03}.png")
    return {
        "plain": plain,
        "turned": rotate_header(plain, folder / "turned.mp4"),
        "variable rate": restamped(plain, folder / "late.mp4", lambda t: t + max(0, t - 30_000)),
        "counted": write_video(folder / "counted.avi", frames, codec="mpeg4"),
        "pictures": folder / "pictures",
    }


@pytest.fixture(scope="module")
def predictor():
    return make_predictor()


@pytest.fixture(scope="module")
def varied():
    """One whose labels change often in these videos."""
    return make_predictor(seed=3)


def scores_of_segments(predictor, path, timeline):
    """What `predict` computes for the segments of the windows."""
    ends = zip(timeline.window_starts.tolist(), timeline.window_ends.tolist(), strict=True)
    segments = [Video(path=path, start_seconds=start, end_seconds=end) for start, end in ends]
    scored = score_videos(predictor.model, segments, predictor.clip)
    return np.stack([scores[0].numpy() for _, scores in scored])


@pytest.mark.parametrize("views", [(1, 1), (2, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_windows_have_the_scores_of_their_segments(kind, views, videos):
    predictor = make_predictor(views=views)
    timeline = predictor.timeline(videos[kind], window=0.9, step=0.35)
    expected = scores_of_segments(predictor, videos[kind], timeline)
    assert len(expected) == len(timeline.scores) >= 3
    assert np.ptp(timeline.scores, axis=0).max() > 0.2  # the scenes look different
    np.testing.assert_allclose(timeline.scores, expected, atol=1e-5)


@pytest.mark.parametrize("clip", [ClipConfig(frames=4, size=32, stride=2), CLIP])
def test_windows_of_a_part_are_those_of_its_segments(clip, videos):
    predictor = make_predictor(clip=clip)
    timeline = predictor.timeline(
        videos["plain"], window=1.0, step=0.5, start_seconds=1.23, end_seconds=4.0
    )
    assert timeline.window_starts.tolist() == [1.23, 1.73, 2.23, 2.73]
    expected = scores_of_segments(predictor, videos["plain"], timeline)
    np.testing.assert_allclose(timeline.scores, expected, atol=1e-5)
    assert (timeline.spans[0].start_seconds, timeline.spans[-1].end_seconds) == (1.23, 4.0)


@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_is_near_the_windows(kind, videos):
    """Its frames are not exactly those of windows, and see what is around a window."""
    predictor = make_predictor()
    with torch.no_grad():
        for adapter in predictor.model.adapters.values():
            adapter.up.weight.mul_(0.2)
    once = predictor.timeline(videos[kind], window=0.8, one_pass=True)
    apart = predictor.timeline(videos[kind], window=0.8, step=once.step_seconds)
    assert abs(len(once.scores) - len(apart.scores)) <= 1
    pairs = [*zip(once.window_starts, apart.window_starts, strict=False)]
    np.testing.assert_allclose(*zip(*pairs, strict=True), atol=0.002)
    differences = np.abs(once.scores[: len(pairs)] - apart.scores[: len(pairs)])
    assert differences.mean() < 0.05 < np.ptp(apart.scores, axis=0).min()


@pytest.mark.parametrize("step", [0.05, 0.2, 0.3, 0.8, 1.4, 2.2])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_window_of_one_pass_has_its_score_whatever_the_step(step, batch_size, videos, varied):
    fine = varied.timeline(videos["plain"], one_pass=True)
    varied.batch_size = batch_size
    coarse = varied.timeline(videos["plain"], one_pass=True, step=step)
    varied.batch_size = 8
    assert coarse.step_seconds == pytest.approx(max(0.2, round(step / 0.2) * 0.2))
    np.testing.assert_allclose(np.diff(coarse.window_starts), coarse.step_seconds, atol=1e-6)
    assert coarse.window_ends[-1] <= 6.0 < coarse.window_ends[-1] + coarse.step_seconds
    rows = np.searchsorted(fine.window_starts, coarse.window_starts - 1e-6)
    np.testing.assert_allclose(coarse.scores, fine.scores[rows], atol=1e-5)


def test_windows_of_one_pass_are_made_of_clips_that_follow_each_other(videos):
    predictor = make_predictor()
    timeline = predictor.timeline(videos["plain"], one_pass=True)  # 30 frames, 4 in a window
    model, size = predictor.model, predictor.clip.size
    frames = read_frames(videos["plain"], range(1, 60, 2), size, probe(videos["plain"]))
    left = (frames.shape[2] - size) // 2
    clips = as_clips(frames[:28, :, left : left + size]).unflatten(0, (-1, 4))
    with torch.no_grad():
        summaries = summarise_clips(model, clips).flatten(0, 1)
        for number in (0, 1, 4, 7, 23):
            logits = model.classify(model.pool_clips(summaries[None, number : number + 4]))
            expected = logits.softmax(1)[0].numpy()
            np.testing.assert_allclose(timeline.scores[number], expected, atol=1e-5)


@pytest.mark.parametrize("method", ["linear", "temporal", "attentive"])
def test_one_pass_equals_windows_for_methods_without_adapters_over_time(method, tmp_path):
    """Each frame is there twice, because the two ways choose different ones of a pair."""
    pairs = [frame for frame in scenes(count=10) for _ in range(2)]
    video = write_video(tmp_path / "pairs.mp4", pairs, options={"qp": "0"})
    predictor = make_predictor(method, clip=ClipConfig(frames=4, size=32, stride=2))
    apart = predictor.timeline(video, window=0.8, step=0.4)
    once = predictor.timeline(video, window=0.8, step=0.4, one_pass=True)
    assert once.window_starts.tolist() == apart.window_starts.tolist()
    assert len(once.scores) == 49  # more than one chunk of frames
    np.testing.assert_allclose(once.scores, apart.scores, atol=1e-5)


def test_the_window_is_as_long_as_training_clips(videos, predictor):
    timeline = predictor.timeline(videos["plain"])
    assert (timeline.window_seconds, timeline.step_seconds) == (0.8, 0.2)
    predictor.model.spec = replace(predictor.model.spec, timing=None)
    with pytest.raises(ArgumentError, match="does not record how long its training clips were"):
        Predictor(predictor.model, device="cpu").timeline(videos["plain"])


@pytest.mark.parametrize("one_pass", [False, True])
def test_a_window_that_is_longer_than_the_video_is_the_video(one_pass, videos, predictor, caplog):
    timeline = predictor.timeline(videos["plain"], window=100, one_pass=one_pass)
    assert "a window of 100 s is longer than the 6.00 s to look at" in caplog.text
    (span,) = timeline.spans
    assert (span.start_seconds, span.end_seconds, span.end_frame) == (0.0, 6.0, 60)
    if not one_pass:
        expected = dict(predictor(videos["plain"]))
        for label, score in zip(LABELS, timeline.scores[0].tolist(), strict=True):
            assert score == pytest.approx(expected[label], abs=1e-5)


def lasts(span):
    return span.end_seconds - span.start_seconds


def with_label(timeline, labels):
    return [span for span in timeline.spans if span.label in labels]


def assert_cover(spans, start, end):
    """One after the other, without a gap or an overlap, in seconds and in frames."""
    assert (spans[0].start_seconds, spans[-1].end_seconds) == (start, end)
    for before, after in pairwise(spans):
        assert before.end_seconds == after.start_seconds
        # A span between two frames of a low rate has the frame that is still shown.
        shown_before = after.end_frame - after.start_frame == 1
        assert before.end_frame - after.start_frame in (0, int(shown_before))
        assert before.label != after.label


@pytest.mark.parametrize("one_pass", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_spans_of_one_label_cover_the_part_without_overlap(kind, one_pass, videos, varied):
    found = set()
    for start, end in ((None, None), (0.5, 2.2)):
        timeline = varied.timeline(
            videos[kind], window=0.5, one_pass=one_pass, start_seconds=start, end_seconds=end
        )
        assert_cover(timeline.spans, start or 0.0, end or timeline.duration_seconds)
        found |= {span.label for span in timeline.spans}
    assert timeline.spans[-1].end_frame <= 60
    assert len(found) > 1


def test_the_score_of_a_span_is_the_mean_over_its_windows(videos, varied):
    timeline = varied.timeline(videos["plain"], window=0.5, step=0.1)
    middles = (timeline.window_starts + timeline.window_ends) / 2
    assert len(timeline.spans) > 2
    for span in timeline.spans:
        inside = (middles > span.start_seconds) & (middles < span.end_seconds)
        scores = timeline.scores[inside, LABELS.index(span.label)]
        assert span.score == pytest.approx(scores.mean(), abs=1e-5)


def test_the_background_has_no_spans_and_the_others_stay(videos, varied):
    every = varied.timeline(videos["plain"], window=0.5).spans
    label = every[0].label
    rest = varied.timeline(videos["plain"], window=0.5, background=label).spans
    assert rest == [span for span in every if span.label != label]
    assert 0 < len(rest) < len(every)


def test_a_threshold_leaves_gaps(videos, varied):
    every = varied.timeline(videos["plain"], window=0.5)
    some = varied.timeline(videos["plain"], window=0.5, threshold=0.9)
    assert 0 < sum(map(lasts, some.spans)) < sum(map(lasts, every.spans))
    assert all(span.score >= 0.9 for span in some.spans)


@pytest.mark.parametrize("least", [0.3, 0.6, 1.0])
def test_no_span_is_shorter_than_asked(least, videos, varied):
    before = varied.timeline(videos["plain"], window=0.3, step=0.1)
    assert min(map(lasts, before.spans)) < least
    after = varied.timeline(videos["plain"], window=0.3, step=0.1, min_seconds=least)
    assert_cover(after.spans, 0.0, 6.0)
    assert min(map(lasts, after.spans)) >= least - 1e-6


def test_smoothing_removes_spans_and_keeps_the_scores(videos, varied):
    rough = varied.timeline(videos["plain"], window=0.2, step=0.1)
    smooth = varied.timeline(videos["plain"], window=0.2, step=0.1, smooth=2.0)
    assert len(smooth.spans) < len(rough.spans)
    np.testing.assert_array_equal(smooth.scores, rough.scores)


def test_spans_of_any_number_of_labels_overlap(videos):
    predictor = make_predictor(task=MANY, seed=1)
    timeline = predictor.timeline(videos["plain"], window=0.5, min_seconds=0.4)
    spans = timeline.spans
    assert [s.start_seconds for s in spans] == sorted(s.start_seconds for s in spans)
    overlaps = [b.start_seconds < a.end_seconds for a, b in pairwise(spans)]
    assert any(overlaps)
    for label in LABELS:
        own = with_label(timeline, [label])
        assert all(before.end_seconds < after.start_seconds for before, after in pairwise(own))
        assert all(lasts(span) >= 0.4 - 1e-6 for span in own)


def test_each_head_has_spans_that_cover_the_video(videos):
    timeline = make_predictor(labels=HEAD_LABELS, task=HEADS, seed=2).timeline(
        videos["plain"], window=0.5, min_seconds=0.3
    )
    for name in ("x/", "y/"):
        labels = [label for label in HEAD_LABELS if label.startswith(name)]
        assert_cover(with_label(timeline, labels), 0.0, 6.0)
    assert len({span.label for span in timeline.spans}) > 2


@pytest.mark.parametrize("one_pass", [False, True])
def test_a_file_with_fewer_frames_than_it_promises_ends_early(one_pass, tmp_path, caplog):
    frames = [np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8) for i in range(40)]
    whole = write_video(tmp_path / "whole.mp4", frames, options={"g": "10", "bf": "0"})
    damaged = tmp_path / "damaged.mp4"
    content = bytearray(whole.read_bytes())
    tail = slice(len(content) // 2, content.rindex(b"moov") - 8)
    content[tail] = bytes(tail.stop - tail.start)
    damaged.write_bytes(content)
    predictor = make_predictor()
    timeline = predictor.timeline(damaged, window=0.5, step=0.25, one_pass=one_pass)
    assert "of 40 that it promises; the timeline ends there" in caplog.text
    assert timeline.duration_seconds == 4.0
    assert 0.5 < timeline.spans[-1].end_seconds < 3.5
    if not one_pass:  # there, scores also depend on the frames that are missing
        expected = predictor.timeline(whole, window=0.5, step=0.25)
        count = len(timeline.scores) - 1  # the last frame that can be decoded is damaged, too
        np.testing.assert_allclose(timeline.scores[:count], expected.scores[:count], atol=1e-5)


@pytest.mark.parametrize("one_pass", [False, True])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "mpeg2video"])
def test_a_damaged_frame_in_the_middle_does_not_end_in_an_error(codec, one_pass, tmp_path):
    whole = write_video(tmp_path / "whole.mp4", scenes(), codec=codec, options={"g": "10"})
    packets = []
    with av.open(str(whole)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    content = bytearray(whole.read_bytes())
    start, size = packets[25]
    content[start : start + size] = bytes(size)
    (tmp_path / "damaged.mp4").write_bytes(content)
    timeline = make_predictor().timeline(tmp_path / "damaged.mp4", one_pass=one_pass, step=0.2)
    assert len(timeline.scores) >= 20
    assert np.isfinite(timeline.scores).all()


def test_a_video_that_cannot_be_read_is_an_error(tmp_path, predictor):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    for path in (tmp_path / "a.mp4", tmp_path / "gone.mp4"):
        with pytest.raises(VideoError, match=path.name):
            predictor.timeline(path, window=1)


@pytest.mark.parametrize(
    ("part", "error", "message"),
    [
        ((7.0, None), VideoError, "plain.mp4: nothing to look at from 7 s on; the video is 6.00 s"),
        ((7.0, 9.0), VideoError, "nothing to look at from 7 s on"),
        ((3.0, 2.0), ArgumentError, "must end after its start, not at 2 s if it starts at 3 s"),
        ((-1.0, 2.0), ArgumentError, "must start at 0 s or later, not at -1 s"),
    ],
)
def test_a_part_that_does_not_exist(part, error, message, videos, predictor):
    with pytest.raises(error, match=message):
        predictor.timeline(videos["plain"], window=1, start_seconds=part[0], end_seconds=part[1])


def test_one_pass_says_that_it_has_no_temporal_views(videos, caplog):
    make_predictor(views=(2, 1)).timeline(videos["plain"], one_pass=True)
    assert "in one pass, a window has one temporal view, not 2" in caplog.text


@pytest.mark.parametrize("one_pass", [False, True])
def test_progress_is_told_in_seconds(one_pass, videos, predictor):
    told = []
    predictor.timeline(videos["plain"], window=0.5, one_pass=one_pass, advance=told.append)
    assert told == sorted(told)
    assert 5.0 < told[-1] <= 6.0
    assert len(told) > 1


@pytest.mark.parametrize("one_pass", [False, True])
def test_frames_are_freed_when_no_window_needs_them(one_pass, tmp_path):
    predictor = make_predictor(clip=ClipConfig(frames=4, size=64))
    video = write_video(tmp_path / "long.mp4", scenes(count=30))
    timeline = predictor.timeline  # the first call fills caches
    timeline(video, window=1.0, one_pass=one_pass, end_seconds=2.0)
    counts, peaks = [], []
    for end_seconds in (10.0, None):
        tracemalloc.start()
        found = timeline(video, window=1.0, one_pass=one_pass, end_seconds=end_seconds)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        counts.append(len(found.scores))
    assert counts[1] > 2.5 * counts[0]
    assert peaks[1] < 1.1 * peaks[0]


def test_frames_in_memory_have_the_timeline_of_their_file(videos, predictor):
    with av.open(str(videos["plain"])) as container:
        frames = [*container.decode(video=0)]
    of_file = predictor.timeline(videos["plain"], window=1.0)
    in_memory = predictor.timeline(frames, window=1.0 * 10 / 25, step=0.25 * 10 / 25)
    assert in_memory.path == Path("<frames 0>")
    count = min(len(of_file.scores), len(in_memory.scores))
    np.testing.assert_allclose(in_memory.scores[:count], of_file.scores[:count], atol=1e-5)
