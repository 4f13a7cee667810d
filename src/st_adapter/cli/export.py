"""The subcommand that writes a classifier to a file for other programs."""

from pathlib import Path
from typing import Any

import click

from st_adapter.cli.options import PATH, RUN_DEFAULTS, verb

_RUNTIMES = {".onnx": "ONNX Runtime", ".pt2": "torch.export", ".xml": "OpenVINO"}


@verb("weights", defaults=RUN_DEFAULTS)
@click.argument("run", type=PATH)
@click.option(
    "--out",
    type=PATH,
    required=True,
    help="File to write: .onnx, .pt2 (torch.export) or .xml (OpenVINO, which also writes a .bin).",
)
@click.option("--half", is_flag=True, help="Store weights in half precision: half the size.")
@click.option("--int8", is_flag=True, help="Store the weights of linear layers in int8 (.onnx).")
@click.option(
    "--videos",
    type=PATH,
    help="Video or folder of videos to compare scores on.  [default: the validation videos of RUN]",
)
def export(run: Path, out: Path, **options: Any) -> None:
    """Write RUN to a file for ONNX Runtime, OpenVINO or torch.export.

    The file takes RGB frames in 0..255 and returns scores. Its metadata has the labels and how
    clips are cut. Before the file is put in place, its scores are compared with those of RUN, on
    noise and on videos. In float32, a difference above 0.0001 is an error and no file is written.
    """
    from st_adapter.cli.tables import print_export
    from st_adapter.exporting.run import export as run_export

    print_export(run_export(run, out, **options), _RUNTIMES[out.suffix.lower()])
