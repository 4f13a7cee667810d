"""Print how often a classifier is right for each part of the videos' names.

    python scripts/accuracy_by_name.py PATTERN EVAL_JSON...

The first group of PATTERN, a regular expression, is the part: "v_(.+?)_g" finds the action in the
names of UCF101. Each EVAL_JSON, as `train` and `evaluate` write it, is a column.
"""

import json
import re
import sys
from collections import defaultdict
from pathlib import Path


def main(pattern: str, files: list[Path]) -> None:
    """Print a row for each part and one for all."""
    evaluations = [json.loads(file.read_text()) for file in files]
    right: dict[str, list[list[bool]]] = defaultdict(lambda: [[] for _ in files])
    for i, evaluation in enumerate(evaluations):
        for prediction in evaluation["predictions"]:
            found = re.search(pattern, Path(prediction["path"]).name)
            part = found.group(1) if found else "other"
            for row in (part, "all"):
                right[row][i].append(prediction["label"] == prediction["predicted"])
    for part in sorted(right, key=lambda name: (name == "all", name)):
        shares = (f"{sum(own) / len(own):6.1%}" if own else "     -" for own in right[part])
        print(f"{part:20s}", *shares)


if __name__ == "__main__":
    main(sys.argv[1], [Path(name) for name in sys.argv[2:]])
