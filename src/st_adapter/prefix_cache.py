"""What the frozen blocks before the first trained one make of clips that come again."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from st_adapter.backbones.weights import digest
from st_adapter.config import TrainConfig
from st_adapter.data.dataset import TrainItem
from st_adapter.data.video_list import Video
from st_adapter.errors import ArgumentError
from st_adapter.files import atomic_path, check_writable
from st_adapter.kernels import chosen_kernels
from st_adapter.machine import autocast
from st_adapter.model import VideoClassifier
from st_adapter.progress import say

Key = tuple[int, int]
"""Number of the draw, and index of the video."""

_FORMAT = 1


class PrefixCache:
    """Items of training whose clips have been run through the frozen blocks, by (draw, video).

    Clips are run one by one, so that what is kept does not depend on those beside them. There is
    no eviction: epochs go round, so what did not fit at first is computed anew each time.

    Args:
        model: whose frozen blocks are run.
        precision: of autocast.
        most_bytes: that may be kept.
        file_of: path of the file that keeps a key; None keeps all in memory.
    """

    def __init__(
        self,
        model: VideoClassifier,
        precision: str,
        most_bytes: float,
        file_of: Callable[[Key], Path] | None = None,
    ) -> None:
        self._model = model
        self._precision = precision
        self._room = most_bytes
        self._file_of = file_of
        self._items: dict[Key, TrainItem] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._items or (self._file_of is not None and self._file_of(key).exists())

    def get(self, key: Key) -> TrainItem | None:
        """The item of a key; None where it is not there, or cannot be read any more."""
        if self._file_of is None:
            return self._items.get(key)
        try:
            return _read(self._file_of(key))
        except (OSError, ValueError, KeyError, SafetensorError):
            return None

    def fill(self, key: Key, item: TrainItem) -> TrainItem:
        """Run an item's clips through the frozen blocks; keep the result while there is room.

        An item of a video that stands in for a broken one is not kept.
        """
        item = replace(item, clips=tuple(self._prefix(clip) for clip in item.clips))
        size = sum(clip.nbytes for clip in item.clips)
        if item.skipped or size > self._room:
            return item
        if self._file_of is None:
            self._items[key] = item
        elif not self._write(self._file_of(key), item):
            return item
        self._room -= size
        return item

    def _prefix(self, clip: Tensor) -> Tensor:
        device = self._model.device
        with chosen_kernels(device), autocast(device, self._precision):
            prefix = self._model.prefix(clip[None].to(device))[0]
        return prefix.cpu().clone()  # a view would keep all tokens

    def _write(self, file: Path, item: TrainItem) -> bool:
        tensors = {f"clip_{i}": clip.contiguous() for i, clip in enumerate(item.clips)}
        record = json.dumps({"path": item.path, "targets": item.targets})
        try:
            with atomic_path(file) as temporary:
                save_file(tensors, temporary, metadata={"item": record})
        except OSError as error:
            self._room = 0
            say(f"note: the prefix cache takes no more: {error}")
            return False
        return True


def _read(file: Path) -> TrainItem:
    with safe_open(file, "pt") as stored:
        record = json.loads(stored.metadata()["item"])
        clips = tuple(stored.get_tensor(f"clip_{i}") for i in range(len(record["targets"])))
    targets = tuple(map(tuple, record["targets"]))
    return TrainItem(path=record["path"], clips=clips, targets=targets, skipped=())


def make_prefix_cache(
    model: VideoClassifier,
    config: TrainConfig,
    precision: str,
    videos: Sequence[Video],
    drawn_by: Mapping[str, Any],
) -> PrefixCache | None:
    """The cache that a configuration asks for, if it does.

    Args:
        drawn_by: what else decides what a clip shows: transform, mirror, reversal.

    Raises:
        ArgumentError: nothing frozen comes before what is trained, or the folder cannot be used.
    """
    if not config.prefix_cache:
        return None
    blocks = model.num_frozen_blocks
    if not blocks:
        raise ArgumentError(
            f"prefix_cache has nothing to keep: no block of {config.backbone} comes before all "
            f"that {config.method} trains there; plain ViTs have some with --adapter-layers below "
            "all, and with the methods linear, temporal and partial"
        )
    most_bytes, folder, used = config.prefix_cache * 2**30, config.prefix_cache_folder, 0
    if folder is not None:
        check_writable(Path(folder))
        used = sum(file.stat().st_size for file in Path(folder).glob("*/*.safetensors"))
    clip = torch.zeros(1, config.frames, 3, config.size, config.size, device=model.device)
    with autocast(model.device, precision):
        each = model.prefix(clip).nbytes
    copies = config.repeats * (2 if config.reversal else 1)
    wanted = each * copies * len(videos) * min(config.draws, config.epochs)
    beside = f", {used / 2**30:.2f} are there already" if used else ""
    say(
        f"{blocks} blocks are frozen and run once a clip; keeping what they make of all takes "
        f"about {wanted / 2**30:.2f} GB of at most {config.prefix_cache:g}{beside}"
    )
    if folder is None:
        return PrefixCache(model, precision, most_bytes)
    hangs_on = {
        "format": _FORMAT,
        "torch": torch.__version__,
        "backbone": [config.backbone, model.spec.digest or digest(model.backbone), blocks],
        "arithmetic": [precision, model.device.type],
        "clip": [config.frames, config.stride, config.size, config.seed, config.repeats],
        "decoder": config.decoder,
        "drawn_by": dict(drawn_by),
    }
    return PrefixCache(
        model, precision, most_bytes - used, lambda key: _file(Path(folder), hangs_on, key, videos)
    )


def _file(folder: Path, hangs_on: dict[str, Any], key: Key, videos: Sequence[Video]) -> Path:
    """Where a key is kept: a name made of all that its content hangs on."""
    draw, index = key
    video = videos[index]
    try:
        state = os.stat(video.path)
        of_file = [state.st_size, state.st_mtime_ns]
    except OSError:  # in a shard, or gone
        of_file = []
    record = hangs_on | {
        "key": [draw, index],
        "video": dataclasses.asdict(video),
        "file": of_file,
    }
    name = hashlib.sha256(json.dumps(record, sort_keys=True, default=str).encode()).hexdigest()
    return folder / name[:2] / f"{name}.safetensors"
