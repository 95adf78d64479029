"""Who may do what: API keys, sessions for pages, and the scopes `read` and `admin`."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from litestar import Controller, Request, Response, delete, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import Cookie
from litestar.enums import ScopeType
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException, WebSocketException
from litestar.handlers import BaseRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Body

from healthd.api.schemas import Error, Login, Session
from healthd.clock import SYSTEM_CLOCK, Clock

Scope = Literal["read", "admin"]
COOKIE = "healthd_session"
MAX_SESSIONS = 1000
"""Log-ins remembered at a time; the oldest leaves first."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody who was recognised."""

    name: str
    scope: Scope

    def may(self, needed: Scope) -> bool:
        """Whether this scope covers the needed one."""
        return needed == "read" or self.scope == "admin"


@dataclass(frozen=True, slots=True)
class _Key:
    digest: bytes
    identity: Identity


NOBODY_ASKED = Identity("anonymous", "admin")
"""Who everybody is where no keys are set."""


class Authenticator:
    """Recognises API keys and page sessions. Lives as long as the daemon; keeps digests, never a key."""

    def __init__(
        self,
        keys: Iterable[tuple[str, str, Scope]],
        *,
        session_seconds: float = 86_400.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._keys = tuple(_Key(_digest(key), Identity(name, scope)) for name, key, scope in keys)
        self.session_seconds = session_seconds
        self._clock = clock
        self._sessions: dict[bytes, tuple[Identity, float]] = {}

    @property
    def required(self) -> bool:
        """Whether anybody has to show a key at all."""
        return bool(self._keys)

    def by_key(self, key: str) -> Identity | None:
        """Recognise an API key, in a time that does not tell how much of it was right."""
        digest, found = _digest(key), None
        for known in self._keys:
            if hmac.compare_digest(known.digest, digest):
                found = known.identity
        return found

    def open_session(self, identity: Identity) -> str:
        """Begin a session for a page; return its token."""
        while len(self._sessions) >= MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        token = secrets.token_urlsafe(32)
        self._sessions[_digest(token)] = (identity, self._clock.monotonic() + self.session_seconds)
        return token

    def by_session(self, token: str) -> Identity | None:
        """Recognise the token of a session that has not expired."""
        identity, expires = self._sessions.get(_digest(token), (None, 0.0))
        if identity is not None and self._clock.monotonic() >= expires:
            self.close_session(token)
            return None
        return identity

    def close_session(self, token: str) -> None:
        """End a session; an unknown one is ended already."""
        self._sessions.pop(_digest(token), None)

    def identify(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> Identity | None:
        """Recognise whoever sends these headers and cookies."""
        if not self.required:
            return NOBODY_ASKED
        bearer = headers.get("authorization", "")
        key = headers.get("x-api-key") or (bearer[7:].strip() if bearer[:7].lower() == "bearer " else "")
        if key:
            return self.by_key(key)
        token = cookies.get(COOKIE)
        return self.by_session(token) if token else None


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def needed_scope(method: str, opt: Mapping[str, object]) -> Scope:
    """Say what a route needs: what it declares as `scope`, else `admin` for everything that is no plain question."""
    declared = opt.get("scope")
    if declared in {"read", "admin"}:
        return "admin" if declared == "admin" else "read"
    return "read" if method in {"GET", "HEAD", "OPTIONS"} else "admin"


def guard(connection: ASGIConnection, handler: BaseRouteHandler) -> None:  # type: ignore[type-arg]
    """Let only those through who may use the route.

    Raises:
        NotAuthorizedException: no key, or one that nobody knows (401).
        PermissionDeniedException: a key that may only read (403).
    """
    authenticator: Authenticator = connection.app.state.services.auth
    if handler.opt.get("open"):
        return
    identity = authenticator.identify(connection.headers, connection.cookies)
    if identity is None:
        needed = "an API key is needed: send it in the header `X-Api-Key` or as a bearer token, or log in"
        if connection.scope["type"] == ScopeType.WEBSOCKET:
            raise WebSocketException(detail=needed, code=4401)
        raise NotAuthorizedException(needed, headers={"WWW-Authenticate": "Bearer"})
    if not identity.may(needed_scope(str(connection.scope.get("method", "GET")), handler.opt)):
        raise PermissionDeniedException(f"the key `{identity.name}` may only read; this needs one with scope `admin`")


class AuthController(Controller):
    """Log in with a key once, so that a page's `<img>` can be shown."""

    path = "/auth"
    tags = ("auth",)

    @post(
        "/login",
        status_code=200,
        opt={"open": True},
        summary="Log in with an API key",
        responses={401: ResponseSpec(Error, description="Nobody knows this key.")},
    )
    async def login(self, request: Request, data: Annotated[Login, Body()]) -> Response[Session]:  # type: ignore[type-arg]
        """Begin a session of a page: sets a cookie that scripts cannot read."""
        auth: Authenticator = request.app.state.services.auth
        identity = auth.by_key(data.key) if auth.required else NOBODY_ASKED
        if identity is None:
            raise NotAuthorizedException("this key is not known")
        cookie = Cookie(
            key=COOKIE,
            value=auth.open_session(identity),
            max_age=int(auth.session_seconds),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return Response(Session(name=identity.name, scope=identity.scope, required=auth.required), cookies=[cookie])

    @get("/session", opt={"open": True}, summary="Who am I")
    async def session(self, request: Request) -> Session:  # type: ignore[type-arg]
        """Tell whether keys are needed and who the caller is."""
        auth: Authenticator = request.app.state.services.auth
        identity = auth.identify(request.headers, request.cookies)
        return Session(
            name=identity.name if identity else None,
            scope=identity.scope if identity else None,
            required=auth.required,
        )

    @delete("/session", status_code=204, opt={"open": True}, summary="Log out")
    async def logout(self, request: Request) -> Response[None]:  # type: ignore[type-arg]
        """End the caller's session."""
        token = request.cookies.get(COOKIE)
        if token:
            request.app.state.services.auth.close_session(token)
        answer: Response[None] = Response(None, status_code=204)
        answer.delete_cookie(COOKIE)
        return answer
