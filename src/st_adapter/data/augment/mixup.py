"""mixup and CutMix: clips blended with others of their batch, and their targets likewise."""

import random
from typing import cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2


class Mixer:
    """Blend the clips of a batch by mixup (arXiv 1710.09412) or CutMix (arXiv 1905.04899).

    All clips of a batch are blended with the same weight, or the same box in all frames.

    Args:
        mixup: Alpha of the Beta distribution for mixup; 0 turns it off.
        cutmix: Alpha of the Beta distribution for CutMix; 0 turns it off. If both are on, each is
            used for half of the batches. At least one must be on.
        seed: Seed of all random choices.
    """

    def __init__(self, mixup: float, cutmix: float, seed: int) -> None:
        self.seed = seed
        choices = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        self.transforms = [transform(alpha=alpha) for transform, alpha in choices if alpha]

    def __call__(
        self, clips: UInt8[Tensor, "b t 3 h w"], targets: Float[Tensor, "b classes"], batch: int
    ) -> tuple[Float[Tensor, "b t 3 h w"], Float[Tensor, "b classes"]]:
        """Blend each clip with the one before it in the batch.

        Args:
            clips: Clips with values in 0..255.
            targets: Targets in 0..1.
            batch: Number of the batch in its run. Together with the seed it decides the blend, so
                that a resumed run repeats it.

        Returns:
            Blended clips with values in 0..1, and blended targets.
        """
        values = tv_tensors.Video(clips.float() / 255)
        draw = random.Random(f"{self.seed} {batch}").getrandbits(63)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw)
            transform = self.transforms[int(torch.randint(len(self.transforms), ()))]
            blended, blended_targets = transform(values, targets)
        return cast(Tensor, blended).as_subclass(Tensor), blended_targets
