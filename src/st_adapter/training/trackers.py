"""Where metrics go beside `metrics.jsonl`, through accelerate."""

from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from st_adapter.config import TrainConfig
from st_adapter.errors import ArgumentError

PROJECT = "st-adapter"


def check_tracker(name: str) -> None:
    """Raise ArgumentError where the package of a tracker is not installed."""
    have = [str(tracker) for tracker in get_available_trackers()]
    if name not in ("none", *have):
        raise ArgumentError(
            f"tracker {name} needs its package: pip install {name}; "
            f"installed are {', '.join(have) or 'none'}"
        )


def start_tracker(accelerator: Accelerator, config: TrainConfig, folder: Path) -> None:
    """Begin to track a run under the name of its folder."""
    if config.tracker == "none":
        return
    name = folder.absolute().name
    accelerator.init_trackers(
        "tensorboard" if config.tracker == "tensorboard" else PROJECT,  # its folder in the run
        config={key: str(value) for key, value in config.to_json().items()},
        init_kwargs={"wandb": {"name": name, "dir": str(folder)}, "trackio": {"name": name}},
    )
