"""Imports for scoring, quicker: torch's compiler waits until something calls it."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import without torch's compiler, and without looking for garbage, of which there is little.

    What was imported is left out of later collections, that at exit among them, unless the
    compiler came in after all. For a command's own process.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with compiler_deferred():
            yield
    finally:
        if "torch._dynamo" not in sys.modules:  # its triton complains at exit where it is frozen
            gc.freeze()
        if was_enabled:
            gc.enable()


@contextmanager
def compiler_deferred() -> Iterator[None]:
    """Import `torch._dynamo` not while timm and torchvision are, but when it is first called.

    It takes longer than torch itself. torchvision asks for it for a function that detection calls
    and a decorator, timm for the same decorator, in `naflexvit`. torch's own, which waits for a
    call, stands in for that; whatever else is asked for is imported.
    """
    if "torch._dynamo" in sys.modules:
        yield
        return
    from torch._compile import _disable_dynamo

    def disable(fn: Any = None, recursive: bool = True, **_: Any) -> Any:
        return _disable_dynamo(fn, recursive)

    def is_compile_supported(device: str) -> Any:
        return import_module("torch._dynamo.utils").is_compile_supported(device)

    contents: dict[str, dict[str, Any]] = {
        "torch._dynamo": {"disable": disable, "__path__": []},
        "torch._dynamo.utils": {"is_compile_supported": is_compile_supported},
    }
    stand_ins = {name: _StandIn(name, content) for name, content in contents.items()}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        _remove_stand_ins()


class _StandIn(ModuleType):
    """A module that is imported after all when it is asked for what it has not."""

    def __init__(self, name: str, content: dict[str, Any]) -> None:
        super().__init__(name)
        self.__dict__.update(content)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # the import system looks for some
        _remove_stand_ins()
        return getattr(import_module(self.__name__), name)


def _remove_stand_ins() -> None:
    for name in [name for name, module in sys.modules.items() if isinstance(module, _StandIn)]:
        del sys.modules[name]
