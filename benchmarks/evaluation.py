"""Evaluation end to end, 3 views of real clips: the official code and ours, the same weights.

    python benchmarks/evaluation.py VIDEO... --official PATH [--model vit-tiny]

PATH is a checkout of linziyi96/st-adapter. From files to scores, with two decoding processes each:
theirs one video a batch as their main.py evaluates, in float32 on a CPU and in float16 on a GPU;
ours as `evaluate --precision` does, without and with --compile, whose compiling comes before and is
printed by itself. Each has a process of its own; they take turns. Videos a second are medians.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from machine import print_machine
from torch import Tensor, nn
from torch.utils.data import DataLoader
from turns import take_turns

from official import SIZES, build_official, build_ours, faster_device, half_frozen, import_models
from st_adapter.config import ClipConfig
from st_adapter.data.videos import Video
from st_adapter.evaluation.evaluate import evaluate_videos
from st_adapter.model.classifier import VideoClassifier
from st_adapter.runtime.compilation import compile_model
from st_adapter.runtime.device import choose_device, seconds_of

WORKERS, CLASSES, BATCH = 2, 400, 6
WAYS = ("official", "ours", "compiled")


@torch.no_grad()
def official_scores(
    checkout: Path,
    model: nn.Module,
    videos: Sequence[Path],
    clip: ClipConfig,
    device: torch.device,
) -> Tensor:
    """As in their main.py; float32 on a CPU."""
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
        scores = []
        for views, _ in DataLoader(dataset, batch_size=1, num_workers=WORKERS):
            with torch.autocast(device.type, enabled=device.type == "cuda"):
                logits = model(views.flatten(0, 1).to(device))
            scores.append(logits.softmax(-1).mean(0).cpu())
    return torch.stack(scores)


def our_evaluation(model: VideoClassifier, videos: Sequence[Path], clip: ClipConfig) -> None:
    """As `evaluate`, from the opened list on."""
    listed = [Video(path=video, targets=(0,)) for video in videos]
    evaluate_videos(model, listed, clip, batch_size=BATCH, workers=WORKERS)


def prepare(
    way: str,
    official: Path,
    name: str,
    videos: Sequence[Path],
    clip: ClipConfig,
    precision: str,
    device: torch.device,
) -> Callable[[], tuple[float, float]]:
    """Build a model; return what evaluates it and tells the seconds, and those of compiling."""
    theirs = build_official(official, SIZES[name], CLASSES).eval()
    if way == "official":
        model = (half_frozen(theirs) if device.type == "cuda" else theirs).to(device)
        scores = partial(official_scores, official, model, videos, clip, device)
        return lambda: (seconds_of(scores, device), 0)
    ours = build_ours(theirs, SIZES[name]).to(device)
    ours.set_precision(precision)
    compiling = 0.0
    if way == "compiled":
        compiling = seconds_of(lambda: compile_model(ours, clip, BATCH, scoring=True), device)
    scores = partial(our_evaluation, ours, videos, clip)
    return lambda: (seconds_of(scores, device), compiling)


def main(
    videos: Sequence[Path],
    official: Path,
    name: str,
    stride: int,
    rounds: int,
    precision: str,
    device: torch.device,
) -> None:
    """Print videos a second and the ratio."""
    print_machine(str(device))
    clip = ClipConfig(frames=8, stride=stride, size=224, views=(3, 1))
    paths = [video.resolve() for video in videos]
    ways = {way: (way, official, name, paths, clip, precision, device) for way in WAYS}
    found = take_turns(prepare, ways, rounds)
    rate = {way: len(paths) / statistics.median(s for s, _ in runs) for way, runs in found.items()}
    print(
        f"{name}, 3 views of 8 frames, stride {stride}, of {len(paths)} videos: "
        f"official {rate['official']:.3f}, ours in {precision} {rate['ours']:.3f} videos/s: "
        f"{rate['ours'] / rate['official']:.2f} times; "
        f"compiled {rate['compiled']:.3f}: {rate['compiled'] / rate['official']:.2f} times, "
        f"after {found['compiled'][0][1]:.0f} s of compiling"
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
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--device", choices=("cpu", "cuda"), default=faster_device())
    arguments = parser.parse_args()
    main(
        arguments.videos,
        arguments.official,
        arguments.model,
        arguments.stride,
        arguments.rounds,
        arguments.precision,
        choose_device(arguments.device),
    )
