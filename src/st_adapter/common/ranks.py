"""Which of several processes this is, as torchrun and the kinds of MPI tell it."""

import os

_RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")
_COUNTS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


def is_first_process() -> bool:
    """Whether this process speaks for all that train together."""
    return next((os.environ[name] for name in _RANKS if name in os.environ), "0") == "0"


def is_launched() -> bool:
    """Whether a launcher (ours, torchrun, accelerate) started this process among others."""
    return any(int(os.environ.get(name, "1")) > 1 for name in _COUNTS)
