"""What `bench` measures."""

import json
import platform
from pathlib import Path

import pytest
import torch

from st_adapter.cli.main import main
from st_adapter.runtime.device import processor_kind

SMALL = ["--backbone", "test_vit", "--size", "32", "--frames", "2", "--batch-size", "2"]


def test_bench_times_three_things(capsys):
    assert main(["bench", *SMALL, "--precision", "bfloat16", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    names = [row["what"] for row in result["rows"]]
    assert names == ["loading a clip", "training step", "inference"]
    for row, clips in zip(result["rows"], (1, 2, 2), strict=True):
        assert row["clips_per_second"] * row["seconds"] > 0.99 * clips
    assert result["precision"] == "bfloat16"
    assert result["processor"] == processor_kind(torch.device("cpu"))


@pytest.mark.skipif(platform.system() != "Linux", reason="other systems do not list instructions")
def test_bench_says_on_which_kind_of_processor_it_ran(capsys):
    assert main(["bench", *SMALL]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    flags = Path("/proc/cpuinfo").read_text().split()
    has = [kind for kind in ("amx_bf16", "avx512_bf16") if kind in flags]
    assert f"cpu with {[*has, 'neither amx_bf16 nor avx512_bf16'][0]}, " in line


def test_other_devices_than_cpus_and_gpus_are_of_no_known_kind():
    assert processor_kind(torch.device("meta")) is None


def test_bench_loads_clips_of_a_video_that_is_given(capsys, folder_data):
    video = next(folder_data.rglob("*.mp4"))  # of a few frames; its own is 10 s of 340 x 256
    loading = []
    for flags in ([], ["--video", str(video)]):
        assert main(["bench", *SMALL, "--json", *flags]) == 0
        loading.append(json.loads(capsys.readouterr().out)["rows"][0]["seconds"])
    assert loading[1] < loading[0] / 2


def test_bench_takes_no_automatic_batch_size(capsys):
    assert main(["bench", *SMALL, "--batch-size", "auto"]) == 2
    assert "give --batch-size a number, not auto" in capsys.readouterr().err


def test_bench_of_a_broken_video_is_one_line(capsys, tmp_path):
    (broken := tmp_path / "broken.mp4").write_bytes(b"no video")
    assert main(["bench", *SMALL, "--video", str(broken)]) == 2
    assert "broken.mp4: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [broken]  # no index is left beside it
