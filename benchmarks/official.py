"""The official code's model and ours with the same random weights, for the benchmarks beside it.

The official code, linziyi96/st-adapter at b914b38, is imported from a checkout that the user
names. It is built for GPUs: what stands in its way on a CPU, weights held in half precision
and paths of CLIP files read at import, is worked around here, from outside.
"""

import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import nn

from st_adapter.model.build import load
from st_adapter.model.classifier import VideoClassifier
from st_adapter.official.importer import import_official


class Sizes(NamedTuple):
    """Of a CLIP ViT with 16 px patches and heads of 64 channels."""

    width: int
    blocks: int = 12
    bottleneck: int = 384


SIZES = {"vit-b16": Sizes(768), "vit-tiny": Sizes(192, bottleneck=96)}


def import_models(checkout: Path) -> ModuleType:
    """Their `models_adapter`, with a stand-in for the file of paths that its user writes."""
    paths = ModuleType("configs")
    vars(paths).update(
        CLIP_VIT_B16_PATH=None, CLIP_VIT_L14_PATH=None, DWCONV3D_DISABLE_CUDNN=True, DATASETS={}
    )
    sys.modules["configs"] = paths
    sys.path.insert(0, str(checkout))
    import models_adapter  # type: ignore[import-not-found]

    module: ModuleType = models_adapter
    return module


def build_official(checkout: Path, sizes: Sizes, classes: int) -> nn.Module:
    """Their classifier, 24x384 on ViT-B/16, in float32, with weights that move logits."""
    torch.manual_seed(0)
    model: nn.Module = (
        import_models(checkout)
        .VisionTransformer(
            input_resolution=224,
            patch_size=16,
            width=sizes.width,
            layers=sizes.blocks,
            heads=sizes.width // 64,
            num_classes=classes,
            adapter_width=sizes.bottleneck,
            adapter_layers=sizes.blocks,
            adapter_kernel_size=(3, 1, 1),
            adapter_pre_attn=True,
            adapter_pre_mlp=True,
        )
        .float()
    )
    for name, parameter in model.named_parameters():
        if ".conv." in name:  # zero at first: the adapters would do nothing
            nn.init.normal_(parameter, std=0.02)
    return model


def faster_device() -> str:
    """A GPU where there is one: their code knows no other devices."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def half_frozen(official: nn.Module) -> nn.Module:
    """Hold its frozen weights in float16, as its constructor does for GPUs."""
    for parameter in official.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.half()
    return official


def build_ours(official: nn.Module, sizes: Sizes) -> VideoClassifier:
    """Our classifier with the same weights, through `import-official`."""
    tensors = official.state_dict()
    trained = {name for name, p in official.named_parameters() if p.requires_grad}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, clip = Path(folder) / "checkpoint-0.pth", Path(folder) / "clip.pt"
        torch.save({"model": {n: t for n, t in tensors.items() if n in trained}}, checkpoint)
        frozen = {f"visual.{n}": t for n, t in tensors.items() if n not in trained}
        torch.save(frozen, clip)
        import_official(
            checkpoint, Path(folder) / "run", weights=str(clip), heads=sizes.width // 64
        )
        return load(Path(folder) / "run", str(clip))


@torch.no_grad()
def check_equal(official: nn.Module, ours: VideoClassifier, frames: int) -> float:
    """Largest difference of logits on two clips of noise, in float32; an error if it is large."""
    clips = torch.rand(2, frames, 3, 224, 224)
    normalised = ((clips - ours.mean) / ours.std).transpose(1, 2)  # they take [b, 3, t, h, w]
    theirs, logits = official.eval()(normalised), ours.eval()(clips)
    difference = float((theirs - logits).abs().max())
    assert difference < 1e-4 * float(theirs.abs().max()), f"logits differ by {difference}"
    return difference
