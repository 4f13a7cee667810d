"""The reference cases as files: what the authors' code and OpenAI would have written."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

CASES = sorted((Path(__file__).parent / "reference").glob("*.safetensors"))


@dataclass(frozen=True)
class Case:
    """Sizes, and tensors by their names in the file."""

    config: dict
    tensors: dict[str, torch.Tensor]

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors under `prefix/`, in the authors' order."""
        names = sorted(filter(lambda name: name.startswith(f"{prefix}/"), self.tensors), key=place)
        return {name.partition("/")[2]: self.tensors[name] for name in names}

    def write_checkpoint(self, path: Path) -> Path:
        """Their checkpoint-6.pth: what is trained, and what resuming their training takes."""
        trained = {name: t for name, t in self.part("weight").items() if is_trained(name)}
        rest = {"optimizer": {}, "lr_sched": {}, "loss_scaler": {}, "next_epoch": 7}
        torch.save({"model": trained, **rest}, path)
        return path

    def write_clip(self, path: Path) -> Path:
        """The backbone, as a CLIP file names it."""
        frozen = {n: t for n, t in self.part("weight").items() if not is_trained(n)}
        torch.save({f"visual.{name}": tensor for name, tensor in frozen.items()}, path)
        return path


def read_case(path: Path) -> Case:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Case(json.loads(file.metadata()["config"]), tensors)


def is_trained(name: str) -> bool:
    return "adapter" in name or name.startswith("fc.")


def place(name: str) -> tuple:
    """Where a tensor stands in the authors' state dict: fc last, conv amid, weight before bias."""
    stem, _, kind = name.partition("/")[2].rpartition(".")
    module, _, part = stem.rpartition(".")
    order = ["fc1", "conv", "fc2"]
    return stem == "fc", module, order.index(part) if part in order else part, kind != "weight"
