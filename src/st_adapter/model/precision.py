"""Half precision: its names, and the frozen weights that are held in it."""

from typing import Literal

import torch
from torch import nn

Precision = Literal["float32", "bfloat16", "float16"]
HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def hold_maps(backbone: nn.Module, precision: Precision) -> None:
    """Hold the frozen weights of linear maps and ungrouped convolutions in half precision.

    They are the numbers that autocast makes of them in every call, in half the memory.
    """
    for module in backbone.modules():
        for parameter in module.parameters(recurse=False) if is_linear_map(module) else ():
            if parameter.dtype == torch.float32 and not parameter.requires_grad:
                parameter.data = parameter.data.to(HALF[precision])


def is_linear_map(module: nn.Module) -> bool:
    """Whether a module is a linear map of vectors, or of patches: a convolution of one group."""
    return type(module) is nn.Linear or (type(module) is nn.Conv2d and module.groups == 1)
