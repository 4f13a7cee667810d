"""Whether tensors of a file fit a model."""

from collections.abc import Mapping

from torch import Tensor

from st_adapter.errors import CheckpointError

_SHOWN = 5


def check_fit(source: str, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Check that `given` has the names, shapes and kinds of `wanted`, and finite values.

    Raises:
        CheckpointError: it has not; the message lists what differs.
    """
    differences = [f"{name}: missing in the file" for name in wanted if name not in given]
    differences += [f"{name}: not in the model" for name in given if name not in wanted]
    for name in (name for name in wanted if name in given):
        found, needed = given[name], wanted[name]
        if found.shape != needed.shape:
            differences.append(
                f"{name}: file has {list(found.shape)}, model needs {list(needed.shape)}"
            )
        if _kind(found) != _kind(needed):
            differences.append(f"{name}: file has {found.dtype}, model needs {needed.dtype}")
    if differences:
        shown = "; ".join(differences[:_SHOWN])
        more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise CheckpointError(
            f"{source} does not fit (tensors that differ: {len(differences)}): {shown}{more}"
        )
    for name, tensor in given.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{source}: {name} holds values that are NaN or infinite")


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    """Precision may differ between file and model; whole, real and complex numbers may not."""
    return tensor.is_floating_point(), tensor.is_complex()
