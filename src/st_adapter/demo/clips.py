"""Make short clips of moving photographs, in pairs of classes that are each other's time reversal.

A single frame does not show which class of a pair its clip belongs to; only the order of the frames
does.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image, ImageFilter
from PIL.Image import Resampling, Transform

SIZE = 112
CLIP_FRAMES = 12
FRAMES_PER_SECOND = 8

TRAIN_PHOTOS = (
    "astronaut.png",
    "brick.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
)
TEST_PHOTOS = ("camera.png", "chelsea.png", "gravel.png", "retina.jpg", "rocket.jpg")
"""Photographs of scikit-image. Test clips use other ones than training and validation clips."""

Motion = Callable[[Image.Image, random.Random], list[Image.Image]]
"""Turns a photograph into the frames of a clip: `CLIP_FRAMES` squares of `SIZE` pixels."""


@dataclass(frozen=True)
class Pair:
    """A pair of classes: a motion, and the same motion played backwards."""

    forward: str
    backward: str
    motion: Motion


def write_clips(
    folder: Path, photos: Sequence[str], scenes_per_pair: int, seed: int
) -> Iterator[Path]:
    """Write clips as folder/CLASS/NUMBER.mp4, and yield each path.

    Every scene is written forwards and backwards, so that both classes of a pair have the same
    frames.

    Args:
        folder: Folder of the class folders.
        photos: File names of scikit-image's photographs to use.
        scenes_per_pair: Number of scenes for each pair of classes; each gives two clips.
        seed: Seed of all random choices.
    """
    pictures = [load_photo(name) for name in photos]
    rng = random.Random(seed)
    for scene in range(scenes_per_pair):
        for pair in PAIRS:
            frames = pair.motion(rng.choice(pictures), rng)
            for label, ordered in ((pair.forward, frames), (pair.backward, frames[::-1])):
                path = folder / label / f"{scene:04d}.mp4"
                write_video(path, ordered)
                yield path


def load_photo(name: str) -> Image.Image:
    """Load one of scikit-image's photographs as RGB."""
    from skimage import data

    return Image.open(Path(data.data_dir) / name).convert("RGB")


def write_video(path: Path, frames: Sequence[Image.Image]) -> None:
    """Write frames to an .mp4 file with H.264; create its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FRAMES_PER_SECOND))
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18", "preset": "veryfast"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode(None))


def _appear(photo: Image.Image, rng: random.Random) -> list[Image.Image]:
    """The photograph fades in over a plain colour."""
    scene, background = _cutout(photo, rng), Image.new("RGB", (SIZE, SIZE), _colour(rng))
    return [Image.blend(background, scene, u) for u in _times()]


def _focus(photo: Image.Image, rng: random.Random) -> list[Image.Image]:
    """A blurred photograph becomes sharp."""
    scene, blur = _cutout(photo, rng), rng.uniform(3.5, 7.0)
    return [scene.filter(ImageFilter.GaussianBlur(blur * (1 - u))) for u in _times()]


def _approach(photo: Image.Image, rng: random.Random) -> list[Image.Image]:
    """A picture on a plain background grows."""
    card, background = _cutout(photo, rng), _colour(rng)
    centre = rng.uniform(0.4, 0.6), rng.uniform(0.4, 0.6)
    first, last = rng.uniform(0.2, 0.35), rng.uniform(0.75, 1.0)
    return [_place(card, background, centre, first * (last / first) ** u) for u in _times()]


def _move_left(photo: Image.Image, rng: random.Random) -> list[Image.Image]:
    """A picture on a plain background moves from right to left."""
    card, background = _cutout(photo, rng), _colour(rng)
    side, height = rng.uniform(0.35, 0.6), rng.uniform(0.35, 0.65)
    first, last = rng.uniform(0.75, 1.1), rng.uniform(-0.1, 0.25)
    return [_place(card, background, (first + (last - first) * u, height), side) for u in _times()]


PAIRS = (
    Pair("appears", "vanishes", _appear),
    Pair("comes into focus", "goes out of focus", _focus),
    Pair("approaches", "recedes", _approach),
    Pair("moves left", "moves right", _move_left),
)


def _times() -> list[float]:
    return [i / (CLIP_FRAMES - 1) for i in range(CLIP_FRAMES)]


def _colour(rng: random.Random) -> tuple[int, int, int]:
    return rng.randrange(20, 235), rng.randrange(20, 235), rng.randrange(20, 235)


def _cutout(photo: Image.Image, rng: random.Random) -> Image.Image:
    """Cut a random square from the photograph, and mirror half of them."""
    side = min(photo.size) * rng.uniform(0.4, 0.9)
    left, top = (rng.uniform(0, length - side) for length in photo.size)
    box = (left, top, left + side, top + side)
    square = photo.resize((SIZE, SIZE), Resampling.BICUBIC, box=box)
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else square


def _place(
    card: Image.Image, background: tuple[int, int, int], centre: tuple[float, float], side: float
) -> Image.Image:
    """Draw the card on a plain background, at a position that need not be whole pixels.

    Whole pixels would make slow motions jump. `centre` and `side` are fractions of the frame.
    """
    zoom = 1 / side
    left, top = (SIZE * (c - side / 2) for c in centre)
    warp = (zoom, 0, -zoom * left, 0, zoom, -zoom * top)
    size = (SIZE, SIZE)
    mask = Image.new("L", size, 255).transform(size, Transform.AFFINE, warp, Resampling.BILINEAR)
    drawn = card.transform(size, Transform.AFFINE, warp, Resampling.BILINEAR)
    frame = Image.new("RGB", size, background)
    frame.paste(drawn, (0, 0), mask)
    return frame
