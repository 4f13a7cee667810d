"""The files of the web page, and a page that documents the REST interface."""

from pathlib import Path

from fastapi import FastAPI
from jinja2 import ChainableUndefined, Environment, PackageLoader
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

_STATIC = Path(__file__).with_name("static")

_HEADERS = {
    # The pages load nothing from elsewhere, and no other page may show them in a frame.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_pages(app: FastAPI) -> None:
    """Add a route for each file of the web page, and `/docs`."""
    for file in sorted(_STATIC.iterdir()):
        app.router.routes.append(_file_route(f"/{file.name}", file))
    app.router.routes.append(_file_route("/", _STATIC / "index.html"))

    environment = Environment(
        loader=PackageLoader("st_adapter.serving"), autoescape=True, undefined=ChainableUndefined
    )
    template = environment.get_template("docs.html")

    async def docs(request: Request) -> Response:
        return HTMLResponse(template.render(api=app.openapi()), headers=_HEADERS)

    app.router.routes.append(Route("/docs", docs))


def _file_route(path: str, file: Path) -> Route:
    async def send(request: Request) -> Response:
        return FileResponse(file, headers=_HEADERS)

    return Route(path, send)
