"""Who may do what: API keys, sessions for pages, and the scopes `read` and `admin`."""

import hashlib
import hmac
import math
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from litestar import Controller, Request, Response, delete, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import Cookie
from litestar.enums import ScopeType
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException, WebSocketException
from litestar.handlers import BaseRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Body

from healthd.api.schemas import Error, Login, Session
from healthd.cameras.viewers import PageSession
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


@dataclass(frozen=True, slots=True)
class _LogIn:
    identity: Identity
    page: PageSession


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
        self._keys = _keys(keys)
        self.session_seconds = session_seconds
        self._clock = clock
        self._sessions: dict[bytes, _LogIn] = {}
        self.on_session_closed: Callable[[str], None] = lambda _session_id: None
        """Called with the id of a session that has ended, whatever way."""

    def replace(self, keys: Iterable[tuple[str, str, Scope]], *, session_seconds: float) -> None:
        """Take other keys. What was opened with one that is gone, or whose scope is another, ends at once."""
        before, self._keys = self._keys, _keys(keys)
        self.session_seconds = session_seconds
        kept = {known.identity for known in self._keys if known in before}
        if not before and not self._keys:
            kept.add(NOBODY_ASKED)
        for digest in [digest for digest, log_in in self._sessions.items() if log_in.identity not in kept]:
            self._close(digest)
        for identity in ({known.identity for known in before} or {NOBODY_ASKED}) - kept:
            self.on_session_closed(_session_of(identity))

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
            self._close(next(iter(self._sessions)))
        token = secrets.token_urlsafe(32)
        page = PageSession(secrets.token_hex(8), self._clock.monotonic() + self.session_seconds)
        self._sessions[_digest(token)] = _LogIn(identity, page)
        return token

    def by_session(self, token: str) -> Identity | None:
        """Recognise the token of a session that has not expired."""
        found = self._log_in(token)
        return found.identity if found is not None else None

    def close_session(self, token: str) -> None:
        """End a session; an unknown one is ended already."""
        self._close(_digest(token))

    def identify(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> Identity | None:
        """Recognise whoever sends these headers and cookies."""
        if not self.required:
            return NOBODY_ASKED
        if key := _key(headers):
            return self.by_key(key)
        token = cookies.get(COOKIE)
        return self.by_session(token) if token else None

    def page_session(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> PageSession | None:
        """Return the session by which `identify` recognises somebody; None where it is no session."""
        token = cookies.get(COOKIE)
        found = self._log_in(token) if token and self.required and not _key(headers) else None
        return found.page if found is not None else None

    def expires_in_seconds(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> float | None:
        """Return how long the caller's session still lasts; None where it is no session."""
        page = self.page_session(headers, cookies)
        return None if page is None else round(max(0.0, page.ends_at - self._clock.monotonic()), 1)

    def _log_in(self, token: str) -> _LogIn | None:
        found = self._sessions.get(_digest(token))
        if found is not None and self._clock.monotonic() >= found.page.ends_at:
            self.close_session(token)
            return None
        return found

    def _close(self, digest: bytes) -> None:
        closed = self._sessions.pop(digest, None)
        if closed is not None:
            self.on_session_closed(closed.page.session_id)


def _key(headers: Mapping[str, str]) -> str:
    bearer = headers.get("authorization", "")
    return headers.get("x-api-key") or (bearer[7:].strip() if bearer[:7].lower() == "bearer " else "")


def _keys(keys: Iterable[tuple[str, str, Scope]]) -> tuple[_Key, ...]:
    return tuple(_Key(_digest(key), Identity(name, scope)) for name, key, scope in keys)


def _session_of(identity: Identity) -> str:
    """Return what stands for the session of somebody who shows a key with each call, or needs none."""
    return f"key {identity.name}"


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
    if handler.opt.get("open"):
        return
    identity = _recognised(connection)
    if not identity.may(needed_scope(str(connection.scope.get("method", "GET")), handler.opt)):
        raise PermissionDeniedException(f"the key `{identity.name}` may only read; this needs one with scope `admin`")


def page_of(connection: ASGIConnection[Any, Any, Any, Any]) -> PageSession:
    """Return the session of the page that asks, else its key: what it opens must not outlive either.

    Raises:
        NotAuthorizedException: it has logged out since the guard let it through.
    """
    identity = _recognised(connection)
    authenticator: Authenticator = connection.app.state.services.auth
    page = authenticator.page_session(connection.headers, connection.cookies)
    return page or PageSession(_session_of(identity), math.inf)


def _recognised(connection: ASGIConnection[Any, Any, Any, Any]) -> Identity:
    authenticator: Authenticator = connection.app.state.services.auth
    identity = authenticator.identify(connection.headers, connection.cookies)
    if identity is None:
        needed = "an API key is needed: send it in the header `X-Api-Key` or as a bearer token, or log in"
        if connection.scope["type"] == ScopeType.WEBSOCKET:
            raise WebSocketException(detail=needed, code=4401)
        raise NotAuthorizedException(needed, headers={"WWW-Authenticate": "Bearer"})
    return identity


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
        ends = auth.session_seconds if auth.required else None
        session = Session(identity.name, identity.scope, required=auth.required, expires_in_seconds=ends)
        return Response(session, cookies=[cookie])

    @get("/session", opt={"open": True}, summary="Who am I")
    async def session(self, request: Request) -> Session:  # type: ignore[type-arg]
        """Tell whether keys are needed and who the caller is."""
        auth: Authenticator = request.app.state.services.auth
        identity = auth.identify(request.headers, request.cookies)
        return Session(
            name=identity.name if identity else None,
            scope=identity.scope if identity else None,
            required=auth.required,
            expires_in_seconds=auth.expires_in_seconds(request.headers, request.cookies),
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
