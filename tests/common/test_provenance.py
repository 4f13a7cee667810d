"""Only the command records a command line."""

import json
import subprocess
import sys

PROGRAM = """
import sys
from st_adapter import TrainConfig, train

config = TrainConfig(backbone="test_vit", weights="random", frames=4, size=32, epochs=1, workers=0)
train(sys.argv[3], sys.argv[4], config)
"""


def test_a_program_that_trains_is_no_command(folder_data, tmp_path):
    (tmp_path / "mytool").mkdir()
    (tmp_path / "mytool" / "__main__.py").write_text(PROGRAM)
    given = ["--lr", "3", str(folder_data), str(tmp_path / "run")]
    command = [sys.executable, "-m", "mytool", *given]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["command"] == ""
    assert json.loads((tmp_path / "run" / "eval.json").read_text())["command"] == ""
