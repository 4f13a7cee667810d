"""Orientation of stored pictures: how they must be rotated and mirrored to be upright."""

from typing import NamedTuple

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from numpy import ndarray


class Orientation(NamedTuple):
    """One of the eight orientations of a picture.

    Attributes:
        transposed: Whether rows and columns are exchanged; the flips come after that.
        flips_rows: Whether the picture is flipped vertically.
        flips_columns: Whether the picture is flipped horizontally.
    """

    transposed: bool = False
    flips_rows: bool = False
    flips_columns: bool = False

    @property
    def mirrored(self) -> bool:
        """Whether the picture is mirrored, so that rotating it is not enough."""
        return (self.transposed + self.flips_rows + self.flips_columns) % 2 == 1

    def apply(self, pixels: ndarray) -> ndarray:
        """Bring a stored picture [h, w, 3] into this orientation."""
        if self.transposed:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.flips_rows else 1, :: -1 if self.flips_columns else 1]


def orientation_of(frame: VideoFrame) -> Orientation:
    """Return the orientation that a frame's display matrix asks for.

    Angles other than multiples of 90 degrees count as upright.

    FFmpeg's matrix is [[a, b, u], [c, d, v], [x, y, w]]; it maps a point (x, y) to (ax + cy, bx +
    dy).
    """
    try:
        data = bytes(frame.side_data[Type.DISPLAYMATRIX])  # type: ignore[typeddict-item]
    except KeyError:
        return Orientation()
    (a, b, _), (c, d, _), _ = np.frombuffer(data, "<i4").reshape(3, 3).tolist()
    if b == c == 0 and a and d:
        return Orientation(flips_rows=d < 0, flips_columns=a < 0)
    if a == d == 0 and b and c:
        return Orientation(transposed=True, flips_rows=b < 0, flips_columns=c < 0)
    return Orientation()
