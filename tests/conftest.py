"""Shapes in signatures are checked here, and only here; small real videos are made once."""

import os

import jaxtyping
from jaxtyping import install_import_hook

SHAPED = (
    "backbones",
    "data",
    "evaluation.score",
    "model.methods.adapter",
    "model.classifier",
    "model.methods",
)
install_import_hook([f"st_adapter.{name}" for name in SHAPED], "shape_checks.typechecker")

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from st_adapter import attach, create_model
from st_adapter.backbones.build import create_backbone
from st_adapter.common.remarks import show_remarks
from st_adapter.common.task import Task
from st_adapter.config import ClipConfig, TrainConfig
from st_adapter.evaluation.predict import Predictor
from st_adapter.model.classifier import VideoClassifier

VideoMaker = Callable[..., Path]

SIGNALLED_RUN = """
import json, os, pathlib, sys, torch
from st_adapter import TrainConfig, train

passes = []

def signal_in_a_step(module, given, logits):
    if module.training and torch.is_grad_enabled() and getattr(module, "out_features", 0) == 2:
        passes.append(module)  # the head, of two classes
        if len(passes) == 8:
            os.kill(os.getpid(), int(sys.argv[1]))

torch.nn.modules.module.register_module_forward_hook(signal_in_a_step)
config = TrainConfig.from_json(json.loads(sys.argv[2]), "argv")
out = pathlib.Path(sys.argv[4])
train(sys.argv[3], out, config, resume=out.exists())
"""
"""A program that trains and is sent a signal in its eighth pass: signal, config, DATA, RUN."""


def numbered_frame(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """A frame that shows its number: bit k lights column k of a row of eight bars."""
    frame = np.zeros((height, width, 3), np.uint8)
    for bit in range(8):
        if number >> bit & 1:
            frame[:, bit * width // 8 : (bit + 1) * width // 8] = 255
    return frame


def read_number(frame: np.ndarray) -> int:
    """The number that `numbered_frame` drew, from [h, w, 3]."""
    width = frame.shape[1]
    row = frame[frame.shape[0] // 2, :, 0]
    return sum(1 << bit for bit in range(8) if row[round((bit + 0.5) * width / 8)] > 127)


def write_video(
    path: Path,
    frames: list[np.ndarray],
    *,
    codec: str = "libx264",
    rate: int = 10,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode frames [h, w, 3]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = options or {}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def restamped(source: Path, target: Path, stamp: Callable[[int], int]) -> Path:
    """Copy a video's packets with other time stamps, in units of its own time base."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.pts, packet.dts = stamp(packet.pts), stamp(packet.dts)
                packet.stream = stream
                new.mux(packet)
    return target


def rotate_header(source: Path, target: Path) -> Path:
    """Write a display matrix of a quarter turn clockwise into the track header."""
    data = bytearray(source.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    matrix = [0, 1 << 16, 0, (1 << 32) - (1 << 16), 0, 0, 64 << 16, 0, 1 << 30]
    data[at : at + 36] = b"".join(value.to_bytes(4, "big") for value in matrix)
    target.write_bytes(data)
    return target


def write_audio(path: Path) -> Path:
    """A file with sound and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        stream.layout = "mono"
        for i in range(4):
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            frame.sample_rate = 44100
            frame.pts = i * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def blinking(dark_first: bool, seed: int, num_frames: int = 8) -> list[np.ndarray]:
    """A noisy clip that turns bright, or dark."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 60, (48, 64, 3))
    levels = np.linspace(20, 190, num_frames)
    return [(noise + level).astype(np.uint8) for level in (levels if dark_first else levels[::-1])]


@pytest.fixture(autouse=True, scope="session")
def _remarks() -> None:
    """Remarks of the library are shown, as the command shows them."""
    show_remarks()


@pytest.fixture(scope="session")
def folder_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two classes, six videos each."""
    root = tmp_path_factory.mktemp("data") / "my videos"
    for label, dark_first in (("brightens", True), ("darkens", False)):
        for i in range(6):
            write_video(root / label / f"clip {i}.mp4", blinking(dark_first, i))
    return root


def randomise(model: VideoClassifier) -> VideoClassifier:
    """Adapters as after long training: far from the identity."""
    with torch.no_grad():
        for parameter in model.adapters.parameters():
            parameter.normal_(std=0.3)
    return model


TINY = TrainConfig(
    backbone="test_vit",
    weights="random",
    frames=4,
    size=32,
    epochs=2,
    batch_size=4,
    workers=0,
    dropout=0.1,
    precision="float32",
    device=os.environ.get("ST_ADAPTER_TEST_DEVICE", "cpu"),
)


def save_one_block(folder: Path) -> None:
    """Save a classifier of two classes on a backbone of one block, quick to compile."""
    backbone = create_backbone("test_vit", depth=1)
    model = attach(backbone, ["a", "b"], clip=ClipConfig(frames=4, size=32))
    sizes = {"backbone": "test_vit", "weights": "random", "backbone_options": {"depth": 1}}
    model.spec = replace(model.spec, **sizes)
    model.save_adapter(folder)


def wait_for(
    condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 60
) -> None:
    """Wait until something holds, while a process runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def tiny() -> TrainConfig:
    """A configuration that trains in a second."""
    return TINY


@pytest.fixture(scope="session")
def trained_run(folder_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    from st_adapter.training.loop import train

    out = tmp_path_factory.mktemp("runs") / "run"
    train(folder_data, out, replace(TINY, epochs=1, dropout=0.5))
    return out


@pytest.fixture(scope="module")
def predictor(trained_run: Path) -> Predictor:
    """Of the finished run."""
    return Predictor(trained_run, device="cpu")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Shape checks off: they are no part of what is compiled."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def settings(folder_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of a comparison that takes seconds."""
    config = tmp_path_factory.mktemp("settings") / "config.json"
    config.write_text(json.dumps(replace(TINY, epochs=1).to_json()))
    flags = "--methods st-adapter,linear --seeds 0,1 --lrs 1e-3,1e-2 --search-epochs 1"
    return [str(folder_data), "--config", str(config), *flags.split()]


@pytest.fixture(scope="session")
def compared(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison."""
    out = tmp_path_factory.mktemp("compared") / "out"
    process = start_comparison([*settings, "--processes", "2"], out)
    assert process.wait(timeout=300) == 0, (out.parent / "said.txt").read_text()
    return out


@contextmanager
def held_by_another(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Let another process, which is yielded, be at work in a folder until this ends."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom st_adapter.common.lock import alone_in\n"
        "with alone_in(Path(sys.argv[1])):\n    print(flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process


def start_comparison(
    settings: list[str], out: Path, start_new_session: bool = False
) -> subprocess.Popen[bytes]:
    """Start `st-adapter compare`; what it says goes to said.txt beside `out`."""
    arguments = [sys.executable, "-m", "st_adapter", "compare", *settings, "--out", str(out)]
    with (out.parent / "said.txt").open("w") as said:
        return subprocess.Popen(
            arguments, stdout=said, stderr=said, start_new_session=start_new_session
        )


HEADS = Task(heads=(("verb", 2), ("noun", 3)))
HEAD_LABELS = ["verb/open", "verb/close", "noun/door", "noun/box", "noun/jar"]


def save_run(folder: Path, labels: list[str], seed: int, **options: object) -> Path:
    """Save a classifier on the tiny ViT, with adapters and a head drawn from a seed."""
    given: dict[str, object] = {"clip": ClipConfig(frames=4, size=32)} | options
    model = create_model("test_vit", labels, weights="random", **given)
    torch.manual_seed(seed)
    randomise(model)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.normal_(std=0.5)
    model.save_adapter(folder)
    return folder


@pytest.fixture(scope="session")
def label_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapter folders: three that share clips and an image model, and some that cannot join."""
    root = tmp_path_factory.mktemp("labelling runs")
    clip = ClipConfig(frames=4, size=32)
    return {
        "light": save_run(root / "light", ["brightens", "darkens", "stays"], 1),
        "speed": save_run(root / "speed", ["slow", "fast"], 2),
        "doing": save_run(root / "doing", HEAD_LABELS, 3, task=HEADS),
        "tags": save_run(root / "tags", ["a", "b", "c"], 4, task=Task(multi_label=True)),
        "longer": save_run(root / "longer", ["x", "y"], 5, clip=replace(clip, frames=8, size=48)),
        "full": save_run(root / "full", ["x", "y"], 6, method="full"),
    }


@pytest.fixture(scope="session")
def label_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty videos, of which one is broken."""
    folder = tmp_path_factory.mktemp("clips to label")
    for number in range(20):
        write_video(folder / f"{number:02}.mp4", blinking(number % 2 == 0, number))
    (folder / "07.mp4").write_bytes(b"not a video")
    return folder
