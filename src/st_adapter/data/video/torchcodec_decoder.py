"""Decoding with torchcodec, on the CPU or on a GPU."""

import warnings
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from st_adapter.data.archives.tar import read_bytes
from st_adapter.data.video.decode import scaled_size
from st_adapter.data.video.info import VideoInfo
from st_adapter.errors import ArgumentError
from st_adapter.wording import setting

_LATE_SECONDS = 1e-4
"""Tolerance between the time of a frame and the one that its packet states; both are rounded."""


def check_torchcodec() -> None:
    """Check that torchcodec can be used.

    Raises:
        ArgumentError: If it is not installed, or FFmpeg's libraries are missing.
    """
    try:
        from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined]
    except ImportError as error:
        raise ArgumentError(
            f"{setting('decoder', 'torchcodec')} requires an extra: "
            "pip install 'st-adapter[torchcodec]'"
        ) from error
    try:
        VideoDecoder(b"no video")  # loads FFmpeg, which the import does not
    except (RuntimeError, OSError, ValueError) as error:
        if "libtorchcodec" in str(error):
            raise ArgumentError(
                "torchcodec cannot be used: it requires FFmpeg's libraries on this machine; "
                f"use {setting('decoder', 'pyav')}, which includes them"
            ) from error


def read_by_time(
    path: Path,
    wanted: Sequence[int],
    info: VideoInfo,
    short_side: int | None,
    pixel_aspect: Fraction,
    device: str,
) -> dict[int, UInt8[Any, "h w 3"]]:
    """Decode frames with torchcodec; a drop-in for the decoder in `decode`, except for `device`.

    Args:
        path: The video.
        wanted: Frame numbers, ascending.
        info: The video's description, as returned by `probe`.
        short_side: Scale frames to this many pixels on the shorter side; None keeps their size.
        pixel_aspect: Width of a stored pixel divided by its height.
        device: Device to decode on.

    Returns:
        All frames by number, as tensors if they are on a GPU. An empty dictionary if one of them
        cannot be decoded.
    """
    from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined]

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source = read_bytes(info.place) if info.place else str(path)
            decoder = VideoDecoder(source, dimension_order="NCHW", device=device, seek_mode="exact")
            decoded = decoder.get_frames_at(list(wanted))
    except (RuntimeError, ValueError, IndexError, OSError):  # damaged: PyAV counts frames
        return {}
    stamps = info.pts[list(wanted)] * float(info.time_base)
    late = (decoded.pts_seconds - torch.from_numpy(stamps)).abs() > _LATE_SECONDS
    if late.any():
        return {}
    frames = decoded.data
    if info.rotation % 180:  # decoded frames are upright already: a stored pixel is turned
        pixel_aspect = 1 / pixel_aspect
    stretched = round(frames.shape[-1] * pixel_aspect)
    width, height = scaled_size(stretched, frames.shape[-2], short_side)
    if (height, width) != frames.shape[-2:]:
        bicubic = InterpolationMode.BICUBIC
        frames = F.resize(frames, [height, width], bicubic, antialias=True)
    pixels = frames.permute(0, 2, 3, 1)
    return dict(zip(wanted, pixels if pixels.is_cuda else pixels.numpy(), strict=True))
