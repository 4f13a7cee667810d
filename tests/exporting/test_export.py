import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import jaxtyping
import numpy as np
import onnx
import pytest
import torch
from torch import nn

import st_adapter
from conftest import HEAD_LABELS, HEADS, randomise, save_one_block
from st_adapter.backbones.build import create_backbone
from st_adapter.cli.main import main
from st_adapter.common.task import Task
from st_adapter.config import ClipConfig
from st_adapter.errors import ArgumentError, CheckpointError, ExportError
from st_adapter.evaluation.score import probabilities
from st_adapter.model.exported import is_exported, open_exported

ENDINGS = [".onnx", ".pt2", ".xml"]
SMALL = ClipConfig(frames=4, size=32)


@pytest.fixture(autouse=True, scope="module")
def _unchecked():
    """Shape checks are no part of what is exported."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An adapter folder of a classifier of one block, which is quick to trace."""
    folder = tmp_path_factory.mktemp("to export") / "run"
    save_one_block(folder)
    return folder


@pytest.fixture(scope="module")
def exports(run, tmp_path_factory):
    """The same run in each format: what `export` returned, by the ending of the file."""
    folder = tmp_path_factory.mktemp("exports")
    return {ending: st_adapter.export(run, folder / f"model{ending}") for ending in ENDINGS}


def one_block(labels, **options):
    """A classifier of one block, with adapters far from the identity."""
    backbone = create_backbone("test_vit", depth=1)
    return randomise(st_adapter.attach(backbone, labels, clip=SMALL, **options)).eval()


def draw_trained(model):
    with torch.no_grad():
        for parameter in model.trainable_parameters():
            parameter.normal_(std=0.2)


def clips_of(num, frames, size=32):
    return np.random.default_rng(num).integers(0, 256, (num, frames, 3, size, size), np.uint8)


def scores_of(model, clips):
    with torch.inference_mode():
        return probabilities(model(torch.from_numpy(clips)), model.spec.task).numpy()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_scores_any_number_of_clips_and_frames_as_the_run_does(ending, exports, run):
    exported, model = open_exported(exports[ending].path), st_adapter.load(run)
    for num, frames in ((1, 1), (2, 7), (4, 4)):
        clips = clips_of(num, frames)
        np.testing.assert_allclose(exported.scores(clips), scores_of(model, clips), atol=1e-5)


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_record_in_a_file_is_that_of_the_run(ending, exports, run):
    exported = open_exported(exports[ending].path)
    assert exported.spec == st_adapter.load(run).spec
    assert (exported.fixed_size, exported.precision) == (32, "float32")
    assert is_exported(exported.path)
    assert not is_exported(run)


def test_scores_are_compared_on_noise_and_on_the_videos_that_training_held_out(
    trained_run, tmp_path
):
    result = st_adapter.export(trained_run, tmp_path / "model.pt2")
    assert (result.noise.num, result.videos and result.videos.num) == (9, 2)
    assert max(result.noise.difference, result.videos.difference) < 1e-5
    assert result.videos.same_labels == 1
    assert min(result.seconds, result.model_seconds) > 0
    assert result.num_bytes == result.path.stat().st_size


@pytest.mark.parametrize("ending", [".onnx", ".xml"])
def test_a_file_runs_without_torch(ending, exports):
    code = (
        "import sys\nimport numpy as np\n"
        "from st_adapter.model.exported import open_exported\n"
        "model = open_exported(sys.argv[1])\n"
        "print(model.scores(np.zeros((1, 4, 3, 32, 32), np.uint8)).shape, model.spec.labels)\n"
        "assert not {'torch', 'timm', 'onnx', 'torchvision'} & {*sys.modules}\n"
    )
    command = [sys.executable, "-c", code, str(exports[ending].path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "(1, 2) ('a', 'b')\n"


@pytest.mark.parametrize("ending", ENDINGS)
def test_threads_share_one_opened_file(ending, exports):
    exported = open_exported(exports[ending].path)
    batches = [clips_of(num, 3) for num in (1, 2, 3, 1, 2, 3)]
    alone = [exported.scores(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(exported.scores, batches * 3))
    for one, other in zip(alone * 3, together, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_openvino_attends_to_frames_rightly_after_threads_began_with_one_frame(tmp_path):
    """Width 32, with which the scores are wrong by 0.3 if the file is not warmed up on opening."""
    backbone = create_backbone("vit_tiny_patch16_224", embed_dim=32, depth=1, num_heads=2)
    model = st_adapter.attach(backbone, ["a", "b", "c"], method="temporal", clip=SMALL).eval()
    draw_trained(model)
    exported = open_exported(st_adapter.export(model, tmp_path / "model.xml").path)
    barrier = Barrier(3, timeout=60)

    def begin_with_one(num):
        barrier.wait()
        return [exported.scores(clips_of(num, frames)) for frames in (1, 33, 1, 16)]

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(begin_with_one, (1, 2, 3)))
    for num, scores in zip((1, 2, 3), found, strict=True):
        expected = [scores_of(model, clips_of(num, frames)) for frames in (1, 33, 1, 16)]
        np.testing.assert_allclose(np.concatenate(scores), np.concatenate(expected), atol=1e-5)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_has_no_paths_of_this_machine(ending, exports):
    assert b"site-packages" not in exports[ending].path.read_bytes()


def test_axes_in_an_onnx_file_have_names(exports):
    graph = onnx.load(exports[".onnx"].path).graph
    onnx.checker.check_model(exports[".onnx"].path, full_check=True)
    (clips,), (scores,) = graph.input, graph.output
    axes = [axis.dim_param or axis.dim_value for axis in clips.type.tensor_type.shape.dim]
    assert (clips.name, axes) == ("clips", ["clips", "frames", 3, 32, 32])
    axes = [axis.dim_param or axis.dim_value for axis in scores.type.tensor_type.shape.dim]
    assert (scores.name, axes) == ("scores", ["clips", 2])


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_damaged_file_is_an_error_of_one_line(ending, exports, tmp_path):
    file = tmp_path / f"cut{ending}"
    file.write_bytes(exports[ending].path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cut.* is damaged or not a model: [^\n]*$"):
        open_exported(file)


def test_openvino_without_its_weights_is_an_error(exports, tmp_path):
    file = shutil.copy(exports[".xml"].path, tmp_path)
    with pytest.raises(CheckpointError, match="model.xml is damaged or not a model"):
        open_exported(file)


def test_a_file_of_another_program_is_an_error(exports, tmp_path):
    model = onnx.load(exports[".onnx"].path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(CheckpointError, match="other.onnx was not written by `st-adapter export`"):
        open_exported(tmp_path / "other.onnx")


def test_what_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="none.onnx does not exist"):
        open_exported(tmp_path / "none.onnx")
    with pytest.raises(ArgumentError, match=r"exported files end in .onnx, .pt2 .*, unlike .*a.pt"):
        open_exported("a.pt")


def test_clips_of_another_type_or_size_are_errors(exports):
    exported = open_exported(exports[".onnx"].path)
    with pytest.raises(ArgumentError, match=r"clips must be uint8 \[n, t, 3, h, w\], not float64"):
        exported.scores(np.zeros((1, 2, 3, 32, 32)))
    with pytest.raises(ArgumentError, match=r"uint8 \[1, 3, 32, 32\]"):
        exported.scores(np.zeros((1, 3, 32, 32), np.uint8))
    with pytest.raises(ArgumentError, match="takes frames of 32 x 32 px, not 48 x 48"):
        exported.scores(np.zeros((1, 2, 3, 48, 48), np.uint8))


def test_a_convolutional_network_takes_frames_of_other_sizes(tmp_path):
    clip = replace(SMALL, size=64)
    model = st_adapter.create_model("test_resnet", ["a", "b"], weights="random", clip=clip)
    result = st_adapter.export(randomise(model).eval(), tmp_path / "model.pt2")
    clips = clips_of(2, 3, size=96)
    assert result.fixed_size is None
    np.testing.assert_allclose(
        open_exported(result.path).scores(clips), scores_of(model, clips), atol=1e-5
    )


@pytest.mark.parametrize(
    ("labels", "task"), [(HEAD_LABELS, HEADS), (["a", "b", "c"], Task(multi_label=True))]
)
def test_scores_are_those_of_the_task(labels, task, tmp_path):
    model = one_block(labels, task=task)
    exported = open_exported(st_adapter.export(model, tmp_path / "model.pt2").path)
    clips = clips_of(3, 4)
    ours = scores_of(model, clips)
    np.testing.assert_allclose(exported.scores(clips), ours, atol=1e-5)
    assert exported.spec.task == task


def test_merging_lora_keeps_the_scores_and_leaves_the_classifier_as_it_was(tmp_path):
    model = one_block(["a", "b", "c"], method="lora").train()
    draw_trained(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = [parameter.requires_grad for parameter in model.parameters()]
    result = st_adapter.export(model, tmp_path / "model.pt2")
    assert result.noise.difference <= 1e-5
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert model.training


@pytest.mark.parametrize("options", [{"int8": True}, {"half": True}])
def test_lower_precision_is_smaller_and_keeps_the_labels(options, exports, run, tmp_path):
    result = st_adapter.export(run, tmp_path / "small.onnx", **options)
    assert 1e-6 < result.noise.difference < 0.05
    assert result.num_bytes < 0.7 * exports[".onnx"].num_bytes
    assert open_exported(result.path).precision == next(iter(options))


def test_nothing_is_left_of_a_file_with_wrong_scores(tmp_path):
    model = one_block(["a", "b"])
    with torch.no_grad():
        model.head.weight.fill_(torch.nan)
    out = tmp_path / "out" / "model.pt2"
    with pytest.raises(ExportError, match="model.pt2 was not written: its scores are NaN"):
        st_adapter.export(model, out)
    assert not list(out.parent.iterdir())


class _Undecided(nn.Module):
    """A block whose form depends on what it is given, which torch.export cannot trace."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.conv(x) if x.sum() > 0 else x


def test_what_torch_cannot_trace_is_refused_with_the_reason(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), _Undecided())
    net.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten())
    model = st_adapter.attach(net, ["a", "b"], blocks="1", features="3", clip=SMALL)
    with pytest.raises(ExportError, match="Sequential.* cannot be exported: torch.export"):
        st_adapter.export(model, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "a.pth"], "exported files end in .onnx, .pt2 (torch.export) or .xml"),
        (["--out", "there.onnx"], "there.onnx already exists; choose another --out"),
        (["--out", "a.pt2", "--int8"], "--int8 is only for files ending in .onnx"),
        (["--out", "a.onnx", "--int8", "--half"], "use --half or --int8, not both"),
        (["--out", "a.onnx", "--videos", "none"], "none: no such file or folder"),
    ],
)
def test_invalid_arguments_are_errors(
    arguments, message, trained_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.onnx").touch()
    assert main(["export", str(trained_run), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["there.onnx"]


def test_the_command_prints_differences_and_speed(run, label_clips, tmp_path, capsys):
    out, videos = tmp_path / "model.pt2", label_clips / "00.mp4"
    assert main(["export", str(run), "--out", str(out), "--half", "--videos", str(videos)]) == 0
    printed = capsys.readouterr().out
    assert f"{out}: " in printed
    assert "half, only frames of 32 x 32 px" in printed
    rows = [line.split() for line in printed.splitlines()[1:]]
    assert [row[0] for row in rows] == [
        *("scores", "noise", "videos", "speed", "PyTorch,", "torch.export")
    ]
    assert (rows[1][1], rows[2][1], rows[2][3]) == ("9", "1", "100.0%")
