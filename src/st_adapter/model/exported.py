"""Exported classifiers: .onnx and OpenVINO files run without torch, and .pt2 files with it."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from st_adapter.errors import ArgumentError, CheckpointError
from st_adapter.model.record import from_record
from st_adapter.model.spec import ModelSpec

INPUT, OUTPUT = "clips", "scores"
"""Names of the input and the output of the model in the file."""

METADATA_KEY = "st_adapter"
"""Key of the JSON text in the metadata of the file."""

PT2_RECORD = "st_adapter.json"
"""Name of that JSON text among the extra files in a .pt2 file."""

EXTRA = "pip install 'st-adapter[export]'"

Run = Callable[[np.ndarray], np.ndarray]
"""Computes the scores [n, classes] of clips [n, t, 3, h, w]; several threads may call it."""


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """A classifier in an exported file. Use `open_exported` to make one.

    Examples:
        >>> model = open_exported("model.onnx")  # doctest: +SKIP
        >>> clips = np.zeros((1, 8, 3, 224, 224), np.uint8)  # doctest: +SKIP
        >>> dict(zip(model.spec.labels, model.scores(clips)[0]))  # doctest: +SKIP
        {'open': 0.93, 'close': 0.07}

    Attributes:
        path: the file.
        spec: record of the classifier: labels, how clips are cut, temperatures and threshold.
        fixed_size: the only height and width of frames in pixels that the file accepts; None if it
            accepts any size that the backbone accepts.
        precision: "float32", "half" or "int8".
        run: computes scores; use `scores`, which checks the clips first.
    """

    path: Path
    spec: ModelSpec
    fixed_size: int | None
    precision: str
    run: Run

    def scores(self, clips: UInt8[np.ndarray, "n t 3 h w"]) -> Float[np.ndarray, "n classes"]:
        """Compute the scores of clips. Several threads may do so at the same time.

        Args:
            clips: RGB frames in 0..255, not normalised. Any number of clips and of frames.

        Returns:
            Scores in 0..1 of each class: softmax per head, or sigmoid if a video can have any
            number of labels. They are not calibrated and not averaged over views.

        Raises:
            ArgumentError: the clips have another type, shape or size.
        """
        shape = clips.shape
        if clips.dtype != np.uint8 or clips.ndim != 5 or shape[2] != 3 or 0 in shape:
            raise ArgumentError(
                f"clips must be uint8 [n, t, 3, h, w], not {clips.dtype} {list(shape)}"
            )
        if self.fixed_size not in (None, shape[3]) or self.fixed_size not in (None, shape[4]):
            raise ArgumentError(
                f"{self.path} takes frames of {self.fixed_size} x {self.fixed_size} px, "
                f"not {shape[3]} x {shape[4]}"
            )
        return self.run(np.ascontiguousarray(clips))


def is_exported(path: str | Path) -> bool:
    """Whether a path has the ending of an exported file: .onnx, .pt2 or .xml (OpenVINO)."""
    return Path(path).suffix.lower() in _OPENERS


def check_ending(path: Path) -> None:
    """Raise ArgumentError if a path does not have the ending of an exported file."""
    if not is_exported(path):
        raise ArgumentError(
            f"exported files end in .onnx, .pt2 (torch.export) or .xml (OpenVINO), unlike {path}"
        )


def open_exported(path: str | Path, threads: int | None = None) -> ExportedModel:
    """Open a file that `st-adapter export` wrote, to run it on the CPU.

    Files ending in .onnx and .xml need neither torch nor timm. Open .pt2 files only if you trust
    their source: torch can run code in them.

    Args:
        path: the file.
        threads: number of CPU threads that a forward pass uses; None leaves it to the toolkit. It
            has no effect on .pt2 files, which use those of torch.

    Raises:
        ArgumentError: the ending is none of these, or the toolkit is not installed.
        CheckpointError: the file does not exist, is damaged or was not written by st-adapter.
    """
    file = Path(path)
    check_ending(file)
    if not file.is_file():
        raise CheckpointError(f"{file} {'is a folder' if file.exists() else 'does not exist'}")
    try:
        return _described(file, *_OPENERS[file.suffix.lower()](file, threads))
    except ImportError as error:
        raise ArgumentError(f"{file} needs the package {error.name}: {EXTRA}") from error
    except CheckpointError:
        raise
    except Exception as error:  # the toolkits raise types of their own, or RuntimeError
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{file} is damaged or not a model: {reason}") from error


def _described(file: Path, text: str, run: Run) -> ExportedModel:
    """Join what runs a model with the record in its file."""
    if not text:
        raise CheckpointError(
            f"{file} was not written by `st-adapter export`: its metadata has no {METADATA_KEY}"
        )
    record = json.loads(text)
    export = record.pop("export")
    return ExportedModel(
        path=file,
        spec=from_record(record, file),
        fixed_size=export["fixed_size"],
        precision=export["precision"],
        run=run,
    )


def _open_onnx(file: Path, threads: int | None) -> tuple[str, Run]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; its warnings are about choices of its optimiser
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, "")
    return text, lambda clips: session.run([OUTPUT], {INPUT: clips})[0]


def _open_openvino(file: Path, threads: int | None) -> tuple[str, Run]:
    import openvino

    core = openvino.Core()
    model = core.read_model(file)
    text = str(model.get_rt_info(METADATA_KEY).value) if model.has_rt_info(METADATA_KEY) else ""
    # One stream, so that all requests share the one graph that is warmed up below.
    properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    if text and json.loads(text)["export"]["precision"] == "float32":
        # By default, OpenVINO computes in bfloat16 on CPUs that are faster at it.
        properties["INFERENCE_PRECISION_HINT"] = "f32"
    if threads is not None:
        properties["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(model, "CPU", properties)
    if text:
        # If the first call has one frame, OpenVINO 2026.4 multiplies attention over 16 or more
        # frames wrongly in later calls: with method "temporal", scores were wrong by 0.2.
        size = json.loads(text)["clip"]["size"]
        compiled([np.zeros((1, 2, 3, size, size), np.uint8)])
    # A request holds the buffers of one call, so that each thread needs its own.
    own = threading.local()

    def run(clips: np.ndarray) -> np.ndarray:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        return np.array(own.request.infer([clips])[0])  # a copy; the next call reuses the buffer

    return text, run


def _open_pt2(file: Path, _threads: int | None) -> tuple[str, Run]:
    import torch

    extra = {PT2_RECORD: ""}
    module = torch.export.load(file, extra_files=extra).module()

    @torch.inference_mode()
    def run(clips: np.ndarray) -> np.ndarray:
        scores: np.ndarray = module(torch.from_numpy(clips)).numpy()
        return scores

    return extra[PT2_RECORD], run


_OPENERS = {".onnx": _open_onnx, ".pt2": _open_pt2, ".xml": _open_openvino}
