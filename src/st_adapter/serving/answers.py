"""What the REST interface takes and answers, from which its documentation is made."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from st_adapter.evaluation.spans import Span

Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")

    task: list[str] = Field(
        default=[], description="Names of tasks; repeat the field for several. By default all."
    )


class PredictForm(_Form):
    """The fields of `POST /v1/predict` besides the file."""

    top: int = Field(default=5, ge=1, le=1000, description="Labels per task and head.")
    frames: bool = Field(
        default=False, description="Also return the frames that the first task looked at."
    )


class TimelineForm(_Form):
    """The fields of `POST /v1/timeline` besides the file."""

    window: Seconds | SkipJsonSchema[None] = Field(
        default=None,
        description="Seconds that are scored together. By default as long as training clips.",
    )
    step: Seconds | SkipJsonSchema[None] = Field(
        default=None, description="Seconds between windows. By default a quarter of a window."
    )
    smooth: float = Field(
        default=0.0, ge=0, le=86400, allow_inf_nan=False, description="Seconds to average over."
    )
    min_seconds: float = Field(
        default=0.0, ge=0, le=86400, allow_inf_nan=False, description="Shortest span."
    )
    background: str | SkipJsonSchema[None] = Field(
        default=None, description="Class that means that nothing of interest happens."
    )


class Failure(BaseModel):
    """Why a request was not answered."""

    error: str


class Health(BaseModel):
    """Whether the server takes requests."""

    status: Literal["ok", "stopping"]
    tasks: int
    waiting: int


class TaskRecord(BaseModel):
    """A classifier that is served."""

    name: str
    labels: list[str]
    kind: Literal["single", "multi", "heads"]
    heads: dict[str, list[str]]
    method: str
    backbone: str
    frames: int
    stride: int
    size: int
    views: tuple[int, int]
    threshold: float
    window_seconds: float | None
    top1: float | None


class TaskError(BaseModel):
    """A run that could not be loaded."""

    name: str
    error: str


class TaskList(BaseModel):
    """The classifiers that are served, and runs that could not be loaded."""

    tasks: list[TaskRecord]
    errors: list[TaskError]


class VideoRecord(BaseModel):
    """The video of a request, upright."""

    seconds: float
    width: int
    height: int
    num_frames: int


class Score(BaseModel):
    """A label and its score in 0..1."""

    label: str
    score: float


class TaskScores(BaseModel):
    """What a task says of a video, best first, as `st-adapter predict --json` prints it."""

    predicted: str | list[str]
    scores: list[Score]
    heads: dict[str, list[Score]]


class FrameRecord(BaseModel):
    """A frame that was looked at, as a data URI."""

    seconds: float
    image: str


class Predictions(BaseModel):
    """The answer of `POST /v1/predict`."""

    video: VideoRecord
    results: dict[str, TaskScores]
    frames: list[FrameRecord]


class WindowRecord(BaseModel):
    """Scores of a window, one for each label of its task."""

    start_seconds: float
    end_seconds: float
    scores: list[float]


class TaskTimeline(BaseModel):
    """What a task says of a video over time."""

    labels: list[str]
    windows: list[WindowRecord]
    spans: list[Span]


class Timelines(BaseModel):
    """The answer of `POST /v1/timeline`."""

    video: VideoRecord
    results: dict[str, TaskTimeline]
