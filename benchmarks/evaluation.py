"""Evaluation end to end, 3 views of real clips: the official code and ours, the same weights.

    python benchmarks/evaluation.py VIDEO... --official PATH [--model vit-tiny]

PATH is a checkout of linziyi96/st-adapter. From files to scores, with two decoding processes each:
theirs one video a batch in float32, as their main.py evaluates; ours as `evaluate --precision
bfloat16` does, without and with --compile, whose compiling comes before and is told of apart. They
take turns; videos a second are medians.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from official import SIZES, build_official, build_ours, import_models
from torch import Tensor, nn
from torch.utils.data import DataLoader

from st_adapter.compilation import compile_for_inference
from st_adapter.config import ClipConfig
from st_adapter.data.video_list import Video
from st_adapter.evaluate import evaluate
from st_adapter.lanes import lanes_of
from st_adapter.machine import hold_frozen
from st_adapter.model import VideoClassifier

WORKERS, CLASSES = 2, 400


@torch.no_grad()
def official_scores(
    checkout: Path, model: nn.Module, videos: Sequence[Path], clip: ClipConfig
) -> Tensor:
    """As in their main.py, without a GPU."""
    import_models(checkout)
    from video_dataset.dataset import VideoDataset  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "list.txt"
        rows.write_text("".join(f"{video} 0\n" for video in videos))
        dataset = VideoDataset(
            str(rows),
            "/",
            num_frames=clip.frames,
            sampling_rate=clip.stride,
            num_temporal_views=clip.views[0],
            random_sample=False,
        )
        scores = [
            model(views.flatten(0, 1)).softmax(-1).mean(0)
            for views, _ in DataLoader(dataset, batch_size=1, num_workers=WORKERS)
        ]
    return torch.stack(scores)


def our_evaluation(model: VideoClassifier, videos: Sequence[Path], clip: ClipConfig) -> None:
    """As `evaluate`, from the opened list on."""
    listed = [Video(path=video, targets=(0,)) for video in videos]
    evaluate(model, listed, clip, batch_size=6, workers=WORKERS, precision="bfloat16")


def main(videos: Sequence[Path], official: Path, name: str, stride: int, rounds: int) -> None:
    """Print videos a second and the ratio."""
    clip = ClipConfig(frames=8, stride=stride, size=224, views=(3, 1))
    theirs = build_official(official, SIZES[name], CLASSES).eval()
    ours = build_ours(theirs, SIZES[name])
    hold_frozen(ours, "bfloat16")
    compiled = build_ours(theirs, SIZES[name])
    hold_frozen(compiled, "bfloat16")
    start = time.perf_counter()
    compile_for_inference(compiled, clip, "bfloat16", 6, lanes_of(compiled.device))
    compiling = time.perf_counter() - start
    paths = [video.resolve() for video in videos]
    ways: dict[str, Callable[[], object]] = {
        "official": lambda: official_scores(official, theirs, paths, clip),
        "ours": lambda: our_evaluation(ours, paths, clip),
        "compiled": lambda: our_evaluation(compiled, paths, clip),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - start)
    rate = {way: len(paths) / statistics.median(times) for way, times in seconds.items()}
    print(
        f"{name}, 3 views of 8 frames, stride {stride}, of {len(paths)} videos: "
        f"official {rate['official']:.3f}, ours {rate['ours']:.3f} videos/s: "
        f"{rate['ours'] / rate['official']:.2f} times; "
        f"compiled {rate['compiled']:.3f}: {rate['compiled'] / rate['official']:.2f} times, "
        f"after {compiling:.0f} s of compiling"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO")
    parser.add_argument("--official", type=Path, required=True)
    parser.add_argument("--model", choices=SIZES, default="vit-tiny")
    parser.add_argument(
        "--stride", type=int, default=16, help="of frames; views of shorter videos are the same"
    )
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    main(arguments.videos, arguments.official, arguments.model, arguments.stride, arguments.rounds)
