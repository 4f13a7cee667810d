"""The methods of transferring an image model to video, each described as a choice of parts.

`model/methods/` builds the parts. This file does not import torch, so that the command line can
list the methods quickly.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Method:
    """Describe one method of transferring an image model to video.

    Every method also trains a linear classifier, the head.

    Attributes:
        summary: what is trained besides the head, in a few words.
        source: the publication that describes the method.
        adapters: which bottleneck modules are added inside the blocks. "spatio-temporal" ones see
            neighbouring frames; "spatial" ones see each patch of each frame by itself.
        prompts: which learnt tokens are added to the patch tokens. "deep" adds new ones before
            every block, "shallow" adds them once, before the first block.
        low_rank: whether linear layers and ungrouped convolutions inside the blocks get LoRA.
        unfrozen: which parameters of the image model itself are trained.
        pooling: how frame features become clip features: by their "mean"; by the mean after a
            small "temporal" transformer; by "attention" over all tokens of all frames; by "ordered"
            attention, whose tokens carry a code of their frame; or by a "side" network, which reads
            the tokens after every block.
    """

    summary: str
    source: str
    adapters: Literal["none", "spatial", "spatio-temporal"] = "none"
    prompts: Literal["none", "shallow", "deep"] = "none"
    low_rank: bool = False
    unfrozen: Literal["none", "biases", "blocks", "all"] = "none"
    pooling: Literal["mean", "temporal", "attention", "ordered", "side"] = "mean"

    @property
    def changes_backbone(self) -> bool:
        """Whether modules of the image model itself are trained or wrapped."""
        return self.low_rank or self.unfrozen != "none"

    @property
    def sees_order(self) -> bool:
        """Whether the result depends on the order of the frames."""
        return self.adapters == "spatio-temporal" or self.pooling in ("temporal", "ordered", "side")

    @property
    def has_frozen_model(self) -> bool:
        """Whether switching off the trained parts leaves the frozen image model and its pooling."""
        return self.unfrozen == "none" and self.pooling in ("mean", "temporal")


METHODS: dict[str, Method] = {
    "st-adapter": Method(
        summary="spatio-temporal adapters",
        source="Pan et al. 2022, arXiv 2206.13559",
        adapters="spatio-temporal",
    ),
    "adapter": Method(
        summary="the same adapters, but each patch of each frame by itself",
        source="Houlsby et al. 2019, arXiv 1902.00751",
        adapters="spatial",
    ),
    "linear": Method(
        summary="nothing else",
        source="Alain and Bengio 2016, arXiv 1610.01644",
    ),
    "attentive": Method(
        summary="attention pooling over all tokens of all frames",
        source="Bardes et al. 2024, arXiv 2404.08471; block of Lee et al. 2019, arXiv 1810.00825",
        pooling="attention",
    ),
    "ordered": Method(
        summary="attention pooling over tokens that carry a learnt code of their frame",
        source="STEP, Ponbagavathi and Roitberg 2025, arXiv 2503.24298",
        pooling="ordered",
    ),
    "side": Method(
        summary="a narrow network beside the image model, which reads the tokens after its blocks",
        source="Side4Video, Yao et al. 2023, arXiv 2311.15769",
        pooling="side",
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
        summary="low-rank updates of the linear layers in the blocks",
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
        summary="a small transformer over the frame features",
        source="ActionCLIP, Wang et al. 2021, arXiv 2109.08472",
        pooling="temporal",
    ),
    "full": Method(
        summary="the whole image model",
        source="the baseline of Pan et al. 2022, arXiv 2206.13559",
        unfrozen="all",
    ),
    "full-temporal": Method(
        summary="the whole image model and spatio-temporal adapters",
        source="an upper bound on what st-adapter can express",
        adapters="spatio-temporal",
        unfrozen="all",
    ),
}
"""All methods, by the names that `--method` takes."""
