"""Classification of unlabelled videos."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, overload

from jaxtyping import Float, UInt8
from numpy import ndarray

from st_adapter.common.paths import is_remote
from st_adapter.data.formats.folders import find_videos
from st_adapter.data.inputs import Inputs, is_batch
from st_adapter.data.reading import read_views
from st_adapter.data.video.picture_folders import holds_pictures
from st_adapter.data.video.reader import Decoder, Reader, make_reader
from st_adapter.data.videos import Skipped, Video
from st_adapter.errors import ArgumentError, VideoError
from st_adapter.evaluation.calibration import calibrate
from st_adapter.evaluation.decisions import decide_by
from st_adapter.evaluation.ranking import rank
from st_adapter.evaluation.stream import LiveScores, check_seconds, score_stream, start_scorer
from st_adapter.evaluation.timeline import (
    Timeline,
    TimelineOptions,
    make_timeline,
)
from st_adapter.evaluation.windows import Advance
from st_adapter.model.exported import ExportedModel, is_exported
from st_adapter.model.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

    from st_adapter.config import ClipConfig
    from st_adapter.evaluation.exported_scorer import ExportedScorer
    from st_adapter.evaluation.torch_scorer import TorchScorer
    from st_adapter.model.classifier import VideoClassifier


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
        path: Path of the video, as passed to the predictor. For frames, bytes and open files it
            tells their position in the list, such as `<frames 3>`.
        predicted: The predicted label. A list of labels if the classifier has several heads, one
            for each, or if a video can have any number of labels: those whose score reaches the
            threshold.
        scores: Pairs of label and score, best first. Scores are averages over the views, in 0..1,
            calibrated if training did so. If a video has one label, there is a pair for each class
            and the scores add up to 1; of two classes, the predicted one comes first, whose score
            can be below 0.5 if the threshold is. If
            a video can have any number of labels, each score is the probability of that class
            alone. If the classifier has several heads, the pairs are the 20 most probable
            combinations of one class per head ("open door"), each with the product of the
            probabilities of its classes.
        heads: For a classifier with several heads, the pairs of each head, by the head's name.
            Labels in it do not start with that name. Empty for other classifiers.
    """

    path: Path
    predicted: str | list[str]
    scores: list[tuple[str, float]]
    heads: dict[str, list[tuple[str, float]]] = field(default_factory=dict)


class Predictor:
    """Classify videos with a trained run.

    Loads the model once. Then call it with one video, or pass many videos to `predict`. A video is
    one of:

    - a path: a video file, a folder of numbered pictures, or a video in a shard
      (`train-000.tar/00042.mp4`)
    - a URL that fsspec can read, such as `https://...` or `s3://...`
    - the bytes of a video file, or a file opened in binary mode
    - frames in memory: an array or tensor `[t, h, w, 3]` or `[t, 3, h, w]`, or a list of PIL
      images, of arrays `[h, w, 3]`, or of frames that PyAV decoded. Colours are RGB and values are
      integers in 0..255 or floats in 0..1.

    Pass all frames of a video, in their original size: the predictor chooses, scales and crops them
    as those of a file. Frames of PyAV give exactly the scores of an undamaged file. Arrays give
    nearly the same scores, because files are scaled before their colours are converted to RGB.

    Several threads may call `predictor`, `predict` and `preprocess` of one predictor at the same
    time, because they do not change it. An iterator returned by `predict` must be read by one
    thread only, and must not use `workers` if other threads are running. Changing the model
    (`model.train()`, `set_precision`, `adapters_disabled`) affects all threads.

    Examples:
        >>> predictor = Predictor("run", device="cuda", precision="auto")  # doctest: +SKIP
        >>> predictor("clip.mp4")[:2]  # doctest: +SKIP
        [('Surfing', 0.982), ('Diving', 0.011)]
        >>> frames = np.zeros((30, 240, 320, 3), np.uint8)  # doctest: +SKIP
        >>> predictor(frames)[0]  # doctest: +SKIP
        ('Diving', 0.412)

    Args:
        run: A run folder, an adapter folder (one that contains `adapter_config.json`), an exported
            file (`model.onnx`), or a `VideoClassifier`. A classifier is used itself, not copied: it
            is put in evaluation mode and moved to `device`. An exported file runs on the CPU in its
            own precision.
        weights: Where to find the backbone's weights: "hub", "package", "random" or a file. By
            default they come from the source that the folder records. Not for a classifier, which
            has its weights.
        device: "auto" (the first GPU, otherwise the CPU), "cpu", "mps", "cuda" or "cuda:N". With
            "auto", a classifier stays on its device.
        precision: "float32", "bfloat16", "float16" or "auto", which times a forward pass and
            chooses bfloat16 if it is at least 1.15 times as fast as float32. In half precision, the
            frozen weights are also stored in it, and `predictor.model(clips)` computes in it. By
            default float32 for a folder, and the precision it already has for a classifier.
        views: Number of temporal and spatial views whose scores are averaged, such as (3, 1).
            Spatial is 1 (centre crop) or 3 (three crops along the longer side). The time per video
            grows with their product. By default the views that the folder records.
        frames: Frames per clip. By default as in training.
        size: Height and width of a clip in pixels. By default as in training.
        threshold: Score from which the second of two classes, or each of any number of labels, is
            predicted; above 0 and below 1. By default the one that the folder records.
        calibrated: Apply the temperatures that the folder records, so that of the answers with a
            score of 80 %, about 80 % are right. False gives the scores as the model computes them.
        batch_size: Maximum number of clips in a forward pass, at least 1.
        decoder: "pyav" or "torchcodec". Torchcodec needs `pip install 'st-adapter[torchcodec]'`; it
            decodes on the GPU if the model is on a GPU and `predict` has no workers.
        compile: Compile the model with torch.compile. This takes up to a minute and pays off for
            many videos.

    Attributes:
        scorer: Runs the classifier.
        clip: The `ClipConfig` in use: frames, stride, size and views.
        spec: The record of the classifier, with the temperatures and the threshold in use.
        batch_size: Maximum number of clips in a forward pass.
        decoder: Name of the decoder.

    Raises:
        CheckpointError: If the folder cannot be read or does not fit the backbone.
        ArgumentError: If an argument is invalid or does not apply to an exported file, the weights
            or the device are not available, the backbone does not accept frames of this size, or
            the model cannot be compiled.
        MemoryShortError: If a clip does not fit in memory.
    """

    def __init__(
        self,
        run: "str | Path | VideoClassifier",
        *,
        weights: str | None = None,
        device: str = "auto",
        precision: str | None = None,
        views: tuple[int, int] | None = None,
        frames: int | None = None,
        size: int | None = None,
        threshold: float | None = None,
        calibrated: bool = True,
        batch_size: int = 8,
        decoder: Decoder = "pyav",
        compile: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ArgumentError(f"batch_size must be at least 1, not {batch_size}")
        changes = {"views": views, "frames": frames, "size": size}
        given: dict[str, Any] = {k: v for k, v in changes.items() if v is not None}
        self.scorer, self.clip = _make_scorer(
            run,
            given,
            weights=weights,
            device=device,
            precision=precision,
            batch_size=batch_size,
            compile=compile,
        )
        self.spec = decide_by(self.scorer.spec, threshold, calibrated)
        self.batch_size = batch_size
        self.decoder = decoder

    @property
    def model(self) -> "VideoClassifier":
        """The `VideoClassifier`, in evaluation mode on its device.

        Raises:
            ArgumentError: If the predictor runs an exported file, which has none.
        """
        model: Any = self.scorer.model
        if isinstance(model, ExportedModel):
            raise ArgumentError(
                f"{model.path} is an exported file, which has no PyTorch model; use the run that "
                "it was made from"
            )
        return model  # type: ignore[no-any-return]

    @overload
    def __call__(
        self, video: str | Path | bytes | IO[bytes], *, bgr: bool = False
    ) -> list[tuple[str, float]]: ...

    @overload
    def __call__(self, video: Any, *, bgr: bool = False) -> list[Any]: ...

    def __call__(self, video: Any, *, bgr: bool = False) -> list[Any]:
        """Classify one video, or a batch of videos.

        Args:
            video: A path, a URL, bytes, an open file, or frames, as described above. A list of
                these, or an array `[b, t, h, w, 3]`, is a batch.
            bgr: Colours of arrays are in the order blue, green, red, as OpenCV returns them. PIL
                images, frames of PyAV and files know their own order.

        Returns:
            Pairs of label and score, best first, as in `Prediction.scores`. For a batch, a list of
            these lists, one for each video.

        Raises:
            VideoError: If a video cannot be read.
            ArgumentError: If the frames are not valid; the message says what to pass. Also if the
                decoder is torchcodec and it cannot be used.
        """
        several = is_batch(video)
        ranked = []
        for result in self.predict(video if several else [video], bgr=bgr):
            if isinstance(result, Skipped):
                raise VideoError(result.reason)
            ranked.append(result.scores)
        return ranked if several else ranked[0]

    def predict(
        self, videos: Iterable[Any], workers: int = 0, *, bgr: bool = False
    ) -> Iterator[Prediction | Skipped]:
        """Classify many videos and yield the results one by one.

        A video that cannot be read does not stop the others: it yields a `Skipped`, which has the
        video's `path` and the `reason`.

        Args:
            videos: Videos of any kind, as for calling the predictor. Results come in this order.
                Open files are read at the start; paths and URLs are read when their turn comes.
            workers: Number of processes that decode in the background; 0 decodes in the calling
                thread. Workers pay off from about ten videos. Linux forks them, so keep 0 in a
                program that runs other threads.
            bgr: Colours of arrays are in the order blue, green, red.

        Yields:
            A `Prediction`, or a `Skipped` if the video cannot be read.

        Raises:
            ArgumentError: If `videos` is a single video, frames are not valid, or the decoder is
                torchcodec and it cannot be used.
            MemoryShortError: If a batch does not fit in memory.
        """
        if isinstance(videos, str | os.PathLike | bytes):
            raise ArgumentError("predict takes a list of videos; for one, call predictor(video)")
        inputs = Inputs.of(videos, bgr=bgr)
        videos, reader = [Video(path=p) for p in inputs.paths], self._reader(inputs, workers)
        for index, result in self.scorer.score_videos(videos, self.clip, workers, reader):
            if isinstance(result, Skipped):
                yield result
            else:
                yield make_prediction(inputs.paths[index], result, self.spec)

    def preprocess(self, video: Any, *, bgr: bool = False) -> "UInt8[Tensor, 'v t 3 h w']":
        """Return what the model sees of one video: the frames of all views, scaled and cropped.

        The predictor's scores are the average over the views of the scores of these clips, then
        calibrated unless `calibrated` is False.

        Examples:
            >>> clips = predictor.preprocess("clip.mp4")  # doctest: +SKIP
            >>> clips.shape  # doctest: +SKIP
            torch.Size([1, 8, 3, 224, 224])
            >>> predictor.model(clips).softmax(-1).mean(0)  # doctest: +SKIP
            tensor([0.9820, 0.0110, 0.0070])

        Args:
            video: One video of any kind, as for calling the predictor.
            bgr: Colours of arrays are in the order blue, green, red.

        Returns:
            RGB clips in 0..255 on the device of the model, one for each view. Spatial views vary
            fastest.

        Raises:
            VideoError: If the video cannot be read.
            ArgumentError: If several videos are given, or as for calling the predictor.
        """
        from st_adapter.data.clips import as_clips

        if is_batch(video):
            raise ArgumentError("preprocess takes one video; call it for each video of a batch")
        inputs = Inputs.of([video], bgr=bgr)
        reader = self._reader(inputs, workers=0)
        views, clip_of = read_views(Video(path=inputs.paths[0]), self.clip, reader)
        return as_clips(views[clip_of]).to(self.scorer.device)

    def timeline(
        self,
        video: Any,
        *,
        window: float | None = None,
        step: float | None = None,
        one_pass: bool = False,
        smooth: float = 0.0,
        min_seconds: float = 0.0,
        threshold: float | None = None,
        background: str | None = None,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
        bgr: bool = False,
        advance: Advance | None = None,
    ) -> Timeline:
        """Find out what happens when in a long video.

        Windows of the video are scored one after the other, and neighbouring windows with the same
        label are joined to spans. The video is decoded once, in order, and frames are kept in
        memory only as long as a window needs them.

        There are two ways. By default, each window is scored as if it was a video of its own, so
        that its scores are those of `predict` for that segment. With `one_pass`, each sampled frame
        runs through the backbone once and serves all windows that contain it. That is several
        times as fast if windows overlap. Scores differ slightly, because the adapters see other
        neighbours of a frame than those in the window.

        Examples:
            >>> timeline = predictor.timeline("match.mp4", step=0.5)  # doctest: +SKIP
            >>> timeline.spans[0]  # doctest: +SKIP
            Span(start_seconds=0.0, end_seconds=12.5, ..., label='Serve', score=0.93)

        Args:
            video: One video of any kind, as for calling the predictor.
            window: Length of a window in seconds. By default the median length of the training
                clips, because actions of other lengths look unlike those in training.
            step: Seconds from the start of one window to the next. By default a quarter of a
                window. With `one_pass`, a multiple of the time between two sampled frames, and by
                default that time. Spans start and end between the middles of two windows, so that
                a shorter step finds times more exactly.
            one_pass: Run each sampled frame through the backbone once.
            smooth: Average scores over this many seconds, which removes labels that flicker.
            min_seconds: Shortest span. A shorter one continues the span before it.
            threshold: Lowest score at which a span gets a label, above 0 and below 1. For two
                classes, the score from which the second is predicted. By default the classifier's
                own rule.
            background: Label that stands for nothing of interest, of which no spans are reported.
            start_seconds: Start of the part to look at.
            end_seconds: End of that part, exclusive.
            bgr: Colours of arrays are in the order blue, green, red.
            advance: Is called with the number of seconds of the video that are done.

        Returns:
            Scores of all windows, and spans by start.

        Raises:
            VideoError: If the video cannot be read.
            ArgumentError: If an argument is invalid, or the classifier does not record how long its
                training clips were and no window is given.
            MemoryShortError: If a batch does not fit in memory.
        """
        if is_batch(video):
            raise ArgumentError("timeline takes one video; call it for each video of a batch")
        inputs = Inputs.of([video], bgr=bgr)
        options = TimelineOptions(
            window_seconds=window,
            step_seconds=step,
            one_pass=one_pass,
            smooth_seconds=smooth,
            min_seconds=min_seconds,
            threshold=threshold,
            background=background,
            start_seconds=start_seconds,
            end_seconds=end_seconds,
        )
        return make_timeline(
            self.scorer,
            self.spec,
            inputs.paths[0],
            self.clip,
            options,
            reader=self._reader(inputs, workers=0),
            advance=advance or (lambda seconds: None),
        )

    def stream(
        self,
        frames_with_times: Iterable[tuple[Any, float]],
        *,
        window: float | None = None,
        step: float | None = None,
        one_pass: bool = True,
        bgr: bool = False,
    ) -> Iterator[LiveScores]:
        """Score frames as they come, such as those of a camera.

        Of the frames, as many per second are looked at as in a window of a training clip; all
        others are left out. In one pass, each of those runs through the backbone once, when it
        comes, so that a step costs the new frames only. It sees the frames before it, but not
        those after it.

        Examples:
            >>> for now in predictor.stream(read_camera()):  # doctest: +SKIP
            ...     label, score = now.scores[0]
            ...     print(f"{now.seconds:.1f} s: {label} {score:.0%}")

        Args:
            frames_with_times: Pairs of a frame and its time in seconds, in order. A frame is an
                array or tensor `[h, w, 3]`, a PIL image, or a frame of PyAV.
            window: How many seconds back a result looks. By default the median length of the
                training clips.
            step: Seconds from one result to the next. By default the distance of two frames that
                are looked at.
            one_pass: Run each frame through the backbone once. False scores the last frames as a
                clip, exactly as one of a file, and costs a whole clip per step.
            bgr: Colours of arrays are in the order blue, green, red.

        Returns:
            An iterator over the scores of the last frames. Until a window is full, they are those
            of fewer frames.

        Raises:
            ArgumentError: If an argument or, while iterating, a frame is invalid. Also if the
                classifier does not record how long its training clips were and no window is given.
            MemoryShortError: While iterating, if a clip does not fit in memory.
        """
        check_seconds("step", step)
        scorer, interval = start_scorer(
            self.scorer, self.spec, self.clip, window=window, one_pass=one_pass
        )
        return score_stream(
            scorer,
            frames_with_times,
            self.clip,
            interval_seconds=interval,
            step_seconds=step or interval,
            bgr=bgr,
        )

    def _reader(self, inputs: Inputs, workers: int) -> Reader:
        return make_reader(self.decoder, workers, self.scorer.device, inputs.probe)


def _make_scorer(
    run: "str | Path | VideoClassifier", changes: dict[str, Any], **options: Any
) -> "tuple[TorchScorer | ExportedScorer, ClipConfig]":
    """Load a run with torch, or open an exported file without it, because its import is slow."""
    if isinstance(run, str | Path) and is_exported(run):
        from st_adapter.evaluation import exported_scorer

        return exported_scorer.make_scorer(Path(run), changes, **options)
    from st_adapter.evaluation import torch_scorer

    return torch_scorer.make_scorer(run, changes, **options)


def make_prediction(path: Path, raw: Float[ndarray, "1 classes"], spec: ModelSpec) -> Prediction:
    """Turn the scores of a video into its prediction.

    Args:
        path: The video.
        raw: Its scores before calibration.
        spec: Record of the classifier, with the temperatures and the threshold to use.
    """
    ranking = rank(calibrate(raw, spec.task, spec.temperatures), spec)
    return Prediction(
        path=path, predicted=ranking.predicted, scores=ranking.scores, heads=ranking.heads
    )


def _expand(item: Path) -> list[Path]:
    """Return the videos of a folder, or the folder itself if its pictures form one video."""
    if not item.is_dir():
        return [item]
    return find_videos(item) or ([item] if holds_pictures(os.listdir(item)) else [])


def expand(inputs: Sequence[Path]) -> list[Path]:
    """Replace each folder by the videos in it. Files and URLs are kept, whatever their suffix.

    Raises:
        ArgumentError: If none of the paths exists, or they contain no video.
    """
    if not any(item.exists() or is_remote(item) for item in inputs):
        raise ArgumentError(f"{', '.join(map(str, inputs))}: no such file or folder")
    paths = [p for item in inputs for p in _expand(item)]
    if not paths:
        raise ArgumentError(f"{', '.join(map(str, inputs))}: no videos found")
    return paths
