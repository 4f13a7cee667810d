import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import write_audio
from st_adapter.cli.imports import DeferredModule
from st_adapter.cli.main import app, main

VERBS = [
    "demo",
    "train",
    "features",
    "evaluate",
    "predict",
    "timeline",
    "watch",
    "serve",
    "check",
    "compare",
    "report",
    "advise",
    "export",
    "push",
    "labels",
    "inspect",
    "bench",
    "recipes",
    "backbones",
    "import-official",
    "export-official",
]


def run(capsys, *arguments):
    """Run in this process; return exit code, stdout, stderr."""
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def run_python(program, *arguments):
    """Run it in a process of its own, which must end well; return what it printed."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def one_line(error):
    assert error.count("\n") == 1, error
    assert error.startswith("st-adapter: error: ")
    return error


def test_help_of_every_verb_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from st_adapter.cli.main import main\n"
        "assert [main([verb, '--help']) for verb in sys.argv[1:]] == [0] * len(sys.argv[1:])\n"
        "assert not {'torch', 'timm', 'av', 'numpy', 'rich'} & set(sys.modules)\n"
    )
    printed = run_python(code, *VERBS)
    assert all(f"{verb} [OPTIONS]" in printed for verb in VERBS)


def test_scoring_imports_the_compiler_only_when_it_is_called(trained_run, folder_data):
    code = (
        "import gc, sys\n"
        "from st_adapter.cli.main import main\n"
        "assert main(['predict', *sys.argv[1:]]) == 0\n"
        "assert main(['evaluate', *sys.argv[1:], '--workers', '0']) == 0\n"
        "assert not {'torch._dynamo', 'triton', 'sympy'} & set(sys.modules)\n"
        "assert gc.isenabled() and gc.get_freeze_count() > 0\n"
        "import torch, torchvision, torchvision.tv_tensors as tv\n"
        "image = tv.Image(torch.zeros(3, 4, 4))\n"
        "assert type(tv.wrap(torch.ones(3, 4, 4), like=image)) is tv.Image\n"
        "assert 'torch._dynamo' in sys.modules\n"
        "torchvision.ops.roi_align.__globals__['is_compile_supported']('cpu')\n"
        "assert torch.compile(torch.sin, backend='eager')(torch.zeros(1)) == 0\n"
    )
    run_python(code, trained_run, folder_data)


def test_a_deferred_module_is_imported_for_what_it_was_not_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "colorsys", DeferredModule("colorsys"))
    from colorsys import rgb_to_hsv

    assert rgb_to_hsv(1, 1, 1) == (0, 0, 1)
    assert not isinstance(sys.modules["colorsys"], DeferredModule)


def test_every_verb_is_listed():
    assert list(app.commands) == VERBS


def test_no_verb_shows_the_help():
    done = subprocess.run([sys.executable, "-m", "st_adapter"], capture_output=True, text=True)
    assert done.returncode == 2
    assert all(verb in done.stderr for verb in VERBS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "did you mean train?"),
        (["train", "x", "--out", "y", "--framez", "8"], "--frames"),
        (["train", "x"], "Missing option '--out'"),
        (["train", "x", "--out", "y", "--frames", "many"], "'many' is not a valid integer"),
        (["train", "x", "--out", "y", "--recipe", "k40"], "did you mean k400?"),
        (["train", "gone", "--out", "y"], "gone does not exist; DATA is a folder"),
        (["train", "x", "--out", ""], "Invalid value for '--out': the path is empty"),
        (["train", "x", "--out", "y", "--batch-size", "many"], "neither a whole number nor auto"),
        (["predict", "gone", "x.mp4"], "x.mp4: no such file or folder"),
        (["report", "gone"], "gone does not exist; give the folder of a run"),
        (["evaluate", "gone", "x"], "gone does not exist; give a run folder"),
        (["check", "x", "--frames", "0"], "frames must be at least 1, not 0"),
        (["inspect", "gone", "--size", "0"], "size must be at least 1, not 0"),
        (["compare", "x", "--out", "y", "--lrs", "1;2"], "--lrs takes comma-separated numbers"),
        (["inspect", "--backbone", "vit_tiny_patch16_224", "--size", "100"], "frames of 100 px"),
        (["inspect"], "either a RUN or --backbone NAME"),
        (["train", "x", "--out", "y", "--views", "3x2"], "1 or 3 in space, not 3x2"),
        (["inspect", "--backbone", "vit_bas_patch16_224"], "did you mean vit_base_patch16_224"),
        (["evaluate", "gone", "x", "--views", "axb"], "views must be written like"),
    ],
)
def test_bad_requests_get_one_line_and_exit_code_2(
    capsys, monkeypatch, tmp_path, arguments, message
):
    monkeypatch.chdir(tmp_path)
    code, out, error = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert message in one_line(error)
    assert list(tmp_path.iterdir()) == []


FLAGS = [
    *("--backbone", "test_vit", "--weights", "random", "--size", "32", "--frames", "4"),
    *("--epochs", "1", "--batch-size", "4", "--workers", "0", "--precision", "float32"),
]


@pytest.mark.parametrize(
    "arguments",
    [("--debug", "report", "gone"), ("report", "gone", "--debug"), ("report", "--debug", "gone")],
)
def test_debug_shows_the_traceback_behind_an_error(capsys, monkeypatch, tmp_path, arguments):
    monkeypatch.chdir(tmp_path)
    code, _, error = run(capsys, *arguments)
    assert code == 2
    assert error.startswith("Traceback (most recent call last):")
    assert "ArgumentError: gone does not exist" in error
    assert error.splitlines()[-1].startswith("st-adapter: error: gone does not exist")


def test_training_measures_the_use_of_order_when_asked(capsys, folder_data, tmp_path):
    code, text, _ = run(
        capsys, "train", folder_data, "--out", tmp_path / "run", *FLAGS, "--temporal"
    )
    assert code == 0
    assert "frames in order" in text
    assert json.loads((tmp_path / "run" / "eval.json").read_text())["temporal"].keys() == {
        "in_order", "reversed", "shuffled", "frozen",
    }  # fmt: skip


def test_train_evaluate_predict_in_one_go(capsys, folder_data, tmp_path):
    out = tmp_path / "a run"
    code, text, _ = run(capsys, "train", folder_data, "--out", out, *FLAGS, "--device", "cpu")
    assert code == 0
    assert "top-1" in text
    assert json.loads((out / "config.json").read_text())["recipe"] == "default"

    code, text, error = run(capsys, "evaluate", out, folder_data, "--views", "2x3", "--workers", 0)
    assert code == 0
    assert "2 videos, 2x3 views" in text
    assert "held out from training" in error
    assert json.loads((out / "eval.json").read_text())["views"] == [2, 3]

    (tmp_path / "bad.mp4").write_bytes(b"no video")
    bad, good = tmp_path / "bad.mp4", folder_data / "darkens" / "clip 1.mp4"
    code, text, error = run(capsys, "predict", out, good, bad, "--json", "--top", 1)
    assert code == 1
    first, second = (json.loads(line) for line in text.splitlines())
    assert first["path"] == str(good)
    assert first["predictions"][0]["label"] in ("brightens", "darkens")
    assert second["path"] == str(bad)
    assert "cannot be decoded" in second["error"]
    assert str(bad) in error

    code, _, error = run(capsys, "train", folder_data, "--out", out, *FLAGS)
    assert code == 2
    assert "already contains a run" in one_line(error)


def test_an_evaluation_replaces_nothing_but_an_evaluation(
    capsys, trained_run, folder_data, tmp_path
):
    config = trained_run / "config.json"
    before = config.read_bytes()
    for out in (config, trained_run):
        code, _, error = run(capsys, "evaluate", trained_run, folder_data, "--out", out)
        assert code == 2
        assert "exists and was not written by `evaluate`" in error.splitlines()[-1]
    assert config.read_bytes() == before
    out = tmp_path / "test.json"
    for _ in range(2):
        arguments = ("evaluate", trained_run / "adapter", folder_data, "--out", out)
        assert run(capsys, *arguments, "--workers", 0)[0] == 0
    assert json.loads(out.read_text())["num_videos"] == 12
    assert run(capsys, "evaluate", trained_run / "adapter", folder_data, "--workers", 0)[0] == 0
    assert not (trained_run / "adapter" / "eval.json").exists()


def test_resume_takes_the_recorded_configuration(capsys, trained_run, folder_data):
    code, _, error = run(capsys, "train", folder_data, "--out", trained_run, "--resume", "--lr", 1)
    assert code == 2
    assert "was started with --lr 0.001, not 1.0; a resumed run keeps" in one_line(error)
    code, _, error = run(
        capsys, "train", folder_data, "--out", trained_run, "--resume", "--recipe", "k400"
    )
    assert code == 2
    assert "remove --recipe and --config" in one_line(error)
    code, text, _ = run(capsys, "train", folder_data, "--out", trained_run, "--resume")
    assert code == 0
    assert "top-1" in text


def test_files_without_a_picture_are_named(capsys, trained_run, tmp_path):
    write_audio(tmp_path / "sound.mp4")
    (tmp_path / "empty.avi").touch()
    code, out, error = run(capsys, "predict", trained_run, tmp_path)
    assert code == 1
    assert out == ""
    assert "sound.mp4: contains no video stream" in error
    assert "empty.avi: the file is empty" in error


def test_a_name_that_is_no_text_is_written_all_the_same(capsys, trained_run, folder_data, tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    Path(os.fsdecode(name)).write_bytes((folder_data / "darkens" / "clip 0.mp4").read_bytes())
    code, out, _ = run(capsys, "predict", trained_run, tmp_path, "--json")
    assert code == 0
    assert json.loads(out)["path"] == os.fsdecode(name)


def test_frames_that_no_memory_holds_are_one_line(capsys, trained_run, folder_data):
    code, out, error = run(capsys, "evaluate", trained_run, folder_data, "--size", 9_999_999)
    assert (code, out) == (1, "")
    assert "out of memory on cpu; lower --size 9999999" in one_line(error)


def test_a_folder_that_cannot_be_written_is_one_line(capsys, folder_data, tmp_path):
    (tmp_path / "file").touch()
    code, _, error = run(capsys, "train", folder_data, "--out", tmp_path / "file" / "x", *FLAGS)
    assert code == 2
    assert "file" in error.splitlines()[-1]
    assert "Traceback" not in error


AWKWARD = Path(os.environ.get("ST_ADAPTER_AWKWARD_VIDEOS", "/nonexistent"))


@pytest.mark.skipif(not AWKWARD.is_dir(), reason="ST_ADAPTER_AWKWARD_VIDEOS is not set")
def test_every_awkward_file_is_labelled_or_named(capsys, trained_run):
    files = sorted(p for p in AWKWARD.iterdir() if p.suffix not in (".json", ".md"))
    assert len(files) > 0
    code, out, _ = run(capsys, "predict", trained_run, *files, "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert code in (0, 1)
    assert sorted(r["path"] for r in records) == [str(f) for f in files]
    assert all(("predictions" in r) != ("error" in r) for r in records)


def test_training_names_what_could_not_be_read_where_it_ends(folder_data, tmp_path, capsys):
    shutil.copytree(folder_data, data := tmp_path / "data")
    (data / "darkens" / "broken.mp4").write_bytes(b"no video")
    flags = "--backbone test_vit --weights random --size 32 --frames 2 --epochs 1 --device cpu"
    options = [*flags.split(), "--workers", "0", "--precision", "float32", "--val-fraction", "0.2"]
    code, out, err = run(capsys, "train", data, "--out", tmp_path / "run", *options)
    assert (code, "adapter: " in out) == (1, True)
    assert err.endswith(f"some videos could not be read: {tmp_path / 'run' / 'skipped.jsonl'}\n")


def test_a_link_to_nothing_is_named_as_a_video_that_cannot_be_read(trained_run, tmp_path, capsys):
    (link := tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    code, _, err = run(capsys, "predict", trained_run, tmp_path, "--device", "cpu")
    assert code == 1
    assert f"skipped {link}: no such file" in err


def test_a_threshold_and_raw_scores_are_chosen_on_the_command_line(
    capsys, trained_run, folder_data, tmp_path
):
    video = folder_data / "darkens" / "clip 1.mp4"
    calibrated = shutil.copytree(trained_run, tmp_path / "run")
    file = calibrated / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"temperatures": [2.0]}))

    def predicted(*flags):
        code, text, _ = run(capsys, "predict", calibrated, video, "--json", *flags)
        assert code == 0
        return json.loads(text)

    second = "darkens"
    for threshold, label in ((0.001, second), (0.999, "brightens")):
        record = predicted("--threshold", threshold)
        assert record["predicted"] == record["predictions"][0]["label"] == label
    scores = [
        {entry["label"]: entry["score"] for entry in predicted(*flags)["predictions"]}[second]
        for flags in ((), ("--uncalibrated",))
    ]
    assert scores[0] != scores[1]
    code, _, error = run(capsys, "predict", trained_run, video, "--threshold", 2)
    assert code == 2
    assert "threshold must be above 0 and below 1, not 2.0" in one_line(error)
    out = tmp_path / "eval.json"
    code, text, _ = run(
        capsys, "evaluate", trained_run, folder_data, "--threshold", 0.999, "--out", out
    )
    assert code == 0
    assert "top-1 50.0% (" in text
    assert "predicted from a score of 0.999" in text
    record = json.loads(out.read_text())
    assert {row["predicted"] for row in record["predictions"]} == {"brightens"}
    assert record["machine"].endswith("GB")
