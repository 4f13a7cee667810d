"""Make long videos with known times from short clips: hard cuts, and cross-fades of half a second.

    python scripts/make_long_videos.py LIST OUT [--count 20] [--seed 0]

LIST is a list of labelled clips that st-adapter reads, such as the test part of a data set. Writes
one to three minutes of clips into each of OUT/long_00.mp4 and so on, and OUT/truth.json with the
spans of each video. Neighbouring clips are of different classes. In the middle of a cross-fade,
one label ends and the next begins.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from numpy import ndarray

import st_adapter
from st_adapter.data.annotations import read_annotations

WIDTH, HEIGHT, RATE = 320, 240, 25
FADE_FRAMES = 12


def main(clips: Path, out: Path, count: int, seed: int) -> None:
    """Write the videos and their spans."""
    rng = random.Random(seed)
    annotations = read_annotations(clips)
    videos = [*annotations.joined()]
    out.mkdir(parents=True, exist_ok=True)
    truth = {}
    for number in range(count):
        path = out / f"long_{number:02}.mp4"
        seconds = rng.uniform(60, 180)
        truth[path.name] = write(path, draw(videos, rng), annotations.labels, seconds, rng)
        print(f"{path}: {truth[path.name][-1]['end_seconds']:.1f} s", flush=True)
    (out / "truth.json").write_text(json.dumps(truth, indent=1))


def draw(videos: list[st_adapter.Video], rng: random.Random) -> Iterator[st_adapter.Video]:
    """Yield random videos, each of another class than the one before."""
    last = None
    while True:
        video = rng.choice(videos)
        if video.targets != last:
            last = video.targets
            yield video


def write(
    path: Path,
    clips: Iterator[st_adapter.Video],
    labels: tuple[str, ...],
    seconds: float,
    rng: random.Random,
) -> list[dict[str, object]]:
    """Write clips one after the other until the video is long enough, and return its spans."""
    spans: list[dict[str, object]] = []
    written = 0
    fading: list[ndarray] = []  # the last frames of the clip before, if it fades into the next
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "23", "g": "50"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        while written < seconds * RATE:
            clip = next(clips)
            frames = read(clip.path)
            half = len(fading) // 2
            for i, before in enumerate(fading):
                share = (i + 1) / (len(fading) + 1)
                frames[i] = ((1 - share) * before + share * frames[i]).astype(np.uint8)
            begin = written + half
            if spans:
                spans[-1]["end_seconds"] = begin / RATE
            spans.append({"start_seconds": begin / RATE, "label": labels[clip.targets[0]]})
            fades = rng.random() < 0.5 and len(frames) > 4 * FADE_FRAMES
            last = len(frames) - (FADE_FRAMES if fades else 0)
            fading = frames[last:]
            for pixels in frames[:last]:
                for packet in stream.encode(av.VideoFrame.from_ndarray(pixels)):
                    container.mux(packet)
            written += last
        for packet in stream.encode():
            container.mux(packet)
    spans[0]["start_seconds"] = 0.0
    spans[-1]["end_seconds"] = written / RATE
    return spans


def read(path: Path) -> list[ndarray]:
    """Return the frames of a clip at the size and rate of the long video."""
    frames = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            due = (frame.time or 0.0) * RATE
            if len(frames) <= due + 0.5:
                frames.append(frame.reformat(WIDTH, HEIGHT, "rgb24").to_ndarray())
    return frames


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, metavar="LIST")
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    main(given.clips, given.out, given.count, given.seed)
