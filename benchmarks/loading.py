"""Clips a second from one process: this loader, the official one beside it, and bare decoding.

    python benchmarks/loading.py VIDEO... [--official PATH]

Makes a clip of 10 s and one of 10 minutes, 340x256 at 30 frames a second in H.264 with B-frames,
from the frames of the videos given. PATH is a checkout of linziyi96/st-adapter. Both loaders see
the same file in turns with one thread; figures are means, ratios above 1 are ours.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.frame import PictureType
from machine import print_machine

from st_adapter.config import ClipConfig, TrainConfig
from st_adapter.data import frame_sampling
from st_adapter.data.datasets import TrainDataset, ViewDataset
from st_adapter.data.video import decode, packets
from st_adapter.data.video.index import VideoIndex
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Video
from st_adapter.recipes import resolve
from st_adapter.training.batches import train_transform

SECONDS, MINUTES, RATE, WIDTH, HEIGHT = 10, 10, 30, 340, 256
ROUNDS = 12


def main(videos: Sequence[Path], official: Path | None) -> None:
    """Print a line for each way of loading."""
    torch.set_num_threads(1)  # as in a worker of a loader
    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        clip = write_clip(Path(folder) / "clip.mp4", videos, SECONDS * RATE)
        long = write_clip(Path(folder) / "long.mp4", videos, MINUTES * 60 * RATE)
        ours = our_loaders(clip)
        theirs = official_loaders(official, clip) if official else {}
        for name, load in ours.items():
            others = {"official": theirs[name]} if theirs else {}
            if name.startswith("training"):
                config = resolve(name.split()[-1], None, {}).clip
                others["bare PyAV"] = partial(decode_bare, clip, frames_to_decode(clip, config))
            compare(name, load, others)
        compare_seeking(long)


def write_clip(path: Path, videos: Sequence[Path], num_frames: int) -> Path:
    """Encode the frames of the videos, over and over, as a clip of the length asked for."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(RATE))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.max_b_frames = 3  # as x264 and YouTube write; PyAV alone writes none
        for i, frame in enumerate(islice(_frames(videos), num_frames)):
            scaled = frame.reformat(width=WIDTH, height=HEIGHT, format="yuv420p")
            scaled.pts, scaled.time_base = i, Fraction(1, RATE)
            scaled.pict_type = PictureType.NONE  # not what it was where it comes from
            container.mux(stream.encode(scaled))
        container.mux(stream.encode(None))
    return path


def _frames(videos: Sequence[Path]) -> Iterator[av.VideoFrame]:
    for video in cycle(videos):
        with av.open(str(video)) as container:
            yield from container.decode(video=0)


def our_loaders(clip: Path) -> dict[str, Callable[[int], object]]:
    """From the number of a round to clips, by what is loaded."""
    index = VideoIndex(clip.parent)
    videos = [Video(path=clip, targets=(0,))]

    def train(config: TrainConfig) -> Callable[[int], object]:
        transform = train_transform(config)
        dataset = TrainDataset(videos, config.clip, transform, seed=0, reader=Reader(probe=index))
        return lambda epoch: dataset[epoch, 0].clips[0]

    views = ViewDataset(
        videos, ClipConfig(frames=8, stride=16, size=224, views=(3, 1)), Reader(probe=index)
    )
    return {
        "evaluation, 3 views": lambda _: views[0].clips,
        "training, k400": train(resolve("k400", None, {})),
        "training, ssv2": train(resolve("ssv2", None, {})),
    }


def official_loaders(checkout: Path, clip: Path) -> dict[str, Callable[[int], object]]:
    """The same of the official code."""
    sys.path.insert(0, str(checkout))
    from video_dataset.dataset import VideoDataset  # type: ignore[import-not-found]

    rows = clip.with_name("list.txt")
    rows.write_text(f"{clip.name} 0\n")

    def loader(**options: Any) -> Callable[[int], object]:
        dataset = VideoDataset(str(rows), str(clip.parent), num_frames=8, **options)
        return lambda _: dataset[0]

    jitter = {"resize_type": "random_short_side_scale_jitter", "scale_range": (1.0, 1.15)}
    return {
        "evaluation, 3 views": loader(sampling_rate=16, num_temporal_views=3, random_sample=False),
        "training, k400": loader(sampling_rate=16, mirror=True, **jitter),
        "training, ssv2": loader(sampling_rate=0, auto_augment="rand-m7-n4-mstd0.5-inc1"),
    }


def frames_to_decode(clip: Path, config: ClipConfig) -> int:
    """How many frames lie before the end of a clip that is drawn at random, on average."""
    rng, num_frames = random.Random(0), packets.probe(clip).num_frames
    draws = [
        frame_sampling.choose(num_frames, config.frames, config.stride, rng) for _ in range(500)
    ]
    return round(statistics.fmean(max(draw) + 1 for draw in draws))


def decode_bare(clip: Path, num_frames: int, _: int) -> None:
    """Decode with PyAV and nothing else."""
    with av.open(str(clip)) as container:
        container.streams.video[0].thread_count = 1
        for _frame in islice(container.decode(video=0), num_frames):
            pass


def compare(
    name: str,
    ours: Callable[[int], object],
    others: dict[str, Callable[[int], object]],
    rounds: int = ROUNDS,
) -> None:
    """Time them in turns and print milliseconds and ratios."""
    loads = {"ours": ours, **others}
    times: dict[str, list[float]] = {who: [] for who in loads}
    for load in loads.values():
        load(0)
    for number in range(1, 1 + rounds):
        for who, load in loads.items():
            start = time.perf_counter()
            load(number)
            times[who].append(time.perf_counter() - start)
    means = {who: statistics.fmean(values) for who, values in times.items()}
    ratios = ", ".join(
        f"{who} {1000 * mean:.0f} ms: {mean / means['ours']:.2f}"
        for who, mean in means.items()
        if who != "ours"
    )
    print(f"{name}: {1000 * means['ours']:.0f} ms; {ratios}", flush=True)


def compare_seeking(video: Path) -> None:
    """32 frames spread over a long video, by seeking and by decoding through."""
    info = packets.probe(video)
    wanted = range(150, info.num_frames, info.num_frames // 32)[:32]
    by_seeking = partial(decode.read_frames, video, wanted, 224, info)
    through = partial(decode.read_frames, video, wanted, 224)
    assert np.array_equal(by_seeking(), through())
    compare(
        f"32 of {info.num_frames} frames",
        lambda _: by_seeking(),
        {"decoding through": lambda _: through()},
        rounds=ROUNDS // 4,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO")
    parser.add_argument("--official", type=Path)
    arguments = parser.parse_args()
    main(arguments.videos, arguments.official)
