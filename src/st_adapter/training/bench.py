"""Measure how fast a configuration loads, trains and predicts on this machine."""

import statistics
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from st_adapter.common.progress import bar
from st_adapter.common.provenance import versions
from st_adapter.config import TrainConfig
from st_adapter.data.datasets import TrainDataset
from st_adapter.data.video.index import VideoIndex
from st_adapter.data.video.packets import probe
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Video
from st_adapter.errors import VideoError
from st_adapter.model.build import build_model
from st_adapter.runtime.device import choose_device, processor_kind, seconds_of
from st_adapter.runtime.memory import clear_out_of_memory, lower_settings, peak_memory_gb
from st_adapter.runtime.micro_batches import clips_at_once
from st_adapter.training.batches import train_transform
from st_adapter.training.loop import settle
from st_adapter.training.optimizer import make_step
from st_adapter.wording import setting

_SECONDS, _FRAMES_PER_SECOND, _WIDTH, _HEIGHT = 10, 30, 340, 256
"""Length, frame rate and size of the synthetic video: a 10-second clip, as in Kinetics."""


def bench(config: TrainConfig, video: Path | None = None) -> dict[str, Any]:
    """Time loading a clip, a training step and inference of a configuration on this machine.

    No weights are downloaded: the backbone has random ones. Training and inference use random
    clips in memory, so that decoding does not count.

    Args:
        config: The configuration to time.
        video: A video to load clips from. By default, a synthetic one is written: 10 s of 340 x
            256 pixels at 30 frames per second, H.264.

    Returns:
        The settings that decide the speed, the device, its kind in `processor` (see
        `processor_kind`), `versions`, and under `rows` three measurements. Each has its name in
        `what`; the median `seconds` per batch, or per clip for loading; `clips_per_second` of this
        process; and `peak_gb`, the most memory that the process has used so far, in units of 2^30
        bytes, or None for loading.

    Raises:
        ArgumentError: A setting cannot work, or a step does not fit in memory.
        VideoError: The video cannot be read.
        MemoryShortError: Memory ran out.
    """
    device = choose_device(config.device)
    if video is not None:
        probe(video)  # find an unreadable video before the model is built
    model = build_model(config, [str(i) for i in range(400)], "random").to(device)
    advice = f"use {setting('precision', 'bfloat16')}, or {lower_settings()}"
    config = settle(model, config, advice=advice)
    shape = (config.batch_size, config.frames, 3, config.size, config.size)
    clips = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    pieces = clips.split(clips_at_once(device, config.frames, config.size))

    @torch.inference_mode()
    def score() -> None:
        for piece in pieces:
            model(piece)

    with bar("measuring", 3) as progress, clear_out_of_memory(device, advice):
        rows = [_row("loading a clip", _load_seconds(config, video), clips=1)]
        progress.advance()
        step = make_step(model, config, pieces)
        for what, run in (("training step", step), ("inference", score)):
            model.train(run is step)
            rows.append(_row(what, _median_seconds(run, device, 5), config.batch_size, device))
            progress.advance()
    names = ("backbone", "method", "frames", "size", "batch_size")
    return {
        **{name: getattr(config, name) for name in names},
        "precision": model.precision,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "processor": processor_kind(device),
        "threads": torch.get_num_threads(),
        "trained_parameters": model.num_parameters(only_trainable=True),
        "rows": rows,
        "versions": versions(),
    }


def _row(
    what: str, seconds: float, clips: int, device: torch.device | None = None
) -> dict[str, Any]:
    peak = None if device is None else peak_memory_gb(device)
    return {"what": what, "seconds": seconds, "clips_per_second": clips / seconds, "peak_gb": peak}


def _load_seconds(config: TrainConfig, video: Path | None) -> float:
    """Median seconds to load a random training clip of one video in this process."""
    with tempfile.TemporaryDirectory() as folder:
        path = video or _write_clip(Path(folder) / "clip.mp4")
        videos, reader = [Video(path=path, targets=(0,))], Reader(probe=VideoIndex(Path(folder)))
        transform = train_transform(config)
        dataset = TrainDataset(videos, config.clip, transform, seed=0, reader=reader)
        epochs = iter(range(1000))

        def load() -> None:
            item = dataset[next(epochs), 0]
            if not item.clips:
                raise VideoError(item.skipped[0].reason)

        return _median_seconds(load, torch.device("cpu"), rounds=12)


def _write_clip(path: Path) -> Path:
    """Write a video of film grain that drifts over a gradient.

    A plain picture would compress to almost nothing, and decode faster than a real video.
    """
    rng = np.random.default_rng(0)
    grain = np.linspace(0, 200, _WIDTH)[None, :, None] + rng.normal(0, 20, (_HEIGHT, _WIDTH, 3))
    picture = grain.clip(0, 255).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(_FRAMES_PER_SECOND))
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        for i in range(_SECONDS * _FRAMES_PER_SECOND):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, i, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _median_seconds(run: Callable[[], None], device: torch.device, rounds: int) -> float:
    """Median time of a call, after a first one to warm up."""
    run()
    return statistics.median(seconds_of(run, device) for _ in range(rounds))
