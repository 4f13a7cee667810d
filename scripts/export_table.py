"""Measure the scores of exported files against those of PyTorch, over backbones and methods.

Prints a Markdown table: for each backbone and method, the largest difference of a score in each
format, for 1, 8 and 33 frames and 1 and 3 clips. Backbones are small, with random weights; trained
parameters are random as well.

    python scripts/export_table.py > table.md
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import st_adapter
from st_adapter.backbones.build import create_backbone
from st_adapter.errors import StAdapterError
from st_adapter.exporting.formats import write
from st_adapter.exporting.program import ScoringModule, traced
from st_adapter.model.classifier import VideoClassifier
from st_adapter.model.exported import open_exported
from st_adapter.model.record import to_record

SLIM = {"embed_dim": 32, "depth": 2, "num_heads": 2}
SWIN = {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "img_size": 64}
REGISTERS = SLIM | {"img_size": 70, "init_values": 1}
BACKBONES = {
    "CLIP": ("vit_base_patch16_clip_quickgelu_224", SLIM, 64),
    "DINOv2, registers": ("vit_small_patch14_reg4_dinov2", REGISTERS, 70),
    "SigLIP": ("vit_base_patch16_siglip_224", SLIM, 64),
    "Swin": ("swin_tiny_patch4_window7_224", SWIN, 64),
    "ConvNeXt": ("test_convnext", {}, 64),
    "ResNet": ("test_resnet", {}, 64),
    "EfficientNet": ("test_efficientnet", {}, 64),
    "MobileNetV4": ("mobilenetv4_conv_small_035", {}, 64),
    "torchvision ResNet": ("torchvision:resnet18", {}, 64),
}
METHODS = ("st-adapter", "lora", "temporal", "attentive", "ordered", "side")
ENDINGS = (".onnx", ".pt2", ".xml")
SHAPES = ((1, 1), (3, 1), (1, 8), (3, 8), (1, 33), (3, 33))


def build(backbone: nn.Module, method: str, size: int) -> VideoClassifier:
    """Make a classifier whose trained parameters are random."""
    torch.manual_seed(0)
    model = st_adapter.attach(
        backbone,
        ["a", "b", "c", "d"],
        st_adapter.AdapterConfig(bottleneck=16),
        method=method,
        clip=st_adapter.ClipConfig(frames=8, size=size),
    )
    with torch.no_grad():
        for parameter in model.trainable_parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


@torch.inference_mode()
def largest_difference(model: VideoClassifier, file: Path) -> float:
    """Return the largest difference of a score over all shapes of clips."""
    exported, rng = open_exported(file), np.random.default_rng(0)
    size, differences = model.spec.clip.size, []
    for num, frames in SHAPES:
        clips = rng.integers(0, 256, (num, frames, 3, size, size), np.uint8)
        expected = ScoringModule(model)(torch.from_numpy(clips)).numpy()
        differences.append(np.abs(exported.scores(clips) - expected).max())
    return float(np.max(differences))


def cells(name: str, sizes: dict[str, object], size: int, method: str) -> list[str]:
    """Return what the table shows of one backbone and method."""
    model = build(create_backbone(name, **sizes), method, size)
    shown = []
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"model{ending}" for ending in ENDINGS]
        with traced(model) as (program, fixed_size):
            export = {"precision": "float32", "fixed_size": fixed_size}
            record = json.dumps({**to_record(model.spec), "export": export})
            for file in files:
                write(program, file, record, "float32")
        shown = [f"{largest_difference(model, file):.0e}" for file in files]
    return [f"{fixed_size} px" if fixed_size else "any", *shown]


def main() -> None:
    """Print the table, row by row."""
    print("| backbone | method | size | .onnx | .pt2 | .xml |\n|---|---|---|---|---|---|")
    for label, (name, sizes, size) in BACKBONES.items():
        for method in METHODS:
            try:
                shown = cells(name, sizes, size, method)
            except StAdapterError as error:
                shown = [str(error)]
            print(f"| {label} | {method} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
