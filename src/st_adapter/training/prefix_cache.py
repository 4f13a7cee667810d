"""A cache for the output of the frozen blocks before the first trained one (the prefix).

With `draws`, the same clips return in later epochs, and the blocks before the first trained one
give the same output for them each time. `PrefixCache` keeps that output, and `AfterPrefix` computes
the rest of the model from it. `CachedLoader` loads batches from the cache, so that cached clips
are neither decoded nor run through the frozen blocks again.
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

from st_adapter.backbones.digests import digest
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
from st_adapter.wording import setting

Key = tuple[str, int]
"""Which clips (a draw such as "draw 3", or `VALIDATION`), and the index of their video."""

VALIDATION = "validation"
"""The first part of the key of clips that an epoch is validated on, one view per video."""

_Item = TypeVar("_Item", TrainItem, Views)

_FORMAT = 4
"""Version of the files. Raise it when their content changes, so that older ones are not used."""

_ABANDONED_SECONDS = 3600.0
"""Age at which a temporary file was left by a killed process; younger ones may be being written."""


class AfterPrefix(nn.Module):
    """A classifier split after its leading frozen blocks, to run both parts separately.

    Args:
        model: The whole classifier.
        num_blocks: Number of leading frozen blocks, from `num_frozen_blocks`.
        size: Height and width of the frames in pixels.
    """

    def __init__(self, model: VideoClassifier, num_blocks: int, size: int) -> None:
        super().__init__()
        self.model = model
        self._num_blocks, self._frame_size = num_blocks, (size, size)

    @torch.no_grad()
    def prefix(self, clips: Shaped[Tensor, "b t 3 h w"]) -> Float[Tensor, "b t n c"]:
        """Run clips through the frozen blocks; return n tokens of c channels per frame."""
        with autocast(self.model):
            frames = self.model.normalise(clips).flatten(0, 1)
            stream = self.model.family.run_prefix(frames, self._num_blocks)
        prefixes: Tensor = stream.unflatten(0, clips.shape[:2])
        return prefixes

    def forward(self, prefixes: Float[Tensor, "b t n c"]) -> Float[Tensor, "b classes"]:
        """Compute the logits of clips from the output of the frozen blocks."""
        model, (b, t) = self.model, prefixes.shape[:2]
        with autocast(model):
            frames = model.family.run_rest(
                prefixes.flatten(0, 1), self._num_blocks, self._frame_size, model.inserted(b, t)
            )
            summaries = model.summarise(frames)
            return model.classify(model.pool_clips(summaries.reshape(b, t, *summaries.shape[1:])))


def num_frozen_blocks(model: VideoClassifier) -> int:
    """Count the leading blocks whose output does not change during training.

    The count is 0 if the backbone cannot be split, or if anything before its blocks is trained.
    """
    family = model.family
    if not family.can_cut or len(model.prompts):
        return 0
    blocks = family.blocks()
    block_parameters = [{id(p) for p in block.parameters()} for block in blocks]
    trained = {id(p) for p in model.backbone.parameters() if p.requires_grad}
    if trained - set().union(*block_parameters):
        return 0  # a trained parameter outside the blocks may come before them
    changed = [site.block for site in family.sites() if site.name in model.adapters]
    changed += [i for i, own in enumerate(block_parameters) if own & trained]
    # The token pool takes its input from the last block, which must therefore run with the rest.
    most = len(blocks) - (model.token_pool is not None)
    return min(changed, default=most)


class PrefixCache:
    """Keep the output of the frozen blocks for clips, in memory or in files.

    Each clip runs through the frozen blocks alone, so that its entry does not depend on the other
    clips of its batch. Entries are never evicted. Epochs visit all clips in turn, so evicting one
    would only move the computation to another. Clips that do not fit are computed in every epoch.

    Args:
        rest: The classifier, split after its frozen blocks.
        most_bytes: Most bytes to keep.
        file_of: Gives the path of the file for a key, or None for a key that is not kept. By
            default, everything is kept in memory.
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
        """Run the clips of an item through the frozen blocks, and keep the output if it fits.

        An item is not kept if its video cannot be read, or replaces one that cannot: the file is
        tried again the next time.

        Args:
            key: The key of the item.
            pixels: The item, with clips of pixels.

        Returns:
            The item, with the output of the frozen blocks in place of its clips.
        """
        if pixels.clips is None:
            return pixels
        clips = [self._run(clip) for clip in pixels.clips]
        features = torch.stack(clips) if isinstance(pixels, Views) else tuple(clips)
        item = replace(pixels, clips=features)
        if not getattr(item, "skipped", ()):
            self._keep(key, item, sum(clip.nbytes for clip in clips))
        return item

    def get(self, key: Key) -> TrainItem | Views | None:
        """Return the item of a key, or None if it is missing or damaged."""
        if self._file_of is None:
            return self._items.get(key)
        file = self._file_of(key)
        if file is None:
            return None
        try:
            return _read(file)
        except (OSError, ValueError, KeyError, SafetensorError):
            file.unlink(missing_ok=True)  # damaged; it is computed and written again
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
                note(f"the prefix cache is full from here on: {error}")
                return
        else:
            return
        self._room -= size

    def _run(self, clip: Tensor) -> Tensor:
        prefix = self.rest.prefix(clip[None].to(self.rest.model.device))[0]
        return prefix.cpu().clone()  # a view of a larger tensor would keep all of it in memory


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
    """Make the prefix cache if the configuration asks for one.

    Args:
        model: The classifier.
        config: All settings.
        data: The training and validation videos.
        drawn_by: What decides the content of a clip besides the configuration: reader, transform,
            mirror and reversal.
        num_processes: Processes that train together, each with its share of the cache's size.

    Returns:
        The cache, or None if `config.prefix_cache` is 0.

    Raises:
        ArgumentError: No block is frozen before the first trained one, or the folder cannot be
            used.
    """
    if not config.prefix_cache:
        return None
    blocks = num_frozen_blocks(model)
    if not blocks:
        raise ArgumentError(
            f"prefix_cache has nothing to keep: in {config.backbone}, the method {config.method} "
            "leaves no block frozen before the first trained one; use a plain ViT with a number "
            f"for {setting('adapter-layers')}, or with the method linear, temporal or partial"
        )
    most_bytes, folder, used = config.prefix_cache * 2**30, config.prefix_cache_folder, 0
    if folder is not None:
        check_writable(Path(folder), "prefix-cache-folder")
        remove_unfinished(Path(folder), _ABANDONED_SECONDS)
        used = sum(file.stat().st_size for file in Path(folder).glob("*/*.safetensors"))
    rest = AfterPrefix(model, blocks, config.size)
    needed = _bytes_for_all(rest, config, data)
    present = f"; {used / 2**30:.2f} GB are in use" if used else ""
    say(
        f"prefix cache: the first {blocks} block{'' if blocks == 1 else 's'} run once per clip; "
        f"all clips take about {needed / 2**30:.2f} of {config.prefix_cache:g} GB{present}"
    )
    most_bytes = (most_bytes - used) / num_processes
    if folder is None:
        return PrefixCache(rest, most_bytes)
    shared = _digest_of(_origin(model, blocks, config, drawn_by))

    def file_of(key: Key) -> Path | None:
        videos = data.val if key[0] == VALIDATION else data.train
        return _file(Path(folder), shared, key, videos[key[1]])

    return PrefixCache(rest, most_bytes, file_of)


def _origin(
    model: VideoClassifier, blocks: int, config: TrainConfig, drawn_by: Mapping[str, Any]
) -> dict[str, Any]:
    """List what the content of every key depends on."""
    # Validation uses one view, so a run with other views at the end can use the same files.
    clip = replace(config.clip, views=(1, 1))
    return {
        "format": _FORMAT,
        "versions": versions(),
        "backbone": [config.backbone, model.spec.digest or digest(model.backbone), blocks],
        "arithmetic": [model.precision, model.device.type],
        "clip": [dataclasses.asdict(clip), config.seed, config.repeats],
        "drawn_by": dict(drawn_by),
    }


def _bytes_for_all(rest: AfterPrefix, config: TrainConfig, data: Annotations) -> int:
    """Estimate the bytes that the cache needs for every clip of a run."""
    clip = torch.zeros(1, config.frames, 3, config.size, config.size, device=rest.model.device)
    copies = config.repeats * (2 if config.reversal else 1)
    clips = len(data.train) * copies * min(config.draws, config.epochs)
    validated = len(data.val) if config.keep != "last" else 0
    return rest.prefix(clip).nbytes * (clips + validated)


def _file(folder: Path, shared: str, key: Key, video: Video) -> Path | None:
    """Return the path of the file for a key, or None if the video's file is missing.

    The name is a digest of everything that the content depends on, so that a changed video or
    setting never finds an outdated file.

    Args:
        folder: The folder of the cache.
        shared: Digest of what the content of every key depends on.
        key: The key.
        video: The video of the key.
    """
    try:
        state = file_state(video.path)
    except OSError:
        return None
    name = _digest_of([shared, key, dataclasses.asdict(video), state])
    return folder / name[:2] / f"{name}.safetensors"


def file_state(path: Path) -> list[tuple[int, int]]:
    """Return size and modification time of the file, archive or pictures that hold a video."""
    member = split_member(path)
    if member is None and path.is_dir():
        return [version(str(picture)) for picture in list_pictures(path)]
    return [version(member[0] if member else str(path))]


def _digest_of(record: Any) -> str:
    text = json.dumps(record, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
