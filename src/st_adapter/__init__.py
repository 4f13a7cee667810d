"""Turn any pre-trained image model into a video classifier by training a small part of it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from st_adapter.config import AdapterConfig as AdapterConfig
    from st_adapter.config import ClipConfig as ClipConfig
    from st_adapter.config import MethodConfig as MethodConfig
    from st_adapter.config import TrainConfig as TrainConfig
    from st_adapter.errors import CheckpointError as CheckpointError
    from st_adapter.errors import VideoError as VideoError
    from st_adapter.evaluation.predict import Predictor as Predictor
    from st_adapter.model.adapter import STAdapter as STAdapter
    from st_adapter.model.checkpoint import load as load
    from st_adapter.model.classifier import VideoClassifier as VideoClassifier
    from st_adapter.model.classifier import attach as attach
    from st_adapter.model.classifier import create_model as create_model

__version__ = "0.1.0"

_HOMES = {
    "STAdapter": "model.adapter",
    "load": "model.checkpoint",
    "AdapterConfig": "config",
    "ClipConfig": "config",
    "MethodConfig": "config",
    "TrainConfig": "config",
    "CheckpointError": "errors",
    "VideoError": "errors",
    "VideoClassifier": "model.classifier",
    "attach": "model.classifier",
    "create_model": "model.classifier",
    "Predictor": "evaluation.predict",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: `st-adapter --help` needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'st_adapter' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"st_adapter.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """What completion offers."""
    return sorted([*globals(), *__all__])
