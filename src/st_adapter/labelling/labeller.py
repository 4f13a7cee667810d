"""Labels videos with several classifiers, for which each video is decoded once."""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from st_adapter.config import ClipConfig
from st_adapter.data.datasets import ViewDataset, Views
from st_adapter.data.inputs import probe_file_or_url
from st_adapter.data.loading import BatchLoader
from st_adapter.data.video.info import VideoInfo
from st_adapter.data.video.packets import Probe
from st_adapter.data.video.reader import Reader, make_reader
from st_adapter.data.videos import Skipped, VideoList
from st_adapter.evaluation.predict import Prediction, Predictor, make_prediction
from st_adapter.evaluation.score import (
    average_batch,
    in_micro_batches,
    probabilities,
    videos_per_batch,
)
from st_adapter.labelling.records import Record, columns_of, make_record, prefix
from st_adapter.labelling.rows import Rows
from st_adapter.labelling.runs import Run, load_predictors


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be labelled and how, before any model is built. It can be pickled.

    Attributes:
        runs: The runs, which share one image model.
        rows: The videos.
        top: Number of labels per video and head.
        workers: Number of processes that decode for one model; 0 decodes in its own process.
        settings: Keyword arguments of `Predictor`.
    """

    runs: tuple[Run, ...]
    rows: Rows
    top: int
    workers: int
    settings: dict[str, Any] = field(default_factory=dict)

    def columns(self) -> dict[str, Any]:
        """Return the names and kinds of the table's columns."""
        return columns_of(self.runs, self.rows.has_segments)

    def clips(self) -> list[ClipConfig]:
        """Return how each run cuts clips."""
        given = {n: self.settings.get(n) for n in ("views", "frames", "size")}
        changes: dict[str, Any] = {name: v for name, v in given.items() if v is not None}
        return [replace(run.spec.clip, **changes) for run in self.runs]

    def batch_rows(self) -> int:
        """Return the number of videos in a batch.

        Batches start at multiples of it, also after an interruption: the last bits of scores depend
        on which videos share a batch.
        """
        return min(videos_per_batch(clip, self.settings["batch_size"]) for clip in self.clips())


class Labeller:
    """The classifiers of a job, built and ready.

    Args:
        job: The job.

    Raises:
        CheckpointError, ArgumentError, MemoryShortError: As for `Predictor`.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._columns = job.columns()
        self._predictors = load_predictors(job.runs, job.settings)
        self._clips = [*dict.fromkeys(predictor.clip for predictor in self._predictors)]
        self._compute = [_compute(predictor) for predictor in self._predictors]

    def label(self, batches: Iterable[list[int]]) -> Generator[list[Record]]:
        """Label batches of rows and yield the records of each batch.

        Args:
            batches: Numbers of the rows in each batch. Iterated again if dataloader workers die.

        Raises:
            MemoryShortError: If a batch does not fit in memory.
        """
        first, workers = self._predictors[0], self._job.workers
        reader = make_reader(first.decoder, workers, str(first.model.device), probe_file_or_url)
        dataset = SharedDataset(self._job.rows.videos, self._clips, reader)
        for loaded in BatchLoader(dataset, list, workers).batches(batches):
            yield self._records(loaded)

    def _records(self, batch: list[tuple[Views, ...]]) -> list[Record]:
        videos, runs = self._job.rows.videos, self._job.runs
        results: list[dict[str, Prediction | Skipped]] = [{} for _ in batch]
        for run, predictor, compute in zip(runs, self._predictors, self._compute, strict=True):
            place, start = self._clips.index(predictor.clip), prefix(run, runs)
            views = [item[place] for item in batch]
            averages = average_batch(predictor.model, views, compute)
            for of_video, one, scores in zip(results, views, averages, strict=True):
                of_video[start] = _result(videos, predictor, one, scores)
        top, rows = self._job.top, [item[0].index for item in batch]
        return [
            make_record(self._columns, videos.name(row), videos[row], of_video, top)
            for row, of_video in zip(rows, results, strict=True)
        ]


def _compute(predictor: Predictor) -> Any:
    model = predictor.model
    return in_micro_batches(
        model,
        predictor.clip,
        lambda clips: probabilities(model(clips), model.spec.task),
        predictor.batch_size,
    )


def _result(
    videos: VideoList, predictor: Predictor, views: Views, scores: Tensor | None
) -> Prediction | Skipped:
    path = videos.name(views.index)
    if scores is None:
        return Skipped(path=path, reason=views.reason)
    return make_prediction(Path(path), scores.numpy(), predictor.spec)


class SharedDataset(Dataset[tuple[Views, ...]]):
    """The test views of each video, cut in several ways. Keys are indices.

    Classifiers that cut clips in the same way share them. For each other way, the frames of a video
    are read again, but its packets are read only once.

    Args:
        videos: The videos.
        clips: The different ways to cut clips.
        reader: Decodes the videos.
    """

    def __init__(self, videos: VideoList, clips: Sequence[ClipConfig], reader: Reader) -> None:
        reader = replace(reader, probe=_LastProbe(reader.probe))
        self._parts = [ViewDataset(videos, clip, reader) for clip in clips]

    def __len__(self) -> int:
        return len(self._parts[0])

    def name(self, index: int) -> str:
        """Return the name of the video with an index."""
        return self._parts[0].name(index)

    def __getitem__(self, index: int) -> tuple[Views, ...]:
        return tuple(part[index] for part in self._parts)


class _LastProbe:
    """A probe that remembers the last video, of which several clips or segments are read."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._last: tuple[Path, VideoInfo] | None = None

    def __call__(self, path: Path) -> VideoInfo:
        if self._last is None or self._last[0] != path:
            self._last = None  # frees the bytes of a downloaded video before the next one
            self._last = path, self._probe(path)
        return self._last[1]
