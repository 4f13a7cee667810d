"""The ways of transferring an image model to video, as choices of shared parts; no torch here."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way of transferring an image model to video. All of them train a linear head.

    Attributes:
        summary: what is trained besides the head, in a few words.
        source: who described it.
        adapters: bottlenecks inside the blocks: spatio-temporal, or spatial ones that see each
            patch of each frame alone.
        prompts: learnt tokens beside the patches: "deep" are new before every block, "shallow"
            are joined once.
        low_rank: LoRA on the linear maps and ungrouped convolutions inside the blocks.
        unfrozen: what of the image model itself is trained.
        pooling: from frames to a clip: their mean, the mean after a small temporal transformer,
            or attention over all tokens of all frames.
    """

    summary: str
    source: str
    adapters: Literal["none", "spatial", "spatio-temporal"] = "none"
    prompts: Literal["none", "shallow", "deep"] = "none"
    low_rank: bool = False
    unfrozen: Literal["none", "biases", "blocks", "all"] = "none"
    pooling: Literal["mean", "temporal", "attention"] = "mean"

    @property
    def changes_backbone(self) -> bool:
        """Whether the image model's own modules are trained or wrapped."""
        return self.low_rank or self.unfrozen != "none"

    @property
    def has_frozen_model(self) -> bool:
        """Whether the frozen image model is left, pooled as it pools, without what is trained."""
        return self.unfrozen == "none" and self.pooling != "attention"


METHODS: dict[str, Method] = {
    "st-adapter": Method(
        summary="spatio-temporal adapters",
        source="Pan et al. 2022, arXiv 2206.13559",
        adapters="spatio-temporal",
    ),
    "adapter": Method(
        summary="the same adapters without a view of time or neighbours",
        source="Houlsby et al. 2019, arXiv 1902.00751",
        adapters="spatial",
    ),
    "linear": Method(
        summary="nothing more",
        source="Alain and Bengio 2016, arXiv 1610.01644",
    ),
    "attentive": Method(
        summary="attention pooling over all tokens of all frames",
        source="Bardes et al. 2024, arXiv 2404.08471; block of Lee et al. 2019, arXiv 1810.00825",
        pooling="attention",
    ),
    "prompt": Method(
        summary="prompt tokens before every block",
        source="VPT-deep, Jia et al. 2022, arXiv 2203.12119",
        prompts="deep",
    ),
    "prompt-shallow": Method(
        summary="prompt tokens before the first block",
        source="VPT-shallow, Jia et al. 2022, arXiv 2203.12119",
        prompts="shallow",
    ),
    "lora": Method(
        summary="low-rank updates of the linear maps in the blocks",
        source="Hu et al. 2021, arXiv 2106.09685",
        low_rank=True,
    ),
    "bitfit": Method(
        summary="the image model's biases",
        source="Ben Zaken et al. 2021, arXiv 2106.10199",
        unfrozen="biases",
    ),
    "partial": Method(
        summary="the image model's last blocks",
        source="Yosinski et al. 2014, arXiv 1411.1792",
        unfrozen="blocks",
    ),
    "temporal": Method(
        summary="a small transformer over the frames' features",
        source="ActionCLIP, Wang et al. 2021, arXiv 2109.08472",
        pooling="temporal",
    ),
    "full": Method(
        summary="the whole image model",
        source="the baseline of Pan et al. 2022, arXiv 2206.13559",
        unfrozen="all",
    ),
    "full-temporal": Method(
        summary="the whole image model with spatio-temporal adapters in it",
        source="an upper bound on what st-adapter can express",
        adapters="spatio-temporal",
        unfrozen="all",
    ),
}
