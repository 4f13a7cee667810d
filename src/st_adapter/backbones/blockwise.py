"""Any image model of timm that is a chain of blocks: convolutional, hierarchical, rotary.

The model runs as timm wrote it. Hooks on its blocks look up, in the thread that runs, which
adapters apply; outside a call of `frame_features` they do nothing.
"""

import re
import threading
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from timm.models import get_model_input_config
from torch import Tensor, nn

from st_adapter.backbones.family import Adapters, Inserted, Site
from st_adapter.backbones.layout import Layout, find_layout
from st_adapter.errors import ArgumentError

NAME = "blockwise"
CAN_RECOMPUTE = False
CAN_CUT = False

_WHERE_BLOCKS_ARE = (
    r"blocks\.\d+\.blocks\.\d+\.\d+",  # CrossViT
    r"stages\.\d+\.blocks\.\d+\.\d+",  # DaViT
    r"blocks\.\d+\.\d+",  # EfficientNet, MobileNet, GhostNet, Twins, ConvMixer
    r"(stages|layers|transformers)\.\d+\.blocks\.\d+",  # ConvNeXt, Swin, PiT, most hierarchies
    r"(encoder\.)?blocks\.\d+",  # EVA, DINOv3, BEiT, CaiT, XCiT, Hiera, mixers
    r"network\.\d+\.\d+",  # VOLO
    r"stages\.\d+\.\d+",  # RegNet-like, NFNet, MobileViT, StarNet
    r"dense_stages\.\d+\.\d+",  # RDNet
    r"stage\d+\.\d+\.branches\.\d+\.\d+",  # HRNet
    r"(body\.)?layer\d+\.\d+",  # ResNet and its kin, TResNet
    r"s\d+\.b\d+",  # RegNet
    r"stage\d+\.\d+",  # Visformer
    r"levels\.\d+",  # NesT
    r"serial_blocks\d+\.\d+",  # CoaT
    r"features\.(denseblock\d+|conv[2-9]_\d+)",  # DenseNet, DPN
    r"features\.\d+",  # VGG, ReXNet, Inception v4
    r"level\d+",  # DLA
    r"Mixed_\w+|mixed_\w+|(repeat(_\d+)?)\.\d+|block\d+|(reduction_)?cell_\w+",  # Inception, NASNet
)
"""Patterns of module names, tried in this order; the first that occurs says what a block is."""

_MLP_ENTRY = {
    "norm2": """beit.Block cait.LayerScaleBlock coat.SerialBlock convit.Block
        deepseek_vit.DeepseekVitBlock eva.EvaBlock focalnet.FocalNetBlock
        gcvit.GlobalContextVitBlock hiera.HieraBlock
        hieradet_sam2.MultiScaleBlock pvt_v2.Block swin_transformer.SwinTransformerBlock
        twins.Block visformer.Block vision_transformer.Block vision_transformer_relpos.RelPosBlock
        vision_transformer_sam.Block volo.Outlooker volo.Transformer xcit.XCABlock""",
    "mlp": """eva.EvaBlockPostNorm swin_transformer_v2.SwinTransformerV2Block
        vision_transformer_relpos.ResPostRelPosBlock""",
}
"""Blocks of the form x + mlp(norm2(x)), or x + norm2(mlp(x)): what the residual stream enters."""

_SHUFFLED = ".hiera"
"""Blocks whose tokens do not stand in the order of the picture."""

_OPENED = "_st_adapter_opened"
_OPENING = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A site, and how features lie there."""

    site: Site
    layout: Layout


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """What is known of a backbone that has its hooks; `last` is how features lie before pooling."""

    places: tuple[_Place, ...]
    blocks: tuple[str, ...]
    last: Layout | None
    num_features: int


class _Run(NamedTuple):
    """One call of `frame_features`; `updates` are on their way around an MLP."""

    adapters: Adapters
    frame_size: tuple[int, int]
    updates: dict[str, Tensor]


class _Thread(threading.local):
    """The call under way in a thread. Compiled code looks how it was found: alike in each."""

    def __init__(self) -> None:
        self.run: _Run | None = None


_THREAD = _Thread()


def supports(backbone: nn.Module) -> bool:
    """Whether the model has timm's form of an image classifier, and blocks under a known name."""
    has_form = all(hasattr(backbone, name) for name in ("forward_features", "forward_head"))
    return has_form and bool(_blocks(backbone))


def sites(backbone: nn.Module) -> list[Site]:
    """Before every block, or before attention and before the MLP where all blocks have both.

    Runs the backbone once, on one black frame, to see the features at each block, and leaves hooks.

    Raises:
        ArgumentError: the model is no classifier, or a block takes no patch grid.
    """
    return [place.site for place in _open(backbone).places]


def blocks(backbone: nn.Module) -> list[nn.Module]:
    """The modules that adapters stand before."""
    return [block for name, block in _blocks(backbone).items() if name in _open(backbone).blocks]


def units(backbone: nn.Module) -> list[nn.Module]:
    """The blocks, which the model calls itself."""
    return blocks(backbone)


def prompt_widths(backbone: nn.Module) -> list[int]:
    """None of these models takes further tokens everywhere."""
    return []


def num_features(backbone: nn.Module) -> int:
    """Width of what the backbone pools."""
    return _open(backbone).num_features


def num_token_features(backbone: nn.Module) -> int:
    """Width of the features before they are pooled.

    Raises:
        ArgumentError: they are not one grid of patches.
    """
    return _last_layout(backbone).channels


def frame_features(backbone: Any, frames: Tensor, inserted: Inserted) -> Tensor:
    """Run each frame alone, but for the adapters, to the features before the classifier.

    Raises:
        ArgumentError: the backbone is set to checkpoint gradients, which would run its blocks
            again when nothing says any more which adapters apply.
    """
    pooled: Tensor = backbone.forward_head(_run(backbone, frames, inserted), pre_logits=True)
    return pooled


def frame_tokens(backbone: Any, frames: Tensor, inserted: Inserted) -> Tensor:
    """All patches of each frame, and the tokens before them, as they are before pooling."""
    return _last_layout(backbone).to_tokens(_run(backbone, frames, inserted))


def frame_prefix(backbone: Any, frames: Tensor, num_blocks: int) -> Tensor:
    """Not offered: such a model runs as timm wrote it, from its first block to its last."""
    raise ArgumentError(f"{type(backbone).__name__} cannot be cut between its blocks")


def _run(backbone: Any, frames: Tensor, inserted: Inserted) -> Any:
    if torch.is_grad_enabled() and any(
        vars(module).get("grad_checkpointing") for module in backbone.modules()
    ):
        raise ArgumentError(
            f"{type(backbone).__name__} is set to checkpoint gradients, which adapters cannot "
            "follow; call its set_grad_checkpointing(False)"
        )
    if any(place.layout.kind == "map" for place in _open(backbone).places):
        frames = frames.contiguous(memory_format=torch.channels_last)
    before = _THREAD.run
    _THREAD.run = _Run(inserted.adapters, (frames.shape[-2], frames.shape[-1]), {})
    try:
        features = backbone.forward_features(frames)
    finally:
        _THREAD.run = before
    return features


def clip_features(backbone: Any, pooled: Tensor) -> Tensor:
    """Nothing is left to do after pooling."""
    return pooled


def _last_layout(backbone: nn.Module) -> Layout:
    last = _open(backbone).last
    if last is None:
        raise ArgumentError(
            f"{type(backbone).__name__} has no one set of tokens before pooling, which method "
            "attentive needs"
        )
    return last


def _open(backbone: nn.Module) -> _Opened:
    """Find the sites and put hooks there, once; what was found is kept with the backbone."""
    opened: _Opened | None = getattr(backbone, _OPENED, None)
    if opened is not None:
        return opened
    with _OPENING:
        if not hasattr(backbone, _OPENED):
            setattr(backbone, _OPENED, _examine(backbone))
    return _open(backbone)


def _examine(backbone: nn.Module) -> _Opened:
    """Find all sites; then, where every block fits, put hooks there."""
    blocks = _blocks(backbone)
    entry = _mlp_entry(list(blocks.values()))
    shapes, last_shape, num_features = _probe(backbone, blocks, entry)
    layouts = {}
    for name, seen in shapes.items():
        if len(seen) != (2 if entry else 1):
            raise ArgumentError(f"adapters do not fit {type(backbone).__name__}: {name} runs twice")
        layouts[name] = [_layout(backbone, name, shape) for shape in seen]
    places: list[_Place] = []
    for i, name in enumerate(layouts):
        places += _put_hooks(i, blocks[name], layouts[name], entry)
    return _Opened(
        places=tuple(places),
        blocks=tuple(layouts),
        last=_find_layout(backbone, last_shape),
        num_features=num_features,
    )


def _blocks(backbone: nn.Module) -> dict[str, nn.Module]:
    """The modules by the first pattern that occurs, activations and norms among them left out."""
    for pattern in _WHERE_BLOCKS_ARE:
        found = {
            name: module
            for name, module in backbone.named_modules()
            if re.fullmatch(pattern, name)
            and (isinstance(module, nn.Conv2d) or any(True for _ in module.children()))
        }
        if found:
            return found
    return {}


def _mlp_entry(blocks: list[nn.Module]) -> str:
    """The child by which the residual stream enters the MLP, if it is the same in all blocks."""
    entries = set()
    for block in blocks:
        name = f"{type(block).__module__.rpartition('.')[2]}.{type(block).__name__}"
        entries.add(next((e for e, names in _MLP_ENTRY.items() if name in names.split()), ""))
    return entries.pop() if len(entries) == 1 else ""


def _probe(
    backbone: Any, blocks: dict[str, nn.Module], entry: str
) -> tuple[dict[str, list[tuple[int, ...]]], tuple[int, ...], int]:
    """Run one black frame; return shapes at each block's inputs, in order, and of the features.

    The last is the pooled width.
    """
    shapes: dict[str, list[tuple[int, ...]]] = {}

    def note(name: str, _module: nn.Module, args: tuple[Any, ...]) -> None:
        shapes.setdefault(name, []).append(_shape(args[0] if args else None))

    handles = []
    for name, block in blocks.items():
        watched = (block, block.get_submodule(entry)) if entry else (block,)
        handles += [m.register_forward_pre_hook(partial(note, name)) for m in watched]
    weight = next(backbone.parameters())
    frame = torch.zeros(1, 3, *_native_size(backbone), device=weight.device, dtype=weight.dtype)
    trains = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            features = backbone.forward_features(frame)
            pooled = backbone.forward_head(features, pre_logits=True)
    except NotImplementedError as error:
        raise ArgumentError(f"adapters do not fit {type(backbone).__name__}: {error}") from None
    finally:
        backbone.train(trains)
        for handle in handles:
            handle.remove()
    if pooled.ndim != 2:
        raise ArgumentError(
            f"{type(backbone).__name__} pools nothing: its features are {list(pooled.shape)}; "
            "make it with timm's default global_pool"
        )
    inputs = {name: seen for name, seen in shapes.items() if not _is_picture(seen)}
    return inputs, _shape(features), pooled.shape[-1]


def _shape(value: Any) -> tuple[int, ...]:
    """The shape of a tensor; empty for anything else."""
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _is_picture(seen: list[tuple[int, ...]]) -> bool:
    return len(seen[0]) == 4 and seen[0][1] == 3


def _native_size(backbone: nn.Module) -> tuple[int, int]:
    """Height and width the model was made for."""
    height, width = get_model_input_config(backbone)["input_size"][1:]
    return height, width


def _layout(backbone: Any, name: str, shape: tuple[int, ...]) -> Layout:
    layout = _find_layout(backbone, shape)
    if layout is None:
        given = f"features of shape {list(shape)}" if shape else "no tensor"
        raise ArgumentError(
            f"adapters do not fit {type(backbone).__name__}: its block {name} takes {given}, "
            "not one grid of patches a frame"
        )
    return layout


def _find_layout(backbone: Any, shape: tuple[int, ...]) -> Layout | None:
    """How features of one frame of the native size lie, if they are one grid of patches."""
    if shape[:1] != (1,):
        return None
    prefix = getattr(backbone, "num_prefix_tokens", 0)
    channels_last = getattr(backbone, "output_fmt", "") == "NHWC"
    return find_layout(shape, _native_size(backbone), prefix, channels_last=channels_last)


def _put_hooks(index: int, block: nn.Module, layouts: list[Layout], entry: str) -> list[_Place]:
    """Open the sites of one block."""
    positions = ("attention", "mlp") if entry else ("block",)
    places = []
    for position, layout in zip(positions, layouts, strict=True):
        site = Site(
            name=f"blocks_{index}" if position == "block" else f"blocks_{index}_{position}",
            position=position,
            block=index,
            channels=layout.channels,
            ordered=not type(block).__module__.endswith(_SHUFFLED),
        )
        places.append(place := _Place(site=site, layout=layout))
        if position == "mlp":
            block.get_submodule(entry).register_forward_pre_hook(partial(_enter_mlp, place))
            block.register_forward_hook(partial(_leave_mlp, place))
        else:
            block.register_forward_pre_hook(partial(_enter_block, place))
    return places


def _adapted(place: _Place, args: tuple[Any, ...]) -> Tensor | None:
    """The first of a module's inputs, adapted, where the call under way has an adapter for it."""
    run = _THREAD.run
    adapter = run.adapters.get(place.site.name) if run else None
    if run is None or adapter is None:
        return None
    return place.layout.adapt(args[0], run.frame_size, adapter)


def _enter_block(place: _Place, _module: nn.Module, args: tuple[Any, ...]) -> Any:
    adapted = _adapted(place, args)
    return None if adapted is None else (adapted, *args[1:])


def _enter_mlp(place: _Place, _module: nn.Module, args: tuple[Any, ...]) -> Any:
    """Show the MLP the adapted stream; `_leave_mlp` brings the update into the stream itself."""
    adapted = _adapted(place, args)
    if adapted is None:
        return None
    assert _THREAD.run is not None
    _THREAD.run.updates[place.site.name] = adapted - args[0]
    return (adapted, *args[1:])


def _leave_mlp(place: _Place, _module: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
    run = _THREAD.run
    update = run.updates.pop(place.site.name, None) if run else None
    return None if update is None else output + update.reshape(output.shape)
