"""How good the classifier of a run is on labelled videos."""

from pathlib import Path
from typing import Any

from st_adapter.config import DataConfig
from st_adapter.data.video.index import index_of
from st_adapter.data.video.reader import make_reader
from st_adapter.evaluation.evaluate import Evaluation, evaluate_videos
from st_adapter.evaluation.predict import Predictor
from st_adapter.evaluation.run_record import (
    evaluation_file,
    evaluation_videos,
    write_evaluation,
)


def evaluate(
    run: str | Path,
    data: str | Path,
    *,
    out: str | Path | None = None,
    options: DataConfig | None = None,
    temporal: bool = False,
    workers: int = 2,
    **predictor: Any,
) -> Evaluation:
    """Measure the classifier of a run on the labelled videos in DATA.

    The validation part of DATA is used if it has one, otherwise all of it; of the DATA that the
    run was trained on, what was held out. The result is written to `eval.json` of a run folder.

    >>> evaluation = evaluate("run", "my_videos/", views=(3, 1))  # doctest: +SKIP
    >>> evaluation.top1  # doctest: +SKIP
    0.93

    Args:
        run: a run folder or an adapter folder.
        data: a folder or list in any form that training takes.
        out: file to write, in place of `eval.json` in the run folder.
        options: how DATA is read; by default as for training on the same DATA.
        temporal: measure it with the frames reversed, shuffled and frozen to one, too.
        workers: decoding processes.
        **predictor: any argument of `Predictor`, such as views, precision or device.

    Raises:
        ArgumentError, CheckpointError: as for `Predictor`; or `out` holds something else.
        DataError: DATA cannot be used, or none of its videos can be read.
    """
    folder, data = Path(run), Path(data)
    file = evaluation_file(folder, None if out is None else Path(out))
    classifier = Predictor(folder, **predictor)
    model = classifier.model
    result = evaluate_videos(
        model,
        evaluation_videos(folder, data, model.spec, options),
        classifier.clip,
        batch_size=classifier.batch_size,
        workers=workers,
        temporal=temporal,
        reader=make_reader(classifier.decoder, workers, model.device, index_of(data)),
    )
    if file is not None:
        write_evaluation(file, result, data)
    return result
