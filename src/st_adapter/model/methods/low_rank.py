"""Low-rank updates of the linear maps in a backbone: LoRA, Hu et al. 2021, arXiv 2106.09685."""

from contextlib import ExitStack

import torch
from torch import nn

from st_adapter.backbones.family import Family
from st_adapter.errors import ArgumentError
from st_adapter.model.precision import is_linear_map


def add_low_rank(family: Family, rank: int) -> list[nn.Parameter]:
    """Wrap the linear maps and ungrouped convolutions in the blocks by peft's LoRA, alpha = 2 rank.

    The backbone is changed in place. The updates start at zero. A map whose weight the backbone
    takes without calling it cannot be wrapped, and is left alone.

    Returns:
        The parameters of the updates: peft lets none but these be trained.

    Raises:
        ArgumentError: the blocks call no such map.
    """
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds

    backbone = family.backbone
    maps = {m for block in family.blocks() for m in block.modules() if is_linear_map(m)}
    called: set[nn.Module] = set()
    with ExitStack() as hooks, torch.no_grad():
        for module in maps:
            hooks.enter_context(
                module.register_forward_pre_hook(lambda module, _: called.add(module))
            )
        family.run(family.black_frame())
    if not called:
        raise ArgumentError(
            f"method lora does not fit {type(backbone).__name__}: its blocks call no linear map"
        )
    targets = [name for name, module in backbone.named_modules() if module in called]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    inject_adapter_in_model(config, backbone)
    return [parameter for parameter in backbone.parameters() if parameter.requires_grad]


def set_low_rank(backbone: nn.Module, *, enabled: bool) -> None:
    """Let the updates take part, or not."""
    from peft.tuners.lora import LoraLayer

    for module in backbone.modules():
        if isinstance(module, LoraLayer):
            module.enable_adapters(enabled)
