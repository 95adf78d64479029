"""Which pages may ask at all: keeps other sites' pages from giving orders, and from reading by a name of their own.

A browser sends what any page tells it to, and says of itself which page that was. Callers that are no browser send
neither `Origin` nor `Sec-Fetch-Site` and are not asked; what they may do is a question of keys (`auth.py`).
"""

from collections.abc import Iterable
from http import HTTPStatus
from urllib.parse import urlsplit

from litestar.config.cors import CORSConfig
from litestar.datastructures import Headers
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from healthd.api.auth import COOKIE
from healthd.api.methods import is_preflight
from healthd.api.refusals import refuse
from healthd.api.schemas import Error
from healthd.api.services import Services
from healthd.redact import SCRUBBER
from healthd.settings import is_loopback

PROBES = frozenset({"/healthz", "/readyz", "/health", "/metrics"})
"""Open under any name: they tell nothing that a stranger must not know, and change nothing."""

_ASKING = {"GET", "HEAD", "OPTIONS"}
_PORTS = {"http": 80, "https": 443}
_LONGEST_SHOWN = 200
_MOST_NAMES = 100


class PageGuard:
    """Answers for the application where a page may not ask: 403 to a foreign origin, 421 to a foreign name."""

    def __init__(self, app: ASGIApp, services: Services, cors: CORSConfig | None) -> None:
        self._app = app
        self._cors = cors
        self._services = services
        self._on_loopback = is_loopback(services.settings.server.host)
        self._known: dict[str, bool] = {}
        """Names that were looked at before."""
        self._hosts = {_bare_host(name) for name in services.settings.server.allowed_hosts}

    @property
    def _guards_hosts(self) -> bool:
        """As `guards_hosts`; keys may come and go while the address stays."""
        return self._on_loopback and not self._services.auth.required

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer, or refuse in its place."""
        if scope["type"] == ScopeType.HTTP and scope["method"] in {"GET", "HEAD"} and self.is_ours(scope["headers"]):
            await self._app(scope, receive, send)
            return
        headers = Headers.from_scope(scope)
        refusal = self._refuse_host(scope, headers) or self._refuse_origin(scope, headers)
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await refuse(scope, send, refusal)

    def is_ours(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Tell at once whether a question was asked by a name of ours; it is looked at closely where it was not."""
        if not self._guards_hosts:
            return True
        names = [value for key, value in headers if key == b"host"]
        return len(names) == 1 and self._is_known(names[0].decode("latin-1"))

    def _is_known(self, host: str) -> bool:
        known = self._known.get(host)
        if known is None:
            name = _bare_host(host)
            known = _is_local(name) or name in self._hosts
            if len(self._known) < _MOST_NAMES:
                self._known[host] = known
        return known

    def _refuse_host(self, scope: Scope, headers: Headers) -> Error | None:
        """Refuse a name that is not ours: a site may let its own name point here, and then reads as if it were us."""
        if not self._guards_hosts or (scope["path"].rstrip("/") or "/") in PROBES:
            return None
        for host in headers.getall("host", []):
            name = _bare_host(host)
            if host.strip() and not _is_local(name) and name not in self._hosts:
                return Error(
                    HTTPStatus.MISDIRECTED_REQUEST,
                    "healthd listens on this machine alone and is not asked by this name: use localhost, "
                    "or name the host in server.allowed_hosts",
                    {"host": _shown(host)},
                )
        return None

    def _refuse_origin(self, scope: Scope, headers: Headers) -> Error | None:
        """Refuse orders that a page of another site gives, and the leave that its browser asks for it."""
        origin, fetched_by = headers.get("origin"), headers.get("sec-fetch-site", "").lower()
        if scope["type"] == ScopeType.HTTP and scope["method"] in _ASKING:
            asks_leave = is_preflight(scope, headers)
            foreign = asks_leave and self._cors is not None and not self._cors.is_origin_allowed(origin or "")
        elif origin is None:
            foreign = fetched_by == "cross-site"
        elif self._is_allowed(origin, headers):
            foreign = False
        elif fetched_by in {
            "same-origin",
            "cross-site",
        }:  # browsers know best, also behind a proxy; pages cannot say it
            foreign = fetched_by == "cross-site"
        else:
            foreign = not _same_place(origin, headers.get("host", ""))
        if not foreign:
            return None
        return Error(
            HTTPStatus.FORBIDDEN,
            "a page of another site may not do this: name its origin in server.cors_origins; behind a reverse proxy, "
            "let it pass on the Host header, or name the origin that browsers see",
            {"origin": _shown(origin or "")},
        )

    def _is_allowed(self, origin: str, headers: Headers) -> bool:
        """Tell whether pages of this origin may call. One that only `*` lets in may not do so by a log-in here.

        Browsers see to that where they are asked for leave, but ask for none to open a WebSocket or to send a form.
        """
        if self._cors is None or not self._cors.is_origin_allowed(origin):
            return False
        by_session = f"{COOKIE}=" in headers.get("cookie", "") and not headers.keys() & {"x-api-key", "authorization"}
        return self._cors.allow_credentials or not (self._services.auth.required and by_session)


def guards_hosts(services: Services) -> bool:
    """Tell whether the name asked for matters: where nobody but pages on this machine can ask, and no key is needed."""
    return is_loopback(services.settings.server.host) and not services.auth.required


def _bare_host(host: str) -> str:
    """Return the host of a `Host` header, without port, brackets and the dot at its end, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def _is_local(name: str) -> bool:
    return is_loopback(name) or name.endswith(".localhost")


def _same_place(origin: str, host: str) -> bool:
    """Compare an origin with a `Host` header, whose port, where it names none, is that of the origin's scheme."""
    try:
        page, here = urlsplit(origin), urlsplit(f"//{host}")
        default = _PORTS.get(page.scheme)
        return (
            default is not None
            and bool(page.hostname)
            and page.hostname == here.hostname
            and (page.port or default) == (here.port or default)
        )
    except ValueError:  # no port, no address: no origin that a browser sends
        return False


def _shown(header: str) -> str:
    return SCRUBBER.scrub(header[:_LONGEST_SHOWN])
