"""Write the data sets of docs/lab/results.md from UCF101 and ARID clips and the demo's own.

    python scripts/make_results_data.py ucf6/ arid6/ out/

    out/ucf6.csv         six classes, official split
    out/arrow/           ucf6 clips forwards and backwards, half the frame rate: each clip of the
                         test part in both directions, of the training part in one, in turns
    out/sit_stand.csv    Sit against Stand, official split
    out/demo/            the clips of `st-adapter demo`

ucf6/ holds class folders, train.txt, test.txt and classes.txt; arid6/ holds train.csv and val.csv.
Both directions of a clip are encoded anew in the same way, so that no compression tells them apart.
"""

import csv
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np

from st_adapter.common.progress import bar
from st_adapter.data.annotations import Video, read_annotations
from st_adapter.data.video import decode, packets
from st_adapter.demo import clips
from st_adapter.demo.story import SCENES

FRAMES_PER_SECOND = Fraction(25, 2)


def main(ucf6: Path, arid6: Path, out: Path) -> None:
    """Write all four."""
    out.mkdir(parents=True, exist_ok=True)
    parts = {"train": ucf6 / "train.txt", "val": ucf6 / "test.txt"}
    videos = [(split, v) for split, file in parts.items() for v in read_annotations(file).train]
    labels = read_annotations(parts["train"]).labels
    _write_list(out / "ucf6.csv", ((v.path.resolve(), labels[v.targets[0]], s) for s, v in videos))
    _write_list(out / "arrow" / "data.csv", _write_arrow(out / "arrow", videos))
    _write_list(out / "sit_stand.csv", _sit_and_stand(arid6))
    _write_demo(out / "demo")


def _write_arrow(
    folder: Path, videos: Sequence[tuple[str, Video]]
) -> Iterator[tuple[Path, str, str]]:
    """Write each clip in both directions; yield (path, label, split)."""
    write = partial(write_both_directions, folder)
    with ProcessPoolExecutor() as pool, bar("turning clips", len(videos)) as progress:
        paths = [video.path for _, video in videos]
        written = pool.map(write, paths, chunksize=4)
        for i, ((split, _), names) in enumerate(zip(videos, written, strict=True)):
            for label, name in zip(("forward", "backward"), names, strict=True):
                if split == "val" or label == ("forward", "backward")[i % 2]:
                    yield Path(name), label, split
            progress.advance()


def write_both_directions(folder: Path, path: Path) -> tuple[str, str]:
    """Write every second frame of a clip forwards and backwards; return both names."""
    frames = decode.read_frames(path, range(0, packets.probe(path).num_frames, 2))
    names = (f"forward/{path.stem}.mp4", f"backward/{path.stem}.mp4")
    for name, ordered in zip(names, (frames, frames[::-1]), strict=True):
        write_frames(folder / name, ordered)
    return names


def write_frames(path: Path, frames: np.ndarray) -> None:
    """Encode frames [t, h, w, 3] as H.264."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        height, width = (side - side % 2 for side in frames.shape[1:3])
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18", "preset": "veryfast"}
        stream.codec_context.thread_count = 1
        for frame in frames[:, :height, :width]:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _sit_and_stand(arid6: Path) -> Iterator[tuple[Path, str, str]]:
    for split in ("train", "val"):
        given = read_annotations(arid6 / f"{split}.csv")
        for video in given.train:
            label = given.labels[video.targets[0]]
            if label in ("Sit", "Stand"):
                yield video.path.resolve(), label, split


def _write_demo(folder: Path) -> None:
    """The demo's clips; those of unseen photographs are the validation part."""
    for i, (part, scenes) in enumerate(SCENES.items()):
        if part == "val":  # more of the training photographs, which choose the demo's best epoch
            continue
        photos = clips.TEST_PHOTOS if part == "test" else clips.TRAIN_PHOTOS
        name = "val" if part == "test" else "train"
        for _ in clips.write_clips(folder / name, photos, scenes, seed=i):
            pass


def _write_list(file: Path, rows: Iterator[tuple[Path, str, str]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerow(("path", "label", "split"))
        writer.writerows(rows)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
