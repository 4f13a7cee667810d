"""Models that are trained whole, in shards over the processes: torch's FSDP, as accelerate asks.

What it takes is imported where there are shards: it imports a good part of torch's compiler.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

from st_adapter.config import TrainConfig
from st_adapter.errors import ArgumentError
from st_adapter.methods import METHODS

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def num_shards() -> int:
    """Over how many processes `accelerate launch --use_fsdp` spreads what is trained; else 1."""
    wanted = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    return int(os.environ.get("WORLD_SIZE", "1")) if wanted else 1


def check_shardable(config: TrainConfig) -> None:
    """Raise ArgumentError where FSDP is asked for and would not help, or cannot do what is."""
    if num_shards() == 1:
        return
    whole = [name for name, method in METHODS.items() if method.unfrozen == "all"]
    if config.method not in whole:
        raise ArgumentError(
            f"FSDP shards what is trained, which is little with method {config.method}; leave it "
            f"out: the same launcher without --use_fsdp. It is for {' and '.join(whole)}"
        )
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ArgumentError("FSDP is used in its second version; add --fsdp_version 2")
    if os.environ.get("FSDP_OFFLOAD_PARAMS", "").lower() == "true":
        raise ArgumentError("parameters are not offloaded here; leave --fsdp_offload_params out")
    if config.average:
        raise ArgumentError("a moving average is not kept in shards; leave out --average, or FSDP")
    if config.compile:
        raise ArgumentError("shards are not compiled; leave out --compile, or FSDP")
    if config.precision == "float16":
        raise ArgumentError("float16 is not scaled over shards; use --precision bfloat16")


def shard(model: nn.Module, units: Sequence[nn.Module], device: str) -> None:
    """From now on, hold `units` only while they run, and 1 / `num_shards` of them in between.

    Gradients are means over the processes. The rest of the model is gathered for a whole step.

    Args:
        device: its kind, such as "cuda".
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device, (num_shards(),))
    reshard = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true") == "true"
    for unit in units:
        fully_shard(unit, mesh=mesh, reshard_after_forward=reshard)
    fully_shard(model, mesh=mesh)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Hold all of a model in every process, which can then run it without the others.

    What is written into its parameters meanwhile is forgotten.
    """
    if all(_as_dtensor(parameter) is None for parameter in model.parameters()):
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    reshard = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true") == "true"
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(reshard and unit is not model, recurse=False)
            unit.reshard()


def _as_dtensor(tensor: Tensor) -> "DTensor | None":
    """The tensor as a DTensor, or None where it is whole: always before that module is imported."""
    if "torch.distributed.tensor" not in sys.modules:
        return None
    from torch.distributed.tensor import DTensor

    return tensor if isinstance(tensor, DTensor) else None


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be in shards, gathered by all processes."""
    sharded = _as_dtensor(tensor)
    return tensor if sharded is None else sharded.full_tensor()


def like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """This process's share of a whole tensor, where `parameter` is in shards."""
    sharded = _as_dtensor(parameter)
    if sharded is None:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    there = tensor.to(parameter.device)
    return distribute_tensor(there, sharded.device_mesh, sharded.placements)


def whole_state(optimizer: Optimizer, keep: bool) -> dict[str, Any]:
    """What the optimizer knows, gathered by all processes; empty in those that do not `keep` it."""
    saved = optimizer.state_dict()
    state: dict[int, dict[str, Any]] = {}
    for number, values in saved["state"].items():
        tensors = {name: whole(value) for name, value in values.items()}
        if keep:
            state[number] = {name: tensor.cpu() for name, tensor in tensors.items()}
    return saved | {"state": state}


def load_whole(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Go on from what `whole_state` returned."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        number: {
            name: like(parameters[number], value) if value.ndim else value
            for name, value in values.items()
        }
        for number, values in saved["state"].items()
    }
    optimizer.load_state_dict(saved | {"state": state})
