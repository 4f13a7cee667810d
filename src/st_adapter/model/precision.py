"""Names of the precisions, and the conversion of frozen weights to half precision."""

from typing import Literal

import torch
from torch import nn

from st_adapter.model.methods.low_rank import is_linear_map

Precision = Literal["float32", "bfloat16", "float16"]
HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def hold_maps(backbone: nn.Module, precision: Precision) -> None:
    """Convert the frozen weights of linear layers and ungrouped convolutions to half precision.

    This halves their memory and does not change any result, because autocast converts the same
    weights in every forward pass.
    """
    for module in backbone.modules():
        for parameter in module.parameters(recurse=False) if is_linear_map(module) else ():
            if parameter.dtype == torch.float32 and not parameter.requires_grad:
                parameter.data = parameter.data.to(HALF[precision])
