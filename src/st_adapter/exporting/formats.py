"""Write a traced classifier as ONNX, OpenVINO or torch.export."""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch.export import ExportedProgram

from st_adapter.errors import ExportError
from st_adapter.model.exported import INPUT, METADATA_KEY, OUTPUT, PT2_RECORD

Precision = Literal["float32", "half", "int8"]
"""Precision of the weights: "half" is float16, or bfloat16 in a .pt2 file."""

_AXES = {0: "clips", 1: "frames", 3: "height", 4: "width"}
"""Names of the axes of clips in an ONNX file, if they have no fixed length."""

_LINEAR = ["MatMul", "Gemm"]
"""Operations whose weights become int8."""

_EXTERNAL = 1_500_000_000
"""Bytes from which weights go to a second file; an ONNX file has less than 2 GiB."""


def write(program: ExportedProgram, file: Path, record: str, precision: Precision) -> None:
    """Write a program to a file, in the format of its ending.

    Args:
        program: the traced classifier.
        file: file to write. OpenVINO writes its weights to another file ending in .bin, and weights
            of a large model go to another one ending in .onnx.data.
        record: JSON text for the metadata.
        precision: precision of the weights; that of a .pt2 file is that of the program.
    """
    _WRITERS[file.suffix.lower()](program, file, record, precision)


def _write_pt2(program: ExportedProgram, file: Path, record: str, _precision: Precision) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, file, extra_files={PT2_RECORD: record})


def _write_onnx(program: ExportedProgram, file: Path, record: str, precision: Precision) -> None:
    if precision == "float32":
        _write_full_onnx(program, file, record)
        return
    with _full_onnx(program, file, record) as full:
        {"half": _to_half, "int8": _to_int8}[precision](full, file)


@contextmanager
def _full_onnx(program: ExportedProgram, file: Path, record: str) -> Iterator[Path]:
    """Yield an ONNX file in float32 that is removed at the end."""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        full = Path(folder) / "full.onnx"
        _write_full_onnx(program, full, record)
        yield full


def _write_full_onnx(program: ExportedProgram, file: Path, record: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own code
        try:
            exported = torch.onnx.export(
                program, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error).strip().splitlines()[0]
            raise ExportError(
                f"ONNX cannot represent this classifier ({reason}); try a file ending in .pt2"
            ) from error
    assert exported is not None
    _clean(exported.model)
    exported.model.metadata_props[METADATA_KEY] = record
    exported.save(file, external_data=_num_bytes(program) > _EXTERNAL)


def _num_bytes(program: ExportedProgram) -> int:
    return sum(tensor.nbytes for tensor in program.state_dict.values())


def _clean(model: Any) -> None:
    """Name the axes of clips and scores, and remove notes of the exporter.

    Its notes on each node contain paths of this machine. The shapes between the nodes have the
    axes' old names; runtimes infer them again.
    """
    import onnx_ir

    (clips,), (scores,) = model.graph.inputs, model.graph.outputs
    num_classes = scores.shape[1]
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
            value.shape = None
    clips.metadata_props.clear()
    clips.shape = onnx_ir.Shape(
        [n if isinstance(n, int) else _AXES[i] for i, n in enumerate(clips.shape)]
    )
    scores.shape = onnx_ir.Shape([_AXES[0], num_classes])


def _to_half(full: Path, file: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numbers beyond float16; the scores are compared later
        model = convert_float_to_float16(onnx.load(full), keep_io_types=True)
    _save_onnx(model, file)


def _to_int8(full: Path, file: Path) -> None:
    """Quantise linear layers. Convolutions in int8 are slower than in float32 on most CPUs."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    model = onnx.load(full)
    linear = [node for node in model.graph.node if node.op_type in _LINEAR]
    weights = {tensor.name for tensor in model.graph.initializer}
    if not any(weights & {*node.input} for node in linear):
        raise ExportError("this backbone does not have linear layers, which int8 is for")
    add_pre_process_metadata(model)  # the exporter has simplified the graph already
    quantize_dynamic(
        model,
        file,
        op_types_to_quantize=_LINEAR,
        weight_type=QuantType.QInt8,
        use_external_data_format=full.stat().st_size > _EXTERNAL,
    )


def _save_onnx(model: Any, file: Path) -> None:
    import onnx

    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    onnx.save(model, file, save_as_external_data=size > _EXTERNAL, location=f"{file.name}.data")


def _write_openvino(
    program: ExportedProgram, file: Path, record: str, precision: Precision
) -> None:
    # By way of ONNX. openvino.convert_model would take the program itself, but it reports its use
    # to Google Analytics, and it does not know all operations of torch that ONNX has.
    import openvino

    with _full_onnx(program, file, record) as full:
        model = openvino.Core().read_model(full)
        model.set_rt_info(record, METADATA_KEY)
        openvino.save_model(model, file, compress_to_fp16=precision == "half")


_WRITERS: dict[str, Callable[[ExportedProgram, Path, str, Precision], None]] = {
    ".onnx": _write_onnx,
    ".pt2": _write_pt2,
    ".xml": _write_openvino,
}
