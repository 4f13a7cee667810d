"""Run any timm model that is a chain of blocks: CNNs, hierarchical and rotary transformers.

The model runs its own forward pass, as written in timm. Hooks on its blocks look up which adapters
apply to the current call of `run` in the current thread; outside such a call they do nothing.
"""

import re
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from st_adapter.backbones.family import Adapters, Family, Inserted, Site
from st_adapter.backbones.layout import Layout, find_layout
from st_adapter.errors import ArgumentError

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
    r"(body\.)?layer\d+\.\d+",  # ResNet and similar models, TResNet
    r"s\d+\.b\d+",  # RegNet
    r"stage\d+\.\d+",  # Visformer
    r"levels\.\d+",  # NesT
    r"serial_blocks\d+\.\d+",  # CoaT
    r"features\.(denseblock\d+|conv[2-9]_\d+)",  # DenseNet, DPN
    r"features\.\d+",  # VGG, ReXNet, Inception v4
    r"level\d+",  # DLA
    r"Mixed_\w+|mixed_\w+|(repeat(_\d+)?)\.\d+|block\d+|(reduction_)?cell_\w+",  # Inception, NASNet
)
"""Patterns of the names of blocks. The first one that matches any module of a model is used.

The order matters: a later pattern may match modules that contain the blocks of an earlier one.
"""

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
"""Blocks of the form x + mlp(norm2(x)) or x + norm2(mlp(x)), by the first child of that branch.

They get an adapter before the MLP, in addition to the one before the block.
"""

_BRANCH_END = {"norm2": "mlp", "mlp": "norm2"}
"""The last child of the MLP branch, by its first child."""

_SHUFFLED = ".hiera"
"""End of the name of timm modules whose blocks reorder tokens, so that neighbours are lost."""

_OPENED = "_st_adapter_opened"
"""Attribute of a backbone that records its sites; classifiers on one backbone share its hooks."""

_OPENING = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class _Site(Site):
    """A site and the layout of the features there."""

    layout: Layout


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """Describe a backbone whose hooks are in place.

    Attributes:
        sites: places for adapters, from the input on.
        blocks: names of the modules that are blocks.
        last: layout of the features before pooling, or None if they are not one grid of patches.
        num_features: width of the pooled features.
    """

    sites: tuple[_Site, ...]
    blocks: tuple[str, ...]
    last: Layout | None
    num_features: int


class _Run(NamedTuple):
    """Describe one call of `run`.

    Attributes:
        adapters: adapters by the name of their site.
        frame_size: height and width of the frames in pixels.
        updates: updates that adapters before an MLP have computed, until the block has ended.
    """

    adapters: Adapters
    frame_size: tuple[int, int]
    updates: dict[str, Tensor]


class _Thread(threading.local):
    """Hold the current call of `run` in each thread.

    `__init__` sets the attribute in every thread, so that it is found in the same way in all of
    them. Code from torch.compile checks that, and would be compiled again otherwise.
    """

    def __init__(self) -> None:
        self.run: _Run | None = None


_THREAD = _Thread()


class BlockwiseFamily(Family):
    """Run a backbone by its own forward pass, with adapters inserted by hooks on its blocks.

    The constructor runs the backbone on one black frame to see the shape of the features at each
    block. If blocks have a site before their MLP, it runs another one to check their form.

    Args:
        backbone: image model of timm.

    Raises:
        ArgumentError: adapters do not fit the backbone.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(backbone)
        self._opened = self._open()

    @classmethod
    def supports(cls, backbone: nn.Module) -> bool:
        """Whether the model has timm's methods of a classifier, and blocks with known names."""
        has_form = all(hasattr(backbone, name) for name in ("forward_features", "forward_head"))
        return has_form and bool(_find_blocks(backbone))

    @property
    def num_features(self) -> int:
        """Width of the pooled features."""
        return self._opened.num_features

    @property
    def num_token_features(self) -> int:
        """Width of the features before pooling."""
        return self._last_layout().channels

    def sites(self) -> list[Site]:
        """Return the sites, from the input on.

        They are before every block or, if the form of all blocks is known, before the attention
        and before the MLP of every block.
        """
        return list(self._opened.sites)

    def unread_sites(self) -> set[str]:
        """Return the last site if the model pools its class token, which no longer sees patches.

        Instead of relying on how a model is written, this replaces the update at that site by
        noise and looks whether the pooled features change.
        """
        last, frame = self._opened.sites[-1], self.black_frame()
        pools_token = getattr(self.backbone, "global_pool", "") == "token"
        if last.position != "mlp" or not pools_token or frame.is_meta:
            return set()
        noise = torch.Generator().manual_seed(0)

        def add_noise(grid: Tensor) -> Tensor:
            return torch.randn(grid.shape, generator=noise).to(grid)

        with torch.no_grad():
            without, disturbed = (
                self.pool(self.run(frame, Inserted(adapters)))
                for adapters in ({}, {last.name: add_noise})
            )
        return {last.name} if torch.equal(without, disturbed) else set()

    def blocks(self) -> list[nn.Module]:
        """Return the blocks, from the input on."""
        return [self.backbone.get_submodule(name) for name in self._opened.blocks]

    def run(self, frames: Tensor, inserted: Inserted = Inserted()) -> Any:
        """Run frames through `forward_features` of the backbone.

        Args:
            frames: normalised frames [n, 3, h, w].
            inserted: adapters to apply; prompts are not supported.

        Raises:
            ArgumentError: gradient checkpointing of the backbone is on. It would run the blocks
                again in the backward pass, after this call, when the hooks do nothing.
        """
        if torch.is_grad_enabled() and any(
            vars(module).get("grad_checkpointing") for module in self.backbone.modules()
        ):
            raise ArgumentError(
                f"adapters do not work with gradient checkpointing of {self._name()}; "
                "call its set_grad_checkpointing(False)"
            )
        if any(site.layout.kind == "map" for site in self._opened.sites):
            frames = frames.contiguous(memory_format=torch.channels_last)
        before = _THREAD.run
        _THREAD.run = _Run(inserted.adapters, (frames.shape[-2], frames.shape[-1]), {})
        try:
            return self.backbone.forward_features(frames)
        finally:
            _THREAD.run = before

    def pool(self, features: Any) -> Tensor:
        """Pool what `run` returned into the input of the classifier, [n, c]."""
        pooled: Tensor = self.backbone.forward_head(features, pre_logits=True)
        return pooled

    def tokens(self, features: Any) -> Tensor:
        """Return what `run` returned as tokens [n, tokens, c], with class and other tokens."""
        return self._last_layout().to_tokens(features)

    def finish(self, pooled: Tensor) -> Tensor:
        """Return the pooled features unchanged."""
        return pooled

    def _last_layout(self) -> Layout:
        if self._opened.last is None:
            raise ArgumentError(
                f"method attentive needs a backbone with one set of tokens before pooling, which "
                f"{self._name()} does not have"
            )
        return self._opened.last

    def _name(self) -> str:
        return type(self.backbone).__name__

    def _open(self) -> _Opened:
        """Find the sites and add hooks there, unless an earlier classifier already did so."""
        with _OPENING:
            opened: _Opened | None = getattr(self.backbone, _OPENED, None)
            if opened is None:
                opened = self._examine()
                setattr(self.backbone, _OPENED, opened)
        return opened

    def _examine(self) -> _Opened:
        """Find all sites and, if all of them are usable, add hooks there."""
        blocks = _find_blocks(self.backbone)
        entry = _mlp_entry(list(blocks.values()))
        shapes, last_shape, num_features = self._probe(blocks, entry)
        layouts = {}
        for name, seen in shapes.items():
            if len(seen) != (2 if entry else 1):
                raise ArgumentError(f"adapters do not fit {self._name()}: {name} runs twice")
            layouts[name] = [self._layout(name, shape) for shape in seen]
        if entry:
            self._check_branches({name: blocks[name] for name in layouts}, entry)
        sites: list[_Site] = []
        for i, name in enumerate(layouts):
            sites += _put_hooks(i, blocks[name], layouts[name], entry)
        return _Opened(
            sites=tuple(sites),
            blocks=tuple(layouts),
            last=self._find_layout(last_shape),
            num_features=num_features,
        )

    def _probe(
        self, blocks: dict[str, nn.Module], entry: str
    ) -> tuple[dict[str, list[tuple[int, ...]]], tuple[int, ...], int]:
        """Run one black frame and record the shapes of features.

        Returns:
            The shapes of what enters each block, and its MLP branch if `entry` names one; the
            shape of the features before pooling; and the width of the pooled features.
        """
        shapes: dict[str, list[tuple[int, ...]]] = {}

        def record(name: str, _module: nn.Module, args: tuple[Any, ...]) -> None:
            shapes.setdefault(name, []).append(_shape(args[0] if args else None))

        with ExitStack() as hooks:
            for name, block in blocks.items():
                for module in (block, block.get_submodule(entry)) if entry else (block,):
                    hooks.enter_context(module.register_forward_pre_hook(partial(record, name)))
            try:
                features, pooled = self._run_frame()
            except NotImplementedError as error:
                raise ArgumentError(f"adapters do not fit {self._name()}: {error}") from error
        if pooled.ndim != 2:
            raise ArgumentError(
                f"{self._name()} does not pool its features, which are {list(pooled.shape)}; "
                "create it with timm's default global_pool"
            )
        # A module that takes the frame itself, [1, 3, h, w], is a stem and not a block.
        inputs = {name: s for name, s in shapes.items() if len(s[0]) != 4 or s[0][1] != 3}
        return inputs, _shape(features), pooled.shape[-1]

    def _check_branches(self, blocks: dict[str, nn.Module], entry: str) -> None:
        """Raise unless all blocks end in x + mlp(norm2(x)) or x + norm2(mlp(x)).

        Adapters before the MLP rely on this form, and another version of timm may change it. The
        check sets the output of the branch to zero: such a block then returns x, which is what
        entered the branch.
        """
        entered: dict[str, Tensor] = {}
        left: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            for name, block in blocks.items():
                for hook in (
                    block.get_submodule(entry).register_forward_pre_hook(
                        lambda _, args, name=name: entered.update({name: args[0]})
                    ),
                    block.get_submodule(_BRANCH_END[entry]).register_forward_hook(
                        lambda _, args, out: torch.zeros_like(out)
                    ),
                    block.register_forward_hook(
                        lambda _, args, out, name=name: left.update({name: out})
                    ),
                ):
                    hooks.enter_context(hook)
            self._run_frame()
        for name, before in entered.items():
            if before.numel() != left[name].numel() or not (
                before.is_meta or torch.equal(before, left[name].reshape(before.shape))
            ):
                raise ArgumentError(
                    f"adapters do not fit {self._name()}: its block {name} does not add its MLP to "
                    f"the input of {entry}, as it does in the versions of timm that were tested"
                )

    @torch.no_grad()
    def _run_frame(self) -> tuple[Any, Tensor]:
        """Compute features and pooled features of one black frame of the native size."""
        was_training = self.backbone.training
        self.backbone.eval()
        try:
            features = self.backbone.forward_features(self.black_frame())
            return features, self.backbone.forward_head(features, pre_logits=True)
        finally:
            self.backbone.train(was_training)

    def _layout(self, name: str, shape: tuple[int, ...]) -> Layout:
        layout = self._find_layout(shape)
        if layout is None:
            given = f"features of shape {list(shape)}" if shape else "no tensor"
            raise ArgumentError(
                f"adapters do not fit {self._name()}: its block {name} takes {given}, "
                "not one grid of patches per frame"
            )
        return layout

    def _find_layout(self, shape: tuple[int, ...]) -> Layout | None:
        """Return the layout of features of one native-size frame, None if it is not one grid."""
        if shape[:1] != (1,):
            return None
        prefix = getattr(self.backbone, "num_prefix_tokens", 0)
        channels_last = getattr(self.backbone, "output_fmt", "") == "NHWC"
        return find_layout(shape, self.native_size(), prefix, channels_last=channels_last)


def _find_blocks(backbone: nn.Module) -> dict[str, nn.Module]:
    """Return the blocks by name, without activations and norms whose names match as well."""
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
    """Return the first child of the MLP branch, or "" if it is not the same in all blocks."""
    entries = set()
    for block in blocks:
        name = f"{type(block).__module__.rpartition('.')[2]}.{type(block).__name__}"
        entries.add(next((e for e, names in _MLP_ENTRY.items() if name in names.split()), ""))
    return entries.pop() if len(entries) == 1 else ""


def _shape(value: Any) -> tuple[int, ...]:
    """Return the shape of a tensor; () for anything else."""
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _put_hooks(index: int, block: nn.Module, layouts: list[Layout], entry: str) -> list[_Site]:
    positions = ("attention", "mlp") if entry else ("block",)
    sites = []
    for position, layout in zip(positions, layouts, strict=True):
        site = _Site(
            name=f"blocks_{index}" if position == "block" else f"blocks_{index}_{position}",
            position=position,
            block=index,
            channels=layout.channels,
            ordered=not type(block).__module__.endswith(_SHUFFLED),
            layout=layout,
        )
        sites.append(site)
        entered = block.get_submodule(entry) if position == "mlp" else block
        entered.register_forward_pre_hook(partial(_enter, site))
        if position == "mlp":
            block.register_forward_hook(partial(_leave_mlp, site))
    return sites


def _enter(site: _Site, _module: nn.Module, args: tuple[Any, ...]) -> Any:
    """Adapt the first input of a module, if the current call has an adapter for its site."""
    run = _THREAD.run
    adapter = run.adapters.get(site.name) if run else None
    if run is None or adapter is None:
        return None
    adapted = site.layout.adapt(args[0], run.frame_size, adapter)
    # The paper adapts the residual stream itself: x + u + mlp(norm2(x + u)). A hook on norm2
    # changes the input of the branch, but not the x that timm's block adds to its output. So the
    # update u is stored here, and `_leave_mlp` adds it to the output of the block.
    if site.position == "mlp":
        run.updates[site.name] = adapted - args[0]
    return (adapted, *args[1:])


def _leave_mlp(site: _Site, _module: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
    run = _THREAD.run
    update = run.updates.pop(site.name, None) if run else None
    # Some blocks have a grid [n, h, w, c] outside the MLP and tokens inside it.
    return None if update is None else output + update.reshape(output.shape)
