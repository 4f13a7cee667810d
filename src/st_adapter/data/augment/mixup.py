"""Clips blended with others of their batch, and their targets alike."""

import random
from typing import cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2


class Mixer:
    """mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899), one of them a batch.

    The same weight, or box, serves all clips and frames of a batch.

    Args:
        mixup, cutmix: alpha of the Beta distribution of each; 0 is without. Where both are
            given, each happens to half of the batches.
        seed: of all draws.
    """

    def __init__(self, mixup: float, cutmix: float, seed: int) -> None:
        self.seed = seed
        kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        self.transforms = [kind(alpha=alpha) for kind, alpha in kinds if alpha]

    def __call__(
        self, clips: UInt8[Tensor, "b t 3 h w"], targets: Float[Tensor, "b classes"], batch: int
    ) -> tuple[Float[Tensor, "b t 3 h w"], Float[Tensor, "b classes"]]:
        """Blend each clip, its values in 0..1 afterwards, with the one before it.

        Args:
            batch: number of the batch in its run; the draw depends on it and the seed alone.
        """
        values = tv_tensors.Video(clips.float() / 255)
        draw = random.Random(f"{self.seed} {batch}").getrandbits(63)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw)
            transform = self.transforms[int(torch.randint(len(self.transforms), ()))]
            blended, shares = transform(values, targets)
        return cast(Tensor, blended).as_subclass(Tensor), shares
