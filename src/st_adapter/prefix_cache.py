"""What the frozen blocks before the first trained one make of clips that come again."""

import dataclasses
import hashlib
import json
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
from st_adapter.data.pictures import list_pictures
from st_adapter.data.shards import split_member, version
from st_adapter.data.video_list import Video
from st_adapter.errors import ArgumentError
from st_adapter.files import atomic_path, check_writable
from st_adapter.kernels import chosen_kernels
from st_adapter.machine import autocast
from st_adapter.model import VideoClassifier
from st_adapter.progress import say
from st_adapter.provenance import versions

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
        file_of: path of the file that keeps a key, None for one that is not kept; unset keeps all
            in memory.
    """

    def __init__(
        self,
        model: VideoClassifier,
        precision: str,
        most_bytes: float,
        file_of: Callable[[Key], Path | None] | None = None,
    ) -> None:
        self._model = model
        self._precision = precision
        self._room = most_bytes
        self._file_of = file_of
        self._items: dict[Key, TrainItem] = {}

    def __contains__(self, key: Key) -> bool:
        if self._file_of is None:
            return key in self._items
        file = self._file_of(key)
        return file is not None and file.exists()

    def get(self, key: Key) -> TrainItem | None:
        """The item of a key; None where it is not there, or cannot be read any more."""
        if self._file_of is None:
            return self._items.get(key)
        file = self._file_of(key)
        if file is None:
            return None
        try:
            return _read(file)
        except (OSError, ValueError, KeyError, SafetensorError):
            file.unlink(missing_ok=True)  # damaged: made anew, by a worker from the next epoch on
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
        else:
            file = self._file_of(key)
            if file is None or not self._write(file, item):
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
    num_processes: int = 1,
) -> PrefixCache | None:
    """The cache that a configuration asks for, if it does.

    Args:
        drawn_by: what else decides what a clip shows: reader, transform, mirror, reversal.
        num_processes: that train together and share the room there is.

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
        check_writable(Path(folder), "--prefix-cache-folder")
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
    most_bytes = (most_bytes - used) / num_processes
    if folder is None:
        return PrefixCache(model, precision, most_bytes)
    hangs_on = {
        "format": _FORMAT,
        "versions": versions(),
        "backbone": [config.backbone, model.spec.digest or digest(model.backbone), blocks],
        "arithmetic": [precision, model.device.type],
        "clip": [config.frames, config.stride, config.size, config.seed, config.repeats],
        "drawn_by": dict(drawn_by),
    }
    shared = _digest_of(hangs_on)
    return PrefixCache(
        model, precision, most_bytes, lambda key: _file(Path(folder), shared, key, videos[key[1]])
    )


def _file(folder: Path, shared: str, key: Key, video: Video) -> Path | None:
    """Where a key is kept, a name made of all that its content hangs on; None where nothing tells.

    Args:
        shared: what the content of every key hangs on.
    """
    try:
        state = _state(video.path)
    except OSError:
        return None
    name = _digest_of([shared, key, dataclasses.asdict(video), state])
    return folder / name[:2] / f"{name}.safetensors"


def _state(path: Path) -> list[tuple[int, int]]:
    """Lengths and times of change of what holds a video."""
    member = split_member(path)
    if member is None and path.is_dir():
        return [version(str(picture)) for picture in list_pictures(path)]
    return [version(member[0] if member else str(path))]


def _digest_of(record: Any) -> str:
    text = json.dumps(record, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
