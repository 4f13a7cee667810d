"""Adapters record how much time training clips covered."""

from pathlib import Path

import numpy as np
import pytest

from conftest import write_video
from st_adapter.config import ClipConfig, ClipTiming
from st_adapter.data.timing import measure_timing
from st_adapter.data.video.packets import probe
from st_adapter.data.videos import Video, VideoList
from st_adapter.errors import ArgumentError
from st_adapter.model.checkpoint import read_spec


@pytest.fixture
def videos(tmp_path):
    """Ten videos of 10, 20 ... 100 frames at 10 frames a second."""
    paths = [
        write_video(tmp_path / f"{n}.mp4", [np.zeros((16, 16, 3), np.uint8)] * n)
        for n in range(10, 101, 10)
    ]
    return VideoList.of([Video(path=path) for path in paths])


def test_without_a_stride_a_clip_covers_the_whole_video(videos):
    timing = measure_timing(videos, ClipConfig(frames=4), probe)
    lengths = np.arange(1, 11)
    assert timing == ClipTiming(
        median_seconds=5.5,
        p10_seconds=round(float(np.percentile(lengths, 10)), 3),
        p90_seconds=round(float(np.percentile(lengths, 90)), 3),
        frames_per_second=10.0,
    )


def test_with_a_stride_it_covers_its_steps_or_a_shorter_video(videos):
    timing = measure_timing(videos, ClipConfig(frames=4, stride=5), probe)
    assert (timing.median_seconds, timing.p10_seconds, timing.p90_seconds) == (2.0, 1.9, 2.0)


def test_a_segment_counts_by_its_own_length(videos):
    segments = VideoList.of(
        [Video(path=video.path, start_seconds=0.2, end_seconds=0.7) for video in videos]
    )
    assert measure_timing(segments, ClipConfig(frames=4), probe).median_seconds == 0.5


def test_videos_that_cannot_be_read_do_not_count(videos, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    broken = Video(path=tmp_path / "broken.mp4")
    some = VideoList.of([videos[0], broken])
    assert measure_timing(some, ClipConfig(), probe).median_seconds == 1.0
    assert measure_timing(VideoList.of([broken]), ClipConfig(), probe) is None


def test_times_are_above_zero():
    with pytest.raises(ArgumentError, match="median_seconds must be above 0"):
        ClipTiming(median_seconds=0.0, p10_seconds=1.0, p90_seconds=1.0, frames_per_second=25.0)


def test_training_records_it_with_both_adapters(trained_run):
    recorded = [read_spec(trained_run / name).timing for name in ("adapter", "adapter_last")]
    assert (
        recorded[0]
        == recorded[1]
        == ClipTiming(median_seconds=0.8, p10_seconds=0.8, p90_seconds=0.8, frames_per_second=10.0)
    )


def test_an_earlier_record_has_none():
    folder = Path(__file__).parents[1] / "reference" / "trained_by_0_1" / "adapter"
    assert read_spec(folder).timing is None
