"""Quicker imports for the verbs that score videos, in the command's own process."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


class DeferredModule(ModuleType):
    """A module that is imported when something asks it for an attribute that it was not given."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # the import system looks for some of these
        _remove_deferred()
        return getattr(import_module(self.__name__), name)


@contextmanager
def quick_imports() -> Iterator[None]:
    """Put off the import of torch's compiler until it is called, and pause garbage collection.

    torchvision and timm import the compiler, which takes longer than torch itself, for a function
    that only object detection calls and for the decorator `disable`. Collections find no garbage
    among what is imported here; afterwards, and at exit, they leave it out.

    `predict` of one clip with test_vit took 6.4 s of CPU time so, 8.2 s without the pause, 10.3 s
    with the compiler, and 12.8 s with neither (median of 5 in turns, 2 cores of a busy Xeon,
    torch 2.15, 2026-11-29).
    """
    if "torch._dynamo" in sys.modules:
        yield
        return
    was_enabled = gc.isenabled()
    gc.disable()
    _add_deferred()
    try:
        yield
    finally:
        _remove_deferred()
        if "triton" not in sys.modules:  # it reports leaks at exit if it is frozen
            gc.freeze()
        if was_enabled:
            gc.enable()


def _add_deferred() -> None:
    # torch's own form of the decorator, which imports the compiler when the function is called.
    # It is private: where a version of torch lacks it, the compiler is imported as ever.
    try:
        from torch._compile import _disable_dynamo
    except ImportError:
        return

    def disable(fn: Any = None, recursive: bool = True, **_: Any) -> Any:
        return _disable_dynamo(fn, recursive)

    def is_compile_supported(device: str) -> Any:
        return import_module("torch._dynamo.utils").is_compile_supported(device)

    compiler, utils = DeferredModule("torch._dynamo"), DeferredModule("torch._dynamo.utils")
    compiler.__dict__.update(disable=disable, __path__=[])
    utils.__dict__.update(is_compile_supported=is_compile_supported)
    sys.modules |= {module.__name__: module for module in (compiler, utils)}


def _remove_deferred() -> None:
    for name, module in list(sys.modules.items()):
        if isinstance(module, DeferredModule):
            del sys.modules[name]
