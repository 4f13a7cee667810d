"""Run the comparisons of docs/results.md and print their tables in Markdown.

    python scripts/compare_results.py OUT DATA VIT_WEIGHTS [NAME ...]

DATA is what `make_results_data.py` wrote. OUT gets a folder for each comparison, which goes on
where it was stopped; names choose among them. EfficientNet-Lite0's weights are a package's.
"""

import os
import sys
from pathlib import Path
from typing import Any

from st_adapter.comparison.results import Row
from st_adapter.comparison.run import compare
from st_adapter.comparison.table import cells
from st_adapter.config import TrainConfig
from st_adapter.report.page import write_report

METHODS = ("st-adapter", "linear", "adapter", "prompt", "lora", "bitfit", "partial", "full")
COLUMNS = (
    "method",
    "top-1, %",
    "seeds",
    "lr",
    "trained",
    "stored",
    "step, ms",
    "peak, GB",
    "GMACs",
    "reversed",
    "shuffled",
    "frozen",
)
SHARED: dict[str, Any] = {"size": 112, "workers": 1}
VIT = {"backbone": "vit_tiny_patch16_224", "precision": "bfloat16"}
CNN = {"backbone": "tf_efficientnet_lite0", "weights": "package", "precision": "float32"}
BACKBONES: dict[str, dict[str, Any]] = {"vit": VIT, "cnn": CNN}
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "ucf6": ("ucf6.csv", {"epochs": 2, "group": r"_g\d+"}),
    "arrow": (
        "arrow/data.csv",
        {"epochs": 6, "group": r"_g\d+", "frames": 4, "reversal": "forward=backward"},
    ),
    "sit": ("sit_stand.csv", {"epochs": 20, "group": r"(Sit|Stand)_\d+_", "frames": 4}),
    "sit_reversal": (
        "sit_stand.csv",
        {"epochs": 20, "group": r"(Sit|Stand)_\d+_", "frames": 4, "reversal": "Sit=Stand"},
    ),
    "demo": ("demo", {"epochs": 4, "group": r"/\d+\.mp4", "frames": 6, "size": 96, "flip": False}),
}
RATES = (3e-4, 1e-3, 3e-3)


def main(out: Path, data: Path, vit_weights: Path, names: list[str]) -> None:
    """Run the comparisons named, or all, and print a table of each."""
    for name in names or [f"{set_name}_{b}" for b in BACKBONES for set_name in SETS]:
        set_name, _, backbone = name.rpartition("_")
        file, values = SETS[set_name]
        weights = {"weights": str(vit_weights)} if backbone == "vit" else {}
        config = TrainConfig(**{**SHARED, **BACKBONES[backbone], **weights, **values})
        folder = out / name
        rows = compare(
            data / file,
            folder,
            config,
            methods=METHODS,
            rates=RATES,
            search_epochs=max(1, config.epochs // 3),
            processes=os.cpu_count() or 1,
        )
        write_report(folder)
        print_table(name, rows)


def print_table(name: str, rows: list[Row]) -> None:
    """Print the columns of `st-adapter compare` in Markdown."""
    print(f"\n{name}\n\n| {' | '.join(COLUMNS)} |\n|---|{'---:|' * (len(COLUMNS) - 1)}")
    for row in rows:
        print(f"| {' | '.join(cells(row))} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
