"""The line that says on which machine a benchmark runs."""

import torch

from st_adapter.common.provenance import machine
from st_adapter.runtime.device import choose_device, processor_kind


def print_machine(name: str = "cpu") -> None:
    """Print the machine and its kind of processor. Compare only times of the same kind.

    Args:
        name: of the device that computes, or "auto".
    """
    device = choose_device(name)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    kind = processor_kind(device)
    known = f"; {kind}" if kind and kind != gpu else ""
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{machine(gpu)}{known}; {threads}", flush=True)
