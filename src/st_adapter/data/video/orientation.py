"""How a stored picture is turned and mirrored to be shown."""

from typing import NamedTuple

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from numpy import ndarray


class Orientation(NamedTuple):
    """One of the eight ways to put a picture down; the flips come after the transposition."""

    transposed: bool = False
    flips_rows: bool = False
    flips_columns: bool = False

    @property
    def mirrored(self) -> bool:
        """Whether it cannot be had by turning alone."""
        return (self.transposed + self.flips_rows + self.flips_columns) % 2 == 1

    def apply(self, pixels: ndarray) -> ndarray:
        """Put stored pixels [h, w, 3] as they are to be shown."""
        if self.transposed:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.flips_rows else 1, :: -1 if self.flips_columns else 1]


def orientation_of(frame: VideoFrame) -> Orientation:
    """The orientation that the display matrix of a frame asks for; other angles are left.

    FFmpeg's matrix is [[a, b, u], [c, d, v], [x, y, w]]: a point goes to (a x + c y, b x + d y).
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
