"""Frames as arrays: of numpy, or of torch where torchcodec decodes on a GPU."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray


def stack(arrays: Sequence[Shaped[Any, "..."]]) -> Shaped[Any, "n ..."]:
    """Stack arrays of equal shape, all of numpy or all of torch.

    Reading videos and classifying them with an exported file need no torch, which takes seconds to
    import.
    """
    if isinstance(arrays[0], ndarray):
        return np.stack(arrays)
    import torch

    return torch.stack([*arrays])
