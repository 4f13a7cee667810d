"""Scores of a classifier that PyTorch runs, for a Predictor."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from numpy import ndarray

from st_adapter.common.remarks import say
from st_adapter.config import ClipConfig
from st_adapter.data.clips import as_clips
from st_adapter.data.video.info import VideoInfo
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Skipped, Video
from st_adapter.errors import ArgumentError
from st_adapter.evaluation.one_pass import RecentSummaries, score_in_one_pass
from st_adapter.evaluation.score import evaluation_mode, probabilities, score_videos
from st_adapter.evaluation.windows import Advance, Part, Windows
from st_adapter.model.build import load
from st_adapter.model.classifier import VideoClassifier
from st_adapter.runtime.compilation import compile_model
from st_adapter.runtime.device import check_input_size, choose_device, choose_precision
from st_adapter.runtime.memory import clear_out_of_memory
from st_adapter.wording import setting


class TorchScorer:
    """Runs a `VideoClassifier`. `Scorer` describes the methods.

    Args:
        model: The classifier.
        batch_size: Maximum number of clips in a forward pass.
    """

    def __init__(self, model: VideoClassifier, batch_size: int) -> None:
        self.model, self.spec, self.batch_size = model, model.spec, batch_size

    @property
    def device(self) -> str:
        """Device of the model."""
        return str(self.model.device)

    def score_videos(
        self, videos: Sequence[Video], clip: ClipConfig, workers: int, reader: Reader
    ) -> Iterator[tuple[int, Float[ndarray, "1 classes"] | Skipped]]:
        """Yield the index of each video with its scores, averaged over its views."""
        for index, scores in score_videos(
            self.model, videos, clip, batch_size=self.batch_size, workers=workers, reader=reader
        ):
            yield index, scores if isinstance(scores, Skipped) else scores.numpy()

    def score_clips(self, clips: UInt8[Any, "n t h w 3"]) -> Float[ndarray, "n classes"]:
        """Score clips in one forward pass."""
        model = self.model
        # A single video or stream cannot be scored in smaller batches.
        advice = f"lower {setting('frames')} or {setting('size')}" if len(clips) <= 3 else None
        with (
            evaluation_mode(model),
            torch.inference_mode(),
            clear_out_of_memory(model.device, advice),
        ):
            logits = model(as_clips(clips).to(model.device))
            scores: ndarray = probabilities(logits, model.spec.task).cpu().numpy()
        return scores

    def score_in_one_pass(
        self, info: VideoInfo, clip: ClipConfig, part: Part, reader: Reader, advance: Advance
    ) -> Windows:
        """Score the windows of a video, of which each sampled frame runs once."""
        model = self.model
        with evaluation_mode(model), torch.inference_mode(), clear_out_of_memory(model.device):
            return score_in_one_pass(model, info, clip, part, reader, self.batch_size, advance)

    def keep_summaries(self, clip: ClipConfig) -> RecentSummaries:
        """Return a store for a stream of which each frame runs once."""
        return RecentSummaries(self.model.eval(), clip)


def make_scorer(
    run: str | Path | VideoClassifier,
    changes: Mapping[str, Any],
    *,
    weights: str | None,
    device: str,
    precision: str | None,
    batch_size: int,
    compile: bool,
) -> tuple[TorchScorer, ClipConfig]:
    """Load a classifier and prepare it for scoring.

    Args:
        run: A run folder, an adapter folder, or a classifier, which is used itself.
        changes: Settings of clips that differ from those in training.
        weights, device, precision, batch_size, compile: As for `Predictor`.

    Returns:
        What runs the classifier, and how clips are cut.

    Raises:
        CheckpointError, ArgumentError, MemoryShortError: As for `Predictor`.
    """
    model = _place(run, weights, device)
    clip = replace(model.spec.clip, **changes)
    check_input_size(model, clip.size)
    chosen, reason = choose_precision(
        precision or model.precision,
        model,
        clip_frames=clip.frames,
        size=clip.size,
        scoring=True,
    )
    model.set_precision(chosen)
    if precision == "auto":
        say(f"{model.device}, {chosen}: {reason}")
    if compile:
        compile_model(model, clip, batch_size, scoring=True)
    return TorchScorer(model, batch_size), clip


def _place(
    run: "str | Path | VideoClassifier", weights: str | None, device: str
) -> VideoClassifier:
    """Load a classifier, or take the one that was given, and bring it to the device."""
    if not isinstance(run, VideoClassifier):
        return load(run, weights).to(choose_device(device))
    if weights is not None:
        raise ArgumentError(
            f"weights={weights!r} does not apply to a VideoClassifier, which has its weights; "
            "leave it out"
        )
    return run.eval() if device == "auto" else run.eval().to(choose_device(device))
