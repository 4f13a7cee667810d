"""Low-rank updates of the linear layers in a backbone: LoRA, Hu et al. 2021, arXiv 2106.09685."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from st_adapter.backbones.family import Family
from st_adapter.errors import ArgumentError


def add_low_rank(family: Family, rank: int) -> list[nn.Parameter]:
    """Wrap the linear layers and ungrouped convolutions of all blocks with LoRA from peft.

    The backbone is changed in place. The updates start at zero, and alpha is twice the rank.

    Args:
        family: runs the backbone.
        rank: rank of the updates, 1 or more.

    Returns:
        The parameters of the updates, the only ones that peft leaves trainable.

    Raises:
        ArgumentError: the blocks do not call any such layer.
    """
    from peft import LoraConfig, inject_adapter_in_model  # the import takes seconds

    backbone = family.backbone
    layers = {m for block in family.blocks() for m in block.modules() if is_linear_map(m)}
    # Some backbones use the weight of a layer without calling the layer. A wrapper around such a
    # layer would never run, so that only those which one frame shows to be called are wrapped.
    called: set[nn.Module] = set()
    with ExitStack() as hooks, torch.no_grad():
        for module in layers:
            hooks.enter_context(
                module.register_forward_pre_hook(lambda module, _: called.add(module))
            )
        family.run(family.black_frame())
    if not called:
        raise ArgumentError(
            f"method lora does not fit {type(backbone).__name__}: its blocks do not call any "
            "linear layer"
        )
    targets = [name for name, module in backbone.named_modules() if module in called]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    inject_adapter_in_model(config, backbone)
    return [parameter for parameter in backbone.parameters() if parameter.requires_grad]


def set_low_rank(backbone: nn.Module, *, enabled: bool) -> None:
    """Switch the updates of a backbone on or off."""
    from peft.tuners.lora import LoraLayer

    for module in backbone.modules():
        if isinstance(module, LoraLayer):
            module.enable_adapters(enabled)


@contextmanager
def merged_low_rank(backbone: nn.Module) -> Iterator[None]:
    """Add the updates of a backbone to its weights, and skip the updates, inside this block.

    A merged layer computes the same, up to rounding, in one multiplication instead of three.
    Afterwards, the weights are the old tensors.
    """
    from peft.tuners.lora import LoraLayer

    layers = [module for module in backbone.modules() if isinstance(module, LoraLayer)]
    weights = [layer.get_base_layer().weight for layer in layers]
    before = [weight.data for weight in weights]
    for layer, weight in zip(layers, weights, strict=True):
        for name in layer.active_adapters:
            weight.data = weight.data + layer.get_delta_weight(name)
    set_low_rank(backbone, enabled=False)
    try:
        yield
    finally:
        set_low_rank(backbone, enabled=True)
        for weight, old in zip(weights, before, strict=True):
            weight.data = old


def is_linear_map(module: nn.Module) -> bool:
    """Whether a module is a linear layer, or an ungrouped convolution, which is one on patches."""
    return type(module) is nn.Linear or (type(module) is nn.Conv2d and module.groups == 1)
