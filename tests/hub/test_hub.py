"""Uploads to a hub and runs from it, over sockets to a server on this machine."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from safetensors.torch import save_file

from hub_server import Repository, Worker, hub_server
from st_adapter import create_model
from st_adapter.hub.upload_folder import FILES

SCORES = """
import json, st_adapter
for place in given["runs"]:
    scores = st_adapter.Predictor(place, device="cpu")(given["video"])
    labels = st_adapter.load(place).labels
    print(json.dumps([scores, labels]))
"""


@pytest.fixture(scope="module")
def server():
    with hub_server() as running:
        yield running


@pytest.fixture(autouse=True)
def _well(server):
    """Each test starts with a server that answers."""
    server.mood = "well"
    server.served.clear()
    server.asked.clear()


@pytest.fixture(scope="module")
def worker(server, tmp_path_factory):
    started = Worker(server, tmp_path_factory.mktemp("home"))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def pushed(worker, server, trained_run):
    """The name of an adapter on the hub, and what the command printed."""
    done = worker.command("push", trained_run, "me/light", "--license", "mit")
    assert done.code == 0, done.err
    return "hf:me/light", done


@pytest.fixture
def video(folder_data):
    return folder_data / "darkens" / "clip 3.mp4"


def files_of(server, name, branch="main"):
    found = server.repositories[name]
    return found.commits[found.branches[branch]]


def one_line(done):
    assert done.code == 2, done
    assert done.err.count("\n") == 1, done.err
    return done.err


def cached(worker, name, file):
    """The newest copy of a file in the cache of the worker."""
    home = Path(worker.program("from huggingface_hub import constants as c; print(c.HF_HUB_CACHE)"))
    folder = Path(str(home).strip()) / f"models--{name.replace('/', '--')}" / "snapshots"
    return max(folder.glob(f"*/{file}"), key=lambda path: path.lstat().st_mtime)


def test_one_private_commit_has_the_adapter_its_card_and_no_name_of_a_video(
    pushed, server, trained_run, folder_data
):
    name, done = pushed
    assert done.out.splitlines() == [
        f"{server.address}/me/light",
        f"use it: st-adapter predict {name} VIDEO",
    ]
    repository = server.repositories["me/light"]
    assert repository.private
    assert repository.messages == ["initial commit", "Upload st-adapter"]
    files = files_of(server, "me/light")
    assert {*files} == {*FILES, ".gitattributes"}
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert files[file] == (trained_run / "adapter" / file).read_bytes()
    secrets = str(trained_run.parent), str(folder_data), "my videos", "clip 0", "clip 3"
    for content in files.values():
        assert not any(secret.encode() in content for secret in secrets)


def test_the_card_tells_the_hub_what_it_is_and_how_good(pushed, server, trained_run):
    card = ModelCard(files_of(server, "me/light")["README.md"].decode())
    evaluation = json.loads((trained_run / "eval.json").read_text())
    assert card.data.library_name == "st-adapter"
    assert card.data.pipeline_tag == "video-classification"
    assert card.data.license == "mit"
    assert {"video-classification", "st-adapter"} <= {*card.data.tags}
    best = card.data.eval_results[0]
    assert best.metric_type == "accuracy"
    assert best.metric_value == pytest.approx(evaluation["top1"], abs=1e-4)
    assert "brightens, darkens." in card.text
    assert "training videos | 10" in card.text
    assert "linear probe on one frame" in card.text


def test_a_name_on_the_hub_scores_as_its_folder_and_reads_only_two_files(
    pushed, worker, server, trained_run, video
):
    name, _ = pushed
    here, there = worker.program(
        SCORES, {"runs": [str(trained_run / "adapter"), name], "video": str(video)}
    ).splitlines()
    assert here == there
    read = {path.rpartition("/")[2] for path in server.asked if "/resolve/" in path}
    assert read == {"adapter_config.json", "adapter_model.safetensors"}
    commands = ("predict", video, "--json"), ("timeline", video)
    for verb, *rest in commands:
        local = worker.command(verb, trained_run / "adapter", *rest)
        assert local.code == 0, local.err
        assert worker.command(verb, name, *rest).out == local.out


def test_an_evaluation_writes_nothing_into_the_cache(pushed, worker, folder_data):
    name, _ = pushed
    done = worker.command("evaluate", name, folder_data, "--workers", "0")
    assert done.code == 0
    assert "12 videos" in done.out
    assert "does not record which videos" in done.err
    folder = cached(worker, "me/light", "adapter_config.json").parent
    assert {path.name for path in folder.iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors")
    }


def test_adapter_folders_have_no_accuracy_and_several_label_together(
    worker, server, label_runs, label_clips, tmp_path
):
    for run in ("light", "speed"):
        done = worker.command("push", label_runs[run], f"me/only_{run}", "--public")
        assert done.code == 0
        assert "has no evaluation (eval.json)" in done.err
        assert not server.repositories[f"me/only_{run}"].private
        assert "eval.json" not in files_of(server, f"me/only_{run}")
    clips, tables = label_clips / "01.mp4", []
    for place in (
        [label_runs["light"], label_runs["speed"]],
        ["hf:me/only_light", "hf:me/only_speed"],
    ):
        out = tmp_path / f"{len(tables)}.jsonl"
        assert worker.command("predict", *place, clips, "--out", out).code == 0
        tables.append(out.read_text())
    assert "only_speed.label" in tables[1]
    assert tables[1].replace("only_", "") == tables[0]


def test_pushing_again_makes_a_commit_only_if_something_changed(
    worker, server, trained_run, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    for _ in range(2):
        done = worker.command("push", run, "me/again")
        assert done.code == 0
    assert "nothing has changed since the last upload" in done.err
    assert len(server.repositories["me/again"].commits) == 2
    (run / "eval.json").unlink()
    assert worker.command("push", run, "me/again", "--message", "less").code == 0
    assert server.repositories["me/again"].messages[-1] == "less"
    files = files_of(server, "me/again")
    assert {*files} == {*FILES, ".gitattributes"} - {"eval.json", "results.png"}


def test_a_branch_is_made_and_a_commit_stays_what_it_was(worker, server, label_runs, video):
    for run, name in (("light", "me/moves"), ("speed", "me/moves@next")):
        done = worker.command("push", label_runs[run], name)
        assert done.code == 0, done.err
    assert done.out.startswith(f"{server.address}/me/moves/tree/next\n")
    pinned = f"hf:me/moves@{server.repositories['me/moves'].branches['main']}"
    light, speed = (
        worker.command("predict", label_runs[run], video).out for run in ("light", "speed")
    )
    assert worker.command("predict", "hf:me/moves", video).out == light
    assert worker.command("predict", "hf:me/moves@next", video).out == speed
    assert worker.command("push", label_runs["speed"], "me/moves").code == 0
    server.asked.clear()
    assert worker.command("predict", pinned, video).out == light
    assert not [path for path in server.asked if "me/moves" in path]
    assert worker.command("predict", "hf:me/moves", video).out == speed


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "does not exist on the hub, or it is private and you are not logged in; log in with"),
        ("hf_other", "does not exist on the hub, or your token may not read it"),
        ("hf_wrong", "the hub does not accept your token"),
    ],
)
def test_a_private_repository_needs_the_token_of_its_owner(pushed, worker, video, token, message):
    name, _ = pushed
    assert message in one_line(worker.command("predict", name, video, token=token))


@pytest.mark.parametrize(
    ("name", "token", "message"),
    [
        ("me/new", "", "you are not logged in to the hub"),
        ("me/new", "hf_wrong", "the hub does not accept your token"),
        (
            "someone/new",
            "hf_mine",
            "does not have the permission for this (You don't have the rights",
        ),
    ],
)
def test_an_upload_needs_a_token_that_may_write(worker, server, trained_run, name, token, message):
    assert message in one_line(worker.command("push", trained_run, name, token=token))
    assert name not in server.repositories


def test_a_changed_byte_on_the_way_or_in_the_cache_is_refused(worker, server, label_runs, video):
    assert worker.command("push", label_runs["light"], "me/bytes").code == 0
    good = files_of(server, "me/bytes")["adapter_model.safetensors"]
    server.served["adapter_model.safetensors"] = good[:-1] + bytes([good[-1] ^ 1])
    refused = one_line(worker.command("predict", "hf:me/bytes", video))
    assert "adapter_model.safetensors of hf:me/bytes is damaged: its digest is" in refused
    file = cached(worker, "me/bytes", "adapter_model.safetensors").resolve()
    assert f"remove {file} and try again" in refused
    file.unlink()
    server.served.clear()
    assert worker.command("predict", "hf:me/bytes", video).code == 0
    config = cached(worker, "me/bytes", "adapter_config.json").resolve()
    config.write_text(config.read_text().replace("darkens", "darkenz"))
    assert "adapter_config.json of hf:me/bytes is damaged" in one_line(
        worker.command("predict", "hf:me/bytes", video)
    )


def test_another_image_model_is_refused(pushed, worker, video, tmp_path):
    name, _ = pushed
    model = create_model("test_vit", ["a"], weights="random").backbone
    tensors = {key: tensor + 0.01 for key, tensor in model.state_dict().items()}
    save_file(tensors, tmp_path / "other.safetensors")
    done = worker.command("predict", name, video, "--weights", tmp_path / "other.safetensors")
    assert "with other weights than those of" in one_line(done)


def test_other_models_are_neither_loaded_nor_overwritten(worker, server, label_runs, video):
    peft = json.dumps({"peft_type": "LORA"}).encode()
    for name, files in {
        "me/bert": {"config.json": b"{}", "model.safetensors": b""},
        "me/lora": {"adapter_config.json": peft, "adapter_model.safetensors": b"x"},
    }.items():
        server.repositories[name] = Repository()
        server.repositories[name].commit(files)
        done = worker.command("push", label_runs["light"], name)
        assert "this repository contains another model; choose another name" in done.err
        assert files_of(server, name) == files
    said = one_line(worker.command("predict", "hf:me/bert", video))
    assert (
        "hf:me/bert is not an adapter of st-adapter: it does not contain adapter_config.json"
        in said
    )
    assert "--backbone hf:me/bert" in said
    assert "was written by the library PEFT" in one_line(
        worker.command("predict", "hf:me/lora", video)
    )


def test_what_does_not_exist_or_differs_is_said_in_one_line(
    pushed, worker, server, trained_run, video
):
    name, _ = pushed
    for run, message in {
        "hf:me/none": "me/none does not exist on the hub, or your token may not read it",
        f"{name}@v9": "me/light does not have a branch, tag or commit 'v9'",
    }.items():
        assert message in one_line(worker.command("predict", run, video))
    public = worker.command("push", trained_run, "me/light", "--public")
    assert "it exists and is private; change that in its settings" in one_line(public)
    license = worker.command("push", trained_run, "me/light", "--license", "nonsense")
    assert "Invalid metadata in README.md" in one_line(license)
    assert len(server.repositories["me/light"].commits) == 2


@pytest.mark.parametrize(
    ("mood", "problem"),
    [
        ("hangs", "the hub did not answer in time"),
        ("drops", "the hub cannot be reached (RemoteProtocolError)"),
        ("fails", "the hub answered with error 500"),
    ],
)
def test_a_hub_that_does_not_answer_costs_a_note_if_the_files_are_cached(
    pushed, worker, server, trained_run, video, mood, problem
):
    name, _ = pushed
    before = worker.command("predict", name, video)
    server.mood = mood
    after = worker.command("predict", name, video)
    assert after.out == before.out
    assert problem in after.err
    assert "using hf:me/light from the cache, commit" in after.err
    new = one_line(worker.command("predict", "hf:me/unseen", video))
    assert problem in new
    assert new.endswith("it is not in the cache\n")
    assert problem in one_line(worker.command("push", trained_run, "me/light"))


def test_nothing_is_asked_in_the_offline_mode(pushed, worker, server, video):
    name, _ = pushed
    home = cached(worker, "me/light", "adapter_config.json").parents[4]
    offline = Worker(server, home, HF_HUB_OFFLINE="1")
    server.asked.clear()
    done = offline.command("predict", name, video, token="")
    missing = offline.command("predict", "hf:me/unseen", video)
    offline.stop()
    assert done.code == 0
    assert done.out.startswith(f"{video}: ")
    assert done.err == ""
    assert "offline mode is on (HF_HUB_OFFLINE); it is not in the cache" in one_line(missing)
    assert not server.asked
