"""Evaluation of a trained run on labelled videos: the function behind `st-adapter evaluate`."""

import time
from pathlib import Path
from typing import Any

from st_adapter.common.paths import absolute
from st_adapter.config import DataConfig
from st_adapter.data.annotations import Annotations
from st_adapter.data.video import packets
from st_adapter.data.video.index import index_of
from st_adapter.data.video.packets import Probe
from st_adapter.data.video.reader import make_reader
from st_adapter.data.videos import VideoList
from st_adapter.errors import DataError
from st_adapter.evaluation.evaluate import Evaluation, evaluation_of, score_labelled
from st_adapter.evaluation.predict import Predictor
from st_adapter.evaluation.run_record import (
    evaluation_file,
    evaluation_videos,
    keep_what_training_found,
    write_evaluation,
)
from st_adapter.model.spec import ModelSpec


def evaluate(
    run: str | Path,
    data: str | Path | Annotations,
    *,
    out: str | Path | None = None,
    options: DataConfig | None = None,
    temporal: bool = False,
    workers: int = 2,
    **predictor: Any,
) -> Evaluation:
    """Measure the accuracy of a trained run on labelled videos.

    If `data` has a validation part, that part is used, otherwise all of it. If `data` is what the
    run was trained on and has no validation part, only the videos that training held out are used.
    Videos that cannot be read are listed in the result and do not count. The result is also written
    to `eval.json` in a run folder; for an adapter folder it is written only if `out` is given.

    Examples:
        >>> evaluation = evaluate("run", "my_videos/", views=(3, 1))  # doctest: +SKIP
        >>> f"{evaluation.top1:.1%} of {evaluation.num_videos}"  # doctest: +SKIP
        '93.1% of 120'

    Args:
        run: A run folder or an adapter folder.
        data: Labelled videos, as a folder or list in any form that `train` accepts, or what
            `read_parts` returned.
        out: File to write instead of `eval.json` in the run folder. An existing file is replaced
            only if it was written by an evaluation.
        options: How to read `data`. By default as in training if the run was trained on the same
            data, otherwise `DataConfig()`.
        temporal: Also measure with the frames of each clip reversed, shuffled and frozen, to see
            how much the classifier depends on their order. Takes four times the forward passes.
        workers: Number of processes that decode videos; 0 decodes in this one.
        **predictor: Any other argument of `Predictor`, such as views, precision or device.

    Returns:
        The measures and the prediction for each video.

    Raises:
        ArgumentError: As for `Predictor`, or if `out` exists and is not an evaluation.
        CheckpointError: If the folder cannot be read or does not fit the backbone.
        DataError: If `data` cannot be used or none of its videos can be read.
        MemoryShortError: If a batch does not fit in memory.
    """
    began, folder = time.monotonic(), Path(run)
    file = evaluation_file(folder, None if out is None else Path(out))
    classifier = Predictor(folder, **predictor)
    model = classifier.model
    probe: Probe = packets.probe
    if isinstance(data, Annotations):
        videos, origin = _given_videos(data, model.spec), ""
    else:
        videos, origin = evaluation_videos(folder, Path(data), model.spec, options), absolute(data)
        probe = index_of(Path(data))
    scored = score_labelled(
        model,
        videos,
        classifier.clip,
        batch_size=classifier.batch_size,
        workers=workers,
        temporal=temporal,
        reader=make_reader(classifier.decoder, workers, str(model.device), probe),
    )
    result = evaluation_of(scored, classifier.spec, classifier.clip)
    keep_what_training_found(folder, result, origin)
    if file is not None:
        write_evaluation(file, result, origin, model.device, time.monotonic() - began)
    return result


def _given_videos(data: Annotations, spec: ModelSpec) -> VideoList:
    """Return the validation part, or all videos if there is none."""
    if data.labels != spec.labels:
        raise DataError(
            f"the data has the classes {', '.join(data.labels)}, and the run was trained on "
            f"{', '.join(spec.labels)}"
        )
    return data.val or data.train
