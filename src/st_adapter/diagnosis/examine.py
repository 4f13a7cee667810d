"""Examine the videos of both parts: one look at each of a sample of them."""

from collections import Counter
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from st_adapter.common.progress import bar
from st_adapter.data.annotations import Annotations
from st_adapter.data.loading import BatchLoader
from st_adapter.data.video.decode import read_frames
from st_adapter.data.video.info import VideoInfo
from st_adapter.data.video.packets import Probe
from st_adapter.data.videos import VideoList
from st_adapter.diagnosis.facts import VideoFacts
from st_adapter.diagnosis.file_facts import fit_file_facts
from st_adapter.diagnosis.scenes import Digest, digest_frame, find_shared_scenes
from st_adapter.errors import VideoError

_MOST_TRAIN, _MOST_VAL = 2000, 300
"""Most videos of each part to examine. A look takes 10 ms in UCF101, and 100 ms in full HD."""

_SHORT_SIDE = 64


class Look(NamedTuple):
    """What one look at a video finds: the facts about its file, and a digest of its middle frame.

    The facts are in the order of `file_facts.NAMES`.
    """

    facts: tuple[float, float, float, float]
    digest: Digest | None


def examine(
    parts: Annotations, probe: Probe, *, held_out: bool = True, workers: int = 0
) -> VideoFacts:
    """Look at a sample of the videos of both parts, and compare the parts.

    The sample has at most 2000 training and 300 validation videos. It is always the same for the
    same data. Videos that cannot be read are left out.

    Args:
        parts: The videos. The validation part must not be empty.
        probe: Reads the properties of a file; an index that training has filled makes it fast.
        held_out: Whether the validation videos were held out from DATA.
        workers: Worker processes; 0 works in the main process.
    """
    train, train_looks = _look_at("training", parts.train.sample(_MOST_TRAIN), probe, workers)
    val, val_looks = _look_at("validation", parts.val.sample(_MOST_VAL), probe, workers)
    facts = np.array([look.facts for look in train_looks]).reshape(-1, 4)
    counts = [Counter(t for v in part for t in v.targets) for part in (parts.train, parts.val)]
    single = not parts.task.multi_label and not parts.task.heads
    return VideoFacts(
        classes={label: (counts[0][i], counts[1][i]) for i, label in enumerate(parts.labels)},
        held_out=held_out,
        median_seconds=float(np.median(facts[:, 3])) if len(facts) else None,
        frames_per_second=float(np.median(facts[:, 2])) if len(facts) else None,
        scenes=find_shared_scenes(
            train, [look.digest for look in train_looks], val, [look.digest for look in val_looks]
        ),
        file_facts=fit_file_facts(
            facts,
            train.first_targets().astype(np.int64),
            np.array([look.facts for look in val_looks]).reshape(-1, 4),
            val.first_targets().astype(np.int64),
            parts.labels,
        )
        if single
        else None,
    )


def _look_at(
    part: str, videos: VideoList, probe: Probe, workers: int
) -> tuple[VideoList, list[Look]]:
    """Return the videos that can be read, and a look at each of them."""
    # In workers even for few videos: a decoder that crashes must not end a finished run.
    loader = BatchLoader(_Looks(videos, probe), itemgetter(0), min(workers, len(videos)))
    looks: dict[int, Look] = {}
    with bar(f"examining {part} videos", len(videos)) as progress:
        for i, look in enumerate(loader.batches([[i] for i in range(len(videos))])):
            if look is not None:
                looks[i] = look
            progress.advance()
    return videos.take([*looks]), [*looks.values()]


class _Looks:
    """A dataset of one look at each video; None for a video that cannot be read."""

    def __init__(self, videos: VideoList, probe: Probe) -> None:
        self._videos, self._probe = videos, probe

    def name(self, index: int) -> str:
        """Return the path of a video, for messages of BatchLoader."""
        return str(self._videos[index].path)

    def __getitem__(self, index: int) -> Look | None:
        video = self._videos[index]
        try:
            info = self._probe(video.path)
            shown = info.frame_range(video.start_seconds, video.end_seconds)
            frame = read_frames(video.path, [shown[len(shown) // 2]], _SHORT_SIDE, info)[0]
        except (VideoError, OSError):
            return None
        return Look(_file_facts(info, shown), digest_frame(frame))


def _file_facts(info: VideoInfo, shown: range) -> tuple[float, float, float, float]:
    """Return width and height as shown, frames per second, and the length in seconds."""
    times: ndarray = info.start_seconds
    sizes = (info.width, info.height)
    width, height = sizes[::-1] if info.rotation % 180 else sizes
    whole = float(times[-1])
    # Rounded, because average rates of files with the same rate differ in the last digits.
    rate = round((info.num_frames - 1) / whole, 1) if whole else 0.0
    return float(width), float(height), rate, float(times[shown[-1]] - times[shown[0]])
