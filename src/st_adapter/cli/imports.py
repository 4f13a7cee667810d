"""Faster imports for the commands that score videos."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from st_adapter.evaluation.predict import Predictor


class DeferredModule(ModuleType):
    """A placeholder that imports the real module when an attribute is missing from it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # the import system probes for some of these
        _remove_deferred()
        return getattr(import_module(self.__name__), name)


def import_predictor(run: Path) -> "type[Predictor]":
    """Import what a Predictor of a run, or of an exported file, needs; return the class."""
    from st_adapter.evaluation.predict import Predictor
    from st_adapter.model.exported import is_exported

    if not is_exported(run):
        with quick_imports():
            import_module("st_adapter.evaluation.torch_scorer")
    return Predictor


@contextmanager
def quick_imports() -> Iterator[None]:
    """Skip importing torch's compiler, and pause garbage collection.

    torchvision and timm import the compiler, which takes longer than importing torch itself. They
    use it only for the decorator `disable` and for one function of object detection. Inside this
    context, placeholders replace the compiler and import it when it is first called.

    Garbage collection finds nothing to free during these imports, so it is paused. Afterwards the
    imported objects are frozen: later collections, including the one at exit, skip them.

    CPU time of `predict` on one clip with test_vit: 6.4 s with both measures, 8.2 s without the
    pause, 10.3 s without the placeholders, and 12.8 s without either. These are medians of 5
    alternating runs on 2 cores of a busy Xeon with torch 2.15 (2026-11-29).
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
        if "triton" not in sys.modules:  # at exit, triton reports frozen objects as leaks
            gc.freeze()
        if was_enabled:
            gc.enable()


def _add_deferred() -> None:
    # torch has a lazy form of the decorator, which imports the compiler when the decorated
    # function is called. It is private: a version of torch without it imports the compiler here.
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
