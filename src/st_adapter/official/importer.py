"""Runs from the authors' checkpoints."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from st_adapter.backbones.build import build_backbone, create_backbone
from st_adapter.backbones.construction import OwnRandom
from st_adapter.backbones.sources import NAMED_SOURCES, check_name, resolve_source
from st_adapter.backbones.weight_files import openai_clip
from st_adapter.backbones.weight_files.tensors import read_tensors
from st_adapter.common.remarks import note
from st_adapter.config import AdapterConfig
from st_adapter.errors import ArgumentError, CheckpointError
from st_adapter.model.build import copy_trained
from st_adapter.model.classifier import VideoClassifier
from st_adapter.model.spec import ModelSpec
from st_adapter.official.format import (
    OfficialShape,
    is_plain_vit,
    our_name,
    read_official,
    read_shape,
    remark_on,
)
from st_adapter.recipes import ALIASES, find_recipe, resolve
from st_adapter.training.run_folder import check_folder, write_config

_UNNAMED = "vit_base_patch16_clip_quickgelu_224"
"""What a CLIP whose sizes have no name is built from."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import made: the classifier's record, and the recipe its clips are taken by."""

    spec: ModelSpec
    recipe: str
    shape: OfficialShape

    def __str__(self) -> str:
        clip, adapter = self.spec.clip, self.spec.adapter
        step = f"every {clip.stride}th in a window" if clip.stride else "spread over the video"
        layers = self.shape.num_blocks if adapter.layers == "all" else adapter.layers
        return (
            f"{len(adapter.positions) * layers}x{adapter.bottleneck} adapters on "
            f"{self.spec.backbone}, {len(self.spec.labels)} classes; clips as in recipe "
            f"{self.recipe}: {clip.frames} frames, {step}, {clip.size} px, "
            f"{clip.views[0]}x{clip.views[1]} views"
        )


def import_official(
    file: str | Path,
    out: str | Path,
    *,
    labels: str | Path | None = None,
    weights: str = "hub",
    backbone: str | None = None,
    heads: int | None = None,
    frames: int | None = None,
    recipe: str | None = None,
) -> Imported:
    """Make a run folder of a checkpoint that the authors' code wrote.

    Args:
        file: their .pth; the trained tensors are under "model", or are all there is.
        out: run folder to make.
        labels: text file with one class name a line; unset names the classes "0", "1" ...
        weights: of the backbone: "hub", "random" or a file, such as OpenAI's CLIP .pt.
        backbone: timm name; unset is the CLIP model of the checkpoint's or the weights' sizes.
        heads: attention heads; unset is what the backbone has, or a head for each 64 channels.
        frames: frames in a clip; unset is as in the recipe.
        recipe: whose clips to take; unset is the one whose adapters sit where these do.

    Raises:
        ArgumentError, CheckpointError: something does not fit; nothing has been written.
    """
    file, folder = Path(file), Path(out)
    check_folder(folder, file, resume=False)
    if folder.exists() and any(folder.iterdir()):
        raise ArgumentError(f"{folder} is not empty; choose another --out")
    tensors, next_epoch = read_official(file)
    shape = read_shape(str(file), tensors)
    class_names = _read_labels(labels, shape.num_classes)
    name, options = _choose_backbone(shape, str(file), weights, backbone, heads)
    size = _check_backbone(shape, str(file), name, options)
    recipe = recipe or _nearest_recipe(shape.adapter)
    told = _adapter_settings(shape.adapter) | {"backbone": name, "weights": weights, "size": size}
    config = resolve(recipe, None, told if frames is None else told | {"frames": frames})
    source = resolve_source(name, weights)
    remark_on(name)
    spec = ModelSpec(
        backbone=name,
        weights=source,
        backbone_options=options,
        labels=class_names,
        adapter=shape.adapter,
        clip=config.clip,
        dropout=config.dropout,
        mean=OPENAI_CLIP_MEAN,
        std=OPENAI_CLIP_STD,
    )
    with OwnRandom(0):  # first values, all of which are overwritten
        model = VideoClassifier(build_backbone(name, source, options), spec)
    ours = {our_name(theirs): tensor for theirs, tensor in tensors.items()}
    copy_trained(model, ours, str(file))
    model.save_adapter(folder / "adapter")
    write_config(folder, config, recipe=recipe, data="", next_epoch=next_epoch)
    return Imported(spec=model.spec, recipe=recipe, shape=shape)


def _read_labels(file: str | Path | None, count: int) -> tuple[str, ...]:
    """One label a line; as many as there are classes, all different."""
    if file is None:
        return tuple(map(str, range(count)))
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{file}: not a readable file of labels: {error}") from error
    labels = [line.strip() for line in text.splitlines() if line.strip()]
    if len(labels) != count:
        raise ArgumentError(f"{file} has {len(labels)} labels; the checkpoint has {count} classes")
    label, times = Counter(labels).most_common(1)[0]
    if times > 1:
        raise ArgumentError(
            f"{file} has the label {label!r} {times} times; each class takes its own"
        )
    return tuple(labels)


def _choose_backbone(
    shape: OfficialShape, source: str, weights: str, backbone: str | None, heads: int | None
) -> tuple[str, dict[str, int]]:
    """Name the backbone, and the sizes of it that differ from what the name says."""
    options = {"num_heads": heads} if heads else {}
    if backbone is not None:
        return backbone, options
    tensors = {} if weights in NAMED_SOURCES else read_tensors(Path(weights))
    if not openai_clip.is_clip(tensors):
        name = openai_clip.published_name(shape.width, shape.num_blocks)
        if name is None:
            raise ArgumentError(
                f"{source} is for {shape.backbone}, which is no CLIP model with a name; give "
                "--weights FILE with that CLIP, or --backbone"
            )
        return name, options
    clip = openai_clip.read_shape(tensors, Path(weights))
    if (clip.width, clip.blocks) != (shape.width, shape.num_blocks):
        raise CheckpointError(
            f"{source} is for {shape.backbone}; {weights} is a CLIP of width {clip.width} and "
            f"{clip.blocks} blocks"
        )
    if clip.name is not None:
        return clip.name, options
    sizes = {"embed_dim": clip.width, "depth": clip.blocks, "img_size": clip.size}
    sizes |= {"patch_size": clip.patch, "num_heads": heads or max(1, clip.width // 64)}
    if not heads:
        note(f"assuming {sizes['num_heads']} attention heads; use --heads to change that")
    return _UNNAMED, sizes


def _check_backbone(shape: OfficialShape, source: str, name: str, options: dict[str, int]) -> int:
    """Raise where the checkpoint is for another backbone; return the size it is made for, px."""
    check_name(name)
    if not is_plain_vit(name):
        raise ArgumentError(
            f"{name} is not a plain ViT; the authors' checkpoints are for those of CLIP"
        )
    with torch.device("meta"):
        backbone: Any = create_backbone(name, **options)
    if (backbone.embed_dim, len(backbone.blocks)) != (shape.width, shape.num_blocks):
        raise CheckpointError(
            f"{source} is for {shape.backbone}; "
            f"{name} has width {backbone.embed_dim} and {len(backbone.blocks)} blocks"
        )
    return int(backbone.patch_embed.img_size[0])


def _nearest_recipe(adapter: AdapterConfig) -> str:
    """The published recipe whose adapters sit where these do."""
    positions = ",".join(adapter.positions)
    near = (name for name in ALIASES if find_recipe(name).values["positions"] == positions)
    return next(near, "default")


def _adapter_settings(adapter: AdapterConfig) -> dict[str, Any]:
    """The adapters' shape and places as fields of TrainConfig."""
    return {
        "bottleneck": adapter.bottleneck,
        "kernel_size": adapter.kernel_size,
        "positions": ",".join(adapter.positions),
        "adapter_layers": str(adapter.layers),
    }
