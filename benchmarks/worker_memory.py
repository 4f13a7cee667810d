"""Memory of loading workers over an epoch of a long list, and the time to open the list.

    python benchmarks/worker_memory.py VIDEO... [--rows 250000] [--clips 20000]

The list has so many rows and names few files. Memory is what a worker has for itself alone.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import torch
from machine import print_machine

from st_adapter.config import TrainConfig
from st_adapter.data.annotations import read_annotations
from st_adapter.data.batches import EpochSampler, collate_train
from st_adapter.data.datasets import TrainDataset
from st_adapter.data.video.index import index_of
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Video
from st_adapter.training.batches import train_transform

CONFIG = TrainConfig(frames=2, size=32, batch_size=50)
WORKERS = 2


def main(videos: list[Path], rows: int, clips: int) -> None:
    """Print both."""
    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "list.csv")
        names = [os.path.abspath(video) for video in videos]
        lines = (f"{names[i % len(names)]},class {i % 400}\n" for i in range(rows))
        table.write_text("path,label\n" + "".join(lines))
        start = time.perf_counter()
        data = read_annotations(table)
        print(f"{rows} rows opened in {time.perf_counter() - start:.1f} s")
        for count, memory in follow(
            data.train, len(data.labels), clips, Reader(probe=index_of(table))
        ):
            print(f"{count:>7} clips: {memory:.1f} MB a worker", flush=True)


def follow(
    videos: Sequence[Video], num_classes: int, clips: int, reader: Reader
) -> Iterator[tuple[int, float]]:
    """Yield how many clips have been loaded, and the workers' mean memory."""
    size = CONFIG.batch_size
    dataset = TrainDataset(videos, CONFIG.clip, train_transform(CONFIG), 0, reader=reader)
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_sampler=EpochSampler(
            num_videos=len(videos), step_videos=size, batch_videos=size, seed=0
        ),
        num_workers=WORKERS,
        collate_fn=lambda items: collate_train(num_classes, items),
    )
    for batch, _ in enumerate(loader, start=1):
        count = batch * size
        if count % (clips // 10) == 0:
            workers = psutil.Process().children()
            yield count, statistics.fmean(w.memory_full_info().uss for w in workers) / 1e6
        if count >= clips:
            return


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO")
    parser.add_argument("--rows", type=int, default=250_000)
    parser.add_argument("--clips", type=int, default=20_000)
    arguments = parser.parse_args()
    main(arguments.videos, arguments.rows, arguments.clips)
