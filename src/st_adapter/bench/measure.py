"""Loading, training steps and inference of a configuration, timed beside the machine's limits."""

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from st_adapter.bench import limits
from st_adapter.common.progress import bar
from st_adapter.common.provenance import versions
from st_adapter.config import TrainConfig
from st_adapter.data.datasets import TrainDataset
from st_adapter.data.video.index import VideoIndex
from st_adapter.data.video.packets import probe
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Video
from st_adapter.errors import VideoError
from st_adapter.model.classifier import VideoClassifier, model_of
from st_adapter.runtime.compilation import compile_for_training
from st_adapter.runtime.device import check_input_size, choose_device, choose_precision, hold_frozen
from st_adapter.runtime.memory import check_memory, clear_out_of_memory, peak_memory_gb
from st_adapter.runtime.passes import HALF, backward, clips_at_once, infer
from st_adapter.training.batches import train_transform
from st_adapter.training.optimizer import make_optimizer

_SECONDS, _RATE, _WIDTH, _HEIGHT = 10, 30, 340, 256

_SAVES_MEMORY = "use --precision bfloat16, or lower --batch-size, --frames or --size"

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing that was measured.

    Attributes:
        seconds: of a batch of clips, or of one where it is loaded.
        clips_per_second: of all processors together, one where it is loaded.
        limit_seconds: of what the machine must do at least: the products of matrices alone, or
            decoding the whole video.
        limit: what that is.
        peak_gb: most memory of this process so far, or of the GPU.
    """

    what: str
    seconds: float
    clips_per_second: float
    limit_seconds: float
    limit: str
    peak_gb: float | None = None

    @property
    def ratio(self) -> float:
        """Share of the time that the limit explains; above 1 less was done than it counts."""
        return self.limit_seconds / self.seconds


class Measured(NamedTuple):
    """A row and what is behind it.

    Attributes:
        products: of matrices in a call.
        product_seconds: that each takes alone.
        operations: all in a call that torch counts.
    """

    row: Row
    products: Counter[limits.Product]
    product_seconds: dict[limits.Product, float]
    operations: int


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What was measured of a configuration.

    Attributes:
        operations_per_second: of products of matrices, at the shapes of the training step.
        peak_operations_per_second: of products of square matrices, the highest.
        model_flops_utilisation: share of that rate that a training step keeps up, by what torch
            counts: products, convolutions and, on a GPU, fused attention, but no Triton kernel.
        bytes_per_second: of copying memory.
        forward_and_activation_gradient: share of the training step that its products would take
            without those of trained weights' gradients.
    """

    backbone: str
    method: str
    frames: int
    size: int
    batch_size: int
    precision: str
    device: str
    threads: int
    trained_parameters: int
    operations_per_second: float
    peak_operations_per_second: float
    model_flops_utilisation: float
    bytes_per_second: float
    forward_and_activation_gradient: float
    rows: list[Row]
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The record as plain values."""
        record = asdict(self)
        for row, values in zip(self.rows, record["rows"], strict=True):
            values["ratio"] = row.ratio
        return record


def bench(config: TrainConfig, video: Path | None = None) -> Bench:
    """Measure loading, a training step and inference of a configuration on this machine.

    Args:
        config: its backbone gets random weights, its clips in memory are noise.
        video: to load clips of; unset makes one of 10 s, 340 x 256 at 30 frames a second.

    Raises:
        ArgumentError: a step does not fit in memory, or something else cannot work.
        VideoError: the video cannot be read.
    """
    device = choose_device(config.device)
    if video is not None:
        probe(video)  # that it cannot be read is said at once
    labels = [str(i) for i in range(400)]
    model = model_of(config, labels, "random").to(device)
    check_input_size(model, config.size)
    precision, _ = choose_precision(
        config.precision, model, clip_frames=config.frames, size=config.size
    )
    hold_frozen(model, precision)
    check_memory(model, config, precision, config.batch_size, _SAVES_MEMORY)
    if config.compile:
        compile_for_training(model, config, precision)
    with bar("measuring", 3) as progress, clear_out_of_memory(device, _SAVES_MEMORY):
        loading = _loading(config, video)
        progress.advance()
        training = _training(model, config, precision)
        progress.advance()
        inference = _inference(model, config, precision)
        progress.advance()
    return _summary(config, model, precision, training, [loading, training.row, inference])


def _summary(
    config: TrainConfig,
    model: VideoClassifier,
    precision: str,
    training: Measured,
    rows: list[Row],
) -> Bench:
    """What the training step's products tell of the machine, with the rows."""
    step, products, alone = training.row, training.products, training.product_seconds
    device, trained = model.device, model.trainable_parameters()
    kept = Counter({p: n for p, n in products.items() if not limits.is_weight_gradient(p, trained)})
    operations = sum(product.operations * count for product, count in products.items())
    peak = max(square.operations / alone[square] for square in _squares(precision, device))
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
        operations_per_second=operations / step.limit_seconds,
        peak_operations_per_second=peak,
        model_flops_utilisation=training.operations / step.seconds / peak,
        bytes_per_second=limits.bytes_per_second(device),
        forward_and_activation_gradient=_total(kept, alone) / step.seconds,
        rows=rows,
        versions=versions(),
    )


def _squares(precision: str, device: torch.device) -> list[limits.Product]:
    return limits.squares(HALF.get(precision, torch.float32), device)


def _loading(config: TrainConfig, video: Path | None) -> Row:
    """Training clips of one video, drawn anew each time, from one process."""
    with tempfile.TemporaryDirectory() as folder:
        path = video or _write_clip(Path(folder) / "clip.mp4")
        index = VideoIndex(Path(folder))
        num_frames = index(path).num_frames
        dataset = TrainDataset(
            [Video(path=path, targets=(0,))],
            config.clip,
            train_transform(config),
            seed=0,
            reader=Reader(probe=index),
        )
        epochs = iter(range(1000))

        def load() -> None:
            item = dataset[next(epochs), 0]
            if not item.clips:
                raise VideoError(item.skipped[0].reason)

        seconds = limits.median_seconds(load, torch.device("cpu"), rounds=12)
        decoding = limits.seconds_to_decode(path, num_frames)
    return Row(
        what="loading a clip",
        seconds=seconds,
        clips_per_second=1 / seconds,
        limit_seconds=decoding,
        limit="PyAV decoding the whole video, one thread, which clips of a part of it pass",
    )


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


def _training(model: VideoClassifier, config: TrainConfig, precision: str) -> Measured:
    """Forward pass, backward pass and optimizer step; the squares take turns with them, too."""
    optimizer = make_optimizer(model.train(), config)
    clips = _noise(model, config)
    target = torch.zeros(len(clips), dtype=torch.long, device=model.device)
    at_once = clips_at_once(model, config.frames, config.size, precision)

    def step(forward: Forward) -> None:
        backward(forward, clips, target, F.cross_entropy, precision=precision, at_once=at_once)
        optimizer.step()
        optimizer.zero_grad()

    squares = _squares(precision, model.device)
    return _measure("training step", step, model, len(clips), squares)


def _inference(model: VideoClassifier, config: TrainConfig, precision: str) -> Row:
    model.eval()
    clips = _noise(model, config)
    at_once = clips_at_once(model, config.frames, config.size, precision)

    def score(forward: Forward) -> None:
        infer(forward, clips, device=model.device, precision=precision, at_once=at_once)

    return _measure("inference", score, model, len(clips)).row


def _noise(model: VideoClassifier, config: TrainConfig) -> Tensor:
    shape = (config.batch_size, config.frames, 3, config.size, config.size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, device=model.device)


def _measure(
    what: str,
    run: Callable[[Forward], None],
    model: VideoClassifier,
    num_clips: int,
    squares: Sequence[limits.Product] = (),
) -> Measured:
    """Time a call of the model, and the products of matrices in it alone."""
    with limits.Products() as products, FlopCounterMode(display=False) as flops:
        run(model.forward)  # as written: compiled code shows no operations
    seconds, alone = limits.seconds_beside(
        lambda: run(model), [*products.counted, *squares], model.device
    )
    row = Row(
        what=what,
        seconds=seconds,
        clips_per_second=num_clips / seconds,
        limit_seconds=_total(products.counted, alone),
        limit="its products of matrices alone",
        peak_gb=peak_memory_gb(model.device),
    )
    return Measured(row, products.counted, alone, flops.get_total_flops())


def _total(products: Counter[limits.Product], seconds: dict[limits.Product, float]) -> float:
    return sum(count * seconds[product] for product, count in products.items())
