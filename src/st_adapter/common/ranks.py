"""Rank of this process among several, from the variables that torchrun and MPI set."""

import os

_RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")
_COUNTS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


def is_first_process() -> bool:
    """Return whether this is the process that logs and writes for all of them."""
    return next((os.environ[name] for name in _RANKS if name in os.environ), "0") == "0"


def is_launched() -> bool:
    """Return whether a launcher (ours, torchrun, accelerate or MPI) started several processes."""
    return any(int(os.environ.get(name, "1")) > 1 for name in _COUNTS)
