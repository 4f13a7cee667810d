"""What each method trains: the parts that it adds to a backbone, what it unfreezes there."""

from dataclasses import dataclass, field, replace

import torch
from torch import nn

from st_adapter.backbones.family import Family
from st_adapter.config import AdapterConfig, MethodConfig, check_method
from st_adapter.methods import METHODS
from st_adapter.model.methods.low_rank import add_low_rank, low_rank_parameters
from st_adapter.model.methods.placement import build_adapters
from st_adapter.model.methods.pooling import TemporalTransformer, TokenPool
from st_adapter.model.methods.prompts import build_prompts
from st_adapter.model.methods.unfreeze import biases, last_blocks


@dataclass(kw_only=True)
class Parts:
    """What a method trains besides the head.

    Attributes:
        adapters: by the name of their site.
        prompts: tokens before the blocks, from the first on.
        frame_mixer: over the features of frames, before their mean.
        token_pool: in place of the mean.
        unfrozen: parameters inside the backbone.
        num_features: width of what the head sees.
    """

    num_features: int
    adapters: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    prompts: nn.ParameterList = field(default_factory=nn.ParameterList)
    frame_mixer: nn.Module | None = None
    token_pool: nn.Module | None = None
    unfrozen: list[nn.Parameter] = field(default_factory=list)


def build_parts(name: str, adapter: AdapterConfig, sizes: MethodConfig, family: Family) -> Parts:
    """Build what the method called `name` trains, from the choices of its row in METHODS.

    The backbone is changed by "lora" alone, which wraps its linear maps.

    Raises:
        ArgumentError: there is no such method, or it does not fit the backbone.
    """
    check_method(name)
    method = METHODS[name]
    backbone = family.backbone
    parts = Parts(num_features=family.num_features)
    if method.adapters == "spatial":
        adapter = replace(adapter, kernel_size=(1, 1, 1))
    if method.adapters != "none":
        parts.adapters = build_adapters(adapter, family.sites())
    if method.prompts != "none":
        widths = family.prompt_widths()
        parts.prompts = build_prompts(sizes.prompt_tokens, widths, deep=method.prompts == "deep")
    if method.pooling == "temporal":
        parts.frame_mixer = TemporalTransformer(parts.num_features, sizes.temporal_layers)
    if method.pooling == "attention":
        parts.token_pool = TokenPool(family.num_token_features)
        parts.num_features = parts.token_pool.width
    if method.low_rank:
        blocks = family.blocks()
        add_low_rank(backbone, blocks, sizes.rank, lambda: _run_once(family))
        parts.unfrozen = low_rank_parameters(backbone)
    if method.unfrozen == "biases":
        parts.unfrozen = biases(backbone)
    if method.unfrozen == "blocks":
        parts.unfrozen = last_blocks(family.blocks(), sizes.trained_blocks)
    if method.unfrozen == "all":
        parts.unfrozen = list(backbone.parameters())
    return parts


@torch.no_grad()
def _run_once(family: Family) -> None:
    weight = next(family.backbone.parameters())
    size = family.native_size()
    family.run(torch.zeros(1, 3, *size, device=weight.device, dtype=weight.dtype))
