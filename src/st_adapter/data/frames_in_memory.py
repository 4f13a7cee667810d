"""Checks of frames that a program passes, and their conversion to upright RGB in 0..255."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from jaxtyping import Shaped, UInt8
from numpy import ndarray
from PIL.Image import Image

from st_adapter.data.video.info import Frame, FramesInfo
from st_adapter.errors import ArgumentError


def is_array(value: object) -> bool:
    """Return whether a value is a torch tensor, a numpy array, or converts to one."""
    return hasattr(value, "__array__")


def is_frame(value: Any) -> bool:
    """Return whether a value in a list is one frame, rather than a video of its own."""
    return isinstance(value, VideoFrame | Image) or (is_array(value) and value.ndim < 4)


def check_frames(clip: Any, *, bgr: bool = False) -> list[Frame]:
    """Check the frames of one video and convert them to upright RGB in 0..255.

    Frames that PyAV decoded are kept. They know their own colours and orientation, and are
    converted when they are scaled, exactly as those of a file.

    Args:
        clip: An array or tensor [t, h, w, 3] or [t, 3, h, w], or a list of frames: PIL images,
            arrays [h, w, 3] or [3, h, w], or frames of PyAV. Values are integers in 0..255 or
            floats in 0..1.
        bgr: Colours of arrays are in the order blue, green, red.

    Raises:
        ArgumentError: If the shape or the values are not valid, or the list of frames is empty.
    """
    if isinstance(clip, VideoFrame | Image):
        raise ArgumentError("one picture is not a clip; pass a list, such as [picture]")
    if not isinstance(clip, list | tuple):
        return _from_array(_to_numpy(clip), bgr)
    if not clip:
        raise ArgumentError("the list of frames is empty; a clip needs at least one frame")
    frames = [frame for given in clip for frame in _from_frame(given, bgr)]
    sizes = {_size(frame) for frame in frames if not isinstance(frame, VideoFrame)}
    if len(sizes) > 1:
        (w, h), (other_w, other_h) = sorted(sizes)[:2]
        raise ArgumentError(
            f"frames of one clip differ in size, such as {w}x{h} and {other_w}x{other_h}; "
            "resize them to one size, or pass them as separate clips"
        )
    return frames


def describe_frames(path: Path, frames: Sequence[Frame]) -> FramesInfo:
    """Describe frames in memory as the packets of a file describe its frames.

    Args:
        path: Name of the video in messages.
        frames: Its frames, at least one.
    """
    width, height = _size(frames[0])
    return FramesInfo.of_pictures(
        path, len(frames), width=width, height=height, digest="", frames=frames
    )


def _size(frame: Frame) -> tuple[int, int]:
    if isinstance(frame, VideoFrame):
        return frame.width, frame.height
    return frame.shape[1], frame.shape[0]


def _from_frame(frame: Any, bgr: bool) -> list[Frame]:
    if isinstance(frame, VideoFrame):
        return [frame]
    if isinstance(frame, Image):
        return [np.asarray(frame.convert("RGB"))]
    return _from_array(_to_numpy(frame)[None], bgr)


def _to_numpy(array: Any) -> Shaped[ndarray, "..."]:
    if hasattr(array, "detach"):  # a tensor of torch
        array = array.detach().cpu()
        # numpy has no bfloat16
        array = array.float() if str(array.dtype) == "torch.bfloat16" else array
    return np.asarray(array)


def _from_array(clip: Shaped[ndarray, "..."], bgr: bool) -> list[Frame]:
    pixels = _to_uint8(_channels_last(clip))
    return [*(pixels[..., ::-1] if bgr else pixels)]


def _channels_last(clip: Shaped[ndarray, "..."]) -> Shaped[ndarray, "t h w 3"]:
    problem = _find_problem(clip.shape)
    if problem:
        raise ArgumentError(f"frames must be [t, h, w, 3], not {list(clip.shape)}: {problem}")
    return clip if clip.shape[3] == 3 else clip.transpose(0, 2, 3, 1)


def _find_problem(shape: tuple[int, ...]) -> str:
    """Return what is wrong with the shape of a clip and what to do, or "" if nothing is."""
    if len(shape) == 3 and 3 in (shape[0], shape[2]):
        return "this is one frame; pass frame[None] to classify a single picture"
    if len(shape) == 3 or (len(shape) == 4 and 1 in (shape[1], shape[3])):
        return "frames are grey; repeat the channel three times, as RGB"
    if len(shape) != 4:
        return "a clip has four axes: frames, height, width, colours"
    if 0 in shape:
        return "a clip needs at least one frame, and frames at least one pixel"
    if 3 in (shape[1], shape[3]):
        return ""
    if 4 in (shape[1], shape[3]):
        return "frames have 4 channels; leave out the transparency, as in frames[..., :3]"
    if shape[0] == 3:
        return "colours are in the first axis; move them with frames.swapaxes(0, 1)"
    return "no axis has the 3 colours"


def _to_uint8(clip: Shaped[ndarray, "t h w 3"]) -> UInt8[ndarray, "t h w 3"]:
    if clip.dtype == np.uint8:
        return clip
    if clip.dtype.kind not in "iuf":
        raise ArgumentError(f"frames must be uint8 in 0..255 or floats in 0..1, not {clip.dtype}")
    low, high = float(clip.min()), float(clip.max())  # NaN if any value is
    is_float = clip.dtype.kind == "f"
    if low >= 0 and high <= (1 if is_float else 255):
        return np.rint(clip.astype(np.float32) * 255 if is_float else clip).astype(np.uint8)
    if not np.isfinite(high - low):
        remedy = "replace NaN and infinite values"
    elif low >= 0 and high <= 255:
        remedy = 'convert them with frames.astype("uint8")'
    elif is_float:
        remedy = "pass frames as decoded, before any normalisation; the model normalises them"
    else:
        remedy = "scale them to 0..255"
    raise ArgumentError(
        f"frames must be uint8 in 0..255 or floats in 0..1, not {clip.dtype} in "
        f"{low:.4g}..{high:.4g}; {remedy}"
    )
