"""Import a checkpoint of the authors' code as a run folder."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from st_adapter.backbones.build import build_backbone, create_backbone
from st_adapter.backbones.construction import OwnRandom, shapes_only
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
from st_adapter.wording import setting

_UNNAMED = "vit_base_patch16_clip_quickgelu_224"
"""The timm model from which a CLIP of unpublished sizes is built, by overriding its sizes."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Describe an imported run.

    Attributes:
        spec: record of the classifier.
        recipe: recipe whose clips it uses.
        shape: shape of the authors' model.
    """

    spec: ModelSpec
    recipe: str
    shape: OfficialShape

    def __str__(self) -> str:
        clip, adapter = self.spec.clip, self.spec.adapter
        chosen = f"every {clip.stride}th in a window" if clip.stride else "spread over the video"
        layers = self.shape.num_blocks if adapter.layers == "all" else adapter.layers
        return (
            f"{len(adapter.positions) * layers}x{adapter.bottleneck} adapters on "
            f"{self.spec.backbone}, {len(self.spec.labels)} classes; clips as in recipe "
            f"{self.recipe}: {clip.frames} frames, {chosen}, {clip.size} px, "
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
    """Convert a checkpoint of the authors' code to a run folder.

    Args:
        file: .pth of the authors' code; the trained tensors are under "model" or at the top level.
        out: run folder to make; it must not exist or be empty.
        labels: text file with one class name per line. None names the classes "0", "1" and so on.
        weights: source of the backbone's weights: "hub", "random" or a file, such as a CLIP .pt.
        backbone: timm name. None is the CLIP model that has the sizes of the weights file or, for
            other sources, of the checkpoint.
        heads: attention heads. None is as in the backbone, or one per 64 channels.
        frames: frames per clip. None is as in the recipe.
        recipe: recipe whose clips to use. None is the published one with adapters in these places.

    Raises:
        ArgumentError, CheckpointError: the files do not fit. Nothing has been written.
    """
    file, folder = Path(file), Path(out)
    check_folder(folder, file, resume=False)
    if folder.exists() and any(folder.iterdir()):
        raise ArgumentError(f"{folder} is not empty; choose another {setting('out')}")
    tensors, next_epoch = read_official(file)
    shape = read_shape(str(file), tensors)
    class_names = _read_labels(labels, shape.num_classes)
    name, options = _choose_backbone(shape, str(file), weights, backbone, heads)
    size = _check_backbone(shape, str(file), name, options)
    recipe = recipe or _nearest_recipe(shape.adapter)
    settings = {"backbone": name, "weights": weights, "size": size}
    settings |= _adapter_settings(shape.adapter) | ({} if frames is None else {"frames": frames})
    config = resolve(recipe, None, settings)
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
    with OwnRandom(0):  # initial values are overwritten; the caller's generator is left alone
        model = VideoClassifier(build_backbone(name, source, options), spec)
    ours = {our_name(theirs): tensor for theirs, tensor in tensors.items()}
    copy_trained(model, ours, str(file))
    model.save_adapter(folder / "adapter")
    write_config(folder, config, recipe=recipe, data="", next_epoch=next_epoch)
    return Imported(spec=model.spec, recipe=recipe, shape=shape)


def _read_labels(file: str | Path | None, count: int) -> tuple[str, ...]:
    """Read one label per line, which must be all different and as many as there are classes."""
    if file is None:
        return tuple(map(str, range(count)))
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{file} is not a readable text file of labels: {error}") from error
    labels = [line.strip() for line in text.splitlines() if line.strip()]
    if len(labels) != count:
        raise ArgumentError(
            f"{file}: expected one label for each of {count} classes, got {len(labels)}"
        )
    label, times = Counter(labels).most_common(1)[0]
    if times > 1:
        raise ArgumentError(
            f"{file} has the label {label!r} {times} times; each class needs its own label"
        )
    return tuple(labels)


def _choose_backbone(
    shape: OfficialShape, source: str, weights: str, backbone: str | None, heads: int | None
) -> tuple[str, dict[str, int]]:
    """Return the name of the backbone, and sizes that differ from the timm model of that name."""
    options = {"num_heads": heads} if heads else {}
    if backbone is not None:
        return backbone, options
    tensors = {} if weights in NAMED_SOURCES else read_tensors(Path(weights))
    if not openai_clip.is_clip(tensors):
        name = openai_clip.published_name(shape.width, shape.num_blocks)
        if name is None:
            raise ArgumentError(
                f"{source} is for {shape.backbone}, which no published CLIP model has; give the "
                f"weights of that CLIP with {setting('weights', 'FILE')}, or use "
                f"{setting('backbone', 'NAME')}"
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
        note(
            f"the weights do not record the number of attention heads; assuming "
            f"{sizes['num_heads']}; use {setting('heads')} to change that"
        )
    return _UNNAMED, sizes


def _check_backbone(shape: OfficialShape, source: str, name: str, options: dict[str, int]) -> int:
    """Check that the backbone fits the checkpoint, and return its input size in pixels."""
    check_name(name)
    if not is_plain_vit(name):
        raise ArgumentError(
            f"{name} is not a plain ViT; the authors' checkpoints are for the ViTs of CLIP"
        )
    with shapes_only():
        backbone: Any = create_backbone(name, **options)
    if (backbone.embed_dim, len(backbone.blocks)) != (shape.width, shape.num_blocks):
        raise CheckpointError(
            f"{source} is for {shape.backbone}; "
            f"{name} has width {backbone.embed_dim} and {len(backbone.blocks)} blocks"
        )
    return int(backbone.patch_embed.img_size[0])


def _nearest_recipe(adapter: AdapterConfig) -> str:
    """Return the published recipe that has adapters in the same positions, or "default"."""
    positions = ",".join(adapter.positions)
    near = (name for name in ALIASES if find_recipe(name).values["positions"] == positions)
    return next(near, "default")


def _adapter_settings(adapter: AdapterConfig) -> dict[str, Any]:
    """Return the shape and placement of the adapters as settings of TrainConfig."""
    return {
        "bottleneck": adapter.bottleneck,
        "kernel_size": adapter.kernel_size,
        "positions": ",".join(adapter.positions),
        "adapter_layers": str(adapter.layers),
    }
