"""Run timm's plain vision transformers, such as those of CLIP, DINOv2 and SigLIP."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed, resample_abs_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from st_adapter.backbones.family import BlockOutput, Family, Inserted, Site
from st_adapter.errors import ArgumentError


class VisionTransformerFamily(Family):
    """Run a ViT block by block, as `VisionTransformer.forward_features` of timm does.

    The forward pass is written out here for two reasons: adapters are placed inside timm's blocks,
    and a pooled class token must be normalised after the mean over frames. The constructor runs
    one frame of noise through both versions and raises if they differ, so that a change in timm
    cannot go unnoticed.

    Args:
        backbone: `VisionTransformer` of timm.

    Raises:
        ArgumentError: the backbone does not pool its features, or computes something else.
    """

    can_cut = True
    can_checkpoint = True

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(backbone)
        self._check()

    @classmethod
    def supports(cls, backbone: Any) -> bool:
        """Whether the backbone is a `VisionTransformer` of `Block` modules, without subclasses."""
        return type(backbone) is VisionTransformer and all(
            type(block) is Block for block in backbone.blocks
        )

    @property
    def num_features(self) -> int:
        """Width of the pooled features."""
        return int(self.backbone.head_hidden_size)

    @property
    def num_token_features(self) -> int:
        """Width of the tokens."""
        return int(self.backbone.embed_dim)

    def sites(self) -> list[Site]:
        """Return the sites: before the attention and before the MLP of every block."""
        return [
            Site(name=_name(i, place), position=place, block=i, channels=self.num_token_features)
            for i in range(len(self.backbone.blocks))
            for place in ("attention", "mlp")
        ]

    def unread_sites(self) -> set[str]:
        """Return the last site, which is after the last attention, if the class token is pooled."""
        return {_name(len(self.backbone.blocks) - 1, "mlp")} if self._pools_token() else set()

    def blocks(self) -> list[nn.Module]:
        """Return the transformer blocks."""
        return list(self.backbone.blocks)

    def prompt_widths(self) -> list[int]:
        """Return the width of the tokens before each block; all blocks accept prompts."""
        return [self.num_token_features] * len(self.backbone.blocks)

    def run(self, frames: Tensor, inserted: Inserted = Inserted()) -> Tensor:
        """Run frames [n, 3, h, w]; return the residual stream [n, tokens, c] after all blocks."""
        frames = self._whole_patches(frames)
        size = (frames.shape[-2], frames.shape[-1])
        return self.run_rest(self._embed(frames), 0, size, inserted)

    def pool(self, features: Tensor) -> Tensor:
        """Pool the residual stream. A class token is normalised later, in `finish`."""
        if not self._pools_token():
            features = self.backbone.norm(features)
        pooled: Tensor = self.backbone.pool(features)
        return pooled

    def tokens(self, features: Tensor) -> Tensor:
        """Return all tokens after the final norm."""
        tokens: Tensor = self.backbone.norm(features)
        return tokens

    def finish(self, pooled: Tensor) -> Tensor:
        """Apply the norms that follow the pooling."""
        if self._pools_token():
            pooled = self.backbone.norm(pooled)
        normed: Tensor = self.backbone.fc_norm(pooled)
        return normed

    def run_prefix(self, frames: Tensor, num_blocks: int) -> Tensor:
        """Run the first blocks, and return the residual stream after them.

        After the last block, only a class token that will be pooled is returned, not the patches.
        """
        frames = self._whole_patches(frames)
        grid = self._grid(frames.shape[-2:])
        stream = self._embed(frames)
        for block in self.backbone.blocks[:num_blocks]:
            stream = _run_block(block, {}, self.backbone.num_prefix_tokens, grid, stream)
        is_all = num_blocks == len(self.backbone.blocks)
        return stream[:, :1] if is_all and self._pools_token() else stream

    def run_rest(
        self,
        stream: Tensor,
        num_blocks: int,
        frame_size: tuple[int, int],
        inserted: Inserted = Inserted(),
    ) -> Tensor:
        """Run the blocks after the first `num_blocks`."""
        x = stream
        grid = self._grid(frame_size)
        own = prefix = self.backbone.num_prefix_tokens
        for i, block in enumerate(self.backbone.blocks[num_blocks:], start=num_blocks):
            if i < len(inserted.prompts):
                # The prompts of a block replace those of the block before, which are the tokens
                # `own` to `prefix`. Blocks without prompts leave those tokens in place.
                prompts = inserted.prompts[i].expand(x.shape[0], -1, -1)
                x = torch.cat([x[:, :own], prompts.to(x.dtype), x[:, prefix:]], dim=1)
                prefix = own + prompts.shape[1]
            adapters = {p: inserted.adapters.get(_name(i, p)) for p in ("attention", "mlp")}
            run = partial(_run_block, block, adapters, prefix, grid)
            if self.checkpoints and torch.is_grad_enabled():
                x = checkpoint(run, x, use_reentrant=False)
            else:
                x = run(x)
            if inserted.watch is not None:
                inserted.watch(split_tokens(x, prefix, grid))
        return torch.cat([x[:, :own], x[:, prefix:]], dim=1) if prefix > own else x

    def _embed(self, frames: Tensor) -> Tensor:
        """Compute the residual stream before the first block.

        It consists of class token, register tokens and patches, with position embeddings. In timm
        this is `VisionTransformer._pos_embed`, which is private.
        """
        vit = self.backbone
        patches, positions = vit.patch_embed(frames), vit.pos_embed
        if vit.dynamic_img_size:  # then patch_embed returns a grid, [n, h, w, c]
            # timm compares the sizes as well, but always resizes inside torch.export.
            new_size, old_size = list(patches.shape[1:3]), list(vit.patch_embed.grid_size)
            if positions is not None and new_size != old_size:
                positions = resample_abs_pos_embed(
                    positions,
                    new_size=new_size,
                    old_size=old_size,
                    num_prefix_tokens=0 if vit.no_embed_class else vit.num_prefix_tokens,
                )
            patches = patches.flatten(1, 2)
        if positions is not None and vit.no_embed_class:
            patches = patches + positions
        first = [token for token in (vit.cls_token, vit.reg_token) if token is not None]
        # Not len(frames): torch.export would fix that number as a constant of the model.
        prefix = [token.expand(frames.shape[0], -1, -1) for token in first]
        stream = torch.cat([*prefix, patches], dim=1) if prefix else patches
        if positions is not None and not vit.no_embed_class:
            stream = stream + positions
        normed: Tensor = vit.norm_pre(stream)
        return normed

    def _grid(self, frame_size: Sequence[int]) -> tuple[int, int]:
        rows, columns = self.backbone.patch_embed.dynamic_feat_size(tuple(frame_size))
        return rows, columns

    def _whole_patches(self, frames: Tensor) -> Tensor:
        """Cut off the right and bottom margin that no patch covers, at the native size.

        Some models are trained this way, such as SigLIP with 384 pixels and patches of 14. At
        other sizes timm raises an error if there is a margin.
        """
        embed = self.backbone.patch_embed
        size = (frames.shape[-2], frames.shape[-1])
        if size != embed.img_size:
            return frames
        rows, columns = (s - s % p for s, p in zip(size, embed.patch_size, strict=True))
        return frames[..., :rows, :columns]

    def _pools_token(self) -> bool:
        return self.backbone.global_pool == "token" and self.backbone.attn_pool is None

    @torch.no_grad()
    def _check(self) -> None:
        """Compare the features of one frame of noise with those of timm's own forward pass."""
        vit = self.backbone
        if vit.attn_pool is None and not vit.global_pool:
            raise ArgumentError(
                "VisionTransformer does not pool its features; create it with timm's default "
                "global_pool"
            )
        weight = next(vit.parameters())
        if weight.is_meta:
            return
        height, width = self.native_size()
        if vit.dynamic_img_size and type(vit.patch_embed) is PatchEmbed:
            # 2 x 2 patches are enough, and the native size of a large model would take seconds.
            height, width = (2 * p for p in vit.patch_embed.patch_size)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(1, 3, height, width, generator=generator, device="cpu")
        frame = noise.to(weight.device, weight.dtype)
        was_training = vit.training
        vit.eval()
        try:
            theirs = vit.forward_head(vit.forward_features(frame), pre_logits=True)
            ours = self.finish(self.pool(self.run(frame)))
        finally:
            vit.train(was_training)
        tolerance = 1e-3 if weight.dtype in (torch.float32, torch.float64) else 5e-2
        if (ours - theirs).norm() > tolerance * theirs.norm():
            raise ArgumentError(
                "this VisionTransformer computes other features than st-adapter expects, because "
                "of its options or because of the version of timm"
            )


def _run_block(
    block: Any, adapters: dict[str, Any], prefix: int, grid: tuple[int, int], x: Tensor
) -> Tensor:
    """Run one block with adapters A1 and A2, as in section 3.2 of the paper.

    x = A1(x); x = x + attn(norm1(x)); x = A2(x); x = x + mlp(norm2(x))
    """
    if before_attention := adapters.get("attention"):
        x = adapt_tokens(x, prefix, grid, before_attention)
    x = x + block.drop_path1(block.ls1(block.attn(block.norm1(x))))
    if before_mlp := adapters.get("mlp"):
        x = adapt_tokens(x, prefix, grid, before_mlp)
    after: Tensor = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
    return after


def adapt_tokens(
    x: Tensor, prefix: int, grid: tuple[int, int], adapter: Callable[[Tensor], Tensor]
) -> Tensor:
    """Adapt the patch tokens, and leave the prefix tokens unchanged.

    Args:
        x: tokens [n, prefix + h * w, c].
        prefix: number of tokens before the patches.
        grid: height and width of the grid of patches.
        adapter: computes the update of a grid of patches [n, h, w, c].
    """
    patches = x[:, prefix:]
    # Not unflatten: its check of the sizes makes torch.export fix the number of frames.
    update = adapter(patches.reshape(x.shape[0], *grid, x.shape[-1])).flatten(1, 2)
    # Padding the update is cheaper than splitting the stream and concatenating it again.
    return (x + F.pad(update, (0, 0, prefix, 0))).to(x.dtype)


def split_tokens(x: Tensor, prefix: int, grid: tuple[int, int]) -> BlockOutput:
    """Separate the patches from the first of the tokens before them.

    Args:
        x: tokens [n, prefix + h * w, c].
        prefix: number of tokens before the patches.
        grid: height and width of the grid of patches.
    """
    patches = x[:, prefix:].reshape(x.shape[0], *grid, x.shape[-1])
    return BlockOutput(patches, x[:, 0] if prefix else None)


def _name(block: int, position: str) -> str:
    return f"blocks_{block}_{position}"
