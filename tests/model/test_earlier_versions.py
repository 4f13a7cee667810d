"""Folders that earlier versions wrote are read, and give the scores that they gave then."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import st_adapter
from st_adapter.catalogue.costs import inspect_run
from st_adapter.evaluation.run_record import recorded_run
from st_adapter.report.page import write_report

EARLIER = {
    "trained_by_0_1": [
        [0.033240318298339844, -0.03200966864824295],
        [0.03732230141758919, -0.04058460146188736],
    ],
}
"""Run folder to the logits that its version gave of the clips below."""

runs = pytest.mark.parametrize("name", EARLIER)


def folder_of(name):
    return Path(__file__).parents[1] / "reference" / name


def test_there_is_a_folder_of_each_format():
    assert sorted(EARLIER) == sorted(p.name for p in folder_of("").glob("trained_by_*"))


@runs
def test_a_run_gives_the_scores_that_it_gave(name):
    model = st_adapter.load(folder_of(name))
    clips = np.random.default_rng(0).integers(0, 256, (2, 4, 3, 32, 32), dtype=np.uint8)
    with torch.no_grad():
        logits = model(torch.from_numpy(clips))
    torch.testing.assert_close(logits, torch.tensor(EARLIER[name]), rtol=1e-4, atol=1e-6)
    assert model.labels == ("brightens", "darkens")


@runs
def test_an_adapter_alone_gives_the_same_scores(name, tmp_path):
    shutil.copytree(folder_of(name) / "adapter", tmp_path / "shipped")
    ours, shipped = (st_adapter.load(path) for path in (folder_of(name), tmp_path / "shipped"))
    clips = torch.rand(1, 4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours(clips), shipped(clips))


@runs
def test_its_records_are_read(name, tmp_path):
    run = shutil.copytree(folder_of(name), tmp_path / "run")
    data, recipe, config = recorded_run(run)
    assert (str(data), recipe, config.backbone, config.bottleneck) == (
        *("/videos", "default"),
        *("test_vit", 8),
    )
    assert inspect_run(run).num_adapters == 4
    assert "top-1" in write_report(run).read_text()
