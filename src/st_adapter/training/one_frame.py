"""A baseline of each run: how far one frame and the frozen image model get without adapters."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from jaxtyping import Float, Shaped
from numpy import ndarray
from torch import Tensor, nn

from st_adapter.data.batches import TrainBatch
from st_adapter.data.videos import Skipped, Video
from st_adapter.errors import DataError
from st_adapter.evaluation.score import Scored, average_over_views, probabilities
from st_adapter.methods import METHODS
from st_adapter.model.classifier import POOLED, VideoClassifier
from st_adapter.training.kept.split import AfterBackbone
from st_adapter.training.run import Run

_MOST_CLIPS = 10_000
"""Training clips of each process that the probe is fitted to; more hardly change it."""


class OneFrameProbe:
    """A linear probe of the middle frames of the clips that a run decodes anyway.

    It costs a forward pass of one frame per clip in the first epoch. A run that is not better than
    this has learnt nothing about motion.

    Args:
        run: The run, of which batches are watched.
    """

    def __init__(self, run: Run) -> None:
        self._at_once, self._forward = run.at_once, run.forward
        self._trained: list[tuple[ndarray, ndarray]] = []
        self._tested: list[tuple[int, ndarray]] = []

    @staticmethod
    def suits(run: Run) -> bool:
        """Return whether the run sees the frames of its clips, with one label each."""
        config, task = run.config, run.data.task
        return not (
            task.heads
            or task.multi_label
            or run.mixer is not None
            or config.compile
            or config.epochs == 0
            or not METHODS[config.method].has_frozen_model
            or not (run.forward is run.model or _has_frame_features(run.forward))
        )

    def watch(
        self, model: VideoClassifier, steps: Iterator[list[TrainBatch | DataError]]
    ) -> Iterator[list[TrainBatch | DataError]]:
        """Pass the steps of an epoch on, and keep the features of their clips."""
        for step in steps:
            for batch in step:
                if isinstance(batch, TrainBatch) and len(self._trained) < _MOST_CLIPS:
                    features = self._features(model, batch.clips).cpu().numpy()
                    classes = batch.targets.argmax(1).cpu().numpy()
                    self._trained += zip(classes, features, strict=True)
            yield step

    def score(
        self,
        model: VideoClassifier,
        videos: Sequence[Video],
        clip: Any,
        forward: nn.Module | None = None,
        **options: Any,
    ) -> Scored:
        """Score videos as `score_videos` does, and keep the features of their middle frames."""
        num_classes = len(model.labels)
        compute_logits = model if forward is None else forward

        def compute(clips: Tensor) -> Tensor:
            scores = probabilities(compute_logits(clips), model.spec.task)
            return torch.cat([scores, self._features(model, clips)], dim=1)

        for index, result in average_over_views(model, videos, clip, compute, **options):
            if isinstance(result, Skipped):
                yield index, result
            else:
                features = result[0, num_classes:].numpy()
                self._tested.append((videos[index].targets[0], features))
                yield index, result[:, :num_classes]

    def accuracy(self) -> float | None:
        """Fit the probe to the training clips and return its top-1 accuracy on the scored videos.

        All processes of a run call this together.

        Returns:
            None if the training clips show a single class.
        """
        from sklearn.linear_model import RidgeClassifierCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        classes, features = map(np.stack, zip(*gather_object(self._trained), strict=True))
        truth, tested = map(np.stack, zip(*gather_object(self._tested), strict=True))
        if len(np.unique(classes)) < 2:
            return None
        probe = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=np.logspace(0, 5, 6)))
        return float((probe.fit(features, classes).predict(tested) == truth).mean())

    @torch.inference_mode()
    def _features(
        self, model: VideoClassifier, clips: Shaped[Tensor, "n t ..."]
    ) -> Float[Tensor, "n c"]:
        middle = clips.shape[1] // 2
        compute = (
            self._forward.features if isinstance(self._forward, AfterBackbone) else model.features
        )
        with model.adapters_disabled():
            parts = clips[:, middle : middle + 1].split(self._at_once * clips.shape[1])
            return torch.cat([compute(part).float() for part in parts])


def _has_frame_features(forward: nn.Module) -> bool:
    """Return whether batches hold what the frozen image model makes of each frame."""
    return isinstance(forward, AfterBackbone) and forward.kind == POOLED
