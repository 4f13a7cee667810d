"""The life of a server: its start, runs that come and go, and its end."""

import json
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from servers import serving

from conftest import blinking, wait_for, write_video
from st_adapter.cli.main import main
from st_adapter.serving.access import read_token
from st_adapter.serving.runs_folder import RunsFolder
from st_adapter.serving.tasks import Tasks

TOKEN = "0123456789abcdef0123"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", blinking(True, 0))


def refused(capsys, *arguments):
    """The one line with which a server does not start."""
    assert main(["serve", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_without_a_token_a_server_is_not_open_to_other_machines(label_runs, capsys, tmp_path):
    for host in ("0.0.0.0", "::", "192.168.1.1"):
        error = refused(capsys, label_runs["light"], "--host", host)
        assert f"other machines can reach {host}" in error
        assert "--token-file FILE" in error
        assert "--no-token" in error
    assert read_token("0.0.0.0", None, no_token=True) is None
    assert read_token("127.0.0.1", None, no_token=False) is None
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    assert read_token("0.0.0.0", token, no_token=False) == TOKEN
    token.write_text("secret")
    assert "at least 16" in refused(capsys, label_runs["light"], "--token-file", token)
    missing = tmp_path / "missing"
    assert "cannot be read" in refused(capsys, label_runs["light"], "--token-file", missing)


def test_what_cannot_be_served_is_told_at_the_start(label_runs, capsys, tmp_path):
    assert "no run was given" in refused(capsys)
    assert "no such folder" in refused(capsys, "--runs", tmp_path / "missing")
    assert "does not contain adapter_config.json" in refused(capsys, tmp_path)
    assert "--queue must be above 0" in refused(capsys, label_runs["light"], "--queue", "0")
    assert "cannot listen on" in refused(
        capsys, label_runs["light"], "--host", "203.0.113.1", "--no-token"
    )


def test_runs_come_and_go_while_a_token_guards_them(label_runs, clip, tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    runs = tmp_path / "runs"
    shutil.copytree(label_runs["light"], runs / "light")
    flags = ("--runs", runs, "--token-file", tmp_path / "token")
    with serving(label_runs["speed"], *flags) as server:
        for path in ("/v1/tasks", "/metrics"):
            answer = server.client.get(path)
            assert answer.status_code == 401
            assert "Authorization: Bearer TOKEN" in answer.json()["error"]
        wrong = {"Authorization": f"Bearer {TOKEN[:-1]}"}
        assert server.client.get("/v1/tasks", headers=wrong).status_code == 401
        assert server.predict(clip).status_code == 401
        assert server.client.get("/healthz").status_code == 200
        assert server.client.get("/").status_code == 200
        server.client.headers["Authorization"] = f"Bearer {TOKEN}"
        assert server.client.get("/metrics").status_code == 200
        assert [*server.predict(clip).json()["results"]] == ["speed", "light"]

        def names():
            return [task["name"] for task in server.client.get("/v1/tasks").json()["tasks"]]

        # A copy that is under way has one of two files; a copy that is damaged has both.
        (runs / "tags").mkdir()
        config, tensors = "adapter_config.json", "adapter_model.safetensors"
        shutil.copy(label_runs["tags"] / config, runs / "tags")
        (runs / "damaged").mkdir()
        shutil.copy(label_runs["tags"] / config, runs / "damaged")
        (runs / "damaged" / tensors).write_bytes(b"nothing")
        wait_for(lambda: server.client.get("/v1/tasks").json()["errors"], server.process)
        (error,) = server.client.get("/v1/tasks").json()["errors"]
        assert error["name"] == "damaged"
        assert "is not a readable tensor file" in error["error"]
        assert names() == ["speed", "light"]
        shutil.copy(label_runs["tags"] / tensors, runs / "tags")
        shutil.copy(label_runs["tags"] / tensors, runs / "damaged")
        wait_for(lambda: {*names()} == {"speed", "light", "tags", "damaged"}, server.process)
        assert server.client.get("/v1/tasks").json()["errors"] == []
        shutil.rmtree(runs / "light")
        wait_for(lambda: "light" not in names(), server.process)
        assert server.predict(clip, task="light").status_code == 404
        assert server.predict(clip, task="tags").status_code == 200


def test_a_run_in_the_folder_never_touches_one_of_its_name_that_was_given(label_runs, tmp_path):
    tasks = Tasks({"device": "cpu"}, lambda videos, seconds: None)
    tasks.add_all([label_runs["light"]])
    shutil.copytree(label_runs["speed"], tmp_path / "light")
    watched = RunsFolder(tmp_path, tasks)
    watched.close()
    shutil.rmtree(tmp_path / "light")
    watched.look()
    assert tasks.names() == {"light"}
    assert tasks.choose(["light"])[0].place == label_runs["light"]


def test_a_run_is_served_until_its_files_are_whole_again_or_gone(label_runs, tmp_path):
    folder = tmp_path / "runs"
    shutil.copytree(label_runs["light"], folder / "a")
    tasks = Tasks({"device": "cpu"}, lambda videos, seconds: None)
    watched = RunsFolder(folder, tasks)
    watched.close()
    config = next((folder / "a").rglob("adapter_config.json"))
    whole = config.read_bytes()
    config.write_bytes(whole[:100])
    for _ in range(2):
        watched.look()
    assert tasks.names() == {"a"}
    assert "not a readable adapter record" in tasks.describe().errors[0].error
    config.write_bytes(whole)
    for _ in range(2):
        watched.look()
    assert tasks.describe().errors == []
    folder.rename(tmp_path / "away")  # as if a network had a hiccup
    watched.look()
    assert tasks.names() == {"a"}
    (tmp_path / "away").rename(folder)
    shutil.rmtree(folder / "a")
    watched.look()
    assert tasks.names() == set()


@pytest.mark.parametrize(
    ("change", "reason"), [({"method": "later"}, "'later'"), ({"dropout": 3}, "between 0 and 1")]
)
def test_a_run_with_a_nonsensical_record_does_not_end_the_watch(
    label_runs, tmp_path, change, reason
):
    run, config = tmp_path / "newer", tmp_path / "newer" / "adapter_config.json"
    shutil.copytree(label_runs["speed"], run)
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    tasks = Tasks({"device": "cpu"}, lambda videos, seconds: None)
    tasks.add_all([label_runs["light"]])
    watched = RunsFolder(tmp_path, tasks)
    watched.close()
    (error,) = tasks.describe().errors
    assert error.name == "newer"
    assert reason in error.error


def test_sigterm_lets_requests_finish_and_refuses_new_ones(label_runs, clip, tmp_path):
    with serving(label_runs["light"], "--decoders", 1, temporary=tmp_path) as server:
        assert server.predict(clip).status_code == 200
        (decoder,) = server.decoders()
        decoder.suspend()
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(server.predict, clip)
            wait_for(lambda: server.client.get("/healthz").json()["waiting"] == 1, server.process)
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: server.client.get("/healthz").status_code == 503, server.process)
            assert server.client.get("/healthz").json()["status"] == "stopping"
            answer = server.predict(clip)
            assert (answer.status_code, answer.json()["error"]) == (503, "the server is stopping")
            decoder.resume()
            assert held.result().status_code == 200
        assert server.process.wait(timeout=20) == 0
        assert not [*tmp_path.iterdir()]


def test_a_second_signal_ends_a_server_at_once_and_leaves_nothing(label_runs, clip, tmp_path):
    with serving(label_runs["light"], "--decoders", 1, temporary=tmp_path) as server:
        assert server.predict(clip).status_code == 200
        (decoder,) = server.decoders()
        decoder.suspend()
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(server.predict, clip)
            wait_for(lambda: server.client.get("/healthz").json()["waiting"] == 1, server.process)
            server.process.send_signal(signal.SIGINT)
            time.sleep(1.5)  # two signals within a second count as one
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(timeout=10) == 0
            held.exception()
        assert not decoder.is_running()
        assert not [*tmp_path.iterdir()]


def test_a_killed_server_leaves_nothing_running(label_runs, clip, tmp_path):
    with serving(label_runs["light"], "--decoders", 2, temporary=tmp_path) as server:
        assert server.predict(clip).status_code == 200
        decoders = server.decoders()
        os.kill(server.process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while any(process.is_running() for process in decoders) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(process.is_running() for process in decoders)
    assert len([*tmp_path.iterdir()]) == 1  # the next start removes it
