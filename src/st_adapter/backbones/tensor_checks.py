"""Check that tensors fit a model, and load them."""

from collections.abc import Mapping

from torch import Tensor, nn

from st_adapter.backbones.weight_files.tensors import read_tensors, split_key
from st_adapter.errors import CheckpointError

_SHOWN = 5
"""Number of differences listed in an error message."""


def check_fit(source: str, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Check that tensors have the expected names and shapes, and finite values.

    Their precision may differ from the expected one.

    Args:
        source: where the given tensors come from, for the error message.
        given: tensors by name.
        wanted: tensors of the model by name.

    Raises:
        CheckpointError: the tensors do not fit. The message lists the first differences.
    """
    differences = [f"{name}: missing in the file" for name in wanted if name not in given]
    differences += [f"{name}: not in the model" for name in given if name not in wanted]
    for name in (name for name in wanted if name in given):
        found, needed = given[name], wanted[name]
        if found.shape != needed.shape:
            differences.append(
                f"{name}: file has {list(found.shape)}, model needs {list(needed.shape)}"
            )
        if _number_type(found) != _number_type(needed):
            differences.append(f"{name}: file has {found.dtype}, model needs {needed.dtype}")
    if differences:
        shown = "; ".join(differences[:_SHOWN])
        more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise CheckpointError(
            f"{source} does not fit (tensors that differ: {len(differences)}): {shown}{more}"
        )
    for name, tensor in given.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{source}: {name} contains values that are NaN or infinite")


def _number_type(tensor: Tensor) -> tuple[bool, bool]:
    """Tell integers, real and complex numbers apart, whatever their precision."""
    return tensor.is_floating_point(), tensor.is_complex()


def load_file_into(model: nn.Module, source: str) -> None:
    """Load all tensors of a weights file into a model that has the same names.

    Args:
        model: model to change.
        source: path of the file, with "#" and the key of a table in it if there are several.

    Raises:
        ArgumentError, CheckpointError: the file cannot be read or does not fit.
    """
    file, key = split_key(source)
    tensors = read_tensors(file, key)
    check_fit(str(file), tensors, model.state_dict())
    model.load_state_dict(tensors)
