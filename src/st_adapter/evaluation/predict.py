"""Classification of unlabelled videos."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from st_adapter.common.remarks import say
from st_adapter.config import ClipConfig
from st_adapter.data.datasets import Skipped
from st_adapter.data.formats.folders import find_videos
from st_adapter.data.video import packets
from st_adapter.data.video.picture_folders import holds_pictures
from st_adapter.data.video.reader import Decoder, make_reader
from st_adapter.data.videos import Video
from st_adapter.errors import ArgumentError, VideoError
from st_adapter.evaluation.score import score_videos
from st_adapter.model.build import load
from st_adapter.runtime.compilation import compile_model
from st_adapter.runtime.device import check_input_size, choose_device, choose_precision

_COMBINED = 20
"""Number of combinations to keep. With n classes per head, the n best combinations are always among
those of the n best classes of each head, so the other classes need not be looked at.
"""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The predicted classes of one video.

    Examples:
        >>> for prediction in predictor.predict(["a.mp4", "b.mp4"]):  # doctest: +SKIP
        ...     label, score = prediction.scores[0]
        ...     print(prediction.path, label, f"{score:.1%}")
        a.mp4 Surfing 98.2%
        b.mp4 Archery 73.5%

    Attributes:
        path: Path of the video, as passed to the predictor.
        scores: Pairs of label and score, best first. Scores are averages over the views, in 0..1.
            If a video has one label, there is a pair for each class and the scores add up to 1. If
            a video can have any number of labels, each score is the probability of that class
            alone. If the classifier has several heads, the pairs are the 20 most probable
            combinations of one class per head ("open door"), each with the product of the
            probabilities of its classes.
        heads: For a classifier with several heads, the pairs of each head, by the head's name.
            Labels in it do not start with that name. Empty for other classifiers.
    """

    path: Path
    scores: list[tuple[str, float]]
    heads: dict[str, list[tuple[str, float]]] = field(default_factory=dict)


class Predictor:
    """Classify videos with a trained run.

    Loads the model once. Then call it with one video, or pass many videos to `predict`. Several
    threads may use one predictor at the same time, because classifying does not change it. Each
    iterator that `predict` returns must be read by one thread only.

    Examples:
        >>> predictor = Predictor("run", device="cuda", precision="auto")  # doctest: +SKIP
        >>> predictor("clip.mp4")[:2]  # doctest: +SKIP
        [('Surfing', 0.982), ('Diving', 0.011)]

    Args:
        path: A run folder, or an adapter folder (one that contains `adapter_config.json`).
        weights: Where to find the backbone's weights: "hub", "package", "random" or a file. By
            default they come from the source that the folder records.
        device: "auto" (the first GPU, otherwise the CPU), "cpu", "mps", "cuda" or "cuda:N".
        precision: "float32", "bfloat16", "float16" or "auto", which times a forward pass and
            chooses bfloat16 if it is at least 1.15 times as fast as float32. In half precision, the
            frozen weights are also stored in it, and `predictor.model(clips)` computes in it.
        views: Number of temporal and spatial views whose scores are averaged, such as (3, 1).
            Spatial is 1 (centre crop) or 3 (three crops along the longer side). The time per video
            grows with their product. By default the views that the folder records.
        frames: Frames per clip. By default as in training.
        size: Height and width of a clip in pixels. By default as in training.
        batch_size: Maximum number of clips in a forward pass, at least 1.
        decoder: "pyav" or "torchcodec". Torchcodec needs `pip install 'st-adapter[torchcodec]'`; it
            decodes on the GPU if the model is on a GPU and `predict` has no workers.
        compile: Compile the model with torch.compile. This takes up to a minute and pays off for
            many videos.

    Attributes:
        model: The `VideoClassifier`, in evaluation mode on its device.
        clip: The `ClipConfig` in use: frames, stride, size and views.
        batch_size: Maximum number of clips in a forward pass.
        decoder: Name of the decoder.

    Raises:
        CheckpointError: If the folder cannot be read or does not fit the backbone.
        ArgumentError: If an argument is invalid, the weights or the device are not available, the
            backbone does not accept frames of this size, or the model cannot be compiled.
        MemoryShortError: If a clip does not fit in memory.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        weights: str | None = None,
        device: str = "auto",
        precision: str = "float32",
        views: tuple[int, int] | None = None,
        frames: int | None = None,
        size: int | None = None,
        batch_size: int = 8,
        decoder: Decoder = "pyav",
        compile: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ArgumentError(f"batch_size must be at least 1, not {batch_size}")
        chosen = choose_device(device)
        self.model = load(path, weights).to(chosen)
        changes = {"views": views, "frames": frames, "size": size}
        given: dict[str, Any] = {k: v for k, v in changes.items() if v is not None}
        self.clip: ClipConfig = replace(self.model.spec.clip, **given)
        self.batch_size = batch_size
        self.decoder = decoder
        check_input_size(self.model, self.clip.size)
        chosen_precision, reason = choose_precision(
            precision, self.model, clip_frames=self.clip.frames, size=self.clip.size, scoring=True
        )
        self.model.set_precision(chosen_precision)
        if precision == "auto":
            say(f"{chosen}, {chosen_precision}: {reason}")
        if compile:
            compile_model(self.model, self.clip, batch_size, scoring=True)

    def __call__(self, video: str | Path) -> list[tuple[str, float]]:
        """Classify one video.

        Args:
            video: A video file, a folder of numbered pictures, or a video in a shard
                (`train-000.tar/00042.mp4`).

        Returns:
            Pairs of label and score, best first, as in `Prediction.scores`.

        Raises:
            VideoError: If the video cannot be read.
            ArgumentError: If the decoder is torchcodec and it cannot be used.
        """
        result = next(self.predict([Path(video)]))
        if isinstance(result, Skipped):
            raise VideoError(result.reason)
        return result.scores

    def predict(
        self, paths: Sequence[str | Path], workers: int = 0
    ) -> Iterator[Prediction | Skipped]:
        """Classify many videos and yield the results one by one.

        A video that cannot be read does not stop the others: it yields a `Skipped`, which has the
        video's `path` and the `reason`.

        Args:
            paths: Videos, as for calling the predictor. Results come in this order.
            workers: Number of processes that decode in the background; 0 decodes in the calling
                thread. Workers pay off from about ten videos. Linux forks them, so keep 0 in a
                program that runs other threads.

        Yields:
            A `Prediction`, or a `Skipped` if the video cannot be read.

        Raises:
            ArgumentError: If the decoder is torchcodec and it cannot be used.
            MemoryShortError: If a batch does not fit in memory.
        """
        videos = [Video(path=Path(path)) for path in paths]
        for index, result in score_videos(
            self.model,
            videos,
            self.clip,
            batch_size=self.batch_size,
            workers=workers,
            reader=make_reader(self.decoder, workers, self.model.device, packets.probe),
        ):
            if isinstance(result, Skipped):
                yield result
            else:
                yield self._prediction(videos[index].path, result[0].tolist())

    def _prediction(self, path: Path, scores: list[float]) -> Prediction:
        pairs = list(zip(self.model.labels, scores, strict=True))
        task = self.model.spec.task
        heads = {
            name: _ranked([(label.removeprefix(f"{name}/"), s) for label, s in pairs[own]])
            for name, own in (task.slices(len(pairs)) if task.heads else ())
        }
        best = _combinations(list(heads.values())) if heads else _ranked(pairs)
        return Prediction(path=path, scores=best, heads=heads)


def _ranked(pairs: list[tuple[str, float]]) -> list[tuple[str, float]]:
    return sorted(pairs, key=lambda pair: -pair[1])


def _combinations(heads: list[list[tuple[str, float]]]) -> list[tuple[str, float]]:
    """Return the most probable combinations of one class per head, best first."""
    best = [("", 1.0)]
    for ranked in heads:
        pairs = product(best, ranked[:_COMBINED])
        best = _ranked([(f"{a} {b}".strip(), p * q) for (a, p), (b, q) in pairs])[:_COMBINED]
    return best


def _expand(item: Path) -> list[Path]:
    """Return the videos of a folder, or the folder itself if its pictures form one video."""
    if not item.is_dir():
        return [item]
    return find_videos(item) or ([item] if holds_pictures(os.listdir(item)) else [])


def expand(inputs: Sequence[Path]) -> list[Path]:
    """Replace each folder by the videos in it. Other paths are kept, whatever their suffix.

    Raises:
        ArgumentError: If none of the paths exists, or they contain no video.
    """
    if not any(item.exists() for item in inputs):
        raise ArgumentError(f"{', '.join(map(str, inputs))}: no such file or folder")
    paths = [p for item in inputs for p in _expand(item)]
    if not paths:
        raise ArgumentError(f"{', '.join(map(str, inputs))}: no videos found")
    return paths
