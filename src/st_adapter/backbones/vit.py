"""Plain vision transformers of timm: class and register tokens, pre-norm, layer scale."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed, resample_abs_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from st_adapter.backbones.family import Family, Inserted, Site
from st_adapter.errors import ArgumentError


class VisionTransformerFamily(Family):
    """Runs a ViT block by block, as `VisionTransformer.forward_features` of timm does.

    The forward pass is written out here, for adapters stand inside of timm's blocks, and a pooled
    class token must be normed after the mean over frames. That it still is timm's own is checked
    on one frame whenever a family is made: a change in timm is refused, not followed in silence.
    """

    can_cut = True
    can_checkpoint = True

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(backbone)
        self._check()

    @classmethod
    def supports(cls, backbone: Any) -> bool:
        """Whether the backbone is a plain ViT made of plain pre-norm blocks."""
        return type(backbone) is VisionTransformer and all(
            type(block) is Block for block in backbone.blocks
        )

    @property
    def num_features(self) -> int:
        """Width of what the backbone pools."""
        return int(self.backbone.head_hidden_size)

    @property
    def num_token_features(self) -> int:
        """Width of the tokens."""
        return int(self.backbone.embed_dim)

    def sites(self) -> list[Site]:
        """Before attention and before the MLP of every block."""
        return [
            Site(name=_name(i, place), position=place, block=i, channels=self.num_token_features)
            for i in range(len(self.backbone.blocks))
            for place in ("attention", "mlp")
        ]

    def unread_sites(self) -> set[str]:
        """The last, behind the last attention, where the class token is pooled."""
        return {_name(len(self.backbone.blocks) - 1, "mlp")} if self._pools_token() else set()

    def blocks(self) -> list[nn.Module]:
        """The transformer blocks."""
        return list(self.backbone.blocks)

    def prompt_widths(self) -> list[int]:
        """Every block takes prompts."""
        return [self.num_token_features] * len(self.backbone.blocks)

    def run(self, frames: Tensor, inserted: Inserted = Inserted()) -> Tensor:
        """Run frames [n, 3, h, w] to the residual stream [n, tokens, c] after the last block."""
        frames = self._whole_patches(frames)
        size = (frames.shape[-2], frames.shape[-1])
        return self.run_rest(self._embed(frames), 0, size, inserted)

    def pool(self, features: Tensor) -> Tensor:
        """Pool the stream; a class token before the final norm, which follows in `finish`."""
        if not self._pools_token():
            features = self.backbone.norm(features)
        pooled: Tensor = self.backbone.pool(features)
        return pooled

    def tokens(self, features: Tensor) -> Tensor:
        """All tokens after the final norm."""
        tokens: Tensor = self.backbone.norm(features)
        return tokens

    def finish(self, pooled: Tensor) -> Tensor:
        """Apply the norms that come after pooling."""
        if self._pools_token():
            pooled = self.backbone.norm(pooled)
        normed: Tensor = self.backbone.fc_norm(pooled)
        return normed

    def run_prefix(self, frames: Tensor, num_blocks: int) -> Tensor:
        """The stream before a block; after the last, that of the class token where it is pooled."""
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
                # A block's prompts replace those of the block before, tokens `own` to `prefix`.
                # Blocks that have none keep what the last prompts have become.
                prompts = inserted.prompts[i].expand(x.shape[0], -1, -1)
                x = torch.cat([x[:, :own], prompts.to(x.dtype), x[:, prefix:]], dim=1)
                prefix = own + prompts.shape[1]
            adapters = {p: inserted.adapters.get(_name(i, p)) for p in ("attention", "mlp")}
            run = partial(_run_block, block, adapters, prefix, grid)
            if self.checkpoints and torch.is_grad_enabled():
                x = checkpoint(run, x, use_reentrant=False)
            else:
                x = run(x)
        return torch.cat([x[:, :own], x[:, prefix:]], dim=1) if prefix > own else x

    def _embed(self, frames: Tensor) -> Tensor:
        """The residual stream before the first block: patches, class and register tokens, places.

        timm does this in `VisionTransformer._pos_embed`, a private name.
        """
        vit = self.backbone
        patches, positions = vit.patch_embed(frames), vit.pos_embed
        if vit.dynamic_img_size:  # patches keep their grid, [n, h, w, c]
            if positions is not None:
                positions = resample_abs_pos_embed(
                    positions,
                    new_size=list(patches.shape[1:3]),
                    old_size=list(vit.patch_embed.grid_size),
                    num_prefix_tokens=0 if vit.no_embed_class else vit.num_prefix_tokens,
                )
            patches = patches.flatten(1, 2)
        if positions is not None and vit.no_embed_class:
            patches = patches + positions
        first = [token for token in (vit.cls_token, vit.reg_token) if token is not None]
        # Not len(frames): torch.export would take that number for a constant of the model.
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
        """Leave out the right and lower rest that no patch covers, at the model's own size.

        Models such as SigLIP of 384 px with patches of 14 px are trained so. At another size such
        a rest is an error of timm's.
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
        """Compare one frame of noise with timm's own forward pass.

        Raises:
            ArgumentError: the backbone pools nothing, or the results differ.
        """
        vit = self.backbone
        if vit.attn_pool is None and not vit.global_pool:
            raise ArgumentError("VisionTransformer pools nothing; make it with timm's global_pool")
        weight = next(vit.parameters())
        if weight.is_meta:
            return
        height, width = self.native_size()
        if vit.dynamic_img_size and type(vit.patch_embed) is PatchEmbed:
            # A few patches cost nothing, where the native size of a large model takes seconds.
            height, width = (2 * p for p in vit.patch_embed.patch_size)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(1, 3, height, width, generator=generator, device="cpu")
        frame = noise.to(weight.device, weight.dtype)
        trains = vit.training
        vit.eval()
        try:
            theirs = vit.forward_head(vit.forward_features(frame), pre_logits=True)
            ours = self.finish(self.pool(self.run(frame)))
        finally:
            vit.train(trains)
        tolerance = 1e-3 if weight.dtype in (torch.float32, torch.float64) else 5e-2
        if (ours - theirs).norm() > tolerance * theirs.norm():
            raise ArgumentError(
                "this VisionTransformer computes other features than those that adapters would "
                "work on: it has options, or is of a version of timm, that are not known here"
            )


def _run_block(
    block: Any, adapters: dict[str, Any], prefix: int, grid: tuple[int, int], x: Tensor
) -> Tensor:
    """x = A1(x); x = x + attn(norm1(x)); x = A2(x); x = x + mlp(norm2(x)). Section 3.2."""
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
    """Adapt the patch tokens of [n, prefix + h * w, c]; prefix tokens pass unchanged.

    Args:
        adapter: gives what is added to a grid of patches.
    """
    patches = x[:, prefix:]
    # Not unflatten, whose check of the sizes torch.export takes for a constant of the model.
    update = adapter(patches.reshape(x.shape[0], *grid, x.shape[-1])).flatten(1, 2)
    # Padding the narrow update is cheaper than cutting the wide stream apart and joining it again.
    return (x + F.pad(update, (0, 0, prefix, 0))).to(x.dtype)


def _name(block: int, position: str) -> str:
    return f"blocks_{block}_{position}"
