"""Run the comparisons of docs/lab/results.md and print their tables in Markdown.

    python scripts/compare_results.py OUT DATA VIT_WEIGHTS [NAME ...] [--methods METHOD,...]

DATA is what `make_results_data.py` wrote. OUT gets a folder for each comparison, which goes on
where it was stopped; names choose among them. EfficientNet-Lite0's weights are a package's.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from st_adapter.cli.tables import accuracy_cells, cost_cells
from st_adapter.comparison.results import MethodRow
from st_adapter.comparison.run import compare
from st_adapter.config import TrainConfig
from st_adapter.report.page import write_report

METHODS = (
    *("st-adapter", "side", "ordered", "attentive", "linear", "adapter", "prompt", "lora"),
    *("bitfit", "partial", "full"),
)
COLUMNS = (
    "method",
    "top-1, %",
    "95%",
    "seeds",
    "reversed",
    "shuffled",
    "frozen",
    "lr",
    "trained",
    "stored",
    "step, ms",
    "peak, GB",
    "GMACs",
)
SHARED: dict[str, Any] = {"size": 112, "workers": 1, "precision": "bfloat16"}
VIT = {"backbone": "vit_tiny_patch16_224"}
CNN = {"backbone": "tf_efficientnet_lite0", "weights": "package", "frames": 4, "size": 96}
BACKBONES: dict[str, dict[str, Any]] = {"vit": VIT, "cnn": CNN}


class Comparison(NamedTuple):
    """A data set, what its runs share, and how learning rates are chosen.

    Where order is all there is, a run cut short stays at chance and tells nothing of a rate:
    trials are as long as runs there, with the two rates that the study left. EfficientNet-Lite0
    leaves chance sooner than ViT-Tiny; `cnn` is what it has instead.
    """

    data: str
    config: dict[str, Any]
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    whole_trials: bool = False
    cnn: Mapping[str, Any] = MappingProxyType({})


_SIT: dict[str, Any] = {"epochs": 20, "frames": 4, "group": r"(Sit|Stand)_\d+_"}
_ARROW: dict[str, Any] = {"epochs": 6, "frames": 4, "group": r"_g\d+"}
ORDER_RATES = (3e-4, 1e-3)
SETS: dict[str, Comparison] = {
    "ucf6": Comparison("ucf6.csv", {"epochs": 2, "group": r"_g\d+"}),
    "arrow": Comparison(
        "arrow/data.csv",
        {**_ARROW, "reversal": "forward=backward"},
        ORDER_RATES,
        whole_trials=True,
        cnn={"epochs": 3},
    ),
    "sit": Comparison("sit_stand.csv", _SIT, ORDER_RATES, whole_trials=True),
    "sit_reversal": Comparison(
        "sit_stand.csv", {**_SIT, "reversal": "Sit=Stand"}, ORDER_RATES, whole_trials=True
    ),
    "demo": Comparison(
        "demo", {"epochs": 4, "group": r"/\d+\.mp4", "frames": 6, "size": 96, "flip": False}
    ),
}


def main(
    out: Path, data: Path, vit_weights: Path, names: list[str], methods: tuple[str, ...]
) -> None:
    """Run the comparisons named, or all, and print a table of each."""
    known = [f"{set_name}_{backbone}" for backbone in BACKBONES for set_name in SETS]
    if unknown := set(names) - set(known):
        sys.exit(f"no comparison {', '.join(unknown)}; there are {', '.join(known)}")
    for name in names or known:
        set_name, _, backbone = name.rpartition("_")
        comparison = SETS[set_name]
        weights = {"weights": str(vit_weights)} if backbone == "vit" else {}
        values = {**SHARED, **BACKBONES[backbone], **weights, **comparison.config}
        if backbone == "cnn":
            values |= comparison.cnn
        folder = out / name
        rows = compare(
            data / comparison.data,
            folder,
            TrainConfig(**values),
            methods=methods,
            rates=comparison.rates,
            search_epochs=values["epochs"] if comparison.whole_trials else None,
            processes=os.cpu_count() or 1,
        )
        write_report(folder)
        print_table(name, rows)


def print_table(name: str, rows: list[MethodRow]) -> None:
    """Print the columns of `st-adapter compare` in Markdown."""
    print(f"\n{name}\n\n| {' | '.join(COLUMNS)} |\n|---|{'---:|' * (len(COLUMNS) - 1)}")
    for row in rows:
        print(f"| {' | '.join([*accuracy_cells(row), *cost_cells(row)[1:]])} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("vit_weights", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--methods", default=",".join(METHODS))
    given = parser.parse_args()
    main(given.out, given.data, given.vit_weights, given.names, tuple(given.methods.split(",")))
