"""Learnt tokens beside the patches: visual prompt tuning, Jia et al. 2022, arXiv 2203.12119."""

import torch
from torch import nn

from st_adapter.errors import ArgumentError


def build_prompts(num_tokens: int, widths: list[int], *, deep: bool) -> nn.ParameterList:
    """Make `num_tokens` tokens for the first block, or for every block where `deep`.

    Drawn uniformly, of variance 1 / (3 c) each: close to zero beside normed tokens.

    Args:
        widths: channels of the tokens before each block that takes prompts.

    Raises:
        ArgumentError: no block does.
    """
    if not widths:
        raise ArgumentError(
            "method prompt needs a plain vision transformer, whose blocks take any number of "
            "tokens; this backbone's do not"
        )
    tokens = [torch.empty(num_tokens, width) for width in (widths if deep else widths[:1])]
    return nn.ParameterList(
        nn.init.uniform_(t, -(t.shape[1] ** -0.5), t.shape[1] ** -0.5) for t in tokens
    )
