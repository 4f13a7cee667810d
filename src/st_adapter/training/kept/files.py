"""Files of kept features: one for the clips of a video, with a checksum."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from st_adapter.common.files import atomic_path
from st_adapter.data.datasets import TrainItem, Views

Item = TrainItem | Views
"""What is kept of a video: the features of its training clips, or of its views."""


class DamagedError(ValueError):
    """The content of a file is not what was written."""


def write_item(file: Path, item: Item) -> None:
    """Write an item completely or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    assert item.clips is not None
    record = {k: v for k, v in vars(item).items() if k in ("targets", "clip_of")}
    tensors = {f"{i:06}": clip.contiguous() for i, clip in enumerate(item.clips)}
    text = json.dumps(record)
    metadata = {"item": text, "crc32": str(_checksum(text, tensors))}
    with atomic_path(file) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def read_item(file: Path, index: int) -> Item:
    """Read an item.

    Args:
        file: The file.
        index: Index of the video in the data set that is read now.

    Raises:
        DamagedError, OSError: The file is damaged, or cannot be read.
    """
    try:
        with safe_open(file, "pt") as stored:
            metadata = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in sorted(stored.keys())}
        text, expected = metadata["item"], int(metadata["crc32"])
        record = json.loads(text)
    except (SafetensorError, ValueError, KeyError) as error:
        raise DamagedError(f"{file}: {error}") from error
    # safetensors checks the sizes only, and a disk can return other bytes than were written.
    if expected != _checksum(text, tensors):
        raise DamagedError(f"{file}: the checksum differs")
    clips = tuple(tensors.values())
    if "targets" not in record:
        return Views(index=index, clips=torch.stack(clips), clip_of=record["clip_of"])
    targets = tuple(map(tuple, record["targets"]))
    return TrainItem(index=index, clips=clips, targets=targets, skipped=())


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> int:
    checksum = zlib.crc32(text.encode())
    for tensor in tensors.values():
        # numpy has no bfloat16, so that the bytes are looked at as what every tensor consists of.
        checksum = zlib.crc32(tensor.view(torch.uint8).numpy().data, checksum)
    return checksum
