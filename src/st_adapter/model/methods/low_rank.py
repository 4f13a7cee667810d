"""Low-rank updates of the linear maps in a backbone: LoRA, Hu et al. 2021, arXiv 2106.09685."""

from collections.abc import Callable, Sequence

from torch import nn

from st_adapter.errors import ArgumentError


def add_low_rank(
    backbone: nn.Module, blocks: Sequence[nn.Module], rank: int, run: Callable[[], object]
) -> None:
    """Wrap the linear maps and ungrouped convolutions in the blocks by peft's LoRA, alpha = 2 rank.

    The backbone is changed in place. The updates start at zero. A map whose weight the backbone
    takes without calling it cannot be wrapped, and is left alone.

    Args:
        run: runs the backbone once.

    Raises:
        ArgumentError: the blocks call no such map.
    """
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds

    names = {module: name for name, module in backbone.named_modules()}
    maps = {m for block in blocks for m in block.modules() if _is_linear_map(m)}
    called: set[nn.Module] = set()
    handles = [m.register_forward_pre_hook(lambda module, _: called.add(module)) for m in maps]
    run()
    for handle in handles:
        handle.remove()
    if not called:
        raise ArgumentError(
            f"method lora does not fit {type(backbone).__name__}: its blocks call no linear map"
        )
    targets = [name for module, name in names.items() if module in called]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    inject_adapter_in_model(config, backbone)


def low_rank_parameters(backbone: nn.Module) -> list[nn.Parameter]:
    """The parameters of the updates."""
    from peft.tuners.lora import LoraLayer

    wrapped = [module for module in backbone.modules() if isinstance(module, LoraLayer)]
    return [
        p for layer in wrapped for part in (layer.lora_A, layer.lora_B) for p in part.parameters()
    ]


def set_low_rank(backbone: nn.Module, *, enabled: bool) -> None:
    """Let the updates take part, or not."""
    from peft.tuners.lora import LoraLayer

    for module in backbone.modules():
        if isinstance(module, LoraLayer):
            module.enable_adapters(enabled)


def _is_linear_map(module: nn.Module) -> bool:
    return type(module) is nn.Linear or (type(module) is nn.Conv2d and module.groups == 1)
