"""The REST interface as an ASGI application."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError

from st_adapter.errors import ArgumentError, VideoError
from st_adapter.serving.answers import (
    Failure,
    Health,
    PredictForm,
    Predictions,
    TaskList,
    TimelineForm,
    Timelines,
)
from st_adapter.serving.refusals import Refusal
from st_adapter.serving.service import Service
from st_adapter.serving.uploads import Upload, new_path, receive, upload_folder

_STATIC = Path(__file__).with_name("static")


def make_app(runs: Sequence[str | Path], **settings: Any) -> FastAPI:
    """Create the application."""
    service = Service(runs, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with upload_folder() as folder:
            service.folder = folder
            yield

    app = FastAPI(title="st-adapter", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_exception_handler(Refusal, _refuse)

    @app.get("/healthz", response_model=Health, responses={503: {"model": Health}})
    async def healthz() -> Any:
        return service.health()

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Any:
        return PlainTextResponse("")

    @app.get("/v1/tasks", response_model=TaskList)
    async def tasks() -> Any:
        return service.task_list()

    @app.post(
        "/v1/predict",
        response_model=Predictions,
        openapi_extra=_body(PredictForm),
        responses=_FAILURES,
    )
    async def predict(request: Request) -> Any:
        upload, form = await _read(request, service, PredictForm)
        try:
            return await asyncio.to_thread(service.predict, upload.path, form)
        except VideoError as error:
            raise Refusal(422, str(error).removeprefix(f"{upload.path}: ")) from error
        finally:
            upload.path.unlink()

    @app.post(
        "/v1/timeline",
        response_model=Timelines,
        openapi_extra=_body(TimelineForm),
        responses=_FAILURES,
    )
    async def timeline(request: Request) -> Any:
        upload, form = await _read(request, service, TimelineForm)
        try:
            return await asyncio.to_thread(service.timeline, upload.path, form)
        except (VideoError, ArgumentError) as error:
            raise Refusal(422, str(error).removeprefix(f"{upload.path}: ")) from error
        finally:
            upload.path.unlink()

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> Any:
        return HTMLResponse("<a href=openapi.json>openapi.json</a>")

    app.mount("/", StaticFiles(directory=_STATIC, html=True))
    return app


_FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure} for status in (400, 401, 404, 408, 413, 415, 422, 503, 504)
}


async def _refuse(request: Request, error: Any) -> JSONResponse:
    headers = {} if error.retry_seconds is None else {"Retry-After": str(error.retry_seconds)}
    return JSONResponse({"error": error.reason}, error.status, headers)


def _body(form: type[PredictForm] | type[TimelineForm]) -> dict[str, Any]:
    """Describe a form and its file in OpenAPI's terms."""
    schema = form.model_json_schema()
    schema["properties"]["file"] = {"type": "string", "format": "binary"}
    schema["required"] = ["file"]
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


async def _read(request: Request, service: Service, form: Any) -> tuple[Upload, Any]:
    path = new_path(service.folder)
    try:
        upload = await receive(
            request.stream(), request.headers.get("content-type", ""), path, 100_000_000
        )
        values = {
            name: given if name == "task" else given[-1]
            for name, given in upload.fields.items()
            if given != [""]
        }
        return upload, form.model_validate(values)
    except ValidationError as error:
        path.unlink(missing_ok=True)
        problem = error.errors()[0]
        raise Refusal(422, f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise
