"""What the frozen blocks before the first trained one make of clips that come again.

`PrefixCache` keeps it, `rest` goes on from there. `CachedLoader` loads the batches of a run that
has such a cache: it neither decodes, nor runs through the frozen blocks, what is kept.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from st_adapter.backbones.tensor_checks import digest
from st_adapter.common.files import atomic_path, check_writable, remove_unfinished
from st_adapter.common.provenance import versions
from st_adapter.common.remarks import note, say
from st_adapter.config import TrainConfig
from st_adapter.data.annotations import Annotations
from st_adapter.data.archives.tar import split_member, version
from st_adapter.data.datasets import TrainItem, Views
from st_adapter.data.video.picture_folders import list_pictures
from st_adapter.data.videos import Video
from st_adapter.errors import ArgumentError
from st_adapter.model.classifier import VideoClassifier, autocast

Key = tuple[str, int]
"""What is shown of a video, a draw or views, and the video's index."""

VALIDATION = "validation"
"""The one view of a video that an epoch is judged by."""

_Item = TypeVar("_Item", TrainItem, Views)

_FORMAT = 4
_LONG_WRITTEN = 3600.0
"""Seconds after which a file that has no name yet is one that a killed process left."""


class AfterPrefix(nn.Module):
    """A classifier that is cut behind its frozen blocks: it goes on from what those made of clips.

    Args:
        model: the whole classifier.
        num_blocks: leading blocks that are frozen, as `num_frozen_blocks` counts them.
        size: height and width of the frames, pixels.
    """

    def __init__(self, model: VideoClassifier, num_blocks: int, size: int) -> None:
        super().__init__()
        self.model = model
        self._num_blocks, self._frame_size = num_blocks, (size, size)

    @torch.no_grad()
    def prefix(self, clips: Shaped[Tensor, "b t 3 h w"]) -> Float[Tensor, "b t n c"]:
        """What the frozen blocks make of each frame."""
        with autocast(self.model):
            frames = self.model.normalise(clips).flatten(0, 1)
            stream = self.model.family.run_prefix(frames, self._num_blocks)
        prefixes: Tensor = stream.unflatten(0, clips.shape[:2])
        return prefixes

    def forward(self, prefixes: Float[Tensor, "b t n c"]) -> Float[Tensor, "b classes"]:
        """The logits of clips that had these prefixes."""
        model, (b, t) = self.model, prefixes.shape[:2]
        with autocast(model):
            frames = model.family.run_rest(
                prefixes.flatten(0, 1), self._num_blocks, self._frame_size, model.inserted(b, t)
            )
            return model.classify(model.pool(frames, b, t))


def num_frozen_blocks(model: VideoClassifier) -> int:
    """Leading blocks in and before which nothing is trained, where the backbone can be cut."""
    family = model.family
    if not family.can_cut or len(model.prompts):
        return 0
    blocks = family.blocks()
    where = [{id(p) for p in block.parameters()} for block in blocks]
    trained = {id(p) for p in model.backbone.parameters() if p.requires_grad}
    if trained - set().union(*where):
        return 0  # something before the blocks may be among it
    first = [site.block for site in family.sites() if site.name in model.adapters]
    first += [i for i, own in enumerate(where) if own & trained]
    most = len(blocks) - (model.token_pool is not None)  # which takes what the last one makes
    return min(first, default=most)


class PrefixCache:
    """Clips that have been run through the frozen blocks, by what they show and of which video.

    Each clip is run alone, so that what is kept does not depend on the others in its batch. There
    is no eviction: epochs go round, so what did not fit at first is computed anew each time.

    Args:
        rest: the classifier, cut behind its frozen blocks.
        most_bytes: that may be kept.
        file_of: path of the file that keeps a key, None for one that is not kept; by default all
            are kept in memory.
    """

    def __init__(
        self,
        rest: "AfterPrefix",
        most_bytes: float,
        file_of: Callable[[Key], Path | None] | None = None,
    ) -> None:
        self.rest = rest
        self._room = most_bytes
        self._file_of = file_of
        self._items: dict[Key, TrainItem | Views] = {}

    def __contains__(self, key: Key) -> bool:
        if self._file_of is None:
            return key in self._items
        file = self._file_of(key)
        return file is not None and file.exists()

    def add(self, key: Key, pixels: _Item) -> _Item:
        """Run clips through the frozen blocks; keep what comes out if there is room.

        What cannot be read, or replaces a video that cannot be, is not kept.
        """
        if pixels.clips is None:
            return pixels
        clips = [self._run(clip) for clip in pixels.clips]
        made = torch.stack(clips) if isinstance(pixels, Views) else tuple(clips)
        item = replace(pixels, clips=made)
        if not getattr(item, "skipped", ()):
            self._keep(key, item, sum(clip.nbytes for clip in clips))
        return item

    def get(self, key: Key) -> TrainItem | Views | None:
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

    def _keep(self, key: Key, item: TrainItem | Views, size: int) -> None:
        if size > self._room:
            return
        if self._file_of is None:
            self._items[key] = item
        elif file := self._file_of(key):
            try:
                _write(file, item)
            except OSError as error:
                self._room = 0
                note(f"the prefix cache takes no more: {error}")
                return
        else:
            return
        self._room -= size

    def _run(self, clip: Tensor) -> Tensor:
        prefix = self.rest.prefix(clip[None].to(self.rest.model.device))[0]
        return prefix.cpu().clone()  # it may be a part of a larger tensor, which is not kept


def _write(file: Path, item: TrainItem | Views) -> None:
    record = dict(vars(item))
    tensors = {f"clip_{i}": clip.contiguous() for i, clip in enumerate(record.pop("clips"))}
    with atomic_path(file) as temporary:
        save_file(tensors, temporary, metadata={"item": json.dumps(record)})


def _read(file: Path) -> TrainItem | Views:
    with safe_open(file, "pt") as stored:
        record = json.loads(stored.metadata()["item"])
        clips = tuple(stored.get_tensor(f"clip_{i}") for i in range(len(stored.keys())))
    if "targets" not in record:
        return Views(**record, clips=torch.stack(clips))
    targets = tuple(map(tuple, record["targets"]))
    return TrainItem(index=record["index"], clips=clips, targets=targets, skipped=())


def make_prefix_cache(
    model: VideoClassifier,
    config: TrainConfig,
    data: Annotations,
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
    blocks = num_frozen_blocks(model)
    if not blocks:
        raise ArgumentError(
            f"prefix_cache has nothing to keep: no block of {config.backbone} comes before all "
            f"that {config.method} trains there; plain ViTs have some with --adapter-layers below "
            "all, and with the methods linear, temporal and partial"
        )
    most_bytes, folder, used = config.prefix_cache * 2**30, config.prefix_cache_folder, 0
    if folder is not None:
        check_writable(Path(folder), "--prefix-cache-folder")
        remove_unfinished(Path(folder), _LONG_WRITTEN)
        used = sum(file.stat().st_size for file in Path(folder).glob("*/*.safetensors"))
    rest = AfterPrefix(model, blocks, config.size)
    wanted = _bytes_of_all(rest, config, data)
    beside = f", {used / 2**30:.2f} are there already" if used else ""
    say(
        f"{blocks} blocks are frozen and run once a clip; keeping what they make of all takes "
        f"about {wanted / 2**30:.2f} GB of at most {config.prefix_cache:g}{beside}"
    )
    most_bytes = (most_bytes - used) / num_processes
    if folder is None:
        return PrefixCache(rest, most_bytes)
    shown = replace(config.clip, views=(1, 1))  # whichever are tested on in the end
    depends_on = {
        "format": _FORMAT,
        "versions": versions(),
        "backbone": [config.backbone, model.spec.digest or digest(model.backbone), blocks],
        "arithmetic": [model.precision, model.device.type],
        "clip": [dataclasses.asdict(shown), config.seed, config.repeats],
        "drawn_by": dict(drawn_by),
    }
    shared = _digest_of(depends_on)

    def file_of(key: Key) -> Path | None:
        videos = data.val if key[0] == VALIDATION else data.train
        return _file(Path(folder), shared, key, videos[key[1]])

    return PrefixCache(rest, most_bytes, file_of)


def _bytes_of_all(rest: AfterPrefix, config: TrainConfig, data: Annotations) -> int:
    """What the frozen blocks make of all clips of a run."""
    clip = torch.zeros(1, config.frames, 3, config.size, config.size, device=rest.model.device)
    copies = config.repeats * (2 if config.reversal else 1)
    clips = len(data.train) * copies * min(config.draws, config.epochs)
    validated = len(data.val) if config.keep == "best" else 0
    return rest.prefix(clip).nbytes * (clips + validated)


def _file(folder: Path, shared: str, key: Key, video: Video) -> Path | None:
    """Where a key is kept: a name made of all that its content depends on, or None if unknown.

    Args:
        shared: what the content of every key depends on.
    """
    try:
        state = file_state(video.path)
    except OSError:
        return None
    name = _digest_of([shared, key, dataclasses.asdict(video), state])
    return folder / name[:2] / f"{name}.safetensors"


def file_state(path: Path) -> list[tuple[int, int]]:
    """Lengths and times of change of what holds a video."""
    member = split_member(path)
    if member is None and path.is_dir():
        return [version(str(picture)) for picture in list_pictures(path)]
    return [version(member[0] if member else str(path))]


def _digest_of(record: Any) -> str:
    text = json.dumps(record, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
