"""Find out what makes adapters learn from few clips, one factor at a time, on validation parts.

    python scripts/study_recipe.py STUDY WEIGHTS ucf6.csv arrow/data.csv demo/

Trains ViT-Tiny with a base recipe and with each of its variations on the training part of every
data set, less a fifth of its groups, which measure. Test parts are never read. Trains one run a
core, each with a process that decodes; one that is done is not done again, so the study goes on
where it was stopped. Prints a table in Markdown.
"""

import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from st_adapter.common.remarks import say
from st_adapter.config import TrainConfig
from st_adapter.data.annotations import read_parts, write_table
from st_adapter.data.holdout import split_validation
from st_adapter.errors import TrainingError
from st_adapter.training.loop import train

BASE: dict[str, Any] = {
    "backbone": "vit_tiny_patch16_224",
    "init": "difference",
    "dropout": 0.0,
    "head_std": 0.002,
    "lr": 1e-3,
    "size": 112,
    "keep": "last",
    "precision": "bfloat16",
    "workers": 1,
}
SETS: dict[str, dict[str, Any]] = {
    "ucf6": {"epochs": 1, "group": r"_g\d+"},
    "arrow": {"epochs": 5, "group": r"_g\d+", "reversal": "forward=backward", "frames": 4},
    "demo": {"epochs": 2, "group": r"/\d+\.mp4", "frames": 6, "size": 96, "flip": False},
}
VARIATIONS: dict[str, dict[str, Any]] = {
    "base": {},
    "init up-zero": {"init": "up-zero"},
    "init conv-zero": {"init": "conv-zero"},
    "dropout 0.5": {"dropout": 0.5},
    "head std 0.02": {"head_std": 0.02},
    "init, dropout, head std as published": {"init": "conv-zero", "dropout": 0.5, "head_std": 0.02},
    "no reversal beside a clip": {"reversal": None},
    "lr 3e-4": {"lr": 3e-4},
    "lr 3e-3": {"lr": 3e-3},
    "head lr 1e-4": {"head_lr": 1e-4},
    "batch 4": {"batch_size": 4},
    "batch 4, lr 5e-4": {"batch_size": 4, "lr": 5e-4},
    "batch 16, lr 2e-3": {"batch_size": 16, "lr": 2e-3},
    "bottleneck 48": {"bottleneck": 48},
    "bottleneck 192": {"bottleneck": 192},
    "last 6 blocks": {"adapter_layers": "6"},
    "before the MLP alone": {"positions": "mlp"},
    "kernel 3 3 3": {"kernel_size": (3, 3, 3)},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "moving average 0.98": {"average": 0.98},
    "every 3rd frame": {"stride": 3},
    "half the frames": {"frames_factor": 0.5},
    "twice the frames": {"frames_factor": 2},
    "160 px": {"size": 160},
}


def main(study: Path, weights: Path, data: list[Path]) -> None:
    """Run what is missing, then print the table."""
    lists = {name: _hold_out(study, name, path) for name, path in zip(SETS, data, strict=True)}
    with ProcessPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as p:
        runs = []
        for variation, changes in VARIATIONS.items():
            for name, file in lists.items():
                values = {"frames": 8, **BASE, "weights": str(weights), **SETS[name]}
                if changes and all(values.get(k) == v for k, v in changes.items()):
                    continue  # nothing of this data set's is changed
                values["frames"] = round(values["frames"] * changes.get("frames_factor", 1))
                values |= {k: v for k, v in changes.items() if k != "frames_factor"}
                runs.append(p.submit(_run, file, _folder(study, name, variation), values))
        for run in as_completed(runs):
            run.result()
    print_table(study, list(lists))


def _folder(study: Path, name: str, variation: str) -> Path:
    return study / name / variation.replace(" ", "_").replace(",", "")


def _run(file: Path, out: Path, values: dict[str, Any]) -> None:
    if not (out / "eval.json").exists():
        resume = (out / "config.json").exists()
        try:
            train(file, out, None if resume else TrainConfig(**values), resume=resume)
        except TrainingError as error:  # it leaves its cell of the table empty
            say(f"{out}: {error}")


def _hold_out(study: Path, name: str, data: Path) -> Path:
    """List the training part of a data set, a fifth of its groups as the validation part."""
    videos = read_parts(data, TrainConfig())
    train_part, held_out = split_validation(videos.train, 0.2, 0, SETS[name].get("group"))
    parts = replace(videos, train=train_part, val=held_out)
    write_table(study / f"{name}.csv", parts)
    return study / f"{name}.csv"


def print_table(study: Path, sets: list[str]) -> None:
    """Print top-1 on the validation parts."""
    print(f"| factor | {' | '.join(sets)} |\n|---|{'---|' * len(sets)}")
    for variation in VARIATIONS:
        files = [_folder(study, name, variation) / "eval.json" for name in sets]
        values = [json.loads(f.read_text())["top1"] if f.exists() else None for f in files]
        cells = ["" if value is None else f"{100 * value:.1f}" for value in values]
        print(f"| {variation} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
