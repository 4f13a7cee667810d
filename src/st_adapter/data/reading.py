"""Frames of one video, chosen and decoded at once for several clips or views. Without torch."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import UInt8

from st_adapter.config import ClipConfig
from st_adapter.data import frame_sampling
from st_adapter.data.video.arrays import stack
from st_adapter.data.video.decode import TruncatedError
from st_adapter.data.video.reader import Reader
from st_adapter.data.videos import Video
from st_adapter.errors import VideoError

Chooser = Callable[[int], list[int]]
"""Maps the number of frames of a video to the numbers of those to decode."""


def read_views(
    video: Video, clip: ClipConfig, reader: Reader = Reader()
) -> tuple[UInt8[Any, "d t h w 3"], list[int]]:
    """Decode a video and cut all its test views.

    Views can be equal: spatial ones if the video is square, temporal ones if it is too short. Each
    distinct view is returned once, so that it is scored once.

    Args:
        video: A video or a segment of one.
        clip: How clips are sampled, and how many views there are.
        reader: Decodes the video.

    Returns:
        The d distinct views, and for each view its index among them. Spatial views vary fastest.

    Raises:
        VideoError: If the video cannot be read.
    """
    temporal, spatial = clip.views

    def chooser(view: int) -> Chooser:
        return lambda num_frames: frame_sampling.choose(
            num_frames, clip.frames, clip.stride, view=view, num_views=temporal
        )

    choosers = [chooser(view) for view in range(temporal)]
    windows = read_clips(video, choosers, clip.size, reader, clip.square_pixels)
    parts = [(w, corner) for w in windows for corner in _corners(w, clip.size, spatial)]
    # Equal windows are one array. So two views are equal if they are the same part of it.
    keys = [(id(window), corner) for window, corner in parts]
    distinct = dict(zip(keys, parts, strict=True))
    row = {key: i for i, key in enumerate(distinct)}
    views = [_cut(window, corner, clip.size) for window, corner in distinct.values()]
    return stack(views), [row[key] for key in keys]


def _corners(frames: UInt8[Any, "t h w 3"], size: int, num_views: int) -> list[tuple[int, int]]:
    """Return where the test views of frames begin, as pairs of top and left."""
    height, width = frames.shape[1:3]
    fractions: Sequence[float] = (0, 0.5, 1) if num_views == 3 else (0.5,)
    return [(int((height - size) * f), int((width - size) * f)) for f in fractions]


def _cut(
    frames: UInt8[Any, "t h w 3"], corner: tuple[int, int], size: int
) -> UInt8[Any, "t side side 3"]:
    top, left = corner
    return frames[:, top : top + size, left : left + size]


def spatial_views(
    frames: UInt8[Any, "t h w 3"], size: int, num_views: int
) -> list[UInt8[Any, "t side side 3"]]:
    """Cut square test views from frames. They are parts of the frames, not copies.

    Args:
        frames: Frames with a short side of `size`.
        size: Height and width of a view in pixels.
        num_views: 1 for the centre, or 3 along the long side: start, centre and end.
    """
    return [_cut(frames, corner, size) for corner in _corners(frames, size, num_views)]


def read_clips(
    video: Video,
    choosers: Sequence[Chooser],
    short_side: int | None,
    reader: Reader = Reader(),
    square_pixels: bool = False,
) -> list[UInt8[Any, "t h w 3"]]:
    """Choose frames of a video and decode them all at once.

    The packets of a damaged file can promise more frames than can be decoded. In that case frames
    are chosen again among those that can.

    Args:
        video: A video or a segment of one.
        choosers: Choose the frames of each clip.
        short_side: Scale frames to this many pixels on the shorter side; None keeps their size.
        reader: Decodes the video.
        square_pixels: Stretch frames whose pixels are not square.

    Returns:
        A clip for each chooser. Equal choices share one array.

    Raises:
        VideoError: If no frame can be read, or the segment contains none.
    """
    info = reader.probe(video.path)
    shown = info.frame_range(video.start_seconds, video.end_seconds)
    for _ in range(2):
        chosen = [tuple(shown[i] for i in choose(len(shown))) for choose in choosers]
        union = sorted({i for indices in chosen for i in indices})
        try:
            frames = reader.read_frames(video.path, union, short_side, info, square_pixels)
        except TruncatedError as error:
            shown = range(shown.start, min(shown.stop, error.num_decoded))
            if not shown:
                raise
            continue
        row = {number: i for i, number in enumerate(union)}
        clips = {choice: frames[[row[i] for i in choice]] for choice in chosen}
        return [clips[choice] for choice in chosen]
    raise VideoError(f"{video.path}: yields a different number of frames each time it is decoded")
