"""Export of a trained run to one file: the function behind `st-adapter export`."""

import copy
import json
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from st_adapter.common.files import check_writable
from st_adapter.common.progress import bar
from st_adapter.common.provenance import date, versions
from st_adapter.common.remarks import note
from st_adapter.data.videos import Video
from st_adapter.errors import ArgumentError, DataError, ExportError
from st_adapter.evaluation.predict import expand
from st_adapter.evaluation.run_record import evaluation_videos, recorded_run
from st_adapter.evaluation.score import evaluation_mode
from st_adapter.exporting.comparison import (
    Comparison,
    compare_on_noise,
    compare_on_videos,
    times,
)
from st_adapter.exporting.formats import Precision, write
from st_adapter.exporting.program import traced
from st_adapter.model.build import load
from st_adapter.model.classifier import VideoClassifier
from st_adapter.model.exported import EXTRA, check_ending, open_exported
from st_adapter.model.record import to_record
from st_adapter.wording import setting, switch

LARGEST_DIFFERENCE = 1e-4
"""Largest difference of a score in float32."""

MOST_OTHER_LABELS = 0.1
"""Largest share of clips or videos that may get other labels in half precision or int8."""

_PACKAGES = {
    ".onnx": ("onnx", "onnxscript", "onnxruntime"),
    ".pt2": (),
    ".xml": ("onnx", "onnxscript", "openvino"),
}
"""Packages that each format needs besides torch."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What `export` wrote and how its scores differ from those of the classifier.

    Attributes:
        path: the file.
        num_bytes: its size, with the file of its weights if it has one.
        precision: "float32", "half" or "int8".
        fixed_size: the only height and width of frames in pixels that it accepts; None for any.
        noise: comparison on clips of noise.
        videos: comparison on videos; None if there were none.
        model_seconds: seconds per clip of the classifier in PyTorch, on the CPU of this machine.
        seconds: seconds per clip of the exported file.
    """

    path: Path
    num_bytes: int
    precision: Precision
    fixed_size: int | None
    noise: Comparison
    videos: Comparison | None
    model_seconds: float
    seconds: float


def export(
    run: str | Path | VideoClassifier,
    out: str | Path,
    *,
    half: bool = False,
    int8: bool = False,
    videos: str | Path | None = None,
    weights: str | None = None,
) -> Exported:
    """Write a classifier to a file that other programs can run, and check its scores.

    The file takes uint8 RGB frames [clips, frames, 3, height, width] and returns scores
    [clips, classes] before calibration. Its metadata has the labels and how clips are cut.
    `open_exported` runs it without torch, unless it ends in .pt2.

    Examples:
        >>> exported = st_adapter.export("run", "model.onnx")  # doctest: +SKIP
        >>> exported.noise.difference  # doctest: +SKIP
        1.2e-07

    Args:
        run: run folder, adapter folder, or a classifier on the CPU in float32.
        out: file to write; it must not exist. It ends in .onnx, .pt2 (torch.export) or .xml
            (OpenVINO, which writes another file ending in .bin).
        half: store weights in half precision, which halves the size.
        int8: store the weights of linear layers in int8; only for .onnx.
        videos: video, or folder of videos, to compare scores on. None compares on the validation
            videos of the run, if they still exist.
        weights: source of the backbone's weights, as for `load`.

    Returns:
        The file, the differences of its scores, and its speed.

    Raises:
        ArgumentError: an argument is invalid, or a package is not installed.
        CheckpointError: the run cannot be read.
        ExportError: the classifier cannot be exported, or the scores of the file are wrong: in
            float32, they differ by more than 1e-4; in lower precision, more than 10 % of the clips
            or videos get other labels. No file is left.
    """
    file = Path(out)
    precision = _checked_precision(file, half, int8)
    model = _classifier(run, weights)
    checked_on = _videos(None if isinstance(run, VideoClassifier) else Path(run), model, videos)
    with bar("exporting", 3) as progress, evaluation_mode(model), _unfinished(file) as temporary:
        fixed_size = _write(model, temporary, precision)
        progress.advance()
        exported = open_exported(temporary)
        on_noise = compare_on_noise(model, exported)
        progress.advance()
        on_videos = compare_on_videos(model, exported, checked_on) if checked_on else None
        for comparison in filter(None, (on_noise, on_videos)):
            _judge(file, comparison, precision)
        model_seconds, seconds = times(model, exported)
        progress.advance()
        num_bytes = sum(part.stat().st_size for part in temporary.parent.iterdir())
    return Exported(
        path=file,
        num_bytes=num_bytes,
        precision=precision,
        fixed_size=fixed_size,
        noise=on_noise,
        videos=on_videos,
        model_seconds=model_seconds,
        seconds=seconds,
    )


def _checked_precision(file: Path, half: bool, int8: bool) -> Precision:
    """Check what can be checked before the classifier is loaded; return the precision."""
    check_ending(file)
    if file.exists():
        raise ArgumentError(f"{file} already exists; choose another {setting('out')}")
    check_writable(file.parent)
    if half and int8:
        raise ArgumentError(f"use {switch('half')} or {switch('int8')}, not both")
    if int8 and file.suffix.lower() != ".onnx":
        raise ArgumentError(f"{switch('int8')} is only for files ending in .onnx, unlike {file}")
    missing = [name for name in _PACKAGES[file.suffix.lower()] if find_spec(name) is None]
    if missing:
        raise ArgumentError(f"{file.suffix} files need the package {missing[0]}: {EXTRA}")
    return "half" if half else "int8" if int8 else "float32"


def _classifier(run: str | Path | VideoClassifier, weights: str | None) -> VideoClassifier:
    if not isinstance(run, VideoClassifier):
        return load(run, weights)
    if run.device.type != "cpu" or run.precision != "float32":
        raise ArgumentError(
            f"only a classifier on the CPU in float32 can be exported, not one on {run.device} in "
            f"{run.precision}"
        )
    return run


def _videos(run: Path | None, model: VideoClassifier, given: str | Path | None) -> Sequence[Video]:
    """Return the videos to compare scores on: those given, or those that training held out."""
    if given is not None:
        return [Video(path=path) for path in expand([Path(given)])]
    if run is None or not (run / "config.json").is_file():
        return ()
    data, _, _ = recorded_run(run)
    try:
        return evaluation_videos(run, data, model.spec) if data.exists() else ()
    except DataError as error:
        note(f"scores are compared on noise only, because {error}")
        return ()


def _write(model: VideoClassifier, file: Path, precision: Precision) -> int | None:
    """Write a classifier to a file; return the only size of frames that it accepts, or None."""
    if precision == "half" and file.suffix.lower() == ".pt2":
        model = copy.deepcopy(model)  # whose weights cannot be restored afterwards
        model.set_precision("bfloat16")  # the CPU computes in it, and autocast in float16 is slower
    with traced(model) as (program, fixed_size):
        export = {
            "precision": precision,
            "fixed_size": fixed_size,
            "date": date(),
            "versions": versions(),
        }
        record = json.dumps({**to_record(model.spec), "export": export})
        write(program, file, record, precision)
    return fixed_size


def _judge(file: Path, comparison: Comparison, precision: Precision) -> None:
    """Raise ExportError if the scores of a file differ too much from those of the classifier."""
    difference, other = comparison.difference, 1 - comparison.same_labels
    if not math.isfinite(difference):
        raise ExportError(f"{file} was not written: its scores are NaN")
    if precision == "float32" and difference > LARGEST_DIFFERENCE:
        raise ExportError(
            f"{file} was not written: its scores differ by up to {difference:.1e} from those of "
            f"the run, more than {LARGEST_DIFFERENCE:.0e}; try another format"
        )
    if other > MOST_OTHER_LABELS:
        raise ExportError(
            f"{file} was not written: {other:.0%} of {comparison.num} clips get another label in "
            f"{precision}, more than {MOST_OTHER_LABELS:.0%}"
        )


@contextmanager
def _unfinished(file: Path) -> Iterator[Path]:
    """Yield a path of the same name in a temporary folder, whose files go beside `file` at the end.

    If the block fails, the folder is removed.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".st-adapter-export-") as folder:
        temporary = Path(folder) / file.name
        yield temporary
        # The file itself comes last: it is not there before its weights are.
        for part in sorted(Path(folder).iterdir(), key=lambda part: part == temporary):
            with part.open("rb") as opened:
                os.fsync(opened.fileno())
            part.replace(file.with_name(part.name))
