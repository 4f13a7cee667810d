"""What the server says of videos: what `predict` and `timeline` say."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image
from servers import serving

from conftest import blinking, rotate_header, write_video
from st_adapter.cli.main import main
from st_adapter.evaluation.predict import Predictor
from st_adapter.evaluation.timeline import Timeline

NAMES = ("light", "speed", "doing", "tags", "longer", "full", "run")


@pytest.fixture(scope="module")
def runs(label_runs, trained_run):
    return label_runs | {"run": trained_run}


@pytest.fixture(scope="module")
def server(runs):
    with serving(*(runs[name] for name in NAMES), "--max-seconds", 20) as server:
        yield server


@pytest.fixture(scope="module")
def clip(label_clips):
    return label_clips / "01.mp4"


def printed_by_predict(capsys, run, videos, *flags):
    """What `predict --json` prints of each video, without its path."""
    assert main(["predict", str(run), *map(str, videos), "--json", "--device", "cpu", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "path"} for line in lines]


def test_tasks_are_described(server):
    answer = server.client.get("/v1/tasks").json()
    assert answer["errors"] == []
    tasks = {task["name"]: task for task in answer["tasks"]}
    assert tuple(tasks) == NAMES
    assert [tasks[name]["kind"] for name in ("light", "doing", "tags")] == [
        "single",
        "heads",
        "multi",
    ]
    assert tasks["doing"]["heads"] == {"verb": ["open", "close"], "noun": ["door", "box", "jar"]}
    assert tasks["longer"] == tasks["longer"] | {
        "labels": ["x", "y"],
        "method": "st-adapter",
        "backbone": "test_vit",
        "frames": 8,
        "stride": 0,
        "size": 48,
        "views": [1, 1],
        "threshold": 0.5,
        "window_seconds": None,
        "top1": None,
    }


def test_the_accuracy_of_a_run_is_told(server, trained_run):
    task = server.client.get("/v1/tasks").json()["tasks"][-1]
    evaluation = json.loads((trained_run / "eval.json").read_text())
    assert task["top1"] == evaluation["top1"]
    assert task["window_seconds"] > 0


def test_answers_are_those_of_predict(server, runs, clip, capsys):
    answer = server.predict(clip).json()
    assert tuple(answer["results"]) == NAMES
    assert answer["video"] == {"seconds": 0.8, "width": 64, "height": 48, "num_frames": 8}
    assert answer["frames"] == []
    for name, result in answer["results"].items():
        (printed,) = printed_by_predict(capsys, runs[name], [clip], "--top", "5")
        assert result["predicted"] == printed["predicted"]
        assert result["scores"] == printed["predictions"]
        assert result["heads"] == printed.get("heads", {})


def test_requests_at_the_same_time_get_their_own_answers(server, label_runs, label_clips, capsys):
    videos = [path for path in sorted(label_clips.iterdir()) if path.name != "07.mp4"]
    printed = printed_by_predict(capsys, label_runs["light"], videos)
    with ThreadPoolExecutor(10) as pool:
        answers = [*pool.map(lambda path: server.predict(path, task="light", top=3), videos)]
    for answer, expected in zip(answers, printed, strict=True):
        result = answer.json()["results"]["light"]
        assert result["predicted"] == expected["predicted"]
        scores = {pair["label"]: pair["score"] for pair in expected["predictions"]}
        # The last bits depend on which videos share a batch.
        assert {p["label"]: p["score"] for p in result["scores"]} == pytest.approx(scores, abs=2e-6)


def test_frames_that_were_looked_at_are_shown(server, tmp_path):
    path = write_video(tmp_path / "long.mp4", blinking(True, 0, 40))
    answer = server.predict(path, task="light", frames="true", top=1).json()
    assert [frame["seconds"] for frame in answer["frames"]] == [0.5, 1.5, 2.4, 3.4]
    assert all(f["image"].startswith("data:image/jpeg;base64,/9j/") for f in answer["frames"])
    assert len(answer["results"]["light"]["scores"]) == 1


def test_a_rotated_video_has_the_size_that_it_is_shown_in(server, clip, tmp_path):
    turned = rotate_header(clip, tmp_path / "turned.mp4")
    video = server.predict(turned, task="light").json()["video"]
    assert (video["width"], video["height"]) == (48, 64)


def test_a_timeline_is_that_of_the_predictor(server, label_runs, tmp_path):
    path = write_video(tmp_path / "long.mp4", blinking(True, 0, 40) + blinking(False, 1, 40))
    fields = {"task": ["light", "tags"], "window": 1, "step": 0.5, "smooth": 1, "min_seconds": 0.6}
    with path.open("rb") as file:
        answer = server.client.post("/v1/timeline", files={"file": file}, data=fields).json()
    assert answer["video"]["seconds"] == 8.0
    assert tuple(answer["results"]) == ("light", "tags")
    for name, result in answer["results"].items():
        timeline = Predictor(label_runs[name], device="cpu").timeline(
            path, window=1, step=0.5, smooth=1, min_seconds=0.6
        )
        assert isinstance(timeline, Timeline)
        record = timeline.to_json()
        assert result == {key: record[key] for key in ("labels", "windows", "spans")}
        assert len(result["windows"]) == 15


def test_curl_works_as_in_the_guide(server, clip):
    command = ["curl", "-s", "-F", f"file=@{clip}", "-F", "task=tags"]
    done = subprocess.run(
        [*command, f"{server.address}/v1/predict"], capture_output=True, check=True
    )
    assert [*json.loads(done.stdout)["results"]] == ["tags"]


@pytest.mark.parametrize(
    ("path", "fields", "status", "message"),
    [
        ("/v1/predict", {"task": "lihgt"}, 404, "unknown task 'lihgt'; tasks are: light, speed"),
        ("/v1/predict", {"top": "0"}, 422, "top: input should be greater than or equal to 1"),
        (
            "/v1/predict",
            {"tops": "1"},
            422,
            "unknown field 'tops'; fields are file, task",
        ),
        ("/v1/predict", {"top": ["1", "2"]}, 422, "the field 'top' is given more than once"),
        ("/v1/timeline", {"window": "nan"}, 422, "window: input should be a finite number"),
        ("/v1/timeline", {"task": "light"}, 422, "say how many seconds a window takes"),
        (
            "/v1/timeline",
            {"task": "light", "window": "1", "background": "sky"},
            422,
            "the background label 'sky' is not one of the classes",
        ),
        (
            "/v1/timeline",
            {"task": "light", "window": "1", "step": "0.000001"},
            422,
            "800,000 windows are too many; use a longer step",
        ),
    ],
)
def test_fields_that_make_no_sense_are_refused(server, clip, path, fields, status, message):
    with clip.open("rb") as file:
        answer = server.client.post(path, files={"file": file}, data=fields)
    assert answer.status_code == status
    assert message in answer.json()["error"]


def test_fields_without_a_value_count_as_not_sent(server, clip):
    assert server.predict(clip, task="", top="").status_code == 200


def test_a_picture_can_be_opened(server, clip):
    import base64
    from io import BytesIO

    (frame, *_) = server.predict(clip, task="light", frames="true").json()["frames"]
    data = base64.b64decode(frame["image"].partition(",")[2])
    assert Image.open(BytesIO(data)).size == (160, 120)


def test_what_happened_is_counted(server, clip):
    server.predict(clip, task="light")
    text = server.client.get("/metrics").text
    assert 'st_adapter_requests_total{path="/v1/predict",status="200"}' in text
    assert "st_adapter_waiting 0.0" in text
    for name in ("decode_seconds", "model_seconds", "batch_videos"):
        assert f"st_adapter_{name}_count" in text
    for process in ("server", "decoders"):
        assert f'st_adapter_memory_bytes{{process="{process}"}}' in text


def test_no_page_loads_anything_from_elsewhere(server):
    for path in ("/", "/docs"):
        answer = server.client.get(path)
        assert answer.status_code == 200
        assert "://" not in answer.text.replace("http://www.w3.org/", "")
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "/v1/timeline" in server.client.get("/docs").text
    assert server.client.get("/openapi.json").json()["info"]["title"] == "st-adapter"
