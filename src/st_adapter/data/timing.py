"""How much time the training clips of a data set cover."""

import numpy as np

from st_adapter.config import ClipConfig, ClipTiming
from st_adapter.data.video.info import PICTURES_PER_SECOND, VideoInfo
from st_adapter.data.video.packets import Probe
from st_adapter.data.videos import VideoList
from st_adapter.errors import VideoError

_MOST = 2000
"""Most videos to look at. An index that training has filled answers for each in 0.1 ms."""


def measure_timing(videos: VideoList, clip: ClipConfig, probe: Probe) -> ClipTiming | None:
    """Measure how many seconds the clips of a sample of videos cover, and their frame rate.

    Args:
        videos: Whole videos or segments.
        clip: How clips are cut from them.
        probe: Reads the description of a video.

    Returns:
        None if no video can be read.
    """
    lengths, rates = [], []
    for video in videos.sample(_MOST):
        try:
            info = probe(video.path)
            shown = info.frame_range(video.start_seconds, video.end_seconds)
        except (VideoError, OSError):
            continue
        rate = frame_rate(info)
        # With a stride, a clip covers `frames` steps of it; otherwise the whole video or segment.
        count = min(len(shown), clip.frames * clip.stride) if clip.stride else len(shown)
        lengths.append(count / rate)
        rates.append(rate)
    if not lengths:
        return None
    p10, median, p90 = np.percentile(lengths, (10, 50, 90)).round(3).tolist()
    return ClipTiming(
        median_seconds=median,
        p10_seconds=p10,
        p90_seconds=p90,
        frames_per_second=round(float(np.median(rates)), 3),
    )


def frame_rate(info: VideoInfo) -> float:
    """Return the average number of frames per second; that of pictures for a single frame."""
    seconds = float(info.start_seconds[-1])
    return (info.num_frames - 1) / seconds if seconds > 0 else PICTURES_PER_SECOND
