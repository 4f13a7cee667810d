"""The frames of a clip in other orders, to see how much a classifier uses time."""

import random
from typing import Literal, get_args

import torch
from jaxtyping import Shaped
from torch import Tensor

Order = Literal["in_order", "reversed", "shuffled", "frozen"]
ORDERS: tuple[Order, ...] = get_args(Order)


def reorder(
    clips: Shaped[Tensor, "v t 3 h w"], order: Order, seed: int
) -> Shaped[Tensor, "v t 3 h w"]:
    """Return clips of one video with their frames in another order.

    "shuffled" draws one order for all of them from `seed`, never the true one where there are two
    frames or more; "frozen" repeats the middle frame.

    >>> clip = torch.arange(4).view(1, 4, 1, 1, 1).expand(1, 4, 3, 1, 1)
    >>> [reorder(clip, order, 0)[0, :, 0, 0, 0].tolist() for order in ORDERS]
    [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 1, 3], [2, 2, 2, 2]]
    """
    if order == "in_order":
        return clips
    frames = list(range(clips.shape[1]))
    if order == "reversed":
        frames.reverse()
    elif order == "shuffled":
        rng = random.Random(seed)
        while len(frames) > 1 and frames == sorted(frames):
            rng.shuffle(frames)
    elif order == "frozen":
        frames = [len(frames) // 2] * len(frames)
    return clips[:, torch.tensor(frames)]
