"""Run the models of timm that are not plain ViTs: CNNs, hierarchical and rotary transformers."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from st_adapter.backbones.blockwise import BlockwiseFamily, MlpBranch, find_blocks

_WHERE_BLOCKS_ARE = (
    r"blocks\.\d+\.blocks\.\d+\.\d+",  # CrossViT
    r"stages\.\d+\.blocks\.\d+\.\d+",  # DaViT
    r"blocks\.\d+\.\d+",  # EfficientNet, MobileNet, GhostNet, Twins, ConvMixer
    r"(stages|layers|transformers)\.\d+\.blocks\.\d+",  # ConvNeXt, Swin, PiT, most hierarchies
    r"(encoder\.)?blocks\.\d+",  # EVA, DINOv3, BEiT, CaiT, XCiT, Hiera, mixers
    r"network\.\d+\.\d+",  # VOLO
    r"stages\.\d+\.\d+",  # RegNet-like, NFNet, MobileViT, StarNet
    r"dense_stages\.\d+\.\d+",  # RDNet
    r"stage\d+\.\d+\.branches\.\d+\.\d+",  # HRNet
    r"(body\.)?layer\d+\.\d+",  # ResNet and similar models, TResNet
    r"s\d+\.b\d+",  # RegNet
    r"stage\d+\.\d+",  # Visformer
    r"levels\.\d+",  # NesT
    r"serial_blocks\d+\.\d+",  # CoaT
    r"features\.(denseblock\d+|conv[2-9]_\d+)",  # DenseNet, DPN
    r"features\.\d+",  # VGG, ReXNet, Inception v4
    r"level\d+",  # DLA
    r"Mixed_\w+|mixed_\w+|(repeat(_\d+)?)\.\d+|block\d+|(reduction_)?cell_\w+",  # Inception, NASNet
)
"""Patterns of the names of blocks. The first one that matches any module of a model is used.

The order matters: a later pattern may match modules that contain the blocks of an earlier one.
"""

_MLP_BRANCHES = {
    MlpBranch("norm2", "mlp"): """beit.Block cait.LayerScaleBlock coat.SerialBlock convit.Block
        deepseek_vit.DeepseekVitBlock eva.EvaBlock focalnet.FocalNetBlock
        gcvit.GlobalContextVitBlock hiera.HieraBlock
        hieradet_sam2.MultiScaleBlock pvt_v2.Block swin_transformer.SwinTransformerBlock
        twins.Block visformer.Block vision_transformer.Block vision_transformer_relpos.RelPosBlock
        vision_transformer_sam.Block volo.Outlooker volo.Transformer xcit.XCABlock""",
    MlpBranch("mlp", "norm2"): """eva.EvaBlockPostNorm swin_transformer_v2.SwinTransformerV2Block
        vision_transformer_relpos.ResPostRelPosBlock""",
}
"""Blocks of the form x + mlp(norm2(x)) or x + norm2(mlp(x)), by their MLP branch.

They get an adapter before the MLP, in addition to the one before the block.
"""


class TimmFamily(BlockwiseFamily):
    """Run a model of timm by its own `forward_features` and `forward_head`.

    A model of your own is accepted, too, if it has these methods and timm's names of blocks.

    Args:
        backbone: image model of timm.

    Raises:
        ArgumentError: adapters do not fit the backbone.
    """

    _POOLING = "create it with timm's default global_pool"

    @classmethod
    def supports(cls, backbone: nn.Module) -> bool:
        """Whether the model has timm's methods of a classifier, and blocks with known names."""
        has_form = all(hasattr(backbone, name) for name in ("forward_features", "forward_head"))
        return has_form and bool(find_blocks(backbone, _WHERE_BLOCKS_ARE))

    def pool(self, features: Any) -> Tensor:
        """Pool what `run` returned into the input of the classifier, [n, c]."""
        pooled: Tensor = self.backbone.forward_head(features, pre_logits=True)
        return pooled

    def _forward(self, frames: Tensor) -> Any:
        return self.backbone.forward_features(frames)

    def _find_blocks(self) -> dict[str, nn.Module]:
        return find_blocks(self.backbone, _WHERE_BLOCKS_ARE)

    def _branches(self, blocks: Sequence[nn.Module]) -> list[MlpBranch | None]:
        """Return the one form that is known of these blocks; it must be the same for all."""
        forms = {_known_branch(block) for block in blocks}
        return [forms.pop() if len(forms) == 1 else None]

    def _num_prefix(self) -> int:
        return getattr(self.backbone, "num_prefix_tokens", 0)

    def _pools_token(self) -> bool:
        return getattr(self.backbone, "global_pool", "") == "token"


def _known_branch(block: nn.Module) -> MlpBranch | None:
    name = f"{type(block).__module__.rpartition('.')[2]}.{type(block).__name__}"
    return next((form for form, names in _MLP_BRANCHES.items() if name in names.split()), None)
