"""Labels for videos that nobody has labelled."""

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
"""Most combinations; the likeliest of so many are among those of so many classes of each head."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The classes of one video, the likeliest first, with scores in 0..1.

    Attributes:
        scores: softmax over all classes; with any number of labels each class's own probability.
            With several heads, of the likeliest combinations ("open door"), whose probability is
            the product of those of their parts.
        heads: the classes of each head, where there are several.
    """

    path: Path
    scores: list[tuple[str, float]]
    heads: dict[str, list[tuple[str, float]]] = field(default_factory=dict)


class Predictor:
    """Classify videos with a trained run.

    >>> predictor = Predictor("run")  # doctest: +SKIP
    >>> predictor("clip.mp4")[0]  # doctest: +SKIP
    ('Surfing', 0.98)

    Args:
        path: a run folder or an adapter folder.
        weights: of the backbone; unset takes what the folder records.
        device: "auto", "cpu", "cuda:0" ...
        precision: "float32", or "bfloat16" or "float16", which frozen weights are then held in;
            "auto" takes bfloat16 where a pass is at least 1.15 times as fast in it. The model
            itself has it, so that `predictor.model(clips)` computes in it, too.
        views: temporal and spatial views; unset takes what the adapter was trained for.
        frames: frames in a clip; unset takes as many as in training.
        size: height and width of a clip, pixels; unset takes that of training.
        batch_size: clips in a forward pass.
        compile: compile the model with torch.compile, which pays for many videos.
        decoder: "pyav" or "torchcodec".

    Raises:
        CheckpointError: the folder cannot be read or does not fit the backbone.
        ArgumentError: the weights or the device are not there, or the model cannot be compiled.
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
        settled, reason = choose_precision(
            precision, self.model, clip_frames=self.clip.frames, size=self.clip.size, scoring=True
        )
        self.model.set_precision(settled)
        if precision == "auto":
            say(f"{chosen}, {settled}: {reason}")
        if compile:
            compile_model(self.model, self.clip, batch_size, scoring=True)

    def __call__(self, video: str | Path) -> list[tuple[str, float]]:
        """Return (label, score) of every class, the likeliest first.

        Raises:
            VideoError: the video cannot be read.
        """
        result = next(self.predict([Path(video)]))
        if isinstance(result, Skipped):
            raise VideoError(result.reason)
        return result.scores

    def predict(
        self, paths: Sequence[str | Path], workers: int = 0
    ) -> Iterator[Prediction | Skipped]:
        """Yield the prediction for each video, or why it could not be read, as they are done."""
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
    """The likeliest classes of each head with those of the others, the likeliest first."""
    best = [("", 1.0)]
    for ranked in heads:
        pairs = product(best, ranked[:_COMBINED])
        best = _ranked([(f"{a} {b}".strip(), p * q) for (a, p), (b, q) in pairs])[:_COMBINED]
    return best


def _expand(item: Path) -> list[Path]:
    """Videos of a folder, which may be one itself, of pictures."""
    if not item.is_dir():
        return [item]
    return find_videos(item) or ([item] if holds_pictures(os.listdir(item)) else [])


def expand(inputs: Sequence[Path]) -> list[Path]:
    """Replace each folder by the videos in it; other paths stay, whatever their name.

    Raises:
        ArgumentError: nothing of what was given exists, or there is no video in it.
    """
    if not any(item.exists() for item in inputs):
        raise ArgumentError(f"{', '.join(map(str, inputs))}: no such file or folder")
    paths = [p for item in inputs for p in _expand(item)]
    if not paths:
        raise ArgumentError(f"{', '.join(map(str, inputs))}: no video in it")
    return paths
