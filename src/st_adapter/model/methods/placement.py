"""Adapters for the sites of a backbone."""

from torch import nn

from st_adapter.backbones.family import Site
from st_adapter.config import AdapterConfig
from st_adapter.errors import ArgumentError
from st_adapter.model.methods.adapter import STAdapter

_WIDEST = 384
"""Width of the adapters in every published configuration."""


def build_adapters(config: AdapterConfig, sites: list[Site]) -> nn.ModuleDict:
    """Make the adapters at the chosen sites, keyed by the name of their site.

    Raises:
        ArgumentError: positions or layers that the backbone does not have, or a kernel over space
            where the backbone keeps its patches in another order.
    """
    chosen = choose_sites(config, sites)
    if config.kernel_size[1:] != (1, 1) and not all(site.ordered for site in chosen):
        raise ArgumentError(
            "this backbone does not keep patches in the order of the picture: kernel_size must be "
            f"1 in height and width, not {config.kernel_size}"
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


def choose_sites(config: AdapterConfig, sites: list[Site]) -> list[Site]:
    """Keep the sites at the configured positions of the last `config.layers` blocks."""
    have = list(dict.fromkeys(site.position for site in sites))
    wanted = have if config.positions == "all" else config.positions
    for position in wanted:
        if position not in have:
            raise ArgumentError(
                f"this backbone has adapter positions {have}, not {position!r}; "
                'positions "all" takes each that it has'
            )
    num_blocks = 1 + max(site.block for site in sites)
    layers = num_blocks if config.layers == "all" else config.layers
    if layers > num_blocks:
        raise ArgumentError(f"this backbone has {num_blocks} blocks; adapter layers was {layers}")
    return [s for s in sites if s.position in wanted and s.block >= num_blocks - layers]
