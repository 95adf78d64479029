"""Which methods a path takes: one answer for `OPTIONS`, for the `Allow` of a 405, and for the OpenAPI document."""

import re
from collections.abc import Iterable

from litestar.datastructures import Headers
from litestar.enums import ScopeType
from litestar.routes import BaseRoute, HTTPRoute
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

UNLISTED = "unlisted"
"""In the `opt` of a handler that stands for others, which are listed: its methods are not told."""


class Methods:
    """The methods of every path that is served. Lives as long as the application."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        served = [route for route in routes if isinstance(route, HTTPRoute) and _listed(route)]
        served.sort(key=_literals, reverse=True)
        self._known = [(_pattern(route), _listed(route)) for route in served]

    def of(self, path: str) -> tuple[str, ...]:
        """Return what a path takes, as the most literal of the routes that fit it says; nothing where none does."""
        path = path.rstrip("/") or "/"
        return next((methods for pattern, methods in self._known if pattern.fullmatch(path)), ())


class Options:
    """Answers `OPTIONS` with all methods of a path; the framework names those of one of its handlers alone."""

    def __init__(self, app: ASGIApp, methods: Methods, *, cors: bool) -> None:
        """`cors`: whether the application answers browsers that ask for the leave of a page of another site."""
        self._app = app
        self._cors = cors
        self._methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the application answer: every other method, unknown paths, browsers that ask for leave."""
        methods: tuple[str, ...] = ()
        if scope["type"] == ScopeType.HTTP and scope["method"] == "OPTIONS":
            asks_leave = self._cors and is_preflight(scope, Headers.from_scope(scope))
            methods = () if asks_leave else self._methods.of(scope["path"])
        if not methods:
            await self._app(scope, receive, send)
            return
        headers = [(b"allow", ", ".join(methods).encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def is_preflight(scope: HTTPScope, headers: Headers) -> bool:
    """Tell whether a browser asks for leave, before a page of another site may ask for something."""
    return scope["method"] == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers


def _listed(route: HTTPRoute) -> tuple[str, ...]:
    listed = {str(method) for method, (handler, _) in route.route_handler_map.items() if not handler.opt.get(UNLISTED)}
    return tuple(sorted(listed)) if listed - {"OPTIONS"} else ()


def _literals(route: BaseRoute) -> int:
    return sum(isinstance(part, str) for part in route.path_components)


def _pattern(route: BaseRoute) -> re.Pattern[str]:
    parts = [
        re.escape(part) if isinstance(part, str) else ".+" if part.full.endswith(":path") else "[^/]+"
        for part in route.path_components
    ]
    return re.compile("/" + "/".join(parts), re.DOTALL)
