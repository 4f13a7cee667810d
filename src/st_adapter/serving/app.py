"""The REST interface and the web page as an ASGI application."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.params import Depends as Dependency
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from st_adapter.common.provenance import versions
from st_adapter.serving.access import check_token
from st_adapter.serving.answers import (
    Failure,
    Health,
    PredictForm,
    Predictions,
    TaskList,
    TimelineForm,
    Timelines,
)
from st_adapter.serving.backend import Backend
from st_adapter.serving.deadlines import Deadline
from st_adapter.serving.limits import Limits
from st_adapter.serving.middleware import Doorkeeper
from st_adapter.serving.pages import add_pages
from st_adapter.serving.refusals import Refusal, answer
from st_adapter.serving.uploads import new_path, receive, too_large

_LOOK_SECONDS = 1.0
"""Time from one look at whether a client still waits for its answer to the next."""

Form = PredictForm | TimelineForm
Answer = Callable[[Path, Any, Deadline], dict[str, Any]]


def make_app(
    runs: Sequence[str | Path] = (),
    *,
    runs_folder: str | Path | None = None,
    token: str | None = None,
    only_loopback: bool = True,
    limits: Limits = Limits(),
    **predictor: Any,
) -> FastAPI:
    """Create the application that `st-adapter serve` runs.

    It loads the runs and starts processes that decode at once. They end with the lifespan of the
    application, with `app.state.backend.close()`, or with the program. Mount it in an application
    of your own, or pass it to any ASGI server with one worker process.

    Examples:
        >>> app = make_app(["run"])  # doctest: +SKIP
        >>> own_app.mount("/videos", app)  # doctest: +SKIP

    Args:
        runs: Run folders or adapter folders. Those that were trained on the same image model share
            it.
        runs_folder: Folder whose runs are added and removed while the application runs.
        token: Requests to `/v1` and `/metrics` must have it as a bearer token. None lets everyone
            in who can reach the server.
        only_loopback: Without a token, answer only requests whose `Host` is this machine. Otherwise
            any web page that this machine opens could use the server (DNS rebinding).
        limits: Limits of requests.
        **predictor: Any other argument of `Predictor`, such as views, precision or device.

    Raises:
        CheckpointError: A folder cannot be read or does not fit its image model.
        ArgumentError: An argument is invalid, or a run is given twice.
        MemoryShortError: A clip does not fit in memory.
    """
    folder = None if runs_folder is None else Path(runs_folder)
    backend = Backend(runs, folder, limits, predictor)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        backend.close()

    app = FastAPI(
        title="st-adapter",
        version=versions()["st-adapter"],
        description="Classify videos.",
        docs_url=None,  # FastAPI's own pages load scripts from other sites
        redoc_url=None,
        redirect_slashes=False,  # the address would be made of the header Host
        lifespan=lifespan,
    )
    app.state.backend = backend
    app.add_exception_handler(Refusal, _refuse)
    app.add_exception_handler(HTTPException, _refuse_http)
    app.add_exception_handler(Exception, _fail)
    _add_state(app, backend, _guard(token))
    _add_work(app, backend, _guard(token))
    add_pages(app)
    app.add_middleware(
        Doorkeeper,
        metrics=backend.metrics,
        only_loopback=only_loopback and token is None,
        paths={str(getattr(route, "path", "")) for route in app.routes},
    )
    return app


def _guard(token: str | None) -> list[Dependency]:
    """Return what routes that need the token depend on."""
    if token is None:
        return []
    bearer = HTTPBearer(auto_error=False, description="The token of the server.")

    async def check(given: HTTPAuthorizationCredentials | None = Depends(bearer)) -> None:
        check_token(given.credentials if given else None, token)

    return [Depends(check)]


def _add_state(app: FastAPI, backend: Backend, guard: list[Dependency]) -> None:
    """Add the routes for the state of the server, its measurements and its tasks."""

    @app.get(
        "/healthz",
        response_model=Health,
        responses={
            503: {"model": Health, "description": "The server is stopping."},
            **_failures(403),
        },
    )
    async def healthz() -> Any:
        """Say whether the server takes requests."""
        status = 503 if backend.is_stopping else 200
        return JSONResponse(backend.health().model_dump(), status)

    @app.get(
        "/metrics", response_class=_MetricsText, responses=_failures(401, 403), dependencies=guard
    )
    async def metrics() -> Any:
        """Return measurements for Prometheus."""
        return _MetricsText(await asyncio.to_thread(backend.metrics.text))

    @app.get(
        "/v1/tasks", response_model=TaskList, responses=_failures(401, 403), dependencies=guard
    )
    async def tasks() -> Any:
        """List the classifiers that are served."""
        return await asyncio.to_thread(backend.tasks.describe)


def _add_work(app: FastAPI, backend: Backend, guard: list[Dependency]) -> None:
    """Add the routes that take a video."""
    shared: dict[str, Any] = {
        "responses": _failures(400, 401, 403, 404, 408, 413, 415, 422, 503, 504),
        "dependencies": guard,
    }

    @app.post("/v1/predict", response_model=Predictions, openapi_extra=_body(PredictForm), **shared)
    async def predict(request: Request) -> Any:
        """Classify a video."""
        return await _work(request, backend, PredictForm, backend.service.predict)

    @app.post("/v1/timeline", response_model=Timelines, openapi_extra=_body(TimelineForm), **shared)
    async def timeline(request: Request) -> Any:
        """Find out what happens when in a video."""
        return await _work(request, backend, TimelineForm, backend.service.timeline)


class _MetricsText(Response):
    media_type = "text/plain; version=0.0.4"


async def _work(
    request: Request, backend: Backend, form: type[Form], answer: Answer
) -> JSONResponse:
    """Receive an upload, answer the request in a thread, and remove the upload."""
    backend.check_room()
    limits, path = backend.limits, new_path(backend.folder)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.max_bytes:
        raise too_large(limits.max_bytes)
    try:
        async with asyncio.timeout(limits.upload_seconds):
            kind = request.headers.get("content-type", "")
            fields = await receive(request.stream(), kind, path, limits.max_bytes)
        asked = _validated(form, fields)
        with backend.admit():
            loop = asyncio.get_running_loop()
            deadline = Deadline(limits.deadline)
            work = loop.run_in_executor(backend.threads, answer, path, asked, deadline)
            while not (await asyncio.wait({work}, timeout=_LOOK_SECONDS))[0]:
                if await request.is_disconnected():
                    deadline.cancel()
        return _as_json(work.result())
    except TimeoutError as error:
        raise Refusal(
            408, f"the upload did not arrive within {limits.upload_seconds:g} s", close=True
        ) from error
    except ClientDisconnect as error:
        raise Refusal(400, "the connection was closed before the upload was whole") from error
    finally:
        path.unlink(missing_ok=True)


def _as_json(result: dict[str, Any]) -> JSONResponse:
    try:
        return JSONResponse(result)
    except ValueError as error:  # JSON has no NaN
        raise Refusal(422, "the classifier's scores of this video are NaN or infinite") from error


def _validated(form: type[Form], fields: dict[str, list[str]]) -> Form:
    """Check the fields of a form. Fields without a value count as not sent."""
    values = {
        name: given if name == "task" or len(given) > 1 else given[0]
        for name, given in fields.items()
        if given != [""]
    }
    try:
        return form.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])[:100] if problem["loc"] else "form"
        if problem["type"] == "extra_forbidden":
            known = ", ".join(["file", *form.model_fields])
            raise Refusal(422, f"unknown field {name!r}; fields are {known}") from error
        if isinstance(problem["input"], list) and name != "task":
            raise Refusal(422, f"the field {name!r} is given more than once") from error
        raise Refusal(422, f"{name}: {problem['msg'].lower()}") from error


def _body(form: type[Form]) -> dict[str, Any]:
    """Describe a form and its file in OpenAPI's terms."""
    schema = form.model_json_schema()
    video = {"type": "string", "format": "binary", "description": "The video."}
    schema["properties"] = {"file": video, **schema["properties"]}
    schema["required"] = ["file"]
    content = {"multipart/form-data": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


def _failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Failure, "description": _REASONS[status]} for status in statuses}


_REASONS = {
    400: "The form is damaged.",
    401: "The token is missing or wrong.",
    403: "The request comes from a page of another site.",
    404: "There is no task of that name.",
    408: "The upload did not arrive in time.",
    413: "The upload, the video, its pictures or a field are larger than allowed.",
    415: "The body is not a form.",
    422: "The video cannot be read, or a field is not valid.",
    503: "Too many requests are waiting, or the server is stopping.",
    504: "The answer took too long.",
}


async def _refuse(request: Request, error: Any) -> JSONResponse:
    return answer(error)


async def _refuse_http(request: Request, error: Any) -> JSONResponse:
    return answer(Refusal(error.status_code, str(error.detail).lower()), error.headers)


async def _fail(request: Request, error: Exception) -> JSONResponse:
    return answer(Refusal(500, "an error in the server; its log says more"))
