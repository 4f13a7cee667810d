"""Start the head of a classifier from class vectors, or from the training videos."""

import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from st_adapter.common.remarks import say
from st_adapter.config import TrainConfig
from st_adapter.data.annotations import Annotations
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Skipped, VideoList
from st_adapter.errors import ArgumentError, DataError, did_you_mean
from st_adapter.evaluation.features import video_features
from st_adapter.model.class_vectors import match_vectors, read_vectors
from st_adapter.model.classifier import VideoClassifier
from st_adapter.model.prototypes import set_prototypes
from st_adapter.training.kept.features import KeptFeatures
from st_adapter.training.kept.loader import KeptLoader
from st_adapter.training.kept.places import Key
from st_adapter.training.kept.split import AfterBackbone

VIDEOS_PER_CLASS = 50
"""Most videos of a class that its prototype is the mean of. More hardly change a mean."""


def check_head_init(config: TrainConfig, labels: tuple[str, ...]) -> None:
    """Check a file of class vectors against the classes, before a model is built.

    Raises:
        ArgumentError: `config.head_init` is neither "random" nor "prototype" nor such a file, or
            the names or vectors in the file do not fit.
    """
    start = config.head_init
    if start in ("random", "prototype"):
        return
    if not Path(start).suffix:
        hint = did_you_mean(start, ["random", "prototype"])
        raise ArgumentError(
            f"head_init takes random, prototype or a file of class vectors, not {start!r}{hint}"
        )
    match_vectors(read_vectors(Path(start)), labels, start)


def start_head(
    model: VideoClassifier,
    config: TrainConfig,
    data: Annotations,
    reader: Reader,
    accelerator: Accelerator,
    kept: KeptFeatures | None = None,
) -> list[Skipped]:
    """Give the head the initial values that `config.head_init` asks for.

    Args:
        model: The classifier; its head is changed in place.
        config: All settings.
        data: The training videos.
        reader: Reads the videos.
        accelerator: Connection to the other processes, each of which reads a part of the videos.
        kept: Features of clips, if the run keeps any.

    Returns:
        The videos of this process that could not be read.

    Raises:
        ArgumentError: The class vectors in a file do not fit the model.
        DataError: No video could be read.
    """
    if config.head_init == "random":
        return []
    if config.head_init != "prototype":
        model.set_head(read_vectors(Path(config.head_init)), config.head_init)
        return []
    chosen = chosen_videos(data.train, config.seed)
    share = chosen[accelerator.process_index :: accelerator.num_processes]
    clip = replace(config.clip, views=(1, 1))
    options: dict[str, Any] = {}
    if kept is not None and isinstance(kept.split, AfterBackbone):
        make_loader = partial(KeptLoader, kept, partial(Key, "train", clip.views))
        options = {"make_loader": make_loader, "compute": kept.split.features}
    found, skipped = video_features(
        model,
        data.train,
        clip,
        title="class means",
        batch_size=config.batch_size,
        workers=config.workers,
        reader=reader,
        share=share,
        **options,
    )
    # Sorted, so that sums do not depend on the number of processes.
    found = sorted(gather_object(found), key=lambda pair: pair[0])
    if not found:
        first = f"; first error: {skipped[0].reason}" if skipped else ""
        raise DataError(f"no training video could be read{first}")
    features = torch.stack([features for _, features in found])
    targets = [data.train[index].targets for index, _ in found]
    set_prototypes(model.head, features, targets, data.task)
    say(f"the classifier starts from the class means of {len(found)} training videos")
    return skipped


def chosen_videos(videos: VideoList, seed: int) -> list[int]:
    """Choose at most VIDEOS_PER_CLASS videos of each class at random.

    A video with several classes is chosen if any of its classes still needs videos.

    Returns:
        The indices of the videos, in order.
    """
    order = list(range(len(videos)))
    random.Random(seed).shuffle(order)
    counts: dict[int, int] = {}
    chosen = []
    for index in order:
        # Videos without labels count as a class: they show what the others are not.
        classes = videos.targets(index).tolist() or [-1]
        if any(counts.get(label, 0) < VIDEOS_PER_CLASS for label in classes):
            chosen.append(index)
            for label in classes:
                counts[label] = counts.get(label, 0) + 1
    return sorted(chosen)
