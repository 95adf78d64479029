"""Puts the HTTP application together: routes, dependencies, error bodies, headers."""

import asyncio
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from litestar import Litestar, Request, Response, Router, get
from litestar.config.cors import CORSConfig
from litestar.connection import ASGIConnection
from litestar.datastructures import CacheControlHeader, State
from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.exceptions import ClientException, NotFoundException
from litestar.handlers import BaseRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme, Server
from litestar.static_files import create_static_files_router
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from prometheus_client import Counter

from healthd.api.answer_headers import PICTURE, AnswerHeaders
from healthd.api.auth import COOKIE, AuthController, guard
from healthd.api.cached import CachedSnapshots
from healthd.api.cameras import CameraController
from healthd.api.config import reload
from healthd.api.connection import connection_of
from healthd.api.diagnostics import diagnostics
from healthd.api.errors import answer_error
from healthd.api.health import process_router, state
from healthd.api.history import history
from healthd.api.infer import InferController
from healthd.api.jobs import JobController
from healthd.api.logs import LogController
from healthd.api.methods import Methods, Options
from healthd.api.models import ModelController, labels
from healthd.api.openapi import DESCRIPTION, CompleteSchema
from healthd.api.origins import PageGuard, guards_hosts
from healthd.api.plugins import plugins
from healthd.api.refusals import DENIAL, can_deny, refuse, refused
from healthd.api.schemas import Error
from healthd.api.services import Services
from healthd.api.sessions import SessionController
from healthd.api.settings import settings
from healthd.api.sockets import no_socket, predictions
from healthd.api.streams import StreamController
from healthd.api.unread import Bodies
from healthd.api.viewers import ViewerController

WEB = Path(__file__).parent / "web"
_FILES = frozenset(path.relative_to(WEB).as_posix() for path in WEB.rglob("*") if path.is_file())
EXPOSED = (
    *("ETag", "Retry-After", "X-Camera-State", "X-Frame-Age-Ms", "X-Frame-Id", "X-Frame-Timestamp"),
    *("X-Inference-Time-Ms", "X-Model-Id", "X-Results"),
)
"""What pages of other origins may read."""
RETRY_SECONDS = 5
"""When one whose request the stop has cut off may try again."""


class _Request(Request[Any, Any, Any]):
    """Takes also what the framework's decoder does not call a mistake in JSON for one of whoever sent it."""

    async def json(self) -> Any:
        try:
            return await super().json()
        except UnicodeDecodeError:
            raise ClientException("the body is not JSON: it is not UTF-8") from None
        except RecursionError:
            raise ClientException("the body is nested too deep") from None


@get("/", opt={"open": True}, include_in_schema=False, sync_to_thread=False)
def wall() -> Response[bytes]:
    """The wall: every camera's newest picture, or why there is none."""
    return _page("index.html")


@get("/try", opt={"open": True}, include_in_schema=False, sync_to_thread=False)
def try_models(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The page to try the models on: a picture or the webcam in, boxes and JSON out."""
    return _page_without_slash(request, "try.html")


@get("/admin", opt={"open": True}, include_in_schema=False, sync_to_thread=False)
def panel(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The panel: how everything does, and what can be done about it."""
    return _page_without_slash(request, "panel.html")


def _page_without_slash(request: Request[Any, Any, Any], name: str) -> Response[bytes]:
    """Answer a page; one that is asked for with a slash leads to it, because its links would lead below it."""
    path = request.scope["raw_path"]
    if path.endswith(b"/"):
        location = f"../{path.rstrip(b'/').rpartition(b'/')[2].decode('ascii')}"
        return Response(b"", status_code=307, headers={"Location": location, "Cache-Control": "no-store"})
    return _page(name)


def _page(name: str) -> Response[bytes]:
    page = (WEB / name).read_bytes()
    return Response(page, media_type="text/html", headers={"Cache-Control": "no-cache"})


def create_app(services: Services) -> Litestar:
    """Build the application around the parts of a running daemon; it starts and stops nothing by itself."""

    def provide_services() -> Services:
        return services

    api = Router(
        "/api/v1",
        route_handlers=[
            *(CameraController, StreamController, ViewerController),
            *(InferController, ModelController, labels, predictions, no_socket, JobController),
            *(AuthController, SessionController, state, plugins, settings, reload, history, LogController, diagnostics),
        ],
        guards=[guard],
        security=[{"key": []}, {"bearer": []}, {"session": []}],
    )
    cors = _cors(services.settings.server.cors_origins)
    document = CompleteSchema(path="/", variant=lambda: (services.auth.required, guards_hosts(services)))

    async def document_made(request: Request[Any, Any, Any]) -> None:
        await document.make(request)  # as a hook, the method itself would be copied, object and all

    app = Litestar(
        route_handlers=[
            wall,
            try_models,
            panel,
            process_router,
            api,
            create_static_files_router(
                "/static",
                directories=[WEB],
                opt={"open": True},
                include_in_schema=False,
                guards=[_is_ours],
                cache_control=CacheControlHeader(no_cache=True),
            ),
        ],
        dependencies={"services": Provide(provide_services, sync_to_thread=False)},
        exception_handlers={Exception: answer_error},
        request_class=_Request,
        cors_config=cors,
        openapi_config=OpenAPIConfig(
            title="healthd",
            version="1",
            description=DESCRIPTION,
            path="/schema",
            servers=[Server(url=services.settings.server.root_path or "/")],
            render_plugins=[document],
            openapi_router=Router(
                "/schema",
                route_handlers=[],
                include_in_schema=False,
                before_request=document_made,
                after_request=_no_page,
            ),
            components=Components(
                security_schemes={
                    "key": SecurityScheme(type="apiKey", name="X-Api-Key", security_scheme_in="header"),
                    "bearer": SecurityScheme(type="http", scheme="bearer"),
                    "session": SecurityScheme(type="apiKey", name=COOKIE, security_scheme_in="cookie"),
                }
            ),
        ),
        state=State({"services": services}),
        logging_config=None,
        debug=False,
    )
    app.state.methods = Methods(app.routes)
    options = Options(app.asgi_handler, app.state.methods, cors=cors is not None)
    guarded = PageGuard(options, services, cors)
    snapshots = CachedSnapshots(services, is_ours=guarded.is_ours, headers=PICTURE)
    app.state.cached_snapshots = snapshots
    services.on_changed.append(snapshots.forget)
    bodies = Bodies(guarded, seconds=services.settings.server.header_timeout_seconds)
    app.asgi_handler = _Answers(bodies, services)  # around all: what no route answers is an answer too
    return app


async def _is_ours(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Refuse the name of a file that we have not: the framework takes some, such as `wall.js/x`, for a bug of ours."""
    if str(connection.path_params.get("file_path", "")).strip("/") not in _FILES:
        raise NotFoundException


def _no_page(answer: Response[Any]) -> Response[Any]:
    """Let an unknown path below `/schema` be an error as any other; the framework shows a page."""
    if answer.status_code == HTTPStatus.NOT_FOUND:
        raise NotFoundException
    return answer


def _cors(origins: tuple[str, ...]) -> CORSConfig | None:
    """Let pages of named origins use a session's cookie; where every origin may call (`*`), none may."""
    if not origins:
        return None
    named = "*" not in origins
    return CORSConfig(allow_origins=list(origins), allow_credentials=named, expose_headers=list(EXPOSED))


class _Answers:
    """Takes off the path of a reverse proxy, counts answers by route and status, adds the headers that all carry."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._requests = services.metrics.requests
        self._headers = AnswerHeaders(services.settings.server)
        self._counters: dict[tuple[object, int], Counter] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root, bare = scope.get("root_path", ""), False
        for _ in range(2 if root else 0):  # uvicorn puts it before the path; a proxy may have left it there too
            bare = bare or bool(root and scope["path"] == root)
            if root and f"{scope['path']}/".startswith(f"{root}/"):
                scope["path"] = scope["path"][len(root) :] or "/"
        if scope["type"] == ScopeType.WEBSOCKET:
            await self._open(scope, receive, send)
            return

        begun = False

        async def counted(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                answer: Any = message
                answer["headers"] = [*answer["headers"], *self._headers.of(scope, answer["headers"])]
                self._count(scope, answer["status"])
            await send(message)

        if bare and scope["method"] in {"GET", "HEAD"}:  # its links would lead out of the path
            await _redirect(f"{root}/", scope["query_string"], counted)
            return
        try:
            await self._app(scope, receive, counted)
        except asyncio.CancelledError:  # the stop has waited long enough, for the rest of a body perhaps
            if begun:
                connection = connection_of(scope)
                connection.abort()
                await connection.lost
            else:
                await refuse(scope, counted, Error(503, "healthd stops"), retry_after_seconds=RETRY_SECONDS)

    def _count(self, scope: Scope, status: int) -> None:
        """Count an answer by its route in the route table, never by the path itself."""
        key = (scope.get("path_template", "unknown"), status)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self._requests.labels(str(key[0]), str(status))
        counter.inc()

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a WebSocket begin. One that is refused gets an answer of HTTP, whoever refuses it."""
        accepted = False

        async def counted(message: Any) -> None:
            nonlocal accepted
            status = None
            if message["type"] == "websocket.accept":
                accepted, status = True, 101
            elif message["type"] == f"{DENIAL}.start":
                message["headers"] = [*message["headers"], *self._headers.of(scope, message["headers"])]
                status = message["status"]
            elif message["type"] == "websocket.close" and not accepted and can_deny(scope):
                told = refused(scope, message["code"], message.get("reason") or "")
                later = RETRY_SECONDS if told.status_code == HTTPStatus.TOO_MANY_REQUESTS else None
                await refuse(scope, counted, told, retry_after_seconds=later)
                return
            if status is not None:
                self._count(scope, status)
            await send(message)

        await self._app(scope, receive, counted)


async def _redirect(path: str, query: bytes, send: Send) -> None:
    location = quote(path, safe="/%~!$&'()*+,;=:@").encode() + (b"?" + query if query else b"")
    headers = [(b"location", location), (b"content-length", b"0"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 307, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
