"""What a Predictor needs of a classifier, whether PyTorch runs it or an exported file."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from jaxtyping import Float, UInt8
from numpy import ndarray

from st_adapter.config import ClipConfig
from st_adapter.data.video.info import VideoInfo
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Skipped, Video
from st_adapter.evaluation.windows import Advance, Part, Windows
from st_adapter.model.spec import ModelSpec


class RecentFrames(Protocol):
    """What is kept of the last frames of a stream, so that they can be scored."""

    def push(self, frames: Sequence[UInt8[ndarray, "h w 3"]]) -> None:
        """Add the next frames, upright RGB with a short side of the clip's size."""

    def scores(self) -> Float[ndarray, "1 classes"]:
        """Return the scores of the last frames: as many as a clip has, or all so far."""


class Scorer(Protocol):
    """Computes scores in 0..1, before calibration.

    Attributes:
        spec: Record of the classifier.
        batch_size: Maximum number of clips that are scored together.
    """

    spec: ModelSpec
    batch_size: int

    @property
    def device(self) -> str:
        """Device of the classifier, such as "cpu" or "cuda:0"."""

    def score_videos(
        self, videos: Sequence[Video], clip: ClipConfig, workers: int, reader: Reader
    ) -> Iterator[tuple[int, Float[ndarray, "1 classes"] | Skipped]]:
        """Yield the index of each video with its scores, averaged over its views."""

    def score_clips(self, clips: UInt8[Any, "n t h w 3"]) -> Float[ndarray, "n classes"]:
        """Score clips together."""

    def score_in_one_pass(
        self, info: VideoInfo, clip: ClipConfig, part: Part, reader: Reader, advance: Advance
    ) -> Windows:
        """Score the windows of a video, of which each sampled frame is computed once."""

    def keep_summaries(self, clip: ClipConfig) -> RecentFrames:
        """Return a store for a stream of which each frame is computed once."""
