"""Plain vision transformers of timm: class and register tokens, pre-norm, layer scale."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention, Mlp, QuickGELU
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from st_adapter.backbones.cpu_kernels import quick_gelu_mlp, same_kernels
from st_adapter.backbones.family import Inserted, Site
from st_adapter.backbones.layout import adapt_tokens
from st_adapter.errors import ArgumentError

Adapter = Callable[[Tensor], Tensor]

NAME = "ViT"
CAN_RECOMPUTE = True
CAN_CUT = True


def supports(backbone: Any) -> bool:
    """Whether the backbone is a plain ViT made of plain pre-norm blocks."""
    return type(backbone) is VisionTransformer and all(
        type(block) is Block for block in backbone.blocks
    )


def sites(backbone: Any) -> list[Site]:
    """Before attention and before the MLP of every block."""
    return [
        Site(name=_name(i, position), position=position, block=i, channels=backbone.embed_dim)
        for i in range(len(backbone.blocks))
        for position in ("attention", "mlp")
    ]


def blocks(backbone: Any) -> list[nn.Module]:
    """The transformer blocks."""
    return list(backbone.blocks)


def units(backbone: Any) -> list[nn.Module]:
    """Attention and MLP of every block: `_run_block` calls them, not the block."""
    return [module for block in backbone.blocks for module in (block.attn, block.mlp)]


def prompt_widths(backbone: Any) -> list[int]:
    """Every block takes prompts."""
    return [backbone.embed_dim] * len(backbone.blocks)


def num_features(backbone: Any) -> int:
    """Width of what the backbone pools."""
    if backbone.attn_pool is None and not backbone.global_pool:
        raise ArgumentError("VisionTransformer pools nothing; make it with timm's global_pool")
    return int(backbone.head_hidden_size)


def num_token_features(backbone: Any) -> int:
    """Width of the tokens."""
    return int(backbone.embed_dim)


def frame_features(backbone: Any, frames: Tensor, inserted: Inserted) -> Tensor:
    """Run each frame alone, but for the adapters. Mirrors `VisionTransformer.forward_features`.

    A pooled class token is returned before the final norm, which the published model applies
    after the mean over frames.
    """
    x = _run_blocks(backbone, frames, inserted, only_class=_pools_token(backbone))
    if not _pools_token(backbone):
        x = backbone.norm(x)
    pooled: Tensor = backbone.pool(x)
    return pooled


def frame_tokens(backbone: Any, frames: Tensor, inserted: Inserted) -> Tensor:
    """All tokens of each frame after the final norm."""
    tokens: Tensor = backbone.norm(_run_blocks(backbone, frames, inserted))
    return tokens


def frame_prefix(backbone: Any, frames: Tensor, num_blocks: int) -> Tensor:
    """The stream before a block; after the last, that of the class token where it is pooled."""
    x, grid = _embed(backbone, frames)
    for block in backbone.blocks[:num_blocks]:
        x = _run_block(block, [None, None], backbone.num_prefix_tokens, grid, x)
    is_all = num_blocks == len(backbone.blocks)
    return x[:, :1] if is_all and _pools_token(backbone) else x


def _embed(backbone: Any, frames: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """The residual stream before the first block, and its grid of patches."""
    frames = _whole_patches(backbone, frames)
    x = backbone._pos_embed(backbone.patch_embed(frames))
    return backbone.norm_pre(backbone.patch_drop(x)), _grid(backbone, frames.shape[-2:])


def _grid(backbone: Any, size: Sequence[int]) -> tuple[int, int]:
    rows, columns = backbone.patch_embed.dynamic_feat_size(tuple(size))
    return rows, columns


def _run_blocks(
    backbone: Any, frames: Tensor, inserted: Inserted, *, only_class: bool = False
) -> Tensor:
    """Run all blocks; where nothing else is looked at, the last one for the class token alone.

    Operations are counted on the meta device: there all tokens count, as in published figures.
    """
    only_class = only_class and not frames.is_meta and not inserted.whole
    if inserted.cut is None:
        first, (x, grid) = 0, _embed(backbone, frames)
    else:
        first, x, grid = inserted.cut.block, frames, _grid(backbone, inserted.cut.frame_size)
    own = prefix = backbone.num_prefix_tokens
    for i, block in enumerate(backbone.blocks[first:], start=first):
        if i < len(inserted.prompts):
            prompts = inserted.prompts[i].expand(x.shape[0], -1, -1)
            x = torch.cat([x[:, :own], prompts.to(x.dtype), x[:, prefix:]], dim=1)
            prefix = own + prompts.shape[1]
        run = partial(_run_block, block, _adapters_of(i, inserted), prefix, grid)
        if only_class and block is backbone.blocks[-1] and _is_plain(block.attn):
            run = partial(_run_last_block, block, _adapters_of(i, inserted)[0], prefix, grid)
        if inserted.recompute:
            x = checkpoint(run, x, use_reentrant=False, context_fn=same_kernels)
        else:
            x = run(x)
    has_prompts = prefix > own and x.shape[1] > own
    return torch.cat([x[:, :own], x[:, prefix:]], dim=1) if has_prompts else x


def _adapters_of(block: int, inserted: Inserted) -> list[Adapter | None]:
    return [inserted.adapters.get(_name(block, position)) for position in ("attention", "mlp")]


def _run_block(
    block: Any, adapters: list[Adapter | None], prefix: int, grid: tuple[int, int], x: Tensor
) -> Tensor:
    before_attention, before_mlp = adapters
    if before_attention is not None:
        x = adapt_tokens(x, prefix, grid, before_attention)
    x = x + block.drop_path1(block.ls1(block.attn(block.norm1(x))))
    if before_mlp is not None:
        x = adapt_tokens(x, prefix, grid, before_mlp)
    return _add_mlp(block, x)


def _run_last_block(
    block: Any, before_attention: Adapter | None, prefix: int, grid: tuple[int, int], x: Tensor
) -> Tensor:
    """What the last block makes of the class token, [n, 1, c].

    The other tokens are read by its attention, then never again; an adapter before the MLP would
    change them alone.
    """
    if before_attention is not None:
        x = adapt_tokens(x, prefix, grid, before_attention)
    attended = _attend_by_class(block.attn, block.norm1(x))
    return _add_mlp(block, x[:, :1] + block.drop_path1(block.ls1(attended)))


def _qkv(attn: Any) -> Any:
    """The map to queries, keys and values; the frozen one where peft's updates are disabled."""
    qkv = attn.qkv
    return qkv.base_layer if getattr(qkv, "disable_adapters", False) else qkv


def _is_plain(attn: Any) -> bool:
    """Whether attention is timm's, without a gate, its maps not wrapped."""
    plain_map = type(attn) is Attention and type(_qkv(attn)) is nn.Linear
    return plain_map and getattr(attn, "gate", None) is None


def _attend_by_class(attn: Any, x: Tensor) -> Tensor:
    """The first row of timm's `Attention.forward`."""
    n, tokens, _ = x.shape
    width = attn.attn_dim
    weight, bias = _qkv(attn).weight, _qkv(attn).bias
    query = F.linear(x[:, :1], weight[:width], None if bias is None else bias[:width])
    rest = F.linear(x, weight[width:], None if bias is None else bias[width:])
    query = query.view(n, 1, attn.num_heads, attn.head_dim).transpose(1, 2)
    key, value = rest.view(n, tokens, 2, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)
    query, key = attn.q_norm(query), attn.k_norm(key)
    attended = F.scaled_dot_product_attention(query, key, value)
    attended = attn.norm(attended.transpose(1, 2).reshape(n, 1, width))
    projected: Tensor = attn.proj(attended)
    return projected


def _add_mlp(block: Any, x: Tensor) -> Tensor:
    """The residual stream after a block's MLP."""
    hidden, mlp = block.norm2(x), block.mlp
    if type(mlp) is Mlp and type(mlp.act) is QuickGELU and not torch.compiler.is_compiling():
        hidden = quick_gelu_mlp(mlp, hidden)
    else:
        hidden = mlp(hidden)
    after: Tensor = x + block.drop_path2(block.ls2(hidden))
    return after


def clip_features(backbone: Any, pooled: Tensor) -> Tensor:
    """Apply the norms that come after pooling."""
    if _pools_token(backbone):
        pooled = backbone.norm(pooled)
    normed: Tensor = backbone.fc_norm(pooled)
    return normed


def _whole_patches(backbone: Any, frames: Tensor) -> Tensor:
    """Leave out the right and lower rest that no patch covers, at the size the model is made for.

    Models such as SigLIP of 384 px with patches of 14 px are trained so. At another size such a
    rest is an error of timm's.
    """
    size = (frames.shape[-2], frames.shape[-1])
    if size != backbone.patch_embed.img_size:
        return frames
    rows, columns = (s - s % p for s, p in zip(size, backbone.patch_embed.patch_size, strict=True))
    return frames[..., :rows, :columns]


def _name(block: int, position: str) -> str:
    return f"blocks_{block}_{position}"


def _pools_token(backbone: Any) -> bool:
    return backbone.global_pool == "token" and backbone.attn_pool is None
