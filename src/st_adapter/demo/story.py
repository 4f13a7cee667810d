"""Run the demo: make clips, train three methods, compare them, and predict one clip."""

import itertools
import time
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from st_adapter.common.files import write_json
from st_adapter.common.progress import bar
from st_adapter.common.remarks import console, say
from st_adapter.config import TrainConfig
from st_adapter.data.annotations import read_annotations
from st_adapter.demo import clips
from st_adapter.demo.picture import draw_comparison
from st_adapter.errors import ArgumentError
from st_adapter.evaluation.evaluate import Evaluation, evaluate_videos
from st_adapter.evaluation.predict import Predictor
from st_adapter.training.loop import train
from st_adapter.wording import setting

METHODS = {"linear": "linear probe", "adapter": "spatial adapter", "st-adapter": "ST-Adapter"}
"""The methods that the demo compares, with the names it prints."""

SCENES = {"train": 60, "val": 8, "test": 20}
"""Scenes per pair of classes in each part. Every scene gives two clips."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of one method on clips of photographs that training did not use."""

    method: str
    trained_parameters: int
    seconds: float
    evaluation: Evaluation

    def accuracies(self) -> dict[str, float]:
        """Return top-1 accuracy for each pair of classes, and under "all" for all classes."""
        found = {}
        for pair in clips.PAIRS:
            rows = [self.evaluation.per_class[label] for label in (pair.forward, pair.backward)]
            right = sum((row["accuracy"] or 0) * (row["num_videos"] or 0) for row in rows)
            total = sum(row["num_videos"] or 0 for row in rows)
            found[f"{pair.forward} / {pair.backward}"] = right / total
        return found | {"all": self.evaluation.top1}

    def to_json(self) -> dict[str, object]:
        """Return the result as plain values."""
        return {
            "method": self.method,
            "top1": self.evaluation.top1,
            "trained_parameters": self.trained_parameters,
            "seconds": round(self.seconds, 1),
            "per_class": self.evaluation.per_class,
        }


def demo_config(method: str, seed: int) -> TrainConfig:
    """Return the settings, which differ between methods in `method` only.

    docs/demo.md describes how they were found. Adapters are initialised as in the paper, not as in
    the recipe `default`, because the demo shows the published method.
    """
    return TrainConfig(
        backbone="tf_efficientnet_lite0",
        weights="package",
        method=method,
        kernel_size=(3, 3, 3),
        adapter_layers="13",
        init="conv-zero",
        head_std=0.02,
        frames=6,
        size=96,
        crop="jitter",
        crop_range=(1.0, 1.15),
        flip=False,
        epochs=4,
        batch_size=16,
        lr=4e-3,
        warmup_epochs=0.4,
        seed=seed,
    )


def run_demo(out: Path | None, seed: int = 0) -> list[Outcome]:
    """Run the demo and write its clips, runs, picture and results to a folder.

    Args:
        out: The folder, which must be empty or new. By default, `st-adapter-demo` in the current
            folder, with a number if that exists.
        seed: Seed of the clips and of training.

    Returns:
        The result of each method.

    Raises:
        ArgumentError: `out` is not empty.
    """
    folder = out or _free_name("st-adapter-demo")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArgumentError(f"{folder} is not empty; choose another {setting('out')}")
    start = time.perf_counter()
    say(
        f"Making clips of moving photographs in {folder}/clips. The {2 * len(clips.PAIRS)} classes "
        "form pairs, and each is its partner played backwards.\n"
        "Single frames look the same in both classes of a pair: a classifier that ignores the "
        "order of frames is right for half of the clips at most."
    )
    _make_clips(folder / "clips", seed)
    outcomes = [_try_method(folder, method, seed) for method in METHODS]
    write_json(folder / "comparison.json", [outcome.to_json() for outcome in outcomes])
    _print_table(outcomes)
    picture = folder / "comparison.png"
    bars = {METHODS[outcome.method]: outcome.accuracies() for outcome in outcomes}
    draw_comparison(picture, folder / "clips" / "test", bars)
    say(f"Picture: {picture}")
    _predict_one(folder)
    say(
        f"\nDone in {time.perf_counter() - start:.0f} s. To use your own videos, put them in one "
        "folder per class, then:\n"
        "  st-adapter train my_videos/ --out run      (--backbone NAME for any timm image model)\n"
        "  st-adapter predict run new.mp4"
    )
    return outcomes


def _free_name(name: str) -> Path:
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(path for path in map(Path, names) if not path.exists())


def _make_clips(folder: Path, seed: int) -> None:
    total = 2 * len(clips.PAIRS) * sum(SCENES.values())
    with bar("making clips", total) as progress:
        for i, (part, scenes) in enumerate(SCENES.items()):
            photos = clips.TEST_PHOTOS if part == "test" else clips.TRAIN_PHOTOS
            for _ in clips.write_clips(folder / part, photos, scenes, seed=3 * seed + i):
                progress.advance()


def _try_method(folder: Path, method: str, seed: int) -> Outcome:
    """Train one method, then test its best epoch on clips of the test photographs."""
    say(f"\n{METHODS[method]}")
    start = time.perf_counter()
    run = folder / method
    train(folder / "clips", run, demo_config(method, seed), recipe="demo", diagnose=False)
    predictor = Predictor(run)
    test = read_annotations(folder / "clips" / "test", predictor.model.labels)
    result = evaluate_videos(predictor.model, test.train, predictor.clip, batch_size=16)
    say(f"top-1 {result.top1:.1%} on {result.num_videos} clips of new photographs")
    return Outcome(
        method=method,
        trained_parameters=predictor.model.num_parameters(only_trainable=True),
        seconds=time.perf_counter() - start,
        evaluation=result,
    )


def _print_table(outcomes: list[Outcome]) -> None:
    table = Table(
        title="Top-1 accuracy on clips of new photographs",
        caption="50 % means that the pair is right, but its direction is guessed.",
    )
    table.add_column("")
    for o in outcomes:
        table.add_column(METHODS[o.method], justify="right")
    for pair in list(outcomes[0].accuracies())[:-1]:
        table.add_row(pair, *(f"{o.accuracies()[pair]:.0%}" for o in outcomes))
    table.add_section()
    table.add_row("all", *(f"{o.evaluation.top1:.1%}" for o in outcomes), style="bold")
    table.add_row("trained parameters", *(f"{o.trained_parameters / 1e6:.3f} M" for o in outcomes))
    table.add_row("seconds", *(f"{o.seconds:.0f}" for o in outcomes))
    console().print()
    console().print(table)


def _predict_one(folder: Path) -> None:
    clip = sorted((folder / "clips" / "test" / clips.PAIRS[-1].forward).glob("*.mp4"))[0]
    run = folder / "st-adapter"
    label, score = Predictor(run)(clip)[0]
    say(f"\nst-adapter predict {run} '{clip}'\n  {label} {score:.1%}")
