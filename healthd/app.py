"""Puts the HTTP application together: routes, dependencies, error bodies, headers."""

from pathlib import Path
from typing import Any

from litestar import Litestar, Response, Router, get
from litestar.config.cors import CORSConfig
from litestar.datastructures import CacheControlHeader, State
from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.static_files import create_static_files_router
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from healthd import __version__
from healthd.api.auth import AuthController, guard
from healthd.api.cameras import CameraController
from healthd.api.errors import answer_error
from healthd.api.health import process_router, state
from healthd.api.plugins import plugins
from healthd.api.services import Services
from healthd.api.streams import StreamController
from healthd.api.viewers import ViewerController

WEB = Path(__file__).parent / "web"
CSP = "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; frame-ancestors 'self'"
HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))


@get("/", opt={"open": True}, include_in_schema=False, sync_to_thread=False)
def wall() -> Response[bytes]:
    """The wall: every camera's newest picture, or why there is none."""
    page = (WEB / "index.html").read_bytes()
    return Response(page, media_type="text/html", headers={"Content-Security-Policy": CSP, "Cache-Control": "no-cache"})


def create_app(services: Services) -> Litestar:
    """Build the application around the parts of a running daemon; it starts and stops nothing by itself."""

    def provide_services() -> Services:
        return services

    api = Router(
        "/api/v1",
        route_handlers=[CameraController, StreamController, ViewerController, AuthController, state, plugins],
        guards=[guard],
        security=[{"key": []}, {"bearer": []}] if services.auth.required else None,
    )
    origins = list(services.settings.server.cors_origins)
    return Litestar(
        route_handlers=[
            wall,
            process_router,
            api,
            create_static_files_router(
                "/static",
                directories=[WEB],
                opt={"open": True},
                include_in_schema=False,
                cache_control=CacheControlHeader(no_cache=True),
            ),
        ],
        dependencies={"services": Provide(provide_services, sync_to_thread=False)},
        exception_handlers={Exception: answer_error},
        middleware=[lambda app: _Answers(app, services)],
        cors_config=CORSConfig(allow_origins=origins, allow_credentials=True) if origins else None,
        openapi_config=OpenAPIConfig(
            title="healthd",
            version=__version__,
            path="/schema",
            render_plugins=[JsonRenderPlugin(path="/")],
            components=Components(
                security_schemes={
                    "key": SecurityScheme(type="apiKey", name="X-Api-Key", security_scheme_in="header"),
                    "bearer": SecurityScheme(type="http", scheme="bearer"),
                }
            ),
        ),
        state=State({"services": services}),
        logging_config=None,
        debug=False,
    )


class _Answers:
    """Counts answers by route and status, and adds the headers that every answer carries."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._requests = services.metrics.requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer: Any = message
                answer["headers"] = [*answer["headers"], *HEADERS]
                route = str(scope.get("path_template", "unknown"))  # of the route table, never the path itself
                self._requests.labels(route, str(answer["status"])).inc()
            await send(message)

        await self._app(scope, receive, counted)
