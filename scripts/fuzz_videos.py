"""Read videos whose bytes were cut and flipped: each must give frames or a reason, and soon.

    python scripts/fuzz_videos.py VIDEO... [--count 1000] [--seed 0]

Every file is read as for evaluation in three views and as for training, in a process that may crash
without ending this one. Prints how many gave frames, how many a reason, and every other outcome;
the exit code is 1 where there is one.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from st_adapter.config import ClipConfig
from st_adapter.data.augment.transform import TrainTransform
from st_adapter.data.datasets import TrainDataset
from st_adapter.data.reading import read_views
from st_adapter.data.videos import Video
from st_adapter.errors import VideoError

CLIP = ClipConfig(frames=8, stride=2, size=64, views=(3, 1))
TRANSFORM = TrainTransform(
    size=64, crop="area", crop_range=(0.5, 1.0), flip=True, randaugment=False
)
SLOW_SECONDS = 30.0


def main(videos: Sequence[Path], count: int, seed: int) -> int:
    """Damage, read, count; return an exit code."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            rng = random.Random(f"{seed} {number}")
            source = rng.choice(videos)
            path = Path(folder) / f"{number}{source.suffix}"
            path.write_bytes(damage(source.read_bytes(), rng))
            sound = Path(folder) / f"sound{source.suffix}"
            sound.write_bytes(source.read_bytes())
            outcome = read_apart(path, sound)
            if outcome not in ("frames", "a reason"):
                print(f"{number}, from {source}: {outcome}", flush=True)
            outcomes[outcome.partition(":")[0]] += 1
            path.unlink()
    print(", ".join(f"{n} {what}" for what, n in outcomes.most_common()))
    return int(bool(set(outcomes) - {"frames", "a reason"}))


def damage(data: bytes, rng: random.Random) -> bytes:
    """Cut the end off, take a piece out, or overwrite bytes; or several of these."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        kind, at = rng.randrange(3), rng.randrange(max(1, len(changed)))
        if kind == 0:
            del changed[at:]
        elif kind == 1:
            del changed[at : at + rng.randint(1, 5000)]
        for _ in range(rng.choice((1, 10, 1000)) if kind == 2 and changed else 0):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


_pools: list[ProcessPoolExecutor] = []


def read_apart(path: Path, sound: Path) -> str:
    """What came of reading a file in another process, which is kept while it lives."""
    if not _pools:
        _pools.append(ProcessPoolExecutor(1, get_context("spawn")))
    start = time.perf_counter()
    try:
        outcome = _pools[0].submit(read, path, sound).result(timeout=10 * SLOW_SECONDS)
    except BrokenProcessPool:
        _pools.clear()
        return "crash"
    except TimeoutError:
        _pools.clear()
        return "hang"
    except Exception as error:
        return f"error: {type(error).__name__} {error}"
    seconds = time.perf_counter() - start
    return f"slow: {seconds:.0f} s" if seconds > SLOW_SECONDS else outcome


def read(path: Path, sound: Path) -> str:
    """Read a damaged file as evaluation does, then as training; its label is 1, another's 0."""
    try:
        clips, clip_of = read_views(Video(path=path), CLIP)
        assert clips[clip_of].shape == (3, 8, 64, 64, 3)
        outcome = "frames"
    except VideoError as error:
        outcome = "a reason" if str(error).startswith(str(path)) else f"no path: {error}"
    videos = [Video(path=path, targets=(1,)), Video(path=sound, targets=(0,))]
    item = TrainDataset(videos, CLIP, TRANSFORM, seed=0)[0, 0]
    lost = [skip.path for skip in item.skipped]
    if (item.targets, lost) not in ((((1,),), []), (((0,),), [str(path)])):
        return f"wrong label: {item.targets} with {lost}"
    return outcome


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.exit(main(arguments.videos, arguments.count, arguments.seed))
