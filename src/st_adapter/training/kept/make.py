"""Make the kept features of a run, and name the files by all that their content depends on."""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from st_adapter.backbones.digests import digest
from st_adapter.catalogue.costs import build_shapes, spec_of
from st_adapter.common.files import check_writable, remove_unfinished
from st_adapter.common.paths import full_path
from st_adapter.common.provenance import versions
from st_adapter.common.remarks import note, say
from st_adapter.config import ClipConfig, TrainConfig
from st_adapter.data.annotations import Annotations
from st_adapter.data.archives.tar import split_member, version
from st_adapter.data.datasets import TrainDataset
from st_adapter.data.video.picture_folders import list_pictures
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Video
from st_adapter.errors import ArgumentError
from st_adapter.model.classifier import VideoClassifier
from st_adapter.training.kept.features import KeptFeatures
from st_adapter.training.kept.places import InFolder, InMemory, Key, bytes_in
from st_adapter.training.kept.split import AfterBackbone, Split, split_model
from st_adapter.wording import setting

_FORMAT = 6
"""Version of the files. Raise it when their content changes, so that older ones are not used."""

_ABANDONED_SECONDS = 3600.0
"""Age at which a temporary file was left by a killed process; younger ones may be being written."""

_MANY = 2000
"""Clips that run through a frozen image model again, from which on keeping features is advised."""

_GB = 2**30


def make_kept_features(
    model: VideoClassifier,
    config: TrainConfig,
    data: Annotations,
    dataset: TrainDataset,
    num_processes: int = 1,
) -> KeptFeatures | None:
    """Make what computes the features of clips and keeps them, if the configuration asks for it.

    On the CPU, with draws, clips run through a frozen image model in this way even if nothing is
    kept. They so run one by one in both cases, and keeping features does not change a single bit.

    Args:
        model: The classifier.
        config: All settings.
        data: The training and validation videos.
        dataset: The data set of random training clips.
        num_processes: Processes that train together.

    Returns:
        None if batches of clips run through the whole model.

    Raises:
        ArgumentError: `config.keep_features` is set but nothing is frozen before the first trained
            part, or the folder cannot be used.
    """
    uses_pixels = config.compile or config.mixup or config.cutmix
    split = None if uses_pixels else split_model(model, config.size)
    if config.keep_features:
        if split is None:
            raise ArgumentError(_nothing_to_keep(config))
        return KeptFeatures(split, _place(split, config, data, dataset, num_processes))
    if not isinstance(split, AfterBackbone):
        return None
    _advise(split, config, data)
    one_by_one = config.draws and model.device.type == "cpu"
    return KeptFeatures(split, InMemory(0)) if one_by_one else None


def can_keep(config: TrainConfig) -> bool:
    """Return whether a configuration has features to keep, without loading any weights."""
    return split_model(build_shapes(spec_of(config, ("a", "b"))), config.size) is not None


def _nothing_to_keep(config: TrainConfig) -> str:
    return (
        f"keep_features has nothing to keep: in {config.backbone}, the method {config.method} "
        "leaves no block frozen before the first trained one. Use a method that leaves the whole "
        "image model frozen, such as linear, ordered or side; or a plain ViT with a number "
        f"for {setting('adapter-layers')}, or with the method partial"
    )


def _place(
    split: Split,
    config: TrainConfig,
    data: Annotations,
    dataset: TrainDataset,
    num_processes: int,
) -> InMemory | InFolder:
    """Prepare the place where features are kept, and say how much of it this run needs."""
    most_bytes, used = config.keep_features * _GB, 0
    folder = None if config.features is None else Path(config.features)
    if folder is None and num_processes > 1:
        # Each epoch deals the clips anew, so that a process would seldom find its own.
        raise ArgumentError(
            f"with {num_processes} processes, features are kept in a folder that all of them can "
            f"read: give {setting('features', 'DIR')}"
        )
    if folder is not None:
        check_writable(folder, "features")
        remove_unfinished(folder, _ABANDONED_SECONDS)
        used = bytes_in(folder)
    present = f"; {used / _GB:.2f} GB are in use" if used else ""
    say(
        f"kept features: each clip runs through {split.frozen_part} once; all clips take about "
        f"{_bytes_for_all(split, config, data) / _GB:.2g} of {config.keep_features:.4g} GB{present}"
    )
    if folder is None:
        return InMemory(most_bytes)
    file_of = _files(folder, split, config, data, dataset)
    return InFolder(folder, most_bytes, file_of, num_processes)


def _advise(split: AfterBackbone, config: TrainConfig, data: Annotations) -> None:
    """Name the settings that would save time, if the image model runs often on the same videos."""
    videos = len(data.train) + len(data.val)
    if (config.epochs - 1) * videos < _MANY:
        return
    needed = _bytes_for_all(split, dataclasses.replace(config, draws=config.draws or 1), data)
    gigabytes = math.ceil(10 * needed / _GB) / 10
    draws = "" if config.draws else f"{setting('draws', 1)} and "
    note(
        f"the image model is frozen: with {draws}{setting('keep-features', gigabytes)} (GB), it "
        "runs in the first epoch only"
    )


def _bytes_for_all(split: Split, config: TrainConfig, data: Annotations) -> int:
    """Estimate the bytes of the features of every clip of a run."""
    frame = torch.zeros(1, 1, 3, config.size, config.size, device=split.model.device)
    by_clip = split.frozen(frame).nbytes * config.frames
    copies = config.repeats * (2 if config.reversal else 1)
    clips = len(data.train) * copies * min(config.draws, config.epochs)
    return by_clip * (clips + len(data.val))


def _files(
    folder: Path,
    split: Split,
    config: TrainConfig,
    data: Annotations,
    dataset: TrainDataset,
) -> Callable[[Key], Path | None]:
    """Return a function from a key to its file.

    The name is a digest of everything that the content depends on, so that a changed video or
    setting never finds outdated features.
    """
    origin = _origin(split, config, dataset.reader)
    of_views, of_draws = _digest_of(origin), _digest_of([origin, _how_drawn(dataset)])
    videos = {"train": data.train, "val": data.val}

    @functools.cache
    def file_of(key: Key) -> Path | None:
        video = videos[key.part][key.video]
        try:
            state = file_state(video.path)
        except OSError:
            return None
        shared = of_draws if isinstance(key.choice, int) else of_views
        name = _digest_of([shared, key.choice, _identity(video), state])
        return folder / name[:2] / f"{name}.safetensors"

    return file_of


def _origin(split: Split, config: TrainConfig, reader: Reader) -> dict[str, Any]:
    """List what the features of every clip depend on."""
    model = split.model
    # The number of views is a part of each key.
    clip = dataclasses.replace(config.clip, views=ClipConfig().views)
    return {
        "format": _FORMAT,
        "versions": versions(),
        "backbone": [config.backbone, model.spec.digest or digest(model.backbone)],
        "normalisation": [model.spec.mean, model.spec.std],
        "kind": split.kind,
        "arithmetic": [
            model.precision,
            model.device.type,
            torch.get_float32_matmul_precision(),
        ],
        "clip": dataclasses.asdict(clip),
        "decoder": [reader.decoder, str(reader.device)],
    }


def _how_drawn(dataset: TrainDataset) -> dict[str, Any]:
    """List what decides the content of a random clip, besides the draw and the video."""
    return {
        "transform": dataclasses.asdict(dataset.transform),
        "repeats": dataset.repeats,
        "mirror": dict(dataset.mirror),
        "reversal": dict(dataset.reversal),
    }


def _identity(video: Video) -> list[Any]:
    """Return what tells a video, or a segment of one, from others. The classes are kept, too."""
    return [full_path(video.path), video.start_seconds, video.end_seconds, video.targets]


def file_state(path: Path) -> list[tuple[int, int]]:
    """Return size and modification time of the file, archive or pictures that hold a video."""
    member = split_member(path)
    if member is None and path.is_dir():
        return [version(str(picture)) for picture in list_pictures(path)]
    return [version(member[0] if member else str(path))]


def _digest_of(record: Any) -> str:
    text = json.dumps(record, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
