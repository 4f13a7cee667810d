"""Run an image model that is a chain of blocks by its own forward pass.

Hooks on its blocks look up which adapters apply to the current call of `run` in the current thread;
outside such a call they do nothing. What differs between libraries, such as the names of blocks and
the way in which a model is called, is defined by a subclass for each library.
"""

import re
import threading
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from st_adapter.backbones.family import Family, Inserted, Site
from st_adapter.backbones.layout import Layout, find_layout
from st_adapter.errors import ArgumentError

_SHUFFLED = ".hiera"
"""End of the name of timm modules whose blocks reorder tokens, so that neighbours are lost."""

_CHECKPOINTING = ("grad_checkpointing", "gradient_checkpointing")
"""Attributes with which timm and transformers recompute blocks in the backward pass."""

_OPENED = "_st_adapter_opened"
"""Attribute of a backbone with its sites by the key of a family, whose classifiers share hooks."""

Key = tuple[str, ...]
"""Tells apart the families that have hooks on one backbone; a hook ignores the calls of others."""

_OPENING = threading.Lock()


class MlpBranch(NamedTuple):
    """Name the first and the last child of the MLP branch of a block.

    The branch is x + mlp(norm2(x)), or x + norm2(mlp(x)).
    """

    first: str
    last: str


COMMON_BRANCHES = tuple(
    MlpBranch(first, last)
    for norm in ("norm2", "layernorm_after", "layer_norm2", "ln_2")
    for first, last in ((norm, "mlp"), ("mlp", norm))
)
"""Branches that transformers usually have, by the names that libraries give to them."""


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
        key: key of the family that calls the backbone.
        inserted: adapters to apply, and who reads along.
        frame_size: height and width of the frames in pixels.
        updates: updates that adapters before an MLP have computed, until the block has ended.
        caught: features that `catch` has found, at most one.
    """

    key: Key
    inserted: Inserted
    frame_size: tuple[int, int]
    updates: dict[str, Tensor]
    caught: list[Tensor]


class _Thread(threading.local):
    """Hold the current call of `run` in each thread.

    `__init__` sets the attribute in every thread, so that it is found in the same way in all of
    them. Code from torch.compile checks that, and would be compiled again otherwise.
    """

    def __init__(self) -> None:
        self.run: _Run | None = None


_THREAD = _Thread()


class _OtherForm(ArgumentError):
    """Blocks do not have the form that was assumed."""


class BlockwiseFamily(Family):
    """Run a backbone by its own forward pass, with adapters inserted by hooks on its blocks.

    The constructor runs the backbone on one black frame to see the shape of the features at each
    block. If blocks have a site before their MLP, it runs another one to check their form.

    Args:
        backbone: image model that this family supports.

    Raises:
        ArgumentError: adapters do not fit the backbone.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(backbone)
        self._opened = self._open()

    _POOLING = "give features [n, c] of n frames"
    """What to do if the model does not pool its features."""

    @abstractmethod
    def _find_blocks(self) -> dict[str, nn.Module]:
        """Return the blocks by name, from the input on."""

    def _branches(self, blocks: Sequence[nn.Module]) -> list[MlpBranch | None]:
        """Return the forms that all blocks may have, by the names of their children.

        The most likely comes first. None is any other form and comes last.
        """
        return [
            branch
            for branch in COMMON_BRANCHES
            if all({*branch} <= {name for name, _ in block.named_children()} for block in blocks)
        ] + [None]

    @abstractmethod
    def _forward(self, frames: Tensor) -> Any:
        """Run the backbone on normalised frames; return its features before pooling."""

    def _grid_features(self, features: Any) -> Any:
        """Return the tensor in what `_forward` returned that may hold a grid of patches."""
        return features

    def _num_prefix(self) -> int:
        """Return how many tokens come before the patches, as far as the model states it."""
        return 0

    def _token_norm(self) -> nn.Module | None:
        """Return the norm of a pooled class token, if the model has one.

        Inside `run` it is skipped, and `finish` applies it to the mean over the frames of a clip.
        """
        return None

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
        if last.position != "mlp" or not self._pools_token() or frame.is_meta:
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
        """Run frames through the backbone up to its pooling.

        Args:
            frames: normalised frames [n, 3, h, w].
            inserted: adapters to apply; prompts are not supported.

        Raises:
            ArgumentError: gradient checkpointing of the backbone is on. It would run the blocks
                again in the backward pass, after this call, when the hooks do nothing.
        """
        if torch.is_grad_enabled() and any(
            vars(module).get(name) for module in self.backbone.modules() for name in _CHECKPOINTING
        ):
            raise ArgumentError(
                f"adapters do not work with gradient checkpointing of {self._name()}; "
                "call its set_grad_checkpointing(False) or gradient_checkpointing_disable()"
            )
        if any(site.layout.kind == "map" for site in self._opened.sites):
            frames = frames.contiguous(memory_format=torch.channels_last)
        features = self._call(frames, inserted)
        if inserted.watch is not None and self._opened.last is not None:
            size = (frames.shape[-2], frames.shape[-1])
            inserted.watch(self._opened.last.split(self._grid_features(features), size))
        return features

    def _call(self, frames: Tensor, inserted: Inserted) -> Any:
        """Run the backbone, and let the hooks find these adapters in this thread meanwhile."""
        # Not a context manager: torch.compile cannot trace one that sets an attribute of a thread.
        before = _THREAD.run
        _THREAD.run = _Run(self._key(), inserted, (frames.shape[-2], frames.shape[-1]), {}, [])
        try:
            return self._forward(frames)
        finally:
            _THREAD.run = before

    def _caught(self) -> Tensor:
        """Return what `catch` or `catch_input` has kept in this call."""
        caught = _THREAD.run.caught if _THREAD.run else []
        if not caught:
            raise ArgumentError(
                f"adapters do not fit {self._name()}: the module with its features does not run"
            )
        return caught[-1]

    def tokens(self, features: Any) -> Tensor:
        """Return what `run` returned as tokens [n, tokens, c], with class and other tokens."""
        tokens, norm = (
            self._last_layout().to_tokens(self._grid_features(features)),
            self._token_norm(),
        )
        return tokens if norm is None else norm(tokens)

    def finish(self, pooled: Tensor) -> Tensor:
        """Apply the norm of a class token, which `run` has skipped; nothing in other models."""
        norm = self._token_norm()
        return pooled if norm is None else norm(pooled)

    def _pools_token(self) -> bool:
        return self._token_norm() is not None

    def _last_layout(self) -> Layout:
        if self._opened.last is None:
            raise ArgumentError(
                f"methods attentive and ordered need a backbone with one set of tokens before "
                f"pooling, which {self._name()} does not have"
            )
        return self._opened.last

    def _name(self) -> str:
        return type(self.backbone).__name__

    def _key(self) -> Key:
        """Return what tells the hooks of this family from others on the same backbone."""
        return (type(self).__name__,)

    def _open(self) -> _Opened:
        """Find the sites and add hooks there, unless an earlier classifier already did so."""
        key = self._key()
        with _OPENING:
            opened: dict[Key, _Opened] = getattr(self.backbone, _OPENED, {})
            if key not in opened:
                with ExitStack() as hooks:
                    self._prepare(hooks)
                    found = self._examine()
                    hooks.pop_all()  # they stay in place unless an error was raised
                setattr(self.backbone, _OPENED, opened | {key: found})
                return found
            return opened[key]

    def _prepare(self, hooks: ExitStack) -> None:
        """Add the hooks that calling the backbone needs, whether or not there are adapters."""
        norm = self._token_norm()
        if norm is not None:
            hooks.enter_context(norm.register_forward_hook(partial(_skip, self._key())))

    def _examine(self) -> _Opened:
        """Find all sites and, if all of them are usable, add hooks there."""
        blocks = self._find_blocks()
        if not blocks:
            raise ArgumentError(
                f"adapters do not fit {self._name()}: the names of its blocks are not known; call "
                "attach(model, blocks=..., features=...)"
            )
        *likely, last = self._branches(list(blocks.values()))
        for branch in likely:
            with suppress(_OtherForm):
                return self._examine_form(blocks, branch)
        return self._examine_form(blocks, last)

    def _examine_form(self, blocks: dict[str, nn.Module], branch: MlpBranch | None) -> _Opened:
        """Find all sites of blocks of a certain form and add hooks there."""
        shapes, last_shape, num_features = self._probe(blocks, branch)
        layouts = {}
        for name, seen in shapes.items():
            if len(seen) != (2 if branch else 1):
                raise _OtherForm(f"adapters do not fit {self._name()}: {name} runs twice")
            layouts[name] = [self._layout(name, shape) for shape in seen]
        if branch:
            self._check_branches({name: blocks[name] for name in layouts}, branch)
        sites: list[_Site] = []
        for i, name in enumerate(layouts):
            sites += _put_hooks(self._key(), i, blocks[name], layouts[name], branch)
        return _Opened(
            sites=tuple(sites),
            blocks=tuple(layouts),
            last=self._find_layout(last_shape),
            num_features=num_features,
        )

    def _probe(
        self, blocks: dict[str, nn.Module], branch: MlpBranch | None
    ) -> tuple[dict[str, list[tuple[int, ...]]], tuple[int, ...], int]:
        """Run one black frame and record the shapes of features.

        Returns:
            The shapes of what enters each block, and its MLP branch if there is one; the shape of
            the features before pooling; and the width of the pooled features.
        """
        shapes: dict[str, list[tuple[int, ...]]] = {}

        def record(name: str, _module: nn.Module, args: tuple[Any, ...]) -> None:
            shapes.setdefault(name, []).append(_shape(args[0] if args else None))

        with ExitStack() as hooks:
            for name, block in blocks.items():
                for module in (block, block.get_submodule(branch.first)) if branch else (block,):
                    hooks.enter_context(module.register_forward_pre_hook(partial(record, name)))
            try:
                features, pooled = self._run_frame()
            except NotImplementedError as error:
                raise ArgumentError(f"adapters do not fit {self._name()}: {error}") from error
        if pooled.ndim != 2:
            raise ArgumentError(
                f"{self._name()} does not pool its features, which are {list(pooled.shape)}; "
                f"{self._POOLING}"
            )
        # A module that takes the frame itself, [1, 3, h, w], is a stem and not a block.
        inputs = {name: s for name, s in shapes.items() if len(s[0]) != 4 or s[0][1] != 3}
        if not inputs:
            raise ArgumentError(
                f"adapters do not fit {self._name()}: none of its blocks "
                f"({', '.join([*blocks][:3])}) is called with features when the model runs"
            )
        return inputs, _shape(self._grid_features(features)), pooled.shape[-1]

    def _check_branches(self, blocks: dict[str, nn.Module], branch: MlpBranch) -> None:
        """Raise unless all blocks end in x + mlp(norm2(x)) or x + norm2(mlp(x)).

        Adapters before the MLP rely on this form, and another version of a library may change it.
        The check sets the output of the branch to zero: such a block then returns x, which is what
        entered the branch.
        """
        entered: dict[str, Tensor] = {}
        left: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            for name, block in blocks.items():
                for hook in (
                    block.get_submodule(branch.first).register_forward_pre_hook(
                        lambda _, args, name=name: entered.update({name: args[0]})
                    ),
                    block.get_submodule(branch.last).register_forward_hook(
                        lambda _, args, out: torch.zeros_like(out)
                    ),
                    block.register_forward_hook(
                        lambda _, args, out, name=name: left.update({name: _first(out)})
                    ),
                ):
                    hooks.enter_context(hook)
            self._run_frame()
        for name, before in entered.items():
            if before.numel() != left[name].numel() or not (
                before.is_meta or torch.equal(before, left[name].reshape(before.shape))
            ):
                raise _OtherForm(
                    f"adapters do not fit {self._name()}: its block {name} does not add its MLP to "
                    f"the input of {branch.first}, as it does in the versions that were tested"
                )

    @torch.no_grad()
    def _run_frame(self) -> tuple[Any, Tensor]:
        """Compute features and pooled features of one black frame of the native size."""
        was_training = self.backbone.training
        self.backbone.eval()
        try:
            features = self._call(self.black_frame(), Inserted())
            return features, self.pool(features)
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
        channels_last = getattr(self.backbone, "output_fmt", "") == "NHWC"
        size, prefix = self.native_size(), self._num_prefix()
        return find_layout(shape, size, prefix, channels_last=channels_last)


def find_blocks(backbone: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """Return the modules whose names match the first pattern that matches any.

    Activations and norms are left out, whose names may match as well.

    Args:
        backbone: any module.
        patterns: regular expressions of whole names.
    """
    for pattern in patterns:
        found = {
            name: module
            for name, module in backbone.named_modules()
            if re.fullmatch(pattern, name)
            and (isinstance(module, nn.Conv2d) or any(True for _ in module.children()))
        }
        if found:
            return found
    return {}


def _shape(value: Any) -> tuple[int, ...]:
    """Return the shape of a tensor; () for anything else."""
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _first(output: Any) -> Any:
    """Return the features in what a block returned: some blocks return their attention as well."""
    return output[0] if isinstance(output, tuple) else output


def _put_hooks(
    key: Key, index: int, block: nn.Module, layouts: list[Layout], branch: MlpBranch | None
) -> list[_Site]:
    positions = ("attention", "mlp") if branch else ("block",)
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
        entered = block.get_submodule(branch.first) if branch and position == "mlp" else block
        entered.register_forward_pre_hook(partial(_enter, key, site))
        if position == "mlp":
            block.register_forward_hook(partial(_leave_mlp, key, site))
    return sites


def _current(key: Key) -> _Run | None:
    """Return the current call in this thread if it is by the family that has added a hook."""
    run = _THREAD.run
    return run if run and run.key == key else None


def _enter(key: Key, site: _Site, _module: nn.Module, args: tuple[Any, ...]) -> Any:
    """Adapt the first input of a module, if the current call has an adapter for its site."""
    run = _current(key)
    if run is None:
        return None
    # What enters a block is what the one before it put out. The last block's output is not here.
    if run.inserted.watch is not None and site.block > 0 and site.position != "mlp":
        run.inserted.watch(site.layout.split(args[0], run.frame_size))
    adapter = run.inserted.adapters.get(site.name)
    if adapter is None:
        return None
    adapted = site.layout.adapt(args[0], run.frame_size, adapter)
    # The paper adapts the residual stream itself: x + u + mlp(norm2(x + u)). A hook on norm2
    # changes the input of the branch, but not the x that timm's block adds to its output. So the
    # update u is stored here, and `_leave_mlp` adds it to the output of the block.
    if site.position == "mlp":
        run.updates[site.name] = adapted - args[0]
    return (adapted, *args[1:])


def _leave_mlp(key: Key, site: _Site, _module: nn.Module, _args: Any, output: Any) -> Any:
    run = _current(key)
    update = run.updates.pop(site.name, None) if run else None
    if update is None:
        return None
    # Some blocks have a grid [n, h, w, c] outside the MLP and tokens inside it.
    features = _first(output)
    adapted = features + update.reshape(features.shape)
    return (adapted, *output[1:]) if isinstance(output, tuple) else adapted


def catch(key: Key, _module: nn.Module, _args: Any, output: Tensor) -> None:
    """Keep the output of a module for `_caught`. To be used as a forward hook."""
    if run := _current(key):
        run.caught.append(output)


def catch_input(key: Key, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
    """Keep the input of a module for `_caught`. To be used as a forward pre-hook."""
    if run := _current(key):
        run.caught.append(args[0])


def _skip(key: Key, _module: nn.Module, args: tuple[Any, ...], _output: Tensor) -> Tensor | None:
    """Undo a module inside a call of `run`."""
    return args[0] if _current(key) else None
