"""Does a head that starts from class means learn more from few clips than a random one?

    python benchmarks/head_init.py DATA.csv 5,20 --out FOLDER [--val-clips N] [SETTING=VALUE ...]

DATA is a table with the columns path, label and split. Takes the same few random training clips of
each class for both heads, with three seeds, and prints top-1 accuracy as a table in Markdown: after
each epoch on N validation clips of each class, and at the end on all of them. One run a core; a run
that is done is not done again.
"""

import csv
import json
import random
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from st_adapter import evaluate
from st_adapter.config import TrainConfig
from st_adapter.training.loop import train

STARTS = ("random", "prototype")
SEEDS = (0, 1, 2)


def main(data: Path, counts: list[int], out: Path, val_clips: int, config: TrainConfig) -> None:
    """Train all runs and print the table."""
    cells = list(product(counts, STARTS, SEEDS))
    for count, seed in product(counts, SEEDS):
        write_few(data, out / f"clips_{count}_seed_{seed}.csv", count, val_clips, seed)
    write_few(data, out / "all.csv", 0, 10**6, 0)
    with ProcessPoolExecutor(2) as pool:
        jobs = {cell: pool.submit(accuracies, out, *cell, config) for cell in cells}
        found = {cell: job.result() for cell, job in jobs.items()}
    epochs = [f"epoch {i + 1}" for i in range(config.epochs)]
    print("| clips a class | start | " + " | ".join([*epochs, "end, all clips"]) + " |")
    print("|---|---|" + "---:|" * (config.epochs + 1))
    for count, start in product(counts, STARTS):
        by_epoch = zip(*(found[count, start, seed] for seed in SEEDS), strict=True)
        texts = [f"{mean(v):.1f} ({100 * min(v):.1f}-{100 * max(v):.1f})" for v in by_epoch]
        print(f"| {count} | {start} | " + " | ".join(texts) + " |")


def mean(values: tuple[float, ...]) -> float:
    """Return the mean, in per cent."""
    return 100 * statistics.fmean(values)


def write_few(data: Path, file: Path, count: int, val_clips: int, seed: int) -> None:
    """Write a table with a few training clips of each class, and at most val_clips of validation.

    Validation clips do not depend on the seed.
    """
    with data.open(newline="") as text:
        rows = list(csv.DictReader(text))
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(("path", "label", "split"))
        for label, split in product(sorted({row["label"] for row in rows}), ("train", "val")):
            paths = [r["path"] for r in rows if (r["label"], r["split"]) == (label, split)]
            of_train = split == "train"
            random.Random(f"{seed if of_train else 0} {label}").shuffle(paths)
            chosen = paths[: count if of_train else val_clips]
            writer.writerows((path, label, split) for path in chosen)


def accuracies(out: Path, count: int, start: str, seed: int, config: TrainConfig) -> list[float]:
    """Train one run. Return its top-1 accuracy after each epoch, and at the end on all clips."""
    folder = out / f"{count}_{start}_{seed}"
    if not (folder / "eval.json").exists():
        config = replace(config, head_init=start, seed=seed)
        train(out / f"clips_{count}_seed_{seed}.csv", folder, config)
    file = folder / "all.json"
    if not file.exists():
        last = folder / "adapter_last"
        evaluate(last, out / "all.csv", out=file, weights=config.weights, workers=0)
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    scores = [line["top1"] for line in lines if "top1" in line]
    return [*scores, json.loads(file.read_text())["top1"]]


def value_of(text: str) -> Any:
    """Read a number, true or false, or else text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    arguments = sys.argv[1:]
    settings = dict(a.split("=", 1) for a in arguments if "=" in a)
    data, counts, _, out, _, val_clips = [a for a in arguments if "=" not in a]
    values = {name: value_of(text) for name, text in settings.items()}
    config = TrainConfig.from_json({"workers": 0, "precision": "float32"} | values, "command line")
    main(Path(data), list(map(int, counts.split(","))), Path(out), int(val_clips), config)
