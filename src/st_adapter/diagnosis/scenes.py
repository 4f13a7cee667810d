"""Scenes that the training and the validation part share: by how frames look, and by file names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, UInt8
from numpy import ndarray
from torch import Tensor

from st_adapter.data.videos import VideoList

# The constants of the digest were chosen on three classes of UCF101 (archery, dunks, horse races).
# They were checked on three others (piano, violin, surfing), on the dark clips of ARID, and on all
# six with black bars at both sides. Of 600 frames, none was within 0.3 of a frame of another film,
# apart from two films of the same broadcast; the nearest was at 0.36. A quarter of the frames had
# one of another clip of the same film within 0.3.
_GRID = 16
"""Cells per row and column of a digest."""

_LEAST_STEP = 1.0
"""Difference of two neighbouring cells, of 255, below which they count as equal."""

_NEAR_DUPLICATE = 0.3
"""Largest distance of two digests that show the same scene."""

_DARKEST = 24
"""Brightness up to which rows and columns at the edges are taken for black bars."""

_LEAST_BITS = 64
"""Fewest of the 512 differences that a digest must have; nearly uniform frames have fewer."""

_LOOKS_ALIKE = 0.65
"""Probability that two videos of one source look more alike than two of different sources.

It is 0.77 in six classes of UCF101, and 0.66 in ARID, whose sources are long recordings. Names that
only seem to name a source give 0.5.
"""

_SURE = 2.0
"""Standard errors by which that probability must also exceed 0.5."""

_LEAST_PAIRS = 8
"""Fewest pairs of videos from which that probability is estimated."""

_SHOWN_PAIRS = 3

Digest = Bool[ndarray, "2 512"]
"""Whether brightness rises, and whether it falls, from each cell to its neighbours."""


@dataclass(frozen=True, kw_only=True)
class SharedScenes:
    """How many validation videos share a scene with a training video.

    Attributes:
        num_videos: Number of validation videos that were compared.
        num_train: Number of training videos that they were compared with.
        shared: Number of validation videos that share a scene, in one way or the other.
        by_frame: Number of those whose middle frame nearly equals that of a training video.
        by_name: Number of those whose name says that a training video has the same source.
        examples: Pairs of a validation and a training video.
        alike: Pairs of training videos whose middle frames are nearly equal.
        alike_apart: Number of these pairs that have different labels.
    """

    num_videos: int
    num_train: int
    shared: int
    by_frame: int
    by_name: int
    examples: list[list[str]] = field(default_factory=list)
    alike: int = 0
    alike_apart: int = 0


def digest_frame(frame: UInt8[ndarray, "h w 3"]) -> Digest | None:
    """Reduce a frame to whether its brightness rises or falls between neighbouring cells.

    This is a difference hash (dHash) in both directions. It also records where brightness stays
    equal, because uniform areas would otherwise agree by chance. Black bars are cut off.

    Returns:
        None if the frame is too uniform to be recognised.
    """
    grey = _without_bars(torch.from_numpy(frame).float().mean(2))
    cells = F.adaptive_avg_pool2d(grey[None], _GRID + 1)[0]
    steps = torch.cat([cells.diff(dim=1)[:-1].flatten(), cells.diff(dim=0)[:, :-1].flatten()])
    digest: ndarray = torch.stack([steps > _LEAST_STEP, steps < -_LEAST_STEP]).numpy()
    return digest if digest.sum() >= _LEAST_BITS else None


def _without_bars(grey: Float[Tensor, "h w"]) -> Float[Tensor, "a b"]:
    rows = (grey.amax(1) > _DARKEST).nonzero()[:, 0].tolist()
    columns = (grey.amax(0) > _DARKEST).nonzero()[:, 0].tolist()
    if not rows:
        return grey
    return grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def distances(
    first: Sequence[Digest | None], second: Sequence[Digest | None]
) -> Float32[ndarray, "n m"]:
    """Return the share of differing steps for each pair; 1 where a digest is missing.

    Places where both frames are uniform do not count.
    """
    bits = 2 * _GRID**2
    nothing = np.zeros((2, bits))
    a, b = (
        np.array([nothing if d is None else d for d in digests], np.float32).reshape(-1, 2, bits)
        for digests in (first, second)
    )
    agree = np.einsum("nkd,mkd->nm", a, b, optimize=True)
    a_any, b_any = a.sum(1), b.sum(1)
    either = a_any.sum(1)[:, None] + b_any.sum(1)[None] - a_any @ b_any.T
    apart: ndarray = 1 - agree / np.maximum(either, 1)
    return apart


def source_of(path: str) -> str | None:
    """Return the file name without its last number, which names the source of clips cut from it.

    Returns:
        None if the name does not end in a number, or no other number is left: "12345.webm" and
        "clip 3.mp4" count videos, not the clips of a source.

    >>> source_of("Archery/v_Archery_g01_c02.mp4")
    'v_Archery_g01_c'
    """
    stem = PurePath(path).stem
    source = stem.rstrip("0123456789")
    return source if source != stem and re.search(r"\d", source) else None


def find_shared_scenes(
    train: VideoList,
    train_digests: Sequence[Digest | None],
    val: VideoList,
    val_digests: Sequence[Digest | None],
) -> SharedScenes:
    """Compare each validation video with all training videos.

    Names are believed only if videos with the same source in their name do look more alike than
    others of their class: `class1_0001` and `batch2_0001` do not name a source.
    """
    apart = distances(val_digests, train_digests)
    same_source = _same_source(val, train)
    same_class = val.first_targets()[:, None] == train.first_targets()[None]
    same_file = np.array(val.names())[:, None] == np.array(train.names())[None]
    named = same_source & same_class
    if not _look_alike(apart, named, same_class & ~named):
        named = np.zeros_like(named)
    near = (apart <= _NEAR_DUPLICATE) | same_file
    either = near | named
    found = np.flatnonzero(either.any(1))
    alike = np.triu(distances(train_digests, train_digests) <= _NEAR_DUPLICATE, 1)
    targets = train.first_targets()
    return SharedScenes(
        num_videos=len(val),
        num_train=len(train),
        shared=len(found),
        by_frame=int(near.any(1).sum()),
        by_name=int(named.any(1).sum()),
        examples=[
            [val.name(i), train.name(int(np.where(either[i], apart[i], np.inf).argmin()))]
            for i in found[:_SHOWN_PAIRS].tolist()
        ],
        alike=int(alike.sum()),
        alike_apart=int((alike & (targets[:, None] != targets[None])).sum()),
    )


def _same_source(first: VideoList, second: VideoList) -> Bool[ndarray, "n m"]:
    a, b = ([source_of(name) or "" for name in videos.names()] for videos in (first, second))
    named = np.array(a)[:, None] != ""
    same: ndarray = (np.array(a)[:, None] == np.array(b)[None]) & named
    return same


def _look_alike(
    apart: Float32[ndarray, "n m"], same: Bool[ndarray, "n m"], other: Bool[ndarray, "n m"]
) -> bool:
    """Return whether pairs of the same source look more alike than other pairs of the class."""
    from sklearn.metrics import roc_auc_score  # takes a second to import

    known = apart < 1
    alike, unlike = apart[same & known], apart[other & known]
    if len(alike) < _LEAST_PAIRS or len(unlike) < _LEAST_PAIRS:
        return False
    is_same = np.repeat([True, False], [len(alike), len(unlike)])
    probability = roc_auc_score(is_same, -np.concatenate([alike, unlike]))
    error = np.sqrt((len(is_same) + 1) / (12 * len(alike) * len(unlike)))  # of Mann and Whitney's U
    return bool(probability >= max(_LOOKS_ALIKE, 0.5 + _SURE * error))
