"""Turn any pre-trained image model into a video classifier.

Only a small fraction of the parameters is trained, in adapters inside the frozen image model.
`train` makes a run folder from labelled videos, `evaluate` measures its accuracy, and `Predictor`
classifies new videos with it. `attach`, `create_model` and `load` return the PyTorch model itself,
for use in your own code.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from st_adapter.common.task import Task as Task
    from st_adapter.config import AdapterConfig as AdapterConfig
    from st_adapter.config import ClipConfig as ClipConfig
    from st_adapter.config import DataConfig as DataConfig
    from st_adapter.config import MethodConfig as MethodConfig
    from st_adapter.config import TrainConfig as TrainConfig
    from st_adapter.data.annotations import Annotations as Annotations
    from st_adapter.data.annotations import read_parts as read_parts
    from st_adapter.data.augment.transform import TrainTransform as TrainTransform
    from st_adapter.data.clip_dataset import ClipDataset as ClipDataset
    from st_adapter.data.videos import Skipped as Skipped
    from st_adapter.data.videos import Video as Video
    from st_adapter.diagnosis.advice import Advice as Advice
    from st_adapter.diagnosis.advice import advise as advise
    from st_adapter.errors import ArgumentError as ArgumentError
    from st_adapter.errors import CheckpointError as CheckpointError
    from st_adapter.errors import DataError as DataError
    from st_adapter.errors import ExportError as ExportError
    from st_adapter.errors import LabellingError as LabellingError
    from st_adapter.errors import MemoryShortError as MemoryShortError
    from st_adapter.errors import StAdapterError as StAdapterError
    from st_adapter.errors import TrainingError as TrainingError
    from st_adapter.errors import VideoError as VideoError
    from st_adapter.evaluation.evaluate import Evaluation as Evaluation
    from st_adapter.evaluation.predict import Prediction as Prediction
    from st_adapter.evaluation.predict import Predictor as Predictor
    from st_adapter.evaluation.run import evaluate as evaluate
    from st_adapter.evaluation.spans import Span as Span
    from st_adapter.evaluation.stream import LiveScores as LiveScores
    from st_adapter.evaluation.timeline import Timeline as Timeline
    from st_adapter.exporting.run import Exported as Exported
    from st_adapter.exporting.run import export as export
    from st_adapter.hub.push import push as push
    from st_adapter.labelling.label import Labelled as Labelled
    from st_adapter.labelling.label import label_videos as label_videos
    from st_adapter.model.build import attach as attach
    from st_adapter.model.build import create_model as create_model
    from st_adapter.model.build import load as load
    from st_adapter.model.classifier import VideoClassifier as VideoClassifier
    from st_adapter.model.exported import ExportedModel as ExportedModel
    from st_adapter.model.exported import open_exported as open_exported
    from st_adapter.model.methods.adapter import STAdapter as STAdapter
    from st_adapter.training.features import ComputedFeatures as ComputedFeatures
    from st_adapter.training.features import compute_features as compute_features
    from st_adapter.training.loop import train as train
    from st_adapter.training.optimizer import learning_rate_factor as learning_rate_factor
    from st_adapter.training.optimizer import make_optimizer as make_optimizer

__version__ = "0.1.0"

# The public names by the module that defines them. `__getattr__` imports a module when one of its
# names is first used, so that `import st_adapter` and `st-adapter --help` do not wait seconds for
# torch. The imports above are for type checkers and editors. They must not see `__getattr__`, which
# would give them every misspelt name as Any.
_HOMES = {
    "common.task": ("Task",),
    "config": ("AdapterConfig", "ClipConfig", "DataConfig", "MethodConfig", "TrainConfig"),
    "data.annotations": ("Annotations", "read_parts"),
    "data.augment.transform": ("TrainTransform",),
    "data.clip_dataset": ("ClipDataset",),
    "data.videos": ("Skipped", "Video"),
    "diagnosis.advice": ("Advice", "advise"),
    "errors": (
        *("ArgumentError", "CheckpointError", "DataError", "ExportError", "LabellingError"),
        *("MemoryShortError", "StAdapterError", "TrainingError", "VideoError"),
    ),
    "evaluation.evaluate": ("Evaluation",),
    "evaluation.predict": ("Prediction", "Predictor"),
    "evaluation.run": ("evaluate",),
    "evaluation.spans": ("Span",),
    "evaluation.stream": ("LiveScores",),
    "evaluation.timeline": ("Timeline",),
    "exporting.run": ("Exported", "export"),
    "hub.push": ("push",),
    "labelling.label": ("Labelled", "label_videos"),
    "model.exported": ("ExportedModel", "open_exported"),
    "model.methods.adapter": ("STAdapter",),
    "model.build": ("attach", "create_model", "load"),
    "model.classifier": ("VideoClassifier",),
    "training.features": ("ComputedFeatures", "compute_features"),
    "training.loop": ("train",),
    "training.optimizer": ("learning_rate_factor", "make_optimizer"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = [*_HOME_OF]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOME_OF:
            raise AttributeError(f"module 'st_adapter' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"st_adapter.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
