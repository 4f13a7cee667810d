"""Read thousands of annotation files, made by crossing what files in public differ in.

    python scripts/cross_annotations.py [--count 2000] [--seed 0]

Each file lists the same kind of videos, with classes that are known. A file must be read right, or
refused with a message that names a line or what is wrong; none may be read wrong. Prints how many
were, by separator, and every file that was read wrong.
"""

import argparse
import csv
import io
import random
import sys
import tempfile
from collections import Counter
from itertools import product
from pathlib import Path

from st_adapter.data.annotations import read_annotations
from st_adapter.errors import DataError

STEMS = {
    "plain": "clip{i}",
    "blanks": "clip {i} of a day",
    "commas": "talk, loud ({i})",
    "both": "a, b; c {i}",
    "semicolons": "one;two{i}",
    "folders": "day {i}/clip",
    "backslashes": "day{i}\\clip",
    "quotes": 'the "best" {i}',
    "accents": "été {i}",
}
CLASSES = {
    "plain": ("archery", "bowling", "diving"),
    "blanks": ("play guitar", "ride a bike", "wave hands"),
    "commas": ("cut, slowly", "pour, fast", "stir"),
}
CHOICES = {
    "suffix": (".csv", ".txt"),
    "separator": (",", ";", "\t", " "),
    "quoting": ("minimal", "all", "none"),
    "line_end": ("\n", "\r\n", "\r"),
    "encoding": ("utf-8", "utf-8-sig", "utf-16", "latin-1"),
    "header": (True, False),
    "labels": ("names", "from 0", "from 1"),
    "class_file": ("none", "plain", "numbered from 0", "numbered from 1"),
    "stem": tuple(STEMS),
    "classes": tuple(CLASSES),
}


def main(count: int, seed: int) -> int:
    """Read `count` of all combinations, drawn evenly; return 1 if one is read wrong."""
    rng = random.Random(seed)
    every = [dict(zip(CHOICES, values, strict=True)) for values in product(*CHOICES.values())]
    found: Counter[str] = Counter()
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        for number, choice in enumerate(rng.sample(every, min(count, len(every)))):
            folder = Path(name, str(number))
            outcome = read(folder, choice, rng)
            found[f"{choice['separator']!r:5} {outcome.partition(':')[0]}"] += 1
            if outcome.startswith("wrong"):
                wrong += 1
                print(choice, outcome)
    for what, times in sorted(found.items()):
        print(f"{times:5} {what}")
    print(f"{sum(found.values())} files, {wrong} read wrong")
    return 1 if wrong else 0


def read(folder: Path, choice: dict[str, object], rng: random.Random) -> str:
    """Write one file with its videos and read it: "right", "refused: why", or "wrong: how"."""
    folder.mkdir()
    names = CLASSES[str(choice["classes"])]
    stem = STEMS[str(choice["stem"])]
    truth = {f"{stem.format(i=i)}.mp4": names[i % len(names)] for i in range(7)}
    for video in truth:
        path = folder / video.replace("\\", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    write_classes(folder, names, str(choice["class_file"]))
    first = {"from 0": 0, "from 1": 1}.get(str(choice["labels"]))
    labels = names if first is None else [str(first + i) for i in range(len(names))]
    label_of = dict(zip(names, labels, strict=True))
    rows = [(video, label_of[label]) for video, label in truth.items()]
    rng.shuffle(rows)
    text = write(rows, choice)
    file = folder / f"list{choice['suffix']}"
    try:
        file.write_bytes(text.encode(str(choice["encoding"])))
        given = read_annotations(file)
    except UnicodeEncodeError:
        return "not written"
    except DataError as error:
        return f"refused: {error}" if str(folder) in str(error) else f"wrong: no place in {error}"
    expected = {
        (folder / v.replace("\\", "/")): known_as(t, first, choice) for v, t in truth.items()
    }
    if any(label is None for label in expected.values()):
        return "wrong: a label outside the classes was taken"
    read_as = {video.path: given.labels[video.targets[0]] for video in given.train}
    return "right" if read_as == expected else f"wrong: {list(read_as.items())[:2]}"


def known_as(label: str, first: int | None, choice: dict[str, object]) -> str | None:
    """What a class is to be called: its name, or its number where nothing names it."""
    names = CLASSES[str(choice["classes"])]
    if first is None:
        return label
    kind = str(choice["class_file"])
    is_table = bool(choice["header"]) and choice["separator"] != " "  # a list has blanks
    if kind == "none" or is_table:
        return str(first + names.index(label))  # a table has names alone
    begins = 1 if kind.endswith("1") else 0
    index = names.index(label) + first - begins
    return names[index] if 0 <= index < len(names) else None


def write_classes(folder: Path, names: tuple[str, ...], kind: str) -> None:
    """The file that names the classes, if there is one."""
    if kind != "none":
        first = {"numbered from 0": 0, "numbered from 1": 1}.get(kind)
        lines = [n if first is None else f"{first + i} {n}" for i, n in enumerate(names)]
        (folder / "classes.txt").write_text("\n".join(lines))


def write(rows: list[tuple[str, str]], choice: dict[str, object]) -> str:
    """The text of the file."""
    lines = [*([("path", "label")] if choice["header"] else []), *rows]
    end = str(choice["line_end"])
    separator = str(choice["separator"])
    if choice["quoting"] == "none":
        return end.join(separator.join(line) for line in lines) + end
    quoting = csv.QUOTE_ALL if choice["quoting"] == "all" else csv.QUOTE_MINIMAL
    stream = io.StringIO()
    csv.writer(stream, delimiter=separator, quoting=quoting, lineterminator=end).writerows(lines)
    return stream.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.exit(main(given.count, given.seed))
