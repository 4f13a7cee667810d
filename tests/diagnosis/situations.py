"""Made runs: records as `read_facts` returns them, with what each run shows."""

from pathlib import Path

from st_adapter.config import TrainConfig
from st_adapter.diagnosis.facts import Epoch, RunFacts, VideoFacts
from st_adapter.diagnosis.file_facts import FileFacts
from st_adapter.diagnosis.scenes import SharedScenes

SIX = ("Archery", "Dunk", "HorseRace", "Piano", "Surfing", "Violin")


def evaluation(confusion, labels=SIX, **more):
    """What `eval.json` contains for a confusion matrix."""
    total = sum(map(sum, confusion))
    right = sum(row[i] for i, row in enumerate(confusion))
    return {
        "metric": "top1",
        "top1": right / total,
        "heads": {},
        "labels": list(labels),
        "confusion": confusion,
        "num_videos": total,
        "per_class": {
            label: {
                "num_videos": sum(row),
                "accuracy": row[i] / sum(row) if sum(row) else None,
            }
            for i, (label, row) in enumerate(zip(labels, confusion, strict=True))
        },
        "predictions": [
            {"path": f"{label}.mp4", "label": label}
            for label, row in zip(labels, confusion, strict=True)
            for _ in range(sum(row))
        ],
        "temporal": None,
    } | more


def even(right, total, labels=SIX, **more):
    """An evaluation with `right` of `total` videos right in each class, and errors spread."""
    count = len(labels)
    rows = []
    for i in range(count):
        row = [(total - right) // (count - 1)] * count
        row[i] = right
        row[(i + 1) % count] += total - sum(row)
        rows.append(row)
    return evaluation(rows, labels, **more)


def epochs(train, val=None):
    """Epochs with these training and validation losses."""
    val = val or [loss + 0.1 for loss in train]
    return tuple(
        Epoch(number=i, train_loss=a, val_loss=b, score=0.5)
        for i, (a, b) in enumerate(zip(train, val, strict=True), start=1)
    )


FITTED = epochs([1.5, 0.9, 0.6, 0.45, 0.44], [1.3, 0.9, 0.7, 0.6, 0.6])
"""Losses of a run that has settled, without overfitting."""


def scenes(shared=0, of=120, **more):
    """What was found about scenes."""
    pairs = [["/v/g01_c1.mp4", "/v/g01_c2.mp4"]] if shared else []
    counts = {"num_videos": of, "num_train": 480, "shared": shared, "examples": pairs}
    return SharedScenes(**({"by_frame": shared, "by_name": 0} | counts | more))


def videos(train=72, val=20, labels=SIX, **more):
    """Facts about videos: equal classes, no shared scenes, 10 s at 25 frames per second."""
    per_class = train if isinstance(train, dict) else dict.fromkeys(labels, train)
    known = {
        "classes": {label: (count, val) for label, count in per_class.items()},
        "median_seconds": 10.0,
        "frames_per_second": 25.0,
        "scenes": scenes(),
        "file_facts": FileFacts(
            num_videos=120, accuracy=0.3, largest_class=0.17, uses=["length"],
            label="Dunk", found=9, num_label=20, false_alarms=10,
        ),
    }  # fmt: skip
    return VideoFacts(**known | more)


def run(results=None, settings=None, **more):
    """A run with 80% of 120 videos right, where nothing stands out unless `more` says so."""
    known = {
        "folder": Path("runs/my run"),
        "data": "/data/my videos",
        "config": TrainConfig(**{"backbone": "vit_tiny_patch16_224"} | (settings or {})),
        "evaluation": even(16, 20) if results is None else results,
        "epochs": FITTED,
        "steps": 270,
        "can_resume": True,
        "videos": videos(),
    }
    return RunFacts(**known | more)


PAIR = ("Sit", "Stand")
SIDES = ("Turn left", "Turn right")

SITUATIONS = {
    "few videos": run(
        even(4, 6),
        videos=videos(6, 6),
        epochs=epochs([1.4, 0.7, 0.3, 0.1, 0.05], [1.4, 1.2, 1.1, 1.2, 1.3]),
    ),
    "overfitting": run(
        even(14, 20), epochs=epochs([1.5, 0.6, 0.2, 0.05, 0.02], [1.3, 0.9, 1.0, 1.3, 1.6])
    ),
    "too few epochs": run(
        even(14, 20), epochs=epochs([1.75, 1.4, 1.0], [1.7, 1.35, 1.1]), settings={"epochs": 3}
    ),
    "opposite classes": run(
        evaluation([[27, 23], [22, 28]], PAIR),
        videos=videos(50, 50, PAIR),
        epochs=epochs([0.7, 0.69, 0.69]),
    ),
    "mirrored classes": run(
        evaluation([[26, 24], [20, 30]], SIDES),
        settings={"mirror": "same"},
        videos=videos(60, 50, SIDES),
        epochs=epochs([0.7, 0.6, 0.5]),
    ),
    "shared scenes": run(
        even(20, 20), videos=videos(80, 20, scenes=scenes(114, by_frame=30, by_name=114))
    ),
    "file facts": run(
        even(18, 20),
        videos=videos(
            file_facts=FileFacts(
                num_videos=120, accuracy=0.81, largest_class=0.17, uses=["width", "length"],
                label="Dunk", found=20, num_label=20, false_alarms=3,
            )
        ),
    ),
    "useless class": run(
        evaluation(
            [
                *([18, 1, 0, 0, 0, 1], [1, 18, 1, 0, 0, 0], [0, 1, 19, 0, 0, 0]),
                *([0, 0, 1, 18, 0, 1], [4, 4, 4, 3, 2, 3], [0, 1, 0, 0, 1, 18]),
            ]
        ),
        epochs=epochs([1.5, 0.8, 0.4, 0.2], [1.3, 0.9, 0.8, 0.95]),
    ),
    "few validation videos": run(
        evaluation([[4, 3], [3, 4]], ("Archery", "Surfing")),
        videos=videos(43, 7, ("Archery", "Surfing")),
        epochs=epochs([0.7, 0.5, 0.3, 0.2], [0.69, 0.68, 0.75, 0.9]),
    ),
    "labels": run(
        even(4, 20),
        videos=videos(scenes=scenes(alike=100, alike_apart=82)),
        epochs=epochs([1.8, 1.77, 1.72, 1.6], [1.8, 1.8, 1.85, 1.95]),
    ),
    "short clips": run(
        even(12, 20), settings={"stride": 2}, videos=videos(median_seconds=20.0)
    ),
    "long gaps": run(even(12, 20), videos=videos(median_seconds=90.0)),
    "random weights": run(
        even(7, 20), settings={"weights": "random"}, epochs=epochs([1.79, 1.75, 1.7, 1.68])
    ),
    "divergence": run({}, epochs=epochs([1.79, 1.9]), left_out=5, steps=40, videos=None),
    "uneven classes": run(
        evaluation(
            [
                *([19, 1, 0, 0, 0, 0], [0, 20, 0, 0, 0, 0], [0, 1, 19, 0, 0, 0]),
                *([0, 0, 0, 20, 0, 0], [5, 3, 2, 0, 8, 2], [0, 0, 0, 1, 0, 19]),
            ]
        ),
        videos=videos(dict.fromkeys(SIX, 80) | {"Surfing": 7}),
    ),
    "one frame is enough": run(
        even(96, 100, baselines={"largest_class": 1 / 6, "one_frame": 0.96}), videos=videos(val=100)
    ),
    "underfitting": run(
        even(60, 100), epochs=epochs([1.7, 1.4, 1.3, 1.29]), videos=videos(val=100)
    ),
    "few frames": run(
        even(80, 100, temporal={"in_order": 0.8, "reversed": 0.6, "shuffled": 0.6, "frozen": 0.5})
    ),
    "small pictures": run(even(80, 100), settings={"size": 96}),
    "uncertain result": run(even(16, 24, ("a", "b", "c")), videos=videos(labels=("a", "b", "c"))),
    "image model": run(even(80, 100)),
    "nothing": run(even(97, 100)),
}  # fmt: skip
"""By the cause that the first piece of advice must name."""
