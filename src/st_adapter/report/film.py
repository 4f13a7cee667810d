"""Film strips: what a classifier saw of a video, as one small picture inside a page."""

import base64
import io

import torch
from PIL import Image

from st_adapter.config import ClipConfig
from st_adapter.data.clips import read_views
from st_adapter.data.videos import Video
from st_adapter.errors import VideoError

_FRAMES = 8
_HEIGHT = 96


def film_strip(video: Video, clip: ClipConfig) -> str | None:
    """Up to eight frames of the first test view side by side, as a data URI of a JPEG.

    None where the video cannot be read any more.
    """
    try:
        clips, _ = read_views(video, clip)
    except VideoError:
        return None
    frames = clips[0]
    count = min(_FRAMES, len(frames))
    picks = torch.linspace(0, len(frames) - 1, count).round().long()
    pixels = torch.cat(list(frames[picks]), dim=2).permute(1, 2, 0)
    picture = Image.fromarray(pixels.numpy()).resize((count * _HEIGHT, _HEIGHT))
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=72)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
