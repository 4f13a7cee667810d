"""How fast a configuration is on this machine: loading, training steps, scoring."""

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F

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
from st_adapter.model.classifier import VideoClassifier
from st_adapter.runtime.compilation import black_clips, compile_for_training
from st_adapter.runtime.device import (
    check_input_size,
    choose_device,
    choose_precision,
    seconds_of,
)
from st_adapter.runtime.memory import (
    check_memory,
    clear_out_of_memory,
    peak_memory_gb,
    step_bytes,
)
from st_adapter.runtime.micro_batches import clips_at_once
from st_adapter.training.batches import train_transform
from st_adapter.training.optimizer import make_optimizer

_SECONDS, _RATE, _WIDTH, _HEIGHT = 10, 30, 340, 256
_ROUNDS = 5
_SAVES_MEMORY = "use --precision bfloat16, or lower --batch-size, --frames or --size"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing that was timed.

    Attributes:
        seconds: median time of a batch of clips; of one clip where it is loaded.
        clips_per_second: of one process.
        peak_gb: most memory of this process so far, or of the GPU; None where it is loaded.
    """

    what: str
    seconds: float
    clips_per_second: float
    peak_gb: float | None = None


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What was measured of a configuration."""

    backbone: str
    method: str
    frames: int
    size: int
    batch_size: int
    precision: str
    device: str
    threads: int
    trained_parameters: int
    rows: list[Row]
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The record as plain values."""
        return asdict(self)


def bench(config: TrainConfig, video: Path | None = None) -> Bench:
    """Time loading, a training step and scoring of a configuration on this machine.

    Args:
        config: its backbone gets random weights, its clips in memory are noise.
        video: to load clips of; by default one of 10 s, 340 x 256 at 30 frames a second, is made.

    Raises:
        ArgumentError: a step does not fit in memory, or something else cannot work.
        VideoError: the video cannot be read.
    """
    device = choose_device(config.device)
    if video is not None:
        probe(video)  # refuses at once what cannot be read
    model = build_model(config, [str(i) for i in range(400)], "random").to(device)
    check_input_size(model, config.size)
    precision, _ = choose_precision(
        config.precision, model, clip_frames=config.frames, size=config.size
    )
    model.set_precision(precision)
    needed = step_bytes(model, config)(config.batch_size)
    check_memory(model, config, needed, _SAVES_MEMORY)
    if config.compile:
        compile_for_training(model, black_clips(model, config.clip, config.batch_size))
    with bar("measuring", 3) as progress, clear_out_of_memory(device, _SAVES_MEMORY):
        rows = []
        for measure in (_loading, _training, _scoring):
            rows.append(measure(model, config, video))
            progress.advance()
    return Bench(
        backbone=config.backbone,
        method=config.method,
        frames=config.frames,
        size=config.size,
        batch_size=config.batch_size,
        precision=precision,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        threads=torch.get_num_threads(),
        trained_parameters=model.num_parameters(only_trainable=True),
        rows=rows,
        versions=versions(),
    )


def _loading(model: VideoClassifier, config: TrainConfig, video: Path | None) -> Row:
    """Training clips of one video, drawn anew each time, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        path = video or _write_clip(Path(folder) / "clip.mp4")
        dataset = TrainDataset(
            [Video(path=path, targets=(0,))],
            config.clip,
            train_transform(config),
            seed=0,
            reader=Reader(probe=VideoIndex(Path(folder))),
        )
        epochs = iter(range(1000))

        def load() -> None:
            item = dataset[next(epochs), 0]
            if not item.clips:
                raise VideoError(item.skipped[0].reason)

        seconds = _median_seconds(load, torch.device("cpu"), rounds=12)
    return Row(what="loading a clip", seconds=seconds, clips_per_second=1 / seconds)


def _write_clip(path: Path) -> Path:
    """Grain that drifts over a gradient, in H.264."""
    rng = np.random.default_rng(0)
    grain = np.linspace(0, 200, _WIDTH)[None, :, None] + rng.normal(0, 20, (_HEIGHT, _WIDTH, 3))
    picture = grain.clip(0, 255).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(_RATE))
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        for i in range(_SECONDS * _RATE):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, i, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _training(model: VideoClassifier, config: TrainConfig, _video: Path | None) -> Row:
    """Forward pass, backward pass and optimizer step."""
    optimizer = make_optimizer(model.train(), config)
    pieces = _noise(model, config)

    def step() -> None:
        for clips in pieces:
            target = torch.zeros(len(clips), dtype=torch.long, device=clips.device)
            F.cross_entropy(model(clips), target).backward()
        optimizer.step()
        optimizer.zero_grad()

    return _row("training step", step, model, config)


def _scoring(model: VideoClassifier, config: TrainConfig, _video: Path | None) -> Row:
    model.eval()
    pieces = _noise(model, config)

    @torch.inference_mode()
    def score() -> None:
        for clips in pieces:
            model(clips)

    return _row("inference", score, model, config)


def _noise(model: VideoClassifier, config: TrainConfig) -> tuple[torch.Tensor, ...]:
    """A batch of clips, in micro-batches."""
    shape = (config.batch_size, config.frames, 3, config.size, config.size)
    clips = torch.randint(0, 256, shape, dtype=torch.uint8, device=model.device)
    pieces: tuple[torch.Tensor, ...] = clips.split(
        clips_at_once(model.device, config.frames, config.size)
    )
    return pieces


def _row(what: str, run: Callable[[], None], model: VideoClassifier, config: TrainConfig) -> Row:
    seconds = _median_seconds(run, model.device, _ROUNDS)
    return Row(
        what=what,
        seconds=seconds,
        clips_per_second=config.batch_size / seconds,
        peak_gb=peak_memory_gb(model.device),
    )


def _median_seconds(run: Callable[[], None], device: torch.device, rounds: int) -> float:
    """Median time of a call, after one that is not timed."""
    run()
    return statistics.median(seconds_of(run, device) for _ in range(rounds))
