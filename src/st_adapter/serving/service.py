"""What a server does for a request, once its body has arrived."""

import base64
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from st_adapter.data import frame_sampling
from st_adapter.data.timing import frame_rate
from st_adapter.data.video import decode, packets
from st_adapter.data.video.info import VideoInfo
from st_adapter.errors import VideoError
from st_adapter.evaluation.predict import Prediction
from st_adapter.data.datasets import Skipped
from st_adapter.serving.answers import PredictForm, TimelineForm
from st_adapter.serving.refusals import Refusal
from st_adapter.serving.tasks import Task, load_tasks


class Service:
    def __init__(self, runs: Sequence[str | Path], settings: dict[str, Any]) -> None:
        self.tasks = {task.name: task for task in load_tasks(runs, settings)}
        self.folder = Path()

    def health(self) -> dict[str, Any]:
        return {"status": "ok", "tasks": len(self.tasks), "waiting": 0}

    def task_list(self) -> dict[str, Any]:
        return {"tasks": [task.record() for task in self.tasks.values()], "errors": []}

    def choose(self, names: list[str]) -> list[Task]:
        for name in names:
            if name not in self.tasks:
                raise Refusal(404, f"unknown task {name!r}; tasks are {', '.join(self.tasks)}")
        return [self.tasks[name] for name in dict.fromkeys(names or self.tasks)]

    def predict(self, path: Path, form: PredictForm) -> dict[str, Any]:
        tasks = self.choose(form.task)
        info = packets.probe(path)
        results = {}
        for task in tasks:
            (result,) = task.predictor.predict([path])
            if isinstance(result, Skipped):
                raise VideoError(result.reason)
            results[task.name] = _scores(result, form.top)
        frames = _frames(info, tasks[0]) if form.frames else []
        return {"video": _video(info), "results": results, "frames": frames}

    def timeline(self, path: Path, form: TimelineForm) -> dict[str, Any]:
        options = form.model_dump(exclude={"task"})
        info = packets.probe(path)
        results = {}
        for task in self.choose(form.task):
            record = task.predictor.timeline(path, **options).to_json()
            results[task.name] = {key: record[key] for key in ("labels", "windows", "spans")}
        return {"video": _video(info), "results": results}


def _scores(result: Prediction, top: int) -> dict[str, Any]:
    def records(pairs: list[tuple[str, float]]) -> list[dict[str, Any]]:
        return [{"label": label, "score": round(score, 6)} for label, score in pairs[:top]]

    return {
        "predicted": result.predicted,
        "scores": records(result.scores),
        "heads": {name: records(pairs) for name, pairs in result.heads.items()},
    }


def _video(info: VideoInfo) -> dict[str, Any]:
    return {
        "seconds": round(float(info.start_seconds[-1]) + 1 / frame_rate(info), 3),
        "width": info.width,
        "height": info.height,
        "num_frames": info.num_frames,
    }


def _frames(info: VideoInfo, task: Task) -> list[dict[str, Any]]:
    clip = task.predictor.clip
    temporal = clip.views[0]
    numbers = sorted(
        {
            number
            for view in range(temporal)
            for number in frame_sampling.choose(
                info.num_frames, clip.frames, clip.stride, view=view, num_views=temporal
            )
        }
    )
    frames = decode.read_frames(info.path, numbers, 120, info)
    return [
        {"seconds": round(float(info.start_seconds[number]), 3), "image": _data_uri(frame)}
        for number, frame in zip(numbers, frames.permute(0, 2, 3, 1).numpy(), strict=True)
    ]


def _data_uri(frame: Any) -> str:
    buffer = BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
