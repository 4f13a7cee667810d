"""Build what a method trains: the parts added to a backbone, and what is unfrozen inside it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from st_adapter.backbones.family import BlockOutput, Family, Inserted, Site
from st_adapter.config import AdapterConfig, MethodConfig, check_method
from st_adapter.errors import ArgumentError
from st_adapter.methods import METHODS
from st_adapter.model.methods.adapter import STAdapter
from st_adapter.model.methods.low_rank import add_low_rank
from st_adapter.model.methods.pooling import TemporalTransformer, TokenPool
from st_adapter.model.methods.side import SideNetwork

_WIDEST = 384
"""Width of the adapters in every published configuration."""


@dataclass(kw_only=True)
class Parts:
    """Hold what a method trains besides the head.

    Attributes:
        num_features: width of the features that the head classifies.
        adapters: adapters by the name of their site.
        prompts: prompt tokens [tokens, c] for each block that gets some, from the first block on.
        frame_mixer: module applied to the features of all frames before their mean, or None.
        token_pool: module that replaces the mean over frames, or None.
        side: network that reads the outputs of all blocks instead of the pooled features, or None.
        unfrozen: parameters inside the backbone.
    """

    num_features: int
    adapters: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    prompts: nn.ParameterList = field(default_factory=nn.ParameterList)
    frame_mixer: nn.Module | None = None
    token_pool: nn.Module | None = None
    side: SideNetwork | None = None
    unfrozen: list[nn.Parameter] = field(default_factory=list)


def build_parts(name: str, adapter: AdapterConfig, sizes: MethodConfig, family: Family) -> Parts:
    """Build what a method trains, as its entry in METHODS says.

    Only "lora" changes the backbone: it wraps linear layers.

    Args:
        name: name of the method.
        adapter: shape and placement of adapters.
        sizes: sizes for methods other than adapters.
        family: family of the backbone.

    Raises:
        ArgumentError: the method is unknown or does not fit the backbone.
    """
    check_method(name)
    method = METHODS[name]
    backbone = family.backbone
    parts = Parts(num_features=family.num_features)
    if method.adapters == "spatial":
        adapter = replace(adapter, kernel_size=(1, 1, 1))
    if method.adapters != "none":
        parts.adapters = _build_adapters(adapter, family.sites())
    if method.prompts != "none":
        widths = family.prompt_widths()
        parts.prompts = _build_prompts(sizes.prompt_tokens, widths, deep=method.prompts == "deep")
    if method.pooling == "temporal":
        parts.frame_mixer = TemporalTransformer(parts.num_features, sizes.temporal_layers)
    if method.pooling in ("attention", "ordered"):
        is_ordered = method.pooling == "ordered"
        parts.token_pool = TokenPool(family.num_token_features, ordered=is_ordered)
        parts.num_features = parts.token_pool.width
    if method.pooling == "side":
        parts.side = _build_side(family, sizes)
        parts.num_features = parts.side.width
    if method.low_rank:
        parts.unfrozen = add_low_rank(family, sizes.rank)
    if method.unfrozen == "biases":
        parts.unfrozen = _biases(backbone)
    if method.unfrozen == "blocks":
        parts.unfrozen = _last_blocks(family.blocks(), sizes.trained_blocks)
    if method.unfrozen == "all":
        parts.unfrozen = list(backbone.parameters())
    return parts


def _build_adapters(config: AdapterConfig, sites: list[Site]) -> nn.ModuleDict:
    """Make the adapters at the chosen sites, by the name of their site.

    Raises:
        ArgumentError: the backbone does not have these positions or that many layers, or the
            kernel covers neighbouring patches and the backbone reorders its patches.
    """
    chosen = _choose_sites(config, sites)
    if config.kernel_size[1:] != (1, 1) and not all(site.ordered for site in chosen):
        raise ArgumentError(
            "this backbone does not keep patches in the order of the picture, so kernel_size must "
            f"be 1 in height and width, not {config.kernel_size}"
        )
    return nn.ModuleDict(
        {
            site.name: STAdapter(
                site.channels,
                config.bottleneck or min(max(1, site.channels // 2), _WIDEST),
                config.kernel_size,
                config.activation,
                config.init,
            )
            for site in chosen
        }
    )


def _choose_sites(config: AdapterConfig, sites: list[Site]) -> list[Site]:
    """Return the sites at the configured positions in the last `config.layers` blocks."""
    have = list(dict.fromkeys(site.position for site in sites))
    wanted = have if config.positions == "all" else config.positions
    for position in wanted:
        if position not in have:
            raise ArgumentError(
                f"this backbone has the adapter positions {', '.join(have)}, not {position!r}; "
                'positions "all" uses every one'
            )
    num_blocks = 1 + max(site.block for site in sites)
    layers = num_blocks if config.layers == "all" else config.layers
    if layers > num_blocks:
        raise ArgumentError(
            f"adapter layers must be at most {num_blocks}, the number of blocks of this backbone, "
            f"not {layers}"
        )
    return [s for s in sites if s.position in wanted and s.block >= num_blocks - layers]


def _build_prompts(num_tokens: int, widths: list[int], *, deep: bool) -> nn.ParameterList:
    """Make prompt tokens for the first block, or for every block if `deep`.

    Visual prompt tuning, Jia et al. 2022, arXiv 2203.12119. Values are drawn uniformly with
    variance 1 / (3 c), which is small compared with normalised tokens.

    Args:
        num_tokens: tokens per block.
        widths: channels c of the tokens before each block that accepts prompts.
        deep: whether every block gets prompts.

    Raises:
        ArgumentError: no block accepts prompts.
    """
    if not widths:
        raise ArgumentError(
            "method prompt needs a plain vision transformer, whose blocks accept any number of "
            "tokens; the blocks of this backbone do not"
        )
    tokens = [torch.empty(num_tokens, width) for width in (widths if deep else widths[:1])]
    return nn.ParameterList(
        nn.init.uniform_(t, -(t.shape[1] ** -0.5), t.shape[1] ** -0.5) for t in tokens
    )


@torch.no_grad()
def _build_side(family: Family, sizes: MethodConfig) -> SideNetwork:
    """Make a side network for the outputs of the backbone's blocks, seen in a black frame.

    Raises:
        ArgumentError: the backbone reorders its patches, or its family does not report outputs.
    """
    if not all(site.ordered for site in family.sites()):
        raise ArgumentError(
            "method side needs patches in the order of the picture, which "
            f"{type(family.backbone).__name__} does not keep"
        )
    outputs: list[BlockOutput] = []
    frame = family.black_frame()
    family.run(frame, Inserted(watch=outputs.append))
    if not outputs:
        raise ArgumentError(
            f"method side needs the outputs of the blocks, which {type(family).__name__} does not "
            "report: its `run` never calls `inserted.watch`"
        )
    size = (frame.shape[-2], frame.shape[-1])
    return SideNetwork(outputs, size, sizes.side_width, sizes.side_every)


def _biases(backbone: nn.Module) -> list[nn.Parameter]:
    """Return the biases of all modules. BitFit, Ben Zaken et al. 2021, arXiv 2106.10199."""
    candidates = [getattr(module, "bias", None) for module in backbone.modules()]
    biases = [bias for bias in candidates if isinstance(bias, nn.Parameter)]
    if not biases:
        raise ArgumentError(
            f"method bitfit does not fit {type(backbone).__name__}: it does not have any biases"
        )
    return biases


def _last_blocks(blocks: Sequence[nn.Module], count: int) -> list[nn.Parameter]:
    if count > len(blocks):
        raise ArgumentError(
            f"trained blocks must be at most {len(blocks)}, the number of blocks of this backbone, "
            f"not {count}"
        )
    return [parameter for block in blocks[-count:] for parameter in block.parameters()]


def forget_caches(backbone: nn.Module) -> None:
    """Make timm's attention modules compute position biases anew in every forward pass.

    LeViT, TinyViT and similar models cache them in evaluation mode. A method that trains the
    backbone, which stays in evaluation mode, would then use outdated biases.
    """
    for module in backbone.modules():
        cache: Any = getattr(module, "attention_bias_cache", None)
        if cache is not None:
            cache.clear()
            module.training = True  # not of its children; it has no dropout itself
