"""The official implementation's own numbers, linziyi96/st-adapter at b914b38.

tests/reference holds inputs, weights, logits and gradients that it computed in float32.
"""

import pytest
import torch
import torch.nn.functional as F

import st_adapter
from official_files import CASES, read_case
from st_adapter.cli.main import main
from st_adapter.official.format import our_name


def test_both_reference_cases_are_there():
    assert [case.stem for case in CASES] == ["official_1adapter_last2", "official_2adapters"]


@pytest.fixture(params=CASES, ids=lambda case: case.stem)
def case(request):
    return read_case(request.param)


@pytest.fixture
def run(case, tmp_path):
    """The case's checkpoint, imported."""
    checkpoint = case.write_checkpoint(tmp_path / "checkpoint-6.pth")
    weights = case.write_clip(tmp_path / "clip.pt")
    flags = ["--weights", weights, "--heads", case.config["heads"], "--out", tmp_path / "run"]
    assert main([str(a) for a in ("import-official", checkpoint, *flags)]) == 0
    return tmp_path / "run"


def test_logits_and_gradients_equal_the_official_ones(case, run):
    model = st_adapter.load(run)
    normalised = case.tensors["input/clips_bcthw"].transpose(1, 2)

    logits = model(normalised * model.std + model.mean)
    F.cross_entropy(logits, case.tensors["input/labels"]).backward()

    torch.testing.assert_close(logits, case.tensors["output/logits"], rtol=0, atol=1e-5)
    ours, theirs = model.trained_tensors(), case.part("grad")
    assert ours.keys() == {our_name(name) for name in theirs}
    for name, expected in theirs.items():
        gradient = ours[our_name(name)].grad
        if gradient is None:  # of what nothing hangs on
            gradient = torch.zeros_like(expected)
        difference = (gradient - expected).norm()
        assert difference <= 1e-4 * expected.norm(), (name, difference)


def test_imported_and_exported_is_the_same_file_tensor_for_tensor(run, tmp_path):
    out = tmp_path / "again.pth"
    assert main(["export-official", str(run), "--out", str(out)]) == 0
    before = torch.load(tmp_path / "checkpoint-6.pth", weights_only=True)
    after = torch.load(out, weights_only=True)
    assert list(after) == list(before)
    assert after["next_epoch"] == 7
    assert list(after["model"]) == list(before["model"])
    for name, tensor in before["model"].items():
        assert after["model"][name].dtype == tensor.dtype
        assert torch.equal(after["model"][name], tensor), name
