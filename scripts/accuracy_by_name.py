"""Print how often a classifier is right for each part of the videos' names.

    python scripts/accuracy_by_name.py PATTERN EVAL_JSON...

The first group of PATTERN, a regular expression, is the part: "v_(.+?)_g" finds the action in the
names of UCF101. Each EVAL_JSON, as `train` and `evaluate` write it, is a column.
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from itertools import chain
from pathlib import Path


def main(pattern: re.Pattern[str], files: list[Path]) -> None:
    """Print a row for each part and one for all."""
    print(f"{'':20s}", *(f"{file.parent.name[-8:]:>8s}" for file in files))
    right: dict[str, list[list[bool]]] = defaultdict(lambda: [[] for _ in files])
    for i, file in enumerate(files):
        for prediction in json.loads(file.read_text())["predictions"]:
            found = pattern.search(Path(prediction["path"]).name)
            if found is None:
                sys.exit(f"{prediction['path']} does not match {pattern.pattern}")
            right[found.group(1)][i].append(prediction["label"] == prediction["predicted"])
    for part in sorted(right):
        print_row(part, right[part])
    print_row("", [list(chain(*columns)) for columns in zip(*right.values(), strict=True)])


def print_row(name: str, columns: list[list[bool]]) -> None:
    """Print shares in %."""
    print(f"{name:20s}", *(f"{sum(c) / len(c):8.1%}" if c else f"{'-':>8s}" for c in columns))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pattern", type=re.compile, metavar="PATTERN")
    parser.add_argument("files", nargs="+", type=Path, metavar="EVAL_JSON")
    arguments = parser.parse_args()
    main(arguments.pattern, arguments.files)
