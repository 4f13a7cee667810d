"""Compute the features that training reads, before any training."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from st_adapter.common.files import no_folder
from st_adapter.common.interrupt import Interrupted
from st_adapter.common.paths import absolute
from st_adapter.common.progress import bar
from st_adapter.config import ClipConfig, TrainConfig
from st_adapter.data.annotations import read_parts
from st_adapter.data.datasets import TrainDataset, TrainItem, ViewDataset
from st_adapter.data.video.index import index_of
from st_adapter.data.video.reader import make_reader
from st_adapter.data.videos import Skipped
from st_adapter.errors import ArgumentError
from st_adapter.model.build import build_model
from st_adapter.runtime.device import choose_device
from st_adapter.training.batches import class_maps, train_dataset
from st_adapter.training.head_init import chosen_videos
from st_adapter.training.kept.features import KeptFeatures
from st_adapter.training.kept.loader import KeptLoader
from st_adapter.training.kept.make import make_kept_features
from st_adapter.training.kept.places import Key, bytes_in
from st_adapter.training.launch import launch, processes_to_start
from st_adapter.training.loop import join_processes, settle
from st_adapter.wording import setting

_GB = 2**30

_Work = tuple[TrainDataset | ViewDataset, dict[Any, Key]]
"""A data set, and for each of its keys to compute the one of the features."""


@dataclass(frozen=True, kw_only=True)
class ComputedFeatures:
    """Features that were computed before training.

    Attributes:
        folder: The folder of the features.
        num_videos: Number of videos in this part of the data.
        num_computed: Number of draws and views that were computed, one or more clips each.
        num_present: Number of draws and views that the folder had already.
        num_missing: Number of draws and views that are not kept, because a video cannot be read or
            the folder is full.
        gigabytes: Size of all features in the folder, in units of 2^30 bytes.
        precision: The precision that they were computed in, which training must have, too.
        skipped: The videos that could not be read.
    """

    folder: Path
    num_videos: int
    num_computed: int
    num_present: int
    num_missing: int
    gigabytes: float
    precision: str
    skipped: list[Skipped]


def compute_features(
    data: str | Path,
    out: str | Path,
    config: TrainConfig | None = None,
    *,
    shard: tuple[int, int] = (1, 1),
) -> ComputedFeatures:
    """Compute what the frozen part of a classifier makes of all clips that training will use.

    `train` and `compare` read it with the same settings and `features=out`. Features that are in
    the folder already are not computed again, so that an interrupted call continues. Any number of
    calls, also on other machines, can work on parts of the same data at the same time.

    Examples:
        >>> config = TrainConfig(method="linear", draws=2)  # doctest: +SKIP
        >>> compute_features("my_videos/", "features", config).gigabytes  # doctest: +SKIP
        0.43

    Args:
        data: Labelled videos, in any form that `train` takes.
        out: Folder for the features, which can hold those of other settings, too.
        config: All settings of the training. `draws` is at least 1, and `keep_features` is by
            default as large as the disk.
        shard: Compute one part only: its number from 1, and the number of parts, such as (1, 4).

    Raises:
        ArgumentError: A setting cannot be used, or nothing is frozen that could be kept.
        DataError: The data cannot be used.
        Interrupted: Ctrl-C or SIGTERM came. The same call continues.
    """
    number, count = shard
    if not 1 <= number <= count:
        raise ArgumentError(
            f"{setting('shard')} must be a number from 1 and the number of parts, such as 1/4, not "
            f"{number}/{count}"
        )
    config = _completed(Path(out), config or TrainConfig())
    processes = processes_to_start(config)
    try:
        if processes > 1:
            config = replace(config, processes=processes)
            return launch(processes, _compute, Path(data), Path(out), config, shard)
        return _compute(Path(data), Path(out), config, shard)
    except Interrupted:
        raise
    except KeyboardInterrupt as error:
        raise Interrupted("stopped; run the same command again to continue") from error


def _completed(out: Path, config: TrainConfig) -> TrainConfig:
    """Return the settings with a folder, draws and a limit."""
    if out.exists() and not out.is_dir():
        raise ArgumentError(f"{out} {no_folder(out)}; {setting('out')} must be a folder")
    there = next(place for place in (out, *out.absolute().parents) if place.exists())
    draws = config.draws or 1
    return replace(
        config,
        features=absolute(out),
        keep_features=config.keep_features or shutil.disk_usage(there).total / _GB,
        draws=draws,
        epochs=draws,
    )


def _compute(
    data: Path, out: Path, config: TrainConfig, shard: tuple[int, int]
) -> ComputedFeatures:
    """Compute the share of this process, which may be one of several that a launcher started."""
    annotations = read_parts(data, config)
    reversal, mirror = class_maps(config, annotations)
    device = choose_device(config.device)
    accelerator = join_processes(device, "none", out)
    model = build_model(config, annotations.labels, task=annotations.task).to(device)
    config = settle(model, config, copies=2 if reversal else 1)
    reader = make_reader(config.decoder, config.workers, str(device), index_of(data))
    drawn = train_dataset(config, annotations, reader, mirror, reversal)
    kept = make_kept_features(model, config, annotations, drawn, accelerator.num_processes)
    assert kept is not None  # a limit is set
    number, count = shard
    first = (number - 1) * accelerator.num_processes + accelerator.process_index
    step = count * accelerator.num_processes
    trained, validated = (range(first, len(v), step) for v in (annotations.train, annotations.val))
    work: list[_Work] = [
        (drawn, {(n, i): Key("train", n, i) for i in trained for n in range(config.draws)})
    ]
    for views in sorted({ClipConfig().views, config.clip.views}):
        shown = ViewDataset(annotations.val, replace(config.clip, views=views), reader)
        work.append((shown, {i: Key("val", views, i) for i in validated}))
    if config.head_init == "prototype":  # the class means are those of views of training videos
        chosen = [i for i in chosen_videos(annotations.train, config.seed) if i in trained]
        shown = ViewDataset(annotations.train, replace(config.clip, views=(1, 1)), reader)
        work.append((shown, {i: Key("train", (1, 1), i) for i in chosen}))
    counts, skipped = _carry_out(kept, work, config.workers)
    found = gather_object([(len(trained) + len(validated), counts, skipped)])
    videos, present, computed, missing = (
        sum(n) for n in zip(*((v, *c) for v, c, _ in found), strict=True)
    )
    return ComputedFeatures(
        folder=out,
        num_videos=videos,
        num_computed=computed,
        num_present=present,
        num_missing=missing,
        gigabytes=bytes_in(out) / _GB,
        precision=model.precision,
        skipped=sorted({skip for _, _, own in found for skip in own}, key=lambda skip: skip.path),
    )


def _carry_out(
    kept: KeptFeatures, work: Sequence[_Work], workers: int
) -> tuple[tuple[int, int, int], list[Skipped]]:
    """Compute the features that are not kept yet, until there is no more room.

    Returns:
        How many keys were there, were computed, and are missing; and the videos that could not be
        read.
    """
    skipped: list[Skipped] = []
    keys = [key for _, own in work for key in own.values()]
    present = sum(key in kept for key in keys)
    with bar("computing features", len(keys), present) as progress:
        for dataset, own in work:
            missing = [[key] for key in own if own[key] not in kept]
            loader = KeptLoader(kept, own.__getitem__, dataset, list, min(workers, len(missing)))
            for (key,), (item,) in zip(missing, loader.batches(missing), strict=True):
                if isinstance(item, TrainItem):
                    skipped += item.skipped[:1]  # the others were tried in place of the first
                elif item.clips is None:
                    skipped.append(Skipped(path=dataset.name(key), reason=item.reason))
                progress.advance()
                if kept.is_full:
                    break
    missing_at_end = sum(key not in kept for key in keys)
    return (present, len(keys) - present - missing_at_end, missing_at_end), skipped
