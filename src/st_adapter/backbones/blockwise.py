"""Any image model of timm that is a chain of blocks: convolutional, hierarchical, rotary.

The model runs as timm wrote it. Hooks on its blocks look up, in the thread that runs, which
adapters apply; outside a call of `run` they do nothing.
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

_BRANCH_END = {"norm2": "mlp", "mlp": "norm2"}
"""The entry of the residual branch to the child that ends it: mlp(norm2(x)), or norm2(mlp(x))."""

_SHUFFLED = ".hiera"
"""Blocks whose tokens do not stand in the order of the picture."""

_OPENED = "_st_adapter_opened"
_OPENING = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class _Site(Site):
    """A site, and how features lie there."""

    layout: Layout


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """What is known of a backbone that has its hooks; `last` is how features lie before pooling."""

    sites: tuple[_Site, ...]
    blocks: tuple[str, ...]
    last: Layout | None
    num_features: int


class _Run(NamedTuple):
    """One call of `run`; `updates` are on their way around an MLP."""

    adapters: Adapters
    frame_size: tuple[int, int]
    updates: dict[str, Tensor]


class _Thread(threading.local):
    """The call under way in a thread. Compiled code looks how it was found: alike in each."""

    def __init__(self) -> None:
        self.run: _Run | None = None


_THREAD = _Thread()


class BlockwiseFamily(Family):
    """Runs a backbone by its own forward pass; hooks before its blocks bring the adapters in.

    Making one runs the backbone twice on one frame: to see the features at each block, and to
    check that blocks with two sites are of the form that is assumed of them.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(backbone)
        self._opened = self._open()

    @classmethod
    def supports(cls, backbone: nn.Module) -> bool:
        """Whether the model has timm's form of a classifier, and blocks under a known name."""
        has_form = all(hasattr(backbone, name) for name in ("forward_features", "forward_head"))
        return has_form and bool(_find_blocks(backbone))

    @property
    def num_features(self) -> int:
        """Width of what the backbone pools."""
        return self._opened.num_features

    @property
    def num_token_features(self) -> int:
        """Width of the features before they are pooled."""
        return self._last_layout().channels

    def sites(self) -> list[Site]:
        """Before every block, or before attention and before the MLP where all blocks have both."""
        return list(self._opened.sites)

    def unread_sites(self) -> set[str]:
        """The last, where a class token is pooled that the patches no longer reach."""
        last, frame = self._opened.sites[-1], self.black_frame()
        pools_token = getattr(self.backbone, "global_pool", "") == "token"
        if last.position != "mlp" or not pools_token or frame.is_meta:
            return set()
        noise = torch.Generator().manual_seed(0)

        def disturb(grid: Tensor) -> Tensor:
            return torch.randn(grid.shape, generator=noise).to(grid)

        with torch.no_grad():
            without, disturbed = (
                self.pool(self.run(frame, Inserted(adapters)))
                for adapters in ({}, {last.name: disturb})
            )
        return {last.name} if torch.equal(without, disturbed) else set()

    def blocks(self) -> list[nn.Module]:
        """The modules that adapters stand before."""
        return [self.backbone.get_submodule(name) for name in self._opened.blocks]

    def run(self, frames: Tensor, inserted: Inserted = Inserted()) -> Any:
        """Run frames [n, 3, h, w] to what `forward_features` of the backbone returns.

        Raises:
            ArgumentError: the backbone is set to checkpoint gradients, which would run its blocks
                again when nothing says any more which adapters apply.
        """
        if torch.is_grad_enabled() and any(
            vars(module).get("grad_checkpointing") for module in self.backbone.modules()
        ):
            raise ArgumentError(
                f"{self._kind()} is set to checkpoint gradients, which adapters cannot "
                "follow; call its set_grad_checkpointing(False)"
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
        """The features before the classifier."""
        pooled: Tensor = self.backbone.forward_head(features, pre_logits=True)
        return pooled

    def tokens(self, features: Any) -> Tensor:
        """All patches of each frame, and the tokens before them, as they are before pooling."""
        return self._last_layout().to_tokens(features)

    def finish(self, pooled: Tensor) -> Tensor:
        """Nothing is left to do after pooling."""
        return pooled

    def _last_layout(self) -> Layout:
        if self._opened.last is None:
            raise ArgumentError(
                f"{self._kind()} does not have one set of tokens before pooling, which method "
                "attentive needs"
            )
        return self._opened.last

    def _kind(self) -> str:
        return type(self.backbone).__name__

    def _open(self) -> _Opened:
        """Find the sites and put hooks there, once for all classifiers on this backbone."""
        with _OPENING:
            opened: _Opened | None = getattr(self.backbone, _OPENED, None)
            if opened is None:
                opened = self._examine()
                setattr(self.backbone, _OPENED, opened)
        return opened

    def _examine(self) -> _Opened:
        """Find all sites; then, where every block fits, put hooks there."""
        blocks = _find_blocks(self.backbone)
        entry = _mlp_entry(list(blocks.values()))
        shapes, last_shape, num_features = self._probe(blocks, entry)
        layouts = {}
        for name, seen in shapes.items():
            if len(seen) != (2 if entry else 1):
                raise ArgumentError(f"adapters do not fit {self._kind()}: {name} runs twice")
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
        """Run one black frame; return shapes at each block's inputs, in order, and of the features.

        The last is the pooled width.
        """
        shapes: dict[str, list[tuple[int, ...]]] = {}

        def note(name: str, _module: nn.Module, args: tuple[Any, ...]) -> None:
            shapes.setdefault(name, []).append(_shape(args[0] if args else None))

        with ExitStack() as hooks:
            for name, block in blocks.items():
                for module in (block, block.get_submodule(entry)) if entry else (block,):
                    hooks.enter_context(module.register_forward_pre_hook(partial(note, name)))
            try:
                features, pooled = self._run_frame()
            except NotImplementedError as error:
                raise ArgumentError(f"adapters do not fit {self._kind()}: {error}") from error
        if pooled.ndim != 2:
            raise ArgumentError(
                f"{self._kind()} pools nothing: its features are {list(pooled.shape)}; "
                "make it with timm's default global_pool"
            )
        # What takes the picture itself, [1, 3, h, w], is a stem: features begin after it.
        inputs = {name: s for name, s in shapes.items() if len(s[0]) != 4 or s[0][1] != 3}
        return inputs, _shape(features), pooled.shape[-1]

    def _check_branches(self, blocks: dict[str, nn.Module], entry: str) -> None:
        """Refuse blocks that do not end in x + mlp(norm2(x)), or x + norm2(mlp(x)).

        Without what the branch adds, such a block returns just what entered the branch. Adapters
        before the MLP rely on it, and another version of timm may write the block otherwise.
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
                    f"adapters do not fit {self._kind()}: its block {name} does not add its MLP to "
                    f"what enters {entry}, as it does in the versions of timm that are known here"
                )

    @torch.no_grad()
    def _run_frame(self) -> tuple[Any, Tensor]:
        """Features and pooled features of one black frame of the backbone's own size."""
        trains = self.backbone.training
        self.backbone.eval()
        try:
            features = self.backbone.forward_features(self.black_frame())
            return features, self.backbone.forward_head(features, pre_logits=True)
        finally:
            self.backbone.train(trains)

    def _layout(self, name: str, shape: tuple[int, ...]) -> Layout:
        layout = self._find_layout(shape)
        if layout is None:
            given = f"features of shape {list(shape)}" if shape else "no tensor"
            raise ArgumentError(
                f"adapters do not fit {self._kind()}: its block {name} takes {given}, "
                "not one grid of patches a frame"
            )
        return layout

    def _find_layout(self, shape: tuple[int, ...]) -> Layout | None:
        """How features of one frame of the native size lie, if they are one grid of patches."""
        if shape[:1] != (1,):
            return None
        prefix = getattr(self.backbone, "num_prefix_tokens", 0)
        channels_last = getattr(self.backbone, "output_fmt", "") == "NHWC"
        return find_layout(shape, self.native_size(), prefix, channels_last=channels_last)


def _find_blocks(backbone: nn.Module) -> dict[str, nn.Module]:
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


def _shape(value: Any) -> tuple[int, ...]:
    """The shape of a tensor; empty for anything else."""
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
    """Adapt the first of a module's inputs, where the call under way has an adapter for it."""
    run = _THREAD.run
    adapter = run.adapters.get(site.name) if run else None
    if run is None or adapter is None:
        return None
    adapted = site.layout.adapt(args[0], run.frame_size, adapter)
    # The paper adapts the residual stream itself: x + u + mlp(norm2(x + u)). A hook on norm2
    # changes what the branch takes and not the x that timm's block adds to it. So the update u is
    # kept on the way in, and is added to what the block returns.
    if site.position == "mlp":
        run.updates[site.name] = adapted - args[0]
    return (adapted, *args[1:])


def _leave_mlp(site: _Site, _module: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
    run = _THREAD.run
    update = run.updates.pop(site.name, None) if run else None
    # Blocks may keep a grid as [n, h, w, c] outside of the MLP and as tokens inside of it.
    return None if update is None else output + update.reshape(output.shape)
