"""Who may do what: API keys, sessions for pages, and the scopes `read` and `admin`."""

import asyncio
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

from litestar import Controller, Request, Response, delete, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import Cookie
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException, NotAuthorizedException, PermissionDeniedException, WebSocketException
from litestar.handlers import BaseRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Body

from healthd.api.attempts import Attempts
from healthd.api.keys import Identity, KeyRing, Scope, TooManyChecks
from healthd.api.log_ins import LogIn, Sessions
from healthd.api.schemas import Error, Login, Session
from healthd.cameras.viewers import PageSession
from healthd.clients import UNKNOWN, client_of
from healthd.clock import SYSTEM_CLOCK, Clock
from healthd.metrics import Sample

COOKIE = "healthd_session"
BUSY_SECONDS = 1
"""When a key may be shown again that could not be looked at, because too many others were."""
LIMITED = "Too many wrong keys came from this address; `Retry-After` says when one is looked at again."
NOBODY_ASKED = Identity("anonymous", "admin")
"""Who everybody is where no keys are set."""


class TooManyAttempts(HTTPException):
    """429 with `Retry-After`: too many wrong keys came from this client; this one was not looked at."""

    status_code = 429

    def __init__(self, seconds: int) -> None:
        told = f"too many keys that nobody knows came from this address: try again in {seconds} s"
        super().__init__(told, headers={"Retry-After": str(seconds)})
        self.seconds = seconds


class Authenticator:
    """Recognises API keys and page sessions. Lives as long as the daemon; keeps digests, never a key."""

    def __init__(
        self,
        keys: Iterable[tuple[str, str, Scope]],
        *,
        session_seconds: float = 86_400.0,
        idle_seconds: float = 0.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._keys = KeyRing(keys)
        self.sessions = Sessions(seconds=session_seconds, idle_seconds=idle_seconds, clock=clock)
        self.attempts = Attempts(clock=clock)

    @property
    def required(self) -> bool:
        """Whether anybody has to show a key at all."""
        return bool(self._keys)

    def replace(
        self, keys: Iterable[tuple[str, str, Scope]], *, session_seconds: float, idle_seconds: float = 0.0
    ) -> None:
        """Take these keys in place of those before. What was opened with one that is gone, or is another now, ends."""
        was_open = not self.required
        gone = self._keys.replace(keys)
        if was_open and self.required:
            gone.add(NOBODY_ASKED.name)
        self.attempts.forget(gone)
        self.sessions.last(session_seconds, idle_seconds=idle_seconds)
        self.sessions.close_where(lambda log_in: log_in.identity.name in gone)
        for name in gone:
            self.sessions.on_closed(_session_of(name))

    async def by_key(self, key: str, *, client: str = UNKNOWN) -> Identity | None:
        """Recognise an API key that a client shows, in a time that does not tell how much of it was right.

        Raises:
            TooManyAttempts: it has shown too many wrong ones, or too many others are being looked at.
        """
        found = self._by_known_key(key, client)
        if found is not None:
            return found
        seconds = self.attempts.wait_seconds(client)
        if seconds:
            self.attempts.note_limited(client, seconds)
            raise TooManyAttempts(seconds)
        self.attempts.take(client)
        right: Identity | None = None
        try:
            right = await self._keys.find(key)
        except (TooManyChecks, asyncio.CancelledError) as exc:
            self.attempts.give_back(client)
            if isinstance(exc, asyncio.CancelledError):
                raise
            raise TooManyAttempts(BUSY_SECONDS) from None
        if right is None:
            self.attempts.note_wrong(client)
            return None
        self.attempts.give_back(client)
        self.attempts.note_right(client, right.name)
        return right

    def identify(
        self, headers: Mapping[str, str], cookies: Mapping[str, str], *, client: str = UNKNOWN
    ) -> Identity | None:
        """Recognise at once whoever sends these headers and cookies; a key that must be hashed first is not."""
        if not self.required:
            return NOBODY_ASKED
        if key := _key(headers):
            return self._by_known_key(key, client)
        found = self._log_in(cookies)
        return found.identity if found is not None else None

    async def recognise(
        self, headers: Mapping[str, str], cookies: Mapping[str, str], *, client: str = UNKNOWN
    ) -> Identity | None:
        """Recognise whoever sends these headers and cookies.

        Raises:
            TooManyAttempts: as `by_key`.
        """
        if self.required and (key := _key(headers)):
            return await self.by_key(key, client=client)
        return self.identify(headers, cookies, client=client)

    def page_session(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> PageSession | None:
        """Return the session by which `identify` recognises somebody; None where it is no session."""
        found = self._log_in(cookies) if self.required and not _key(headers) else None
        return found.page if found is not None else None

    def expires_in_seconds(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> float | None:
        """Return how long the caller's session still lasts; None where it is no session."""
        found = self._log_in(cookies) if self.required and not _key(headers) else None
        return None if found is None else self.sessions.seconds_left(found)

    def samples(self) -> Iterator[Sample]:
        """Give the values of the metrics."""
        yield Sample("healthd_sessions_open", sum(1 for _ in self.sessions))
        yield from self.attempts.samples()

    def _by_known_key(self, key: str, client: str) -> Identity | None:
        """Recognise a key by its digest, for a client that may show keys now, or has shown this one before."""
        found = self._keys.known(key)
        if found is None or self.attempts.is_known(client, found.name):
            return found
        if self.attempts.wait_seconds(client):
            return None
        self.attempts.note_right(client, found.name)
        return found

    def _log_in(self, cookies: Mapping[str, str]) -> LogIn | None:
        token = cookies.get(COOKIE)
        return self.sessions.find(token) if token else None


def client_behind(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Return who counts as the client of a connection."""
    return client_of(connection.client.host) if connection.client else UNKNOWN


def _key(headers: Mapping[str, str]) -> str:
    bearer = headers.get("authorization", "")
    return headers.get("x-api-key") or (bearer[7:].strip() if bearer[:7].lower() == "bearer " else "")


def _session_of(name: str) -> str:
    """Return what stands for the session of who shows a key of that name with each call, or needs none."""
    return f"key {name}"


def needed_scope(method: str, opt: Mapping[str, object]) -> Scope:
    """Say what a route needs: what it declares as `scope`, else `admin` for everything that is no plain question."""
    declared = opt.get("scope")
    if declared in {"read", "admin"}:
        return "admin" if declared == "admin" else "read"
    return "read" if method in {"GET", "HEAD", "OPTIONS"} else "admin"


async def guard(connection: ASGIConnection, handler: BaseRouteHandler) -> None:  # type: ignore[type-arg]
    """Let only those through who may use the route.

    Raises:
        NotAuthorizedException: no key, or one that nobody knows (401).
        PermissionDeniedException: a key that may only read (403).
        TooManyAttempts: too many wrong keys came from this client (429).
    """
    if handler.opt.get("open"):
        return
    authenticator: Authenticator = connection.app.state.services.auth
    try:
        found = await authenticator.recognise(connection.headers, connection.cookies, client=client_behind(connection))
    except TooManyAttempts as exc:
        if connection.scope["type"] == ScopeType.WEBSOCKET:
            raise WebSocketException(detail=exc.detail, code=4000 + exc.status_code) from None
        raise
    _let_through(_someone(found, connection), needed_scope(str(connection.scope.get("method", "GET")), handler.opt))


def check_again(connection: ASGIConnection[Any, Any, Any, Any], needed: Scope) -> None:
    """Let those through who still may: after a wait their key may be gone, or their log-in over.

    Raises:
        NotAuthorizedException: the key or the log-in counts no more (401).
        PermissionDeniedException: it may only read now (403).
    """
    authenticator: Authenticator = connection.app.state.services.auth
    known = authenticator.identify(connection.headers, connection.cookies, client=client_behind(connection))
    _let_through(_someone(known, connection), needed)


def _let_through(identity: Identity, needed: Scope) -> None:
    if not identity.may(needed):
        raise PermissionDeniedException(f"the key `{identity.name}` may only read; this needs one with scope `admin`")


def page_of(connection: ASGIConnection[Any, Any, Any, Any]) -> PageSession:
    """Return the session of the page that asks, else its key: what it opens must not outlive either.

    Raises:
        NotAuthorizedException: it has logged out since the guard let it through.
    """
    authenticator: Authenticator = connection.app.state.services.auth
    known = authenticator.identify(connection.headers, connection.cookies, client=client_behind(connection))
    identity = _someone(known, connection)
    page = authenticator.page_session(connection.headers, connection.cookies)
    return page or PageSession(_session_of(identity.name), math.inf)


def _someone(identity: Identity | None, connection: ASGIConnection[Any, Any, Any, Any]) -> Identity:
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
        responses={
            401: ResponseSpec(Error, description="Nobody knows this key."),
            429: ResponseSpec(Error, description=LIMITED),
        },
    )
    async def login(self, request: Request, data: Annotated[Login, Body()]) -> Response[Session]:  # type: ignore[type-arg]
        """Begin a session of a page: sets a cookie that scripts cannot read."""
        auth: Authenticator = request.app.state.services.auth
        client = client_behind(request)
        identity = await auth.by_key(data.key, client=client) if auth.required else NOBODY_ASKED
        if identity is None:
            raise NotAuthorizedException("this key is not known")
        cookie = Cookie(
            key=COOKIE,
            value=auth.sessions.open(identity, client=client),
            max_age=int(auth.sessions.seconds),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        ends = auth.sessions.seconds if auth.required else None
        session = Session(identity.name, identity.scope, required=auth.required, expires_in_seconds=ends)
        return Response(session, cookies=[cookie])

    @get(
        "/session",
        opt={"open": True},
        summary="Who am I",
        responses={429: ResponseSpec(Error, description=LIMITED)},
    )
    async def session(self, request: Request) -> Session:  # type: ignore[type-arg]
        """Tell whether keys are needed and who the caller is."""
        auth: Authenticator = request.app.state.services.auth
        identity = await auth.recognise(request.headers, request.cookies, client=client_behind(request))
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
            request.app.state.services.auth.sessions.close(token)
        answer: Response[None] = Response(None, status_code=204)
        answer.delete_cookie(COOKIE)
        return answer
