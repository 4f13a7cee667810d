"""Importing what scores videos in half of the time: without torch's compiler, among others."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import without torch's compiler, and without looking for garbage, which imports make none of.

    What was imported is left out of later collections, that at exit among them. For a command's
    own process.
    """
    gc.disable()
    try:
        with compiler_deferred():
            yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def compiler_deferred() -> Iterator[None]:
    """Import `torch._dynamo` not while timm and torchvision are, but when it is first called.

    It takes longer than torch itself. torchvision asks for it for a function that detection calls,
    timm for a decorator. Here torch's own decorator that waits for a call stands in for that.
    For a process that imports in one thread.
    """
    if "torch._dynamo" in sys.modules:
        yield
        return
    from torch._compile import _disable_dynamo

    def disable(fn: Any = None, recursive: bool = True, **_: Any) -> Any:
        return _disable_dynamo(fn, recursive)

    def is_compile_supported(device: str) -> Any:
        from torch._dynamo.utils import is_compile_supported

        return is_compile_supported(device)

    names = ("torch._dynamo", "torch._dynamo.utils")
    package, utils = map(ModuleType, names)
    package.__dict__.update(__path__=[], disable=disable, utils=utils)
    utils.__dict__.update(is_compile_supported=is_compile_supported)
    sys.modules.update(zip(names, (package, utils), strict=True))
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
