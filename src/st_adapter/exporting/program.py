"""The graph of a classifier from frames to scores, traced by torch.export."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from st_adapter.errors import ExportError
from st_adapter.evaluation.score import evaluation_mode, probabilities
from st_adapter.methods import METHODS
from st_adapter.model.classifier import VideoClassifier
from st_adapter.model.exported import INPUT
from st_adapter.model.methods.low_rank import merged_low_rank

_CLIPS, _FRAMES = 2, 3
"""Lengths of the axes of the example. torch.export makes a constant of an axis of length 1."""


_LONGEST = 4096
"""Length in pixels to which an axis must be able to grow to count as variable."""


class ScoringModule(nn.Module):
    """Compute scores of clips, as evaluation does before it averages over views.

    Args:
        model: the classifier.
    """

    def __init__(self, model: VideoClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, clips: UInt8[Tensor, "b t 3 h w"]) -> Float[Tensor, "b classes"]:
        """Return the scores of clips of RGB frames in 0..255."""
        return probabilities(self.model(clips), self.model.spec.task)


@contextmanager
def traced(model: VideoClassifier) -> Iterator[tuple[ExportedProgram, int | None]]:
    """Trace a classifier for any number of clips and frames, and any size that it can have.

    Low-rank updates are added to the weights inside this block. The program shares the weights of
    the classifier, so that it must be used there.

    Args:
        model: the classifier, on the CPU.

    Yields:
        The program, and the height and width of frames in pixels if it accepts only those.

    Raises:
        ExportError: torch.export cannot trace the classifier.
    """
    with evaluation_mode(model), _merged(model):
        fixed = _trace_fixed(model)
        variable = None if _attends(fixed) else _trace_any_size(model)
        if variable is not None:
            yield variable, None
        else:
            yield fixed, model.spec.clip.size


def _attends(program: ExportedProgram) -> bool:
    """Whether the image model computes attention.

    Its size is fixed then. Position embeddings or windows depend on the size, and expressions of
    the windows of a Swin transformer take torch.export many minutes if the size is variable.
    """
    return any(
        ("softmax" in str(node.target) or "attention" in str(node.target))
        and any("backbone" in path for path, _ in node.meta["nn_module_stack"].values())
        for node in program.graph.nodes
        if "nn_module_stack" in node.meta
    )


def _trace_any_size(model: VideoClassifier) -> ExportedProgram | None:
    """Trace a classifier with variable height and width; return None if one of them is fixed."""
    try:
        program = _trace(model, model.spec.clip.size, {3: Dim.AUTO, 4: Dim.AUTO})
    except Exception:  # torch.export raises many types; perhaps only the size cannot vary
        return None
    clips = next(node for node in program.graph.nodes if node.name == INPUT)
    is_fixed = any(_is_fixed(program, length) for length in clips.meta["val"].shape[3:])
    # Runtimes resize position embeddings in slightly different ways: scores of OpenVINO differed by
    # 8e-4. For frames of one size, they are resized here, and are constants in the file.
    return None if is_fixed or _resizes(program) else program


def _resizes(program: ExportedProgram) -> bool:
    """Whether a program, or a part of it that runs under autocast, resizes something.

    Scale factors that are computed from the size, which ONNX does not have, are a sign of it.
    """
    parts = [m for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    return any(
        "upsample" in str(node.target) or isinstance(node.meta.get("val"), torch.SymFloat)
        for part in parts
        for node in part.graph.nodes
    )


def _is_fixed(program: ExportedProgram, length: Any) -> bool:
    """Whether an axis has one length, or few, such as 32 to 47 pixels for two patches of 16."""
    if is_concrete_int(length):
        return True
    limits = [program.range_constraints[symbol].upper for symbol in length.node.expr.free_symbols]
    return any(limit < _LONGEST for limit in limits)


def _trace_fixed(model: VideoClassifier) -> ExportedProgram:
    size = model.spec.clip.size
    try:
        return _trace(model, size, {})
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        name = model.spec.backbone or type(model.backbone).__name__
        raise ExportError(
            f"{name} with method {model.spec.method} cannot be exported: "
            f"torch.export cannot trace it ({reason})"
        ) from error


def _trace(model: VideoClassifier, size: int, sides: dict[int, object]) -> ExportedProgram:
    example = torch.zeros(_CLIPS, _FRAMES, 3, size, size, dtype=torch.uint8)
    shapes = {INPUT: {0: Dim("clips"), 1: Dim("frames"), **sides}}
    with torch.no_grad():
        program = torch.export.export(
            ScoringModule(model).eval(), (example,), dynamic_shapes=shapes
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # has paths of this machine, which would be written
    return program


@contextmanager
def _merged(model: VideoClassifier) -> Iterator[None]:
    if not METHODS[model.spec.method].low_rank:
        yield
        return
    with merged_low_rank(model.backbone):
        yield
